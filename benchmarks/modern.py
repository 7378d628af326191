"""Gradient kernels of networks that people use, against the tutorial's way with ``torch.func``.

    python benchmarks/modern.py                       # all networks, trace and full
    python benchmarks/modern.py unet vit --samples 32

One thread.  The peer forms Jacobians by ``vmap(jacrev)`` and contracts them parameter by parameter,
as the tutorial on neural tangent kernels does; where torch cannot vmap a network (a recurrent
layer), it goes row by row.  Rounds alternate; the numbers are medians.  Above 1 we are faster.
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # the repository's package, and ``benchmarks`` as a package

from benchmarks.cases import Case, Problem, relative_error  # noqa: E402
from benchmarks.modern_networks import NETWORKS  # noqa: E402
from benchmarks.peers import Unsuitable, ours, torch_func_jacobian  # noqa: E402
from benchmarks.timing import clocked  # noqa: E402

SAMPLES = {"trace": 32, "full": 16}
HEAD = "| network | parameters | reduce | ours, s | torch.func, s | ratio | error |"
RULE = "|:--|--:|:--|--:|--:|--:|--:|"


def problem_of(name: str, samples: int, reduce: str) -> Problem:
    """A network with random weights and inputs, always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        make, draw = NETWORKS[name]
        model = make().eval()
        x = draw(samples)
        outputs = model(x[:1]).numel()
    return Problem(Case(name, name, samples, reduce=reduce, outputs=outputs), model, x, None)


def row_by_row(problem: Problem) -> Callable[[], torch.Tensor]:
    """Jacobians by plain autograd, one input at a time."""
    model, parameters = problem.model, list(problem.model.parameters())
    rule = "iap,jap->ij" if problem.case.reduce == "trace" else "iap,jbp->ijab"

    def jacobian(x: torch.Tensor) -> torch.Tensor:
        f = model(x.unsqueeze(0)).flatten()
        rows = [torch.autograd.grad(v, parameters, retain_graph=True) for v in f]
        return torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])

    def run() -> torch.Tensor:
        j = torch.stack([jacobian(x) for x in problem.x1])
        return torch.einsum(rule, j, j)

    return run


def peer(problem: Problem) -> Callable[[], torch.Tensor]:
    """The tutorial's way, or row by row where it fails."""
    run = torch_func_jacobian(problem)
    try:
        run()
    except (RuntimeError, Unsuitable):
        return row_by_row(problem)
    return run


def row(name: str, samples: int, reduce: str, repeats: int) -> str:
    """One line of the table."""
    problem = problem_of(name, samples, reduce)
    mine, other = ours(problem), peer(problem)
    error = relative_error(mine(), other())
    times: dict[str, list[float]] = {"ours": [], "peer": []}
    for _ in range(repeats):
        times["ours"].append(clocked(mine)())
        times["peer"].append(clocked(other)())
    a, b = (statistics.median(t) for t in times.values())
    size = sum(p.numel() for p in problem.model.parameters())
    return f"| {name} | {size:,} | {reduce} | {a:.3f} | {b:.3f} | {b / a:.1f} | {error:.0e} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=list(NETWORKS), metavar="NAME")
    parser.add_argument("--samples", type=int, help="instead of 32 for trace, 16 for full")
    parser.add_argument("--repeats", type=int, default=5)
    asked = parser.parse_args()
    if unknown := set(asked.names) - set(NETWORKS):
        parser.error(f"unknown {', '.join(unknown)}; known are {', '.join(NETWORKS)}")
    torch.set_num_threads(1)
    print(HEAD, RULE, sep="\n", flush=True)
    for name in asked.names:
        for reduce, samples in SAMPLES.items():
            print(row(name, asked.samples or samples, reduce, asked.repeats), flush=True)


if __name__ == "__main__":
    main()
