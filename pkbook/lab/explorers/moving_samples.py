"""Samples of a GAN in the page: what the discriminator tells them, and where they are carried."""

from functools import cache

from matplotlib.figure import Figure
from torch import Tensor

from pkbook.generative import Optimal
from pkbook.lab.experiments.parts import known_densities as known
from pkbook.lab.live import Live
from pkbook.lab.plots import MINUS, figure, style

STEPS = 40  # of the picture for readers without scripts


@cache
def study() -> tuple[Tensor, Tensor]:
    """Generated points ``[60, 2]`` and what the best discriminator tells them ``[60, 2]``."""
    model = known.train("plane", 0, steps=STEPS).run.model_at(STEPS)
    z = known.latents("plane", 60, seed=7)
    points = model(z).detach()
    return points, -Optimal(known.data("plane"))(model, z, points, STEPS).sum(0)


@style()
def draw(found: tuple[Tensor, Tensor]) -> Figure:
    """Generated points, arrows of the feedback, and the three modes."""
    points, told = found
    fig, ax = figure(width=4.8, height=3.6)
    ax.quiver(*points.T, *told.T, color=MINUS, angles="xy", scale_units="xy", scale=1.5)
    ax.plot(*known.data("plane").means.T, "k+", markersize=14)
    ax.set(aspect="equal", xlim=(-3.4, 3.4), ylim=(-2.6, 2.6))
    return fig


def words(found: tuple[Tensor, Tensor]) -> str:
    """What is to be seen, in numbers."""
    points, told = found
    return (
        f"Sixty generated points after {STEPS} steps, spread {points.std(0)[0].item():.2f} across "
        f"and {points.std(0)[1].item():.2f} up, with an arrow each for what the best discriminator "
        f"tells it; the longest is {told.norm(dim=1).max().item():.2f}. Crosses mark three modes."
    )


def moving_samples(**settings: object) -> Live:
    """The chapter *GANs* in the page: two networks learn against each other, point by point.

    ``settings`` are initial values of the controls: ``generatorRate``, ``discriminatorRate``,
    ``inner`` (steps of D to one of G), ``loss`` ("non-saturating" or "minimax") and ``seed``.  It
    trains in the reader's browser; Python draws the still picture alone, in about a second.
    """
    found = study()
    return Live("adversarial", alt=words(found), still=lambda: draw(found), settings=settings)
