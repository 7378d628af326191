"""Times the derivative of a whole training by each sample's weight, three ways.

    python benchmarks/influence.py [--optimizers sgd,...] [--network mlp] [--peer-python PYTHON]

*ours* is ``run.influence`` on a recorded run; *unrolled* keeps the graph of a differentiable loop;
*magic* is bergson's MAGIC, which goes back from its own checkpoints.  Each is measured in a fresh
process, in turns; cost is in units of the same training without any record.
"""

import argparse
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # the repository's package, and ``benchmarks`` as a package

import torch  # noqa: E402

from benchmarks import memory, report  # noqa: E402
from benchmarks.explain_setting import OPTIMIZERS  # noqa: E402
from benchmarks.kernels import names  # noqa: E402

WORKER = ROOT / "benchmarks" / "influence_worker.py"


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--json", type=Path, help="write everything to this file too")
    add("--optimizers", default="all", help=f"some of {','.join(OPTIMIZERS)}")
    add("--network", default="cnn", help="cnn (tanh, average pooling, no dropout) or mlp")
    add("--steps", type=int, default=200)
    add("--queries", default="1,4,16", help="how many answers at a time")
    add("--memory-steps", default="10,40,160", help="lengths of the runs whose memory is compared")
    add("--repeats", type=int, default=3)
    add("--threads", type=int, default=1)
    add("--peer-python", default="", help="a Python with bergson; none: without MAGIC")
    add("--seconds", type=float, default=1800, help="what one process may take")
    return parser.parse_args(argv)


def once(chosen: argparse.Namespace, way: str, optimizer: str, steps: int, queries: int) -> dict:
    """One way in a fresh process."""
    python = chosen.peer_python if way == "magic" else sys.executable
    network = {"cnn": "peers", "mlp": "mlp"}[chosen.network]
    request = {"way": way, "optimizer": optimizer, "network": network, "steps": steps,
               "queries": queries, "threads": chosen.threads}  # fmt: skip
    return memory.measure([python, str(WORKER)], request, chosen.seconds)


def medians(chosen: argparse.Namespace, jobs: list[tuple]) -> list[dict]:
    """Each job's medians over the repeats; all jobs are made in turns."""
    rounds = [[once(chosen, *job) for job in jobs] for _ in range(chosen.repeats)]
    found = []
    for job, runs in zip(jobs, zip(*rounds, strict=True), strict=True):
        row = dict(zip(("way", "optimizer", "steps", "queries"), job, strict=True))
        bad = [run for run in runs if "reason" in run]
        keys = () if bad else ("seconds", "ratio", "megabytes", "off")
        found.append(row | {k: statistics.median(run[k] for run in runs) for k in keys})
        found[-1] |= bad[0] if bad else {}
    return found


def text(rows: list[dict]) -> str:
    """A table."""
    lines = ["| way | optimizer | steps | answers | trainings | megabytes | off by |",
             "| --- | --- | --- | --- | --- | --- | --- |"]  # fmt: skip
    for row in rows:
        head = f"| {row['way']} | {row['optimizer']} | {row['steps']} | {row['queries']} | "
        if "reason" in row:
            lines.append(f"{head}{row['reason']} | | |")
        else:
            lines.append(f"{head}{row['ratio']:.1f} | {row['megabytes']:.0f} | {row['off']:.0e} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    chosen = arguments(argv)
    optimizers = names(chosen.optimizers, tuple(OPTIMIZERS), "optimizers")
    counts = [int(m) for m in chosen.queries.split(",")]
    lengths = [int(k) for k in chosen.memory_steps.split(",")]
    torch.set_num_threads(chosen.threads)
    machine = report.facts(chosen.threads, {"pkbook": "pkbook"})
    found: dict = {"machine": machine, "network": chosen.network, "repeats": chosen.repeats}
    print(report.opening(machine))
    jobs = [("ours", name, chosen.steps, m) for name in optimizers for m in counts]
    ways = ["ours", "unrolled", *(["magic"] if chosen.peer_python else [])]
    peers = [(way, name, k, 1) for name in ("sgd", "adamw") if name in optimizers
             for k in lengths for way in ways]  # fmt: skip
    for part, wanted in (("cost", jobs), ("memory", peers)):
        found[part] = medians(chosen, wanted)
        report.show(text(found[part]), found, chosen.json)


if __name__ == "__main__":
    main()
