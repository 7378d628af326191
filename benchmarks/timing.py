"""Times in turn: in every round each contestant runs once, so that all meet the same machine."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from benchmarks import limits, memory
from benchmarks.cases import Problem, relative_error
from benchmarks.jax_client import JaxMethod
from benchmarks.peers import JAX_METHODS, METHODS, Unsuitable
from benchmarks.reference import reference


@dataclass
class Options:
    """What the command line says."""

    repeats: int
    threads: int
    peers: tuple[str, ...]
    seconds: float
    """Time that one method may take in all the rounds of a case."""
    jax_python: str | None
    memory: bool


@dataclass
class Contestant:
    """A method that takes part, and its times."""

    name: str
    once: Callable[[], float]
    """Runs once and returns the seconds."""
    times: list[float] = field(default_factory=list)
    rounds: int = 0
    result: Tensor | None = None
    close: Callable[[], None] = lambda: None

    def warm_up(self, repeats: int, seconds: float) -> None:
        """One run; a method too slow for all rounds makes fewer, at worst this one only."""
        first = self.once()
        self.rounds = max(0, min(repeats, int(seconds / max(first, 1e-9))))
        if self.rounds == 0:
            self.times.append(first)


def clocked(run: Callable[[], object]) -> Callable[[], float]:
    def once() -> float:
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    return once


def summary(times: list[float]) -> dict:
    """Median, extremes and number of runs, in seconds."""
    found = {"median": statistics.median(times), "min": min(times), "max": max(times)}
    return found | {"runs": len(times)}


def race(contestants: list[Contestant], repeats: int, seconds: float) -> None:
    """Warm up, then alternate; the order turns so that nobody always follows the same one."""
    for contestant in contestants:
        contestant.warm_up(repeats, seconds)
    for k in range(repeats):
        turn = k % len(contestants)
        for contestant in contestants[turn:] + contestants[:turn]:
            if k < contestant.rounds:
                contestant.times.append(contestant.once())


def _torch_contestant(problem: Problem, name: str) -> Contestant:
    run = METHODS[name](problem)

    def keeping() -> None:  # the result of the first run, the warm-up, is compared with ours
        result = run()
        if found.result is None:
            found.result = result

    found = Contestant(name, clocked(keeping))
    return found


def _jax_contestant(method: JaxMethod, name: str, versions: dict) -> Contestant:
    versions |= method.start()["versions"]
    return Contestant(name, method.seconds, result=method.result(), close=method.close)


def enter(problem: Problem, name: str, options: Options, versions: dict):
    """``(contestant or None, facts)``; facts hold the memory, or the reason for standing aside.

    The fresh process that measures the memory is also the trial: what fails or takes too long
    there never runs here.
    """
    facts: dict = {}
    method = None
    try:
        if name in JAX_METHODS:
            if options.jax_python is None:
                return None, {"reason": "no --jax-python given"}
            method = JaxMethod(options.jax_python, problem, name, options.threads, options.seconds)
        if options.memory:
            facts = (
                method.memory() if method
                else memory.of_torch(problem.case, name, options.threads, options.seconds)
            )  # fmt: skip
        if "reason" not in facts:
            entered = (
                _jax_contestant(method, name, versions) if method
                else _torch_contestant(problem, name)
            )  # fmt: skip
            return entered, facts
    except (Unsuitable, ImportError, RuntimeError, ValueError, AttributeError) as error:
        facts = {"reason": f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"}
    if method:
        method.close()
    return None, facts


def case_row(problem: Problem, options: Options, versions: dict) -> dict:
    """One case: the limit, ours and the peers, in one run."""
    run_gemm, flops = limits.gemm(*limits.product_shape(problem))
    run_square, square_flops = limits.gemm(1024, 1024, 1024)
    yardsticks = [
        Contestant("passes", clocked(limits.passes(problem))),
        Contestant("gemm", clocked(run_gemm)),
        Contestant("square", clocked(run_square)),
    ]
    methods, facts = [], {}
    for name in ("ours", *options.peers):
        entered, facts[name] = enter(problem, name, options, versions)
        methods += [entered] if entered else []
    race(yardsticks + methods, options.repeats, options.seconds)
    passes, gemm, square = (summary(c.times) for c in yardsticks)
    rates = flops / gemm["median"], square_flops / square["median"]
    limit = _limit(problem, passes, *rates)
    found = {c.name: c for c in methods}
    if "ours" not in found:
        raise RuntimeError(f"ours did not run: {facts['ours']['reason']}")
    for name, contestant in found.items():
        times = summary(contestant.times)
        facts[name] |= times | {
            "ratio": times["median"] / limit["seconds"],
            "ratio_strict": times["median"] / limit["strict_seconds"],
            "ratio_roofline": times["median"] / limit["roofline_seconds"],
            "error": relative_error(contestant.result, found["ours"].result),
        }
        contestant.close()
    facts["ours"]["error"] = accuracy(problem, METHODS["ours"], None)
    return {"title": problem.case.title, "limit": limit, "methods": facts}


def _limit(problem: Problem, passes: dict, rate: float, square_rate: float) -> dict:
    rows = limits.contraction(problem)
    flops, pass_flops = sum(row["flops"] for row in rows), limits.pass_flops(problem)
    best = max(rate, square_rate)
    return {
        "seconds": passes["median"] + flops / rate,
        "strict_seconds": passes["median"] + flops / best,
        "roofline_seconds": (pass_flops + flops) / best,
        "passes": passes,
        "pass_flops": pass_flops,
        "contraction_flops": flops,
        "contraction_seconds": flops / rate,
        "layers": rows,
        "gemm_shape": limits.product_shape(problem),
        "gemm_flops_per_second": rate,
        "square_gemm_flops_per_second": square_rate,
    }


def accuracy(problem: Problem, factory, weight) -> float:
    """Error of a method on the first samples against float64 automatic differentiation."""
    x2 = None if problem.x2 is None else problem.x2[:8]
    few = Problem(problem.case, problem.model, problem.x1[:8], x2)
    return relative_error(factory(few)(), reference(few, weight))
