"""Particles of a diffusion model in the page: which training points carry the one that is asked."""

import math
from functools import cache

import torch
from matplotlib.figure import Figure
from torch import Tensor

from pkbook.generative import (
    NoisePredictor,
    linear_schedule,
    noised,
    ring_of_gaussians,
    sinusoidal,
    with_level,
)
from pkbook.interpolation.trajectory import batches
from pkbook.lab.live import Live
from pkbook.lab.plots import NEUTRAL, PLUS, figure, style
from pkbook.problems import losses

LEVELS, LEVEL, STEPS = 20, 8, 300  # of the picture for readers without scripts


@cache
def study() -> tuple[Tensor, Tensor, Tensor]:
    """Training points ``[40, 2]``, places ``[n, 2]`` and what is taken away there ``[n, 2]``."""
    draw = torch.Generator().manual_seed(0)
    points = ring_of_gaussians(5, scale=0.15).sample(40, generator=draw) * math.sqrt(2)
    schedule = linear_schedule(LEVELS, first=0.1, last=6.0)
    rows = noised(points, schedule, copies=4, generator=draw)
    model = NoisePredictor(2, sinusoidal(LEVELS, 16), hidden=(64,), seed=0)
    adam = torch.optim.Adam(model.parameters(), lr=0.02)
    for batch in batches(len(rows.z), size=256, steps=STEPS, seed=0):
        adam.zero_grad()
        losses.squared(model(rows.z[batch]), rows.noise[batch]).mean().backward()
        adam.step()
    line = torch.linspace(-2.6, 2.6, 11)
    places = torch.cartesian_prod(line, line)
    levels = torch.full((len(places),), LEVEL)
    with torch.no_grad():
        return points, places, -model(with_level(places, levels, schedule))


@style()
def draw(found: tuple[Tensor, Tensor, Tensor]) -> Figure:
    """The training points and the field of one noise level."""
    points, places, way = found
    fig, ax = figure(width=4.5, height=4.4)
    ax.quiver(*places.T, *way.T, color=NEUTRAL, angles="xy", scale_units="xy", scale=4)
    ax.plot(*points.T, "D", color=PLUS, markersize=4)
    ax.set(aspect="equal", xlim=(-3.4, 3.4), ylim=(-3.2, 3.2), title=f"noise level {LEVEL}")
    return fig


def words(found: tuple[Tensor, Tensor, Tensor]) -> str:
    """What is to be seen, with the longest arrow."""
    return (
        f"Forty training points in five spots, and arrows of the learned field at noise level "
        f"{LEVEL} of {LEVELS}. They lead from outside to the spots; the longest stands for noise "
        f"of size {found[2].norm(dim=1).max().item():.1f}."
    )


def moving_particles(**settings: object) -> Live:
    """The chapter *Diffusion* in the page: particles go from noise to data, and who carries one.

    ``settings`` are initial values of the controls: ``level`` (1 to 20) and ``seed`` (0 to 3).  It
    trains in the reader's browser; Python draws the still picture alone, in about a second.
    """
    found = study()
    return Live("diffusion_model", alt=words(found), still=lambda: draw(found), settings=settings)
