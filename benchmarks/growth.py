"""How time and memory grow with the samples, the outputs and the width: log-log slopes."""

from dataclasses import replace

import numpy as np

from benchmarks import memory
from benchmarks.cases import CASES, LARGE, Case, build, random_weight, shrink
from benchmarks.peers import METHODS, ours_weighted
from benchmarks.timing import Contestant, Options, accuracy, clocked, race, summary

SERIES = {
    "samples": [Case("growth", "mnist", n) for n in (100, 200, 400, 800)],
    "outputs": [Case("growth", "mnist", 100, outputs=c) for c in (5, 10, 20, 40)],
    "width": [Case("growth", "mlp", 500, outputs=1, width=w) for w in (128, 256, 512, 1024)],
}
FIELDS = {"samples": "n1", "outputs": "outputs", "width": "width"}


def slope(x: list[float], y: list[float]) -> float:
    """Exponent of the least-squares power law."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def growth(options: Options, factor: float) -> dict:
    """For each series the sizes, times, memory and their slopes."""
    found = {}
    for name, cases in SERIES.items():
        cases = [shrink(case, factor) for case in cases]
        sizes = [getattr(case, FIELDS[name]) for case in cases]
        runners = [Contestant(case.title, clocked(METHODS["ours"](build(case)))) for case in cases]
        race(runners, min(options.repeats, 5), options.seconds)
        times = [summary(runner.times)["median"] for runner in runners]
        row = {"case": cases[0].title, "sizes": sizes, "seconds": times}
        row["time_slope"] = slope(sizes, times)
        if options.memory:
            peaks = [memory.of_torch(c, "ours", options.threads, options.seconds) for c in cases]
            row["megabytes"] = [peak["megabytes"] for peak in peaks]
            row["memory_slope"] = slope(sizes, [max(m, 0.1) for m in row["megabytes"]])
        found[name] = row
    return found


def large(options: Options, factor: float) -> dict:
    """6000 x 100 images: time and peak memory of one call in a fresh process."""
    case = shrink(LARGE, factor)
    return {"title": case.title} | memory.of_torch(case, "ours", options.threads, 3600)


def weighted(options: Options, factor: float) -> dict:
    """A random diagonal weight on every parameter, against none."""
    found = {}
    for name in ("A", "B"):
        problem = build(replace(shrink(CASES[name], factor)))
        plain = Contestant("plain", clocked(METHODS["ours"](problem)))
        scaled = Contestant("weighted", clocked(ours_weighted(problem)))
        race([plain, scaled], options.repeats, options.seconds)
        times = {c.name: summary(c.times) for c in (plain, scaled)}
        found[name] = times | {
            "title": problem.case.title,
            "ratio": times["weighted"]["median"] / times["plain"]["median"],
            "error": accuracy(problem, ours_weighted, random_weight(problem.model)),
        }
    return found
