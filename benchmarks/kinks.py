"""What the default tolerance costs where a network has kinks, in gradients of the queries.

    python benchmarks/kinks.py            # all cases
    python benchmarks/kinks.py "MLP, Adam"

Each case is trained for some steps on 600 digits and explained at 20 test digits: with one node a
step, and with the default tolerance. One thread.
"""

import argparse
import time
from collections import Counter
from collections.abc import Callable
from unittest.mock import patch

import torch
from torch import nn

import pkbook as pk
from pkbook.interpolation.quadrature import Query

Make = Callable[[], nn.Module]
HEAD = [
    "case", "steps", "gradients", "in passes", "forward", "in passes", "over one node",
    "largest gap",
]  # fmt: skip


def cnn() -> nn.Module:
    return pk.models.mnist_cnn(seed=0)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), pk.models.mlp(784, 64, 10, activation="relu", seed=0))


CASES: dict[str, tuple[Make, Callable[..., torch.optim.Optimizer], float, int]] = {
    "MLP, Adam": (mlp, torch.optim.Adam, 1e-3, 40),
    "CNN, SGD": (cnn, torch.optim.SGD, 0.05, 20),
    "CNN, Adam": (cnn, torch.optim.Adam, 1e-3, 20),
}


def recorded(make: Make, optimizer, rate: float, steps: int) -> pk.Trajectory:
    data = pk.data.mnist("train", per_class=60, generator=torch.Generator().manual_seed(0))
    model = make()
    run = pk.Trajectory(
        model, pk.losses.cross_entropy, optimizer(model.parameters(), rate), tuple(data)
    )
    for batch in pk.batches(600, size=32, steps=steps, seed=0):
        run.step(batch)
    return run


def row(name: str) -> str:
    """A line of the table: counts a step and query, seconds of the processor as a ratio."""
    *how, steps = CASES[name]
    run = recorded(*how, steps)
    x, _ = pk.data.mnist("test", per_class=2, generator=torch.Generator().manual_seed(1))
    asked = {"outputs": run.model(x).argmax(1)}
    one, _ = timed(lambda: run.interpolate(x, nodes=1, tolerance=None, **asked))
    count: Counter[str] = Counter()
    with patch.multiple(Query, **{kind: counting(kind, count) for kind in ("gradient", "value")}):
        seconds, told = timed(lambda: run.interpolate(x, **asked))
    each = [
        f"{count[kind] / len(x) / steps:.1f} | {count[f'{kind} passes'] / steps:.0f}"
        for kind in ("gradient", "value")
    ]
    gap = told.completeness.max().item()
    return f"| {name} | {steps} | {' | '.join(each)} | {seconds / one:.1f} x | {gap:.0e} |"


def counting(kind: str, count: Counter[str]) -> Callable:
    """The method of a query, which counts its rows and its calls."""
    real = getattr(Query, kind)

    def counted(self: Query, *arguments):
        count[kind] += len(self.x)
        count[f"{kind} passes"] += 1
        return real(self, *arguments)

    return counted


def timed(function: Callable) -> tuple[float, pk.Interpolation]:
    start = time.process_time()
    value = function()
    return time.process_time() - start, value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", default=list(CASES), metavar="CASE")
    torch.set_num_threads(1)
    print(f"| {' | '.join(HEAD)} |", f"|:--{'|--:' * (len(HEAD) - 1)}|", sep="\n")
    for name in parser.parse_args().cases:
        print(row(name), flush=True)


if __name__ == "__main__":
    main()
