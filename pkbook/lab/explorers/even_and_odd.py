"""Drag the even and the odd part of a target, and see which of them a network of x² can reach."""

import math
from functools import cache

import torch
from matplotlib.figure import Figure
from torch import Tensor

from pkbook.function_space import interval
from pkbook.lab.live import Live
from pkbook.lab.plots import NEUTRAL, PLUS, figure, style
from pkbook.problems.losses import squared
from pkbook.problems.models import mlp

STEPS = 600  # of the picture for readers without scripts


@cache
def study() -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, target and fit of a network of x² with 32 units, ``[n]`` each."""
    x = interval(-3.0, 3.0, 64, rule="midpoint", dtype=torch.float64).nodes
    waves = [torch.cos(2 * x[:, 0]), torch.sin(2 * x[:, 0])]
    y = torch.stack([w / w.square().mean().sqrt() for w in waves]).sum(0) / math.sqrt(2)
    net = mlp(1, 32, 1, activation="tanh", seed=0).double()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    for _ in range(STEPS):
        optimizer.zero_grad()
        squared(net(x.square() / 3), y[:, None]).mean().backward()
        optimizer.step()
    with torch.no_grad():
        return x[:, 0], y, net(x.square() / 3)[:, 0]


@style()
def draw(found: tuple[Tensor, Tensor, Tensor]) -> Figure:
    """Target and fit above, below what is missed and its odd part."""
    x, y, fit = found
    residual = fit - y
    fig, (top, bottom) = figure(2, 1, width=4.5, height=5.0, sharex=True)
    top.plot(x, y, "--", color=NEUTRAL, label="target")
    top.plot(x, fit, color="black", label="network of $x^2$")
    bottom.plot(x, residual, color="black", label="residual")
    bottom.plot(x, (residual - residual.flip(0)) / 2, "--", color=PLUS, label="its odd part")
    bottom.set_xlabel("input $x$")
    for ax in (top, bottom):
        ax.set_ylim(-2.4, 2.4)
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 0.98), ncols=2)
    return fig


def words(found: tuple[Tensor, Tensor, Tensor]) -> str:
    """What is to be seen, in numbers."""
    _, y, fit = found
    left, asked = fit - y, y
    odd = [((g - g.flip(0)) / 2).square().mean().item() for g in (asked, left)]
    even = [((g + g.flip(0)) / 2).square().mean().item() for g in (asked, left)]
    return (
        f"A network of x² after {STEPS} steps. Of the target's even part, with energy "
        f"{even[0]:.2f}, it leaves {even[1]:.3f}; of the odd part, with energy {odd[0]:.2f}, it "
        f"leaves {odd[1]:.2f}."
    )


def even_and_odd(**settings: object) -> Live:
    """The chapter *Null space* in the page: a network learns while its target is dragged.

    ``settings`` are initial values of the controls: ``sees`` ("x2" or "x") and ``seed`` (0 to 5).
    It trains in the reader's browser; Python draws the still picture alone, in under a second.
    """
    found = study()
    return Live("null_space", alt=words(found), still=lambda: draw(found), settings=settings)
