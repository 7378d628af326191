"""Peak memory of one computation, in a fresh process: ``python benchmarks/memory.py REQUEST``.

Memory is what the process gains after imports, after the model and the data are made, and after
one call on three samples (which loads whatever is loaded late).  Linux carries the peak of
``getrusage`` over from the parent process, so the peak is read from ``VmHWM`` and reset first;
elsewhere it is the growth of ``getrusage``'s peak.
"""

import json
import re
import resource
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MEGA = 2**20


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    raise OSError(key)


def baseline() -> int:
    """Bytes held now; from here on :func:`peak` counts."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return _status("VmRSS")
    except OSError:
        return peak()


def peak() -> int:
    """The most bytes held."""
    try:
        return _status("VmHWM")
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def run_here(request: dict) -> dict:
    """In the fresh process: one small call, then the real one."""
    import torch

    from benchmarks.cases import Case, build
    from benchmarks.peers import METHODS, Unsuitable

    torch.set_num_threads(request["threads"])
    case = Case(**request["case"])
    small = build(replace(case, n1=3, n2=None if case.n2 is None else 3))
    try:
        METHODS[request["method"]](small)()
        problem = build(case)
        run = METHODS[request["method"]](problem)
    except (Unsuitable, ImportError) as error:
        return {"reason": str(error)}
    held = baseline()
    start = time.perf_counter()
    result = run()
    seconds = time.perf_counter() - start
    top = peak()
    return {
        "megabytes": (top - held) / MEGA,
        "process_megabytes": top / MEGA,
        "seconds": seconds,
        "result_megabytes": result.numel() * result.element_size() / MEGA,
    }


def _complaint(stderr: str) -> str:
    """The line of a traceback that names the exception, else the last line."""
    lines = stderr.strip().splitlines()
    named = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Interrupt)\b", line)]
    return (named or lines or [""])[-1][:160]


def measure(command: list[str], request: dict, timeout: float) -> dict:
    """Run ``command`` with the request; ``{"reason": ...}`` where it gives no answer."""
    try:
        done = subprocess.run(
            [*command, json.dumps(request)], capture_output=True, text=True, timeout=timeout
        )
    except subprocess.TimeoutExpired:
        return {"reason": f"not done after {timeout:g} s"}
    if done.returncode:
        return {"reason": _complaint(done.stderr) or f"exit status {done.returncode}"}
    return json.loads(done.stdout.strip().splitlines()[-1])


def of_torch(case, method: str, threads: int, timeout: float) -> dict:
    """Peak memory and time of one call of a method of this Python."""
    request = {"case": json.loads(case.text()), "method": method, "threads": threads}
    return measure([sys.executable, str(ROOT / "benchmarks" / "memory.py")], request, timeout)


if __name__ == "__main__":
    sys.path[0] = str(ROOT)
    print(json.dumps(run_here(json.loads(sys.argv[1]))))
