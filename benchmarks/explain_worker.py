"""One run or one method in a fresh process: ``python benchmarks/explain_worker.py REQUEST``.

The process needs torch only; what else it imports depends on the method, so that a peer with
requirements of its own can have its own Python.
"""

import ctypes
import json
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

import torch  # noqa: E402

from benchmarks.memory import MEGA, baseline, peak  # noqa: E402


def held() -> int:
    """Bytes held now, after what was freed has gone back to the system; counts from here on."""
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):
        pass  # another system: freed memory that is kept counts as held
    return baseline()


def measured(run) -> tuple[object, dict]:
    """The result of a call, its seconds and the most memory it held beyond what was there."""
    before = held()
    start = time.perf_counter()
    result = run()
    seconds = time.perf_counter() - start
    return result, {"seconds": seconds, "megabytes": (peak() - before) / MEGA}


def whole_run(request: dict) -> dict:
    """Train plainly, train recorded, explain."""
    from benchmarks import explain_setting as es

    setting, rules = es.Setting(**request["setting"]), request["rules"]
    small = es.build(es.tiny(setting))
    warm = es.record(small)
    winners = es.winners(small.model, small.queries)
    warm.interpolate(small.queries, outputs=winners, nodes=1, tolerance=None)
    problem = es.build(setting)
    _, plain = measured(lambda: es.train(problem, problem.batches))
    problem = es.build(setting)
    run, _ = measured(lambda: es.record(problem))
    outputs = es.winners(problem.model, problem.queries)
    told, cost = measured(lambda: run.interpolate(problem.queries, outputs=outputs, **rules))
    return cost | {
        "plain_seconds": plain["seconds"],
        "ratio": cost["seconds"] / plain["seconds"],
        "trajectory_megabytes": _megabytes(run.store),
        "completeness_max": told.completeness.max().item(),
        "completeness_median": told.completeness.median().item(),
        "reached": told.reached.double().mean().item() if told.tolerance else None,
        "pieces_mean": told.pieces.double().mean().item(),
        "pieces_max": told.pieces.max().item(),
    }


def _megabytes(store) -> float:
    tensors = {id(t): t for k in store.saved() for t in store.load(k).values()}  # each once
    return sum(t.numel() * t.element_size() for t in tensors.values()) / MEGA


def one_method(request: dict) -> dict:
    """A method of :mod:`benchmarks.explain_peers` on a recorded run; the result goes to a file."""
    from benchmarks.explain_case import Case, Unsuitable
    from benchmarks.explain_peers import METHODS, versions

    case, factory = Case.load(request["case"]), METHODS[request["method"]]
    try:
        factory(case.small())()
        run = factory(case)
    except (Unsuitable, ImportError) as error:
        return {"reason": str(error)}
    result, cost = measured(run)
    torch.save(result, request["result"])
    return cost | {"versions": versions(request["method"])}


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    torch.set_num_threads(asked["threads"])
    import warnings

    warnings.simplefilter("ignore")
    print(json.dumps((one_method if "method" in asked else whole_run)(asked)))
