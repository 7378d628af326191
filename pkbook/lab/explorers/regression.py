"""Turn learning rate and momentum, and see fit, kernel and contributions of a small regression."""

from dataclasses import dataclass

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from pkbook.interpolation import Interpolation
from pkbook.interpolation.trajectory import Trajectory, batches
from pkbook.kernels import normalised_kernel
from pkbook.lab.explorers.base import Explorer
from pkbook.lab.explorers.controls import Control
from pkbook.lab.plots import MINUS, NEUTRAL, PLUS, figure, style
from pkbook.problems import data, losses, models

RATES = (0.01, 0.03, 0.1, 0.2, 0.3)
MOMENTA = (0.0, 0.5, 0.8, 0.9)
INTERVAL = (-3.0, 3.0)


@dataclass(frozen=True)
class Study:
    """One training run on a few points of a sine, and one prediction taken apart."""

    x: Tensor
    y: Tensor
    query: float
    grid: Tensor
    before: Tensor
    """The network's curve on ``grid`` before training, after it in ``after``."""
    after: Tensor
    kernel: Tensor
    """Normalised kernel between the query and ``grid``, before and after, ``[2, G]``."""
    told: Interpolation

    @property
    def contributions(self) -> Tensor:
        """What each training point did to the prediction at the query, ``[N]``."""
        return self.told.contributions[:, 0, 0]


def study(rate: float, momentum: float, *, steps: int = 40, query: float = 1.2) -> Study:
    """Train a tanh network on eight points by gradient descent; take its value at ``query`` apart.

    Raises ValueError for a negative rate or momentum, as torch does, and where training diverges.
    """
    x, y = data.sine(8, interval=INTERVAL)
    net = models.mlp(1, 32, 1, activation="tanh", seed=0)
    recorded = Trajectory(
        net,
        losses.squared,
        torch.optim.SGD(net.parameters(), lr=rate, momentum=momentum),
        (x, y),
        every=steps,
    )
    for batch in batches(len(x), steps=steps):
        recorded.step(batch)
    grid, asked = torch.linspace(*INTERVAL, 61)[:, None], torch.tensor([[query]])
    ends = recorded.model_at(0), recorded.model_at(steps)
    with torch.no_grad():
        before, after = (net(grid)[:, 0] for net in ends)
    kernel = torch.cat([normalised_kernel(net, asked, grid) for net in ends])
    told = recorded.interpolate(asked, nodes=2)
    return Study(x[:, 0], y[:, 0], query, grid[:, 0], before, after, kernel, told)


@style()
def draw(found: Study) -> Figure:
    """Fit, kernel and contributions, one above the other, over the same inputs."""
    fig, (fit, kernel, parts) = figure(3, 1, width=4.5, height=6.2, sharex=True)
    fit.plot(found.grid, found.before, "--", color=NEUTRAL, label="before")
    fit.plot(found.grid, found.after, color="black", label="after")
    fit.plot(found.x, found.y, "o", color=PLUS, label="data")
    place = found.told.final.item()
    fit.plot(found.query, place, "*", color=MINUS, markersize=14, label="query")
    fit.set(ylabel="prediction", ylim=(-1.4, 1.4))
    fit.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=4, columnspacing=0.8)
    kernel.plot(found.grid, found.kernel[0], "--", color=NEUTRAL)
    kernel.plot(found.grid, found.kernel[1], color="black")
    kernel.set(ylabel="kernel with query", ylim=(-1.1, 1.1))
    _stems(parts, found)
    for ax in (fit, kernel, parts):
        ax.axvline(found.query, color=MINUS, linewidth=0.9, linestyle=":")
    return fig


def _stems(ax: Axes, found: Study) -> None:
    values = found.contributions
    ax.axhline(0, color="black", linewidth=0.9)
    for x, value in zip(found.x.tolist(), values.tolist(), strict=True):
        up = value >= 0
        ax.bar(x, value, 0.35, color=PLUS if up else MINUS, hatch=None if up else "///")
    ax.margins(y=0.15)
    ax.set(xlabel="input $x$", ylabel="contribution")


def words(found: Study) -> str:
    """What is to be seen, with the sum that closes."""
    values = found.contributions
    up, down = values.clamp_min(0).sum(), values.clamp_max(0).sum()
    miss = (found.after - found.grid.sin()).square().mean().sqrt()
    start, last = found.told.initial.item(), found.told.final.item()
    return (
        f"The prediction at {found.query:g} went from {start:.2f} to {last:.2f}. Points that "
        f"pushed it up did {up:+.2f}, points that pushed it down {down:+.2f}, together "
        f"{values.sum():+.2f}. The curve misses the sine by {miss:.2f} on average."
    )


def regression() -> Explorer:
    """Learning rate and momentum of a small regression: fit, kernel and contributions.

    Five rates times four momenta, each frame one training run of 40 steps; about ten seconds to
    draw them all, which the static page needs.
    """
    studies: dict[tuple[float, float], Study] = {}

    def found(rate: float, momentum: float) -> Study:
        if (rate, momentum) not in studies:
            studies[rate, momentum] = study(rate, momentum)
        return studies[rate, momentum]

    return Explorer(
        {
            "rate": Control("learning rate", RATES, initial=0.1),
            "momentum": Control("momentum", MOMENTA, initial=0.0),
        },
        draw=lambda rate, momentum: draw(found(rate, momentum)),
        alt=lambda rate, momentum: words(found(rate, momentum)),
    )
