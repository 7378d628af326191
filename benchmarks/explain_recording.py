"""What recording costs: blocks of steps, plain and recorded in turn, on the same batches."""

import itertools
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from benchmarks.explain_setting import Setting, build, parameters, record, train
from benchmarks.timing import Contestant, clocked, race, summary

WAYS = ("plain", "memory", "folder")


def _stepper(way: str, setting: Setting, block: int, folder: Path) -> Callable[[], None]:
    """A function that makes the next ``block`` steps."""
    problem = build(setting)
    batches = itertools.cycle(problem.batches)
    if way == "plain":
        return lambda: train(problem, itertools.islice(batches, block))
    run = record(problem, folder if way == "folder" else None, steps=0)

    def recorded() -> None:
        for batch in itertools.islice(batches, block):
            run.step(batch)

    return recorded


def recording(setting: Setting, optimizers: tuple[str, ...], block: int, repeats: int) -> dict:
    """Per network and optimizer: milliseconds per step each way, and the overhead in percent."""
    found = {}
    for network in ("cnn", "mlp"):
        for name in optimizers:
            here = replace(setting, network=network, optimizer=name, steps=block)
            with tempfile.TemporaryDirectory() as folder:
                steppers = {way: _stepper(way, here, block, Path(folder) / "run") for way in WAYS}
                runners = [Contestant(way, clocked(step)) for way, step in steppers.items()]
                race(runners, repeats, seconds=1e9)
                row = _row({runner.name: runner.times for runner in runners}, block)
            row["parameters"] = parameters(build(here).model)
            found[f"{network} {name}"] = row
    return found


def _row(times: dict[str, list[float]], block: int) -> dict:
    milliseconds = {way: summary([1e3 * t / block for t in ts]) for way, ts in times.items()}
    plain = milliseconds["plain"]["median"]
    overhead = {way: 100 * (milliseconds[way]["median"] / plain - 1) for way in WAYS[1:]}
    return {"milliseconds_per_step": milliseconds, "overhead_percent": overhead}
