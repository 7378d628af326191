r"""Turn learning rate and batch size, and see where SGD and its diffusion end.

A line is fitted to eight points.  Above two pairs of paths, each pair driven by the same random
numbers; below where a thousand runs of either process end.  Paths differ,
expectations of smooth functions nearly agree: Definition 3.1 and Lemma 3.1, eq. (6) to (8), of
arXiv 2603.13872.  All predictions are shown less that of the gradient flow, the path without noise.
"""

import math
from dataclasses import dataclass
from functools import cache

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from pkbook import diffusion_limit as dl
from pkbook.lab.explorers.base import Explorer
from pkbook.lab.explorers.controls import Control
from pkbook.lab.plots import MINUS, PLUS, figure, style
from pkbook.problems import losses

SAMPLES, QUERY, TIME = 8, 1.5, 1.0
PATHS, PAIRS = 1000, 2
FINEST = 0.02  # the diffusion's time step is at most this: the error of its spread, relative
WINDOW, BINS = 1.0, 25  # of predictions less the flow's

CONTROLS = {
    "rate": Control("learning rate", (0.05, 0.1, 0.25), initial=0.05),
    "batch": Control("batch size", (1, 2, SAMPLES), initial=2),
}
LINES = {"SGD": (MINUS, "-"), "diffusion": (PLUS, "--")}


@dataclass(frozen=True)
class Study:
    """SGD and its diffusion at one learning rate; predictions less the gradient flow's."""

    times: Tensor
    """``[K + 1]``."""
    pairs: dict[str, Tensor]
    """By process: the paths of a few pairs, ``[K + 1, S]``."""
    ends: dict[str, Tensor]
    """By process: where the runs end, ``[R]``; entry r of both is a pair."""
    mean: dict[str, float]
    """By process: the mean at the end, from its closed form."""
    spread: dict[str, float]
    """By process: the standard deviation at the end, from its closed form."""

    @property
    def apart(self) -> float:
        """How far the partners of a pair end from each other, root mean square."""
        return (self.ends["SGD"] - self.ends["diffusion"]).square().mean().sqrt().item()


@cache
def _task() -> dl.Task:
    """The line of the chapter: eight noisy points of a parabola."""
    noise = torch.randn(SAMPLES, generator=_seeded(0), dtype=torch.float64)
    x = torch.linspace(-1, 2, SAMPLES, dtype=torch.float64)
    y = 0.5 + x - 0.5 * x**2 + 0.5 * noise
    line = torch.nn.Sequential(torch.nn.Linear(1, 1)).double()  # a chain, for its faster gradients
    with torch.no_grad():
        for p in line.parameters():
            p.fill_(-1.0)
    return dl.Task(line, losses.squared, (x[:, None], y[:, None]))


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def study(rate: float, batch: int, *, paths: int = PATHS, seed: int = 0) -> Study:
    """Run both processes for one unit of time, that is ``1 / rate`` steps.

    Raises ValueError for a rate or batch size that :class:`pkbook.diffusion_limit.SGD` refuses,
    and DivergenceError where a run leaves every bound.
    """
    limit = dl.SGD(_task(), rate, batch)
    steps, inner = max(1, round(TIME / rate)), max(2, math.ceil(rate / FINEST))
    paths = 1 if limit.factor == 0 else paths  # without noise all are the same
    query = torch.tensor([[QUERY]], dtype=torch.float64)
    moments = {
        "SGD": dl.discrete_moments(limit, steps),
        "diffusion": dl.diffusion_moments(limit, steps),
    }
    known = {
        name: m.prediction(torch.tensor([[QUERY, 1.0]], dtype=torch.float64))
        for name, m in moments.items()
    }
    flow = known["diffusion"][0]  # the line's mean obeys the flow: its gradient is linear
    told = {
        "SGD": dl.discrete(limit, query, steps=steps, paths=paths, generator=_seeded(seed)),
        "diffusion": dl.diffusion(
            limit, query, steps=steps, paths=paths, generator=_seeded(seed), dt=rate / inner
        ),
    }
    seen = {name: run.outputs[..., 0] - flow for name, run in told.items()}
    return Study(
        times=rate * torch.arange(steps + 1, dtype=torch.float64),
        pairs={name: values[:, :PAIRS] for name, values in seen.items()},
        ends={name: values[-1] for name, values in seen.items()},
        mean={name: (mean - flow)[-1, 0].item() for name, (mean, _) in known.items()},
        spread={name: v[-1, 0].clamp_min(0).sqrt().item() for name, (_, v) in known.items()},
    )


@style()
def draw(found: Study) -> Figure:
    """Above a few pairs of paths, time running down; below where all runs end."""
    fig, (above, below) = figure(2, 1, width=4.5, height=6.2, sharex=True)
    for name, (colour, line) in LINES.items():
        for path, width in zip(found.pairs[name].T, (2.2, 1.0), strict=False):
            label = name if width > 2 else None
            above.plot(path, found.times, line, color=colour, linewidth=width, label=label)
        _histogram(below, found.ends[name], colour, line)
        below.axvline(found.mean[name], color=colour, linestyle=line, linewidth=2.6)
    above.set(ylabel="time $t$, downwards", ylim=(TIME, 0), yticks=(0, TIME))
    above.set(title="two pairs, same random numbers", xlim=(-WINDOW, WINDOW), xticks=(-1, 0, 1))
    below.set(title="where all runs end; lines: means", yticks=(), ylabel="share of runs")
    below.set(xlabel="prediction − flow")
    below.set_ylim(bottom=0)
    fig.legend(*above.get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return fig


def _histogram(ax: Axes, ends: Tensor, colour: str, line: str) -> None:
    edges = torch.linspace(-WINDOW, WINDOW, BINS + 1, dtype=torch.float64)
    share = torch.histogram(ends, edges).hist / len(ends)
    solid = line == "-"
    look = {"fill": solid, "alpha": 0.4 if solid else 1.0, "linestyle": line, "linewidth": 1.4}
    ax.stairs(share, edges, color=colour, **look)


def words(found: Study) -> str:
    """What is to be seen, in numbers."""
    steps, mean, spread = len(found.times) - 1, found.mean, found.spread
    text = (
        f"{steps} steps. Less the gradient flow, SGD ends at {mean['SGD']:+.3f} on average and "
        f"the diffusion at {mean['diffusion']:+.3f}. "
    )
    if len(found.ends["SGD"]) == 1:
        return f"{text}The full batch has no noise: every run of a process is the same."
    beyond = (found.ends["SGD"].abs() > WINDOW).double().mean().item()
    text += (
        f"Single runs vary by {spread['SGD']:.3f} and {spread['diffusion']:.3f}. The partners of "
        f"a pair end {found.apart:.3f} apart."
    )
    return text if beyond < 0.005 else f"{text} {beyond:.0%} of SGD's runs leave the picture."


def endpoints() -> Explorer:
    """Learning rate and batch size of SGD and its diffusion: single paths, and where all end.

    Three rates times three batch sizes, each frame a thousand runs of a line with eight samples;
    about two seconds to draw them all, which the static page needs.
    """
    found = cache(study)
    return Explorer(
        CONTROLS,
        draw=lambda rate, batch: draw(found(rate, batch)),
        alt=lambda rate, batch: words(found(rate, batch)),
    )
