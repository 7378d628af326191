"""Turn the weight of one training sample, and see the fit and one answer follow."""

from dataclasses import dataclass
from functools import cache

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from pkbook.interpolation.trajectory import Trajectory, batches
from pkbook.lab.explorers.base import Explorer
from pkbook.lab.explorers.controls import Control
from pkbook.lab.plots import MINUS, NEUTRAL, PLUS, figure, style
from pkbook.problems import losses, models

SAMPLES = (16, 21, 23)
WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
QUERY = 0.45
SEED = 2
POINTS = 41


def points(seed: int = SEED, n: int = 24) -> tuple[Tensor, Tensor]:
    """Inputs and targets ``[n, 1]`` in float64: a sine seen through noise, sorted by input."""
    generator = torch.Generator().manual_seed(seed)
    drawn = 2 * torch.rand(n, generator=generator, dtype=torch.float64) - 1
    x = drawn.sort().values[:, None]
    noise = torch.randn(n, generator=generator, dtype=torch.float64)[:, None]
    return x, (3 * x).sin() + 0.2 * noise


def recorded(steps: int = 120, seed: int = SEED) -> Trajectory:
    """Sixteen tanh units on :func:`points`, batches of eight, momentum 0.9."""
    x, y = points(seed)
    net = models.mlp(1, 16, 1, activation="tanh", seed=seed).double()
    sgd = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    run = Trajectory(net, losses.squared, sgd, (x, y), every=20)
    for batch in batches(len(x), size=8, steps=steps, seed=seed):
        run.step(batch)
    return run


@dataclass(frozen=True)
class Study:
    """One training for each weight of one sample, and what the derivative forecasts."""

    x: Tensor
    y: Tensor
    sample: int
    grid: Tensor
    fits: Tensor
    """The network's curve on ``grid`` for each of ``WEIGHTS``, ``[R, G]``."""
    answers: Tensor
    """What each training says at the query, ``[R]``."""
    pushed: float
    """The sample's contribution to the answer, in the run with weight one."""
    slope: float
    """The derivative of the answer by the sample's weight, at weight one."""

    @property
    def forecast(self) -> Tensor:
        """The tangent at weight one, ``[R]``."""
        return self.answers[WEIGHTS.index(1.0)] + self.slope * (torch.tensor(WEIGHTS).double() - 1)


def studies(steps: int = 120, samples: tuple[int, ...] = SAMPLES) -> dict[int, Study]:
    """All trainings at once, and both accounts of the recorded one."""
    run = recorded(steps)
    x, y = points()
    asked = torch.tensor([[QUERY]], dtype=torch.float64)
    told = run.interpolate(asked, nodes=2, tolerance=None)
    influence = run.influence(asked)
    weights = torch.ones(len(samples), len(WEIGHTS), len(x), dtype=torch.float64)
    for rows, sample in zip(weights, samples, strict=True):
        rows[:, sample] = torch.tensor(WEIGHTS, dtype=torch.float64)
    grid = torch.linspace(-1, 1, POINTS, dtype=torch.float64)
    trained = run.retrained(weights.flatten(0, 1))
    queries = torch.cat([grid[:, None], asked])
    said = trained.outputs(queries)[..., 0].unflatten(0, (len(samples), -1))
    return {
        sample: Study(
            x[:, 0], y[:, 0], sample, grid, outputs[:, :-1], outputs[:, -1],
            told.contributions[sample].item(), influence.effects[sample].item(),
        )
        for sample, outputs in zip(samples, said, strict=True)
    }  # fmt: skip


@style()
def draw(found: Study, weight: float) -> Figure:
    """Above the fit with the sample as large as its weight; below the answer against the weight."""
    fig, (fit, answer) = figure(2, 1, width=4.5, height=6.2)
    row, i = WEIGHTS.index(weight), found.sample
    _fit_panel(fit, found, row)
    others = torch.arange(len(found.x)) != i
    fit.plot(found.x[others], found.y[others], "o", color=PLUS, markersize=4, label="data")
    fit.plot(
        found.x[i], found.y[i], "D", color=MINUS, markersize=3 + 5 * weight, label="this sample"
    )
    fit.set(xlabel="input $x$", ylabel="prediction", ylim=(-1.5, 1.7))
    fit.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, columnspacing=0.8)
    answer.plot(WEIGHTS, found.answers, color="black", label="trained again")
    answer.plot(WEIGHTS, found.forecast, "--", color=MINUS, label="derivative at one")
    answer.plot(weight, found.answers[row], "*", color=MINUS, markersize=14)
    answer.set(xlabel="weight of the sample", ylabel="answer at the query")
    answer.legend(loc="best", fontsize=9)
    return fig


def _fit_panel(fit: Axes, found: Study, row: int) -> None:
    """The curve of this training over that of weight one, and where the query is asked."""
    fit.plot(found.grid, found.fits[WEIGHTS.index(1.0)], "--", color=NEUTRAL, label="weight one")
    fit.plot(found.grid, found.fits[row], color="black", label="this weight")
    fit.axvline(QUERY, color=MINUS, linewidth=0.9, linestyle=":")
    fit.plot(QUERY, found.answers[row], "*", color=MINUS, markersize=14)


def words(found: Study, weight: float) -> str:
    """What is to be seen, in numbers."""
    row, one = WEIGHTS.index(weight), WEIGHTS.index(1.0)
    change = (found.answers[row] - found.answers[one]).item()
    forecast = (found.forecast[row] - found.answers[one]).item()
    return (
        f"The sample at {found.x[found.sample].item():.2f} pushed the answer by "
        f"{found.pushed:+.2f}. Trained again with weight {weight:g} for it, the answer is "
        f"{found.answers[row].item():.3f}, a change of {change:+.3f}; the derivative forecasts "
        f"{forecast:+.3f}."
    )


def sample_weight() -> Explorer:
    """One sample and its weight from zero to two: the fit, the answer, and the derivative's line.

    Three samples times seven weights, each frame a training of its own, made all at once; about
    ten seconds to draw them, which the static page needs.
    """
    found = cache(studies)
    x = points()[0][:, 0]
    return Explorer(
        {
            "sample": Control(
                "sample at", SAMPLES, initial=SAMPLES[-1], formatter=lambda i: f"{x[i].item():.2f}"
            ),
            "weight": Control("weight", WEIGHTS, initial=0.0),
        },
        draw=lambda sample, weight: draw(found()[sample], weight),
        alt=lambda sample, weight: words(found()[sample], weight),
    )
