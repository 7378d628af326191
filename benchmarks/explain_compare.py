"""Our method and the peers on the same runs, each in fresh processes, turn by turn."""

import copy
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import memory
from benchmarks.explain_case import Case
from benchmarks.explain_setting import OPTIMIZERS, Setting, build, train, winners

WORKER = Path(__file__).with_name("explain_worker.py")
SLOW = 60  # seconds; a process that takes longer is not run again


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    repeats: int
    threads: int
    seconds: float
    """What one process may take."""
    python: str = sys.executable
    """For the peers."""
    every: int = 10
    """Steps between the checkpoints of a method that takes few."""


def plain_seconds(setting: Setting, repeats: int) -> float:
    """Of the training without recording; the first one warms up."""
    times = []
    for _ in range(1 + repeats):
        problem = build(setting)
        start = time.perf_counter()
        train(problem, problem.batches)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def run_of(setting: Setting, every: int) -> Case:
    """A run with all its states."""
    problem = build(setting)
    model, first = problem.model, copy.deepcopy(problem.model)
    states = [copy.deepcopy(model.state_dict())]
    for batch in problem.batches:
        train(problem, [batch])
        states.append(copy.deepcopy(model.state_dict()))
    outputs = winners(model, problem.queries)
    return Case(first, *OPTIMIZERS[setting.optimizer], problem.x, problem.y, problem.queries,
                outputs, problem.batches, states, every)  # fmt: skip


def change(case: Case) -> Tensor:
    """What the prediction asked of each query changed by, ``[m]``."""
    model, ends = copy.deepcopy(case.model).eval(), []
    for state in (case.states[0], case.states[-1]):
        model.load_state_dict(state)
        with torch.no_grad():
            ends.append(case.picked(model(case.queries)).double())
    return ends[1] - ends[0]


def compare(setting: Setting, methods: tuple[str, ...], options: Options) -> dict:
    """For every method seconds, memory, and how far its sum is from the change."""
    plain = plain_seconds(setting, options.repeats)
    case = run_of(setting, options.every)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "case.pt"
        case.save(str(path))
        rounds = _rounds(methods, options, path)
        results = {name: torch.load(_result(path, name), weights_only=True)
                   for name in methods if _result(path, name).exists()}  # fmt: skip
    truth, rows = change(case), {}
    ours = results.get("ours")
    for name in methods:
        failed = [run["reason"] for run in rounds[name] if "reason" in run]
        rows[name] = {"reason": failed[0]} if failed else (
            _costs(rounds[name], len(case.batches), plain)
            | _quality(results[name], truth, case, ours)
        )  # fmt: skip
    return {"plain_seconds": plain, "change_median": truth.abs().median().item(), "methods": rows}


def _result(path: Path, name: str) -> Path:
    return path.with_name(f"{name}.pt")


def _rounds(methods: tuple[str, ...], options: Options, path: Path) -> dict[str, list[dict]]:
    """Every method once in every round, unless it failed or was slow."""
    found: dict[str, list[dict]] = {name: [] for name in methods}
    for _ in range(options.repeats):
        for name in methods:
            if any("reason" in run or run["seconds"] > SLOW for run in found[name]):
                continue
            request = {"method": name, "case": str(path), "result": str(_result(path, name)),
                       "threads": options.threads}  # fmt: skip
            python = sys.executable if name.startswith("ours") else options.python
            found[name].append(memory.measure([python, str(WORKER)], request, options.seconds))
    return found


def _costs(runs: list[dict], steps: int, plain: float) -> dict:
    seconds = statistics.median(run["seconds"] for run in runs)
    return {
        "seconds": seconds,
        "runs": len(runs),
        "milliseconds_per_step": 1e3 * seconds / steps,
        "ratio": seconds / plain,
        "megabytes": statistics.median(run["megabytes"] for run in runs),
        "versions": runs[0]["versions"],
    }


def _quality(result: dict, truth: Tensor, case: Case, ours: dict | None) -> dict:
    """Completeness, the part explained, and the correlation with our contributions."""
    told = result["contributions"].sum(0) + result["other"]
    gap = (truth - told).abs() / truth.abs()
    found = {
        "completeness_median": gap.median().item(),
        "completeness_max": gap.max().item(),
        "explained_median": (told / truth).median().item(),
    }
    if ours is not None:
        pairs = zip(result["contributions"].T, ours["contributions"].T, strict=True)
        correlations = [torch.corrcoef(torch.stack(pair))[0, 1] for pair in pairs]
        found["correlation_median"] = torch.stack(correlations).median().item()
    if result["final"] is not None:  # it trained by itself: did it arrive at the same place?
        last = case.states[-1]
        gaps = [(result["final"][n] - t).norm() / t.norm() for n, t in last.items()]
        found["parameters_off"] = max(gaps).item()
    return found
