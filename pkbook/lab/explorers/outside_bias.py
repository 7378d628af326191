"""Move one threshold out of the training interval, and see what training can no longer reach.

The networks of E8 (arXiv 2603.13872, Section 5.4, Figures 7 and 8), of one seed; see
:mod:`pkbook.experiments.rank_gap`.
"""

from dataclasses import dataclass
from functools import cache

import torch
from matplotlib.figure import Figure
from torch import Tensor

from pkbook.lab.experiments import rank_gap as e8
from pkbook.lab.experiments.figures.rank_gap import training_interval
from pkbook.lab.experiments.parts import relu_line
from pkbook.lab.explorers.base import Explorer
from pkbook.lab.explorers.controls import Control
from pkbook.lab.plots import MINUS, NEUTRAL, PLUS, figure, style

CONFIG = e8.Config(seeds=(0,))
PLACES = (0.4, 0.6, 0.8, 0.9, 0.96, 1.0, 1.2, 1.4)
SAID = {"biases": "biases", "both": "biases and weights"}
GRID = torch.linspace(e8.LEFT, CONFIG.reach, 201, dtype=torch.float64)


@dataclass(frozen=True)
class Study:
    """One run, its last threshold started at ``place``."""

    place: float
    trained: str
    steps: list[int]
    thresholds: Tensor
    """``[E, H]``."""
    weights: Tensor
    """``[E, H]``."""
    reached: int
    """Training inputs that switch the last unit on at the start."""
    pull: float
    """Largest gradient that the last unit ever had, without sign."""
    gap: int
    """Rank gap at the end."""
    losses: tuple[float, float]
    """On training and on test inputs, at the end."""

    @property
    def moved(self) -> float:
        """How far the last threshold went."""
        return abs(self.thresholds[-1, -1] - self.thresholds[0, -1]).item()

    def f(self, x: Tensor) -> Tensor:
        """What the network has learned, ``[n]``."""
        return relu_line.outputs(self.thresholds[-1], self.weights[-1], x)


@cache
def _runs(trained: str) -> dict[float, Study]:
    """All places at once: one batch of networks."""
    begun, (x, other) = e8.start(CONFIG), e8.inputs(CONFIG)
    y, there = e8.wanted(CONFIG, x), e8.wanted(CONFIG, other)
    thresholds = begun.thresholds[0].repeat(len(PLACES), 1)
    thresholds[:, -1] = torch.tensor(PLACES, dtype=torch.float64)
    rows, pull, moments = [], torch.zeros_like(thresholds), CONFIG.moments
    steps = relu_line.descend(
        thresholds,
        begun.weights.repeat(len(PLACES), 1),
        x,
        y,
        rate=CONFIG.rate / CONFIG.units,
        steps=CONFIG.steps,
        trained=trained,
    )
    for k, t, a, gradient in steps:
        pull = torch.maximum(pull, gradient)
        if k in moments:
            rows.append((t, a))
    t, a = (torch.stack(column, 1) for column in zip(*rows, strict=True))
    phi = relu_line.features(t[:, -1], a[:, -1], torch.cat([x, other]), trained)
    training, mixture = relu_line.ranks(phi, len(x), CONFIG.tolerance).unbind(-1)
    ends = [
        relu_line.loss(relu_line.outputs(t[:, -1], a[:, -1], z), w).tolist()
        for z, w in ((x, y), (other, there))
    ]
    return {
        place: Study(
            place,
            trained,
            moments,
            t[i],
            a[i],
            int((x > place).sum()),
            pull[i, -1].item(),
            int(mixture[i] - training[i]),
            (ends[0][i], ends[1][i]),
        )
        for i, place in enumerate(PLACES)
    }


def study(place: float, trained: str = "biases") -> Study:
    """The run whose last threshold starts at ``place``.

    Raises ValueError for a place that is none of ``PLACES``.
    """
    if place not in PLACES:
        raise ValueError(f"place must be one of {PLACES}, got {place!r}")
    return _runs(trained)[place]


@style()
def draw(found: Study) -> Figure:
    """Above the fit, below the thresholds over training."""
    fig, (top, bottom) = figure(2, 1, width=4.5, height=6.2)
    training_interval(top)
    top.plot(GRID, e8.wanted(CONFIG, GRID)[0], color=NEUTRAL, linewidth=4, label="target")
    top.plot(GRID, found.f(GRID), color="black", label="network")
    last = found.thresholds[-1, -1:]
    top.plot(last, found.f(last), "D", color=PLUS, markersize=7, label="last unit")
    top.set(xlabel="input $x$", ylabel="$f(x)$", xlim=(e8.LEFT, CONFIG.reach), ylim=(-0.6, 4.4))
    top.legend(loc="upper left")
    training_interval(bottom, along="y")
    for j in range(CONFIG.units):
        colour, line = (PLUS, "--") if j == CONFIG.units - 1 else (MINUS, "-")
        bottom.plot(found.steps, found.thresholds[:, j], line, color=colour)
    bottom.set_xscale("symlog", linthresh=1)
    ticks = [t for t in (0, 1, 10, 100, 1000) if t <= CONFIG.steps]
    bottom.set_xticks(ticks, [f"{t:,}" for t in ticks])
    bottom.minorticks_off()
    bottom.set(
        xlabel="step", ylabel="threshold", xlim=(0, CONFIG.steps), ylim=(-1.05, CONFIG.reach)
    )
    return fig


def words(found: Study) -> str:
    """What is to be seen, in numbers."""
    n, (training, test) = CONFIG.samples, found.losses
    if found.reached:
        some = "sample switches" if found.reached == 1 else "samples switch"
        start = f"{found.reached} of {n} training {some} the last unit on; its threshold "
        start += f"moved by {found.moved:.2f}"
    else:
        start = f"None of {n} training samples switches the last unit on; its largest gradient in "
        start += f"all steps was {found.pull:g}"
    return (
        f"The last threshold starts at {found.place:g}. {start}. Rank gap at the end: {found.gap}. "
        f"Training loss {training:.1e}, test loss {test:.1e}."
    )


def outside_bias() -> Explorer:
    """Where the last threshold starts, and what is trained: fit and thresholds of E8's network.

    Sixteen frames of one seed, about four seconds to draw them all, which the static page needs.
    """
    return Explorer(
        {
            "place": Control("last threshold", PLACES, initial=1.2),
            "trained": Control("trained", tuple(SAID), formatter=SAID.__getitem__),
        },
        draw=lambda **values: draw(study(**values)),
        alt=lambda **values: words(study(**values)),
    )
