"""SGD and its diffusion, driven by the same noise: single paths part, their means stay together.

Lemma 3.1 of arXiv 2603.13872 speaks of expectations alone: the approximation is weak.
"""

from dataclasses import dataclass

import torch
from matplotlib.figure import Figure
from torch import Tensor

from pkbook import diffusion_limit as dl
from pkbook.lab.live import Live
from pkbook.lab.plots import MINUS, PLUS, figure, style
from pkbook.problems import data, losses, models

RATE, BATCH, STEPS, PAIRS, SHOWN, QUERY = 0.2, 2, 10, 300, 8, 1.5
KINDS = {"SGD": (MINUS, "-"), "diffusion": (PLUS, "--")}


@dataclass(frozen=True)
class Study:
    """Pairs of paths as one prediction sees them, less the prediction without noise."""

    times: Tensor
    """``[K + 1]``."""
    paths: dict[str, Tensor]
    """By kind, ``[K + 1, S]``."""

    @property
    def strong(self) -> float:
        """How far partners are apart at the end: root of the mean square."""
        sgd, diffusion = self.paths.values()
        return (sgd - diffusion)[-1].square().mean().sqrt().item()

    @property
    def weak(self) -> tuple[float, float]:
        """How far the means are apart at the end, and twice the standard error of that."""
        sgd, diffusion = self.paths.values()
        gap = (sgd - diffusion)[-1]
        return abs(gap.mean().item()), 2 * gap.std().item() / len(gap) ** 0.5


def paths(**settings: object) -> Live:
    """Pairs of paths and their means, simulated in the page; ``settings`` are initial values.

    ``rate`` (the learning rate), ``batch``, ``pair`` (the one in front), ``seed``.
    """
    found = _study()
    return Live("paths", alt=_words(found), still=lambda: _draw(found), settings=settings)


def _study() -> Study:
    x, y = data.sine(8, interval=(-3.0, 3.0), dtype=torch.float64)
    net = models.mlp(1, 8, 1, activation="tanh", seed=3).double()
    limit = dl.SGD(dl.Task(net, losses.squared, (x, y)), RATE, BATCH)
    query = torch.tensor([[QUERY]], dtype=torch.float64)
    told = {}
    for name, run in zip(KINDS, (dl.discrete, dl.diffusion), strict=True):
        generator = torch.Generator().manual_seed(0)  # the same normals for both
        told[name] = run(limit, query, steps=STEPS, paths=PAIRS, generator=generator)
    generator = torch.Generator().manual_seed(0)
    still = dl.SGD(limit.task, RATE, len(x))  # the full batch has no noise
    flow = dl.diffusion(still, query, steps=STEPS, paths=1, generator=generator).outputs[..., 0]
    less = {name: run.outputs[..., 0] - flow for name, run in told.items()}
    return Study(told["SGD"].times, less)


@style()
def _draw(found: Study) -> Figure:
    fig, (single, mean) = figure(2, 1, width=4.5, height=5.4, sharex=True, sharey=True)
    for name, (colour, line) in KINDS.items():
        values = found.paths[name]
        single.plot(found.times, values[:, 1:SHOWN], line, color=colour, linewidth=0.7, alpha=0.5)
        single.plot(found.times, values[:, 0], line, color=colour, linewidth=2.4)
        mean.plot(found.times, values.mean(1), line, color=colour, label=name)
    single.set(ylabel="prediction − flow", title="pairs with the same noise")
    mean.set(xlabel="time", ylabel="prediction − flow", title=f"means of {PAIRS} pairs")
    mean.legend(loc="lower left")
    return fig


def _words(found: Study) -> str:
    weak, error = found.weak
    return (
        f"SGD and its diffusion at learning rate {RATE:g}, driven by the same noise. At the end "
        f"partners of a pair are {found.strong:.2f} apart, the means of {PAIRS} pairs "
        f"{weak:.3f} ± {error:.3f}."
    )
