"""Turn the learning rates of generator and discriminator, and see modes come and go."""

from dataclasses import replace
from functools import cache

import torch
from matplotlib.figure import Figure
from torch import Tensor

from pkbook.generative import coherence
from pkbook.lab.experiments.figures.mode_collapse import ring_panel
from pkbook.lab.experiments.mode_collapse import SETTINGS, Config, covered, train
from pkbook.lab.explorers.base import Explorer
from pkbook.lab.explorers.controls import Control
from pkbook.lab.plots import figure, style

GENERATOR = (0.0005, 0.002, 0.01)
DISCRIMINATOR = (0.0005, 0.002, 0.01)
RUN = Config(steps=200, points=300)
SEED = 1


def study(generator: float, discriminator: float, config: Config = RUN, seed: int = SEED) -> dict:
    """One run on the ring: points at the end, modes covered and coherence of moves over time."""
    setting = replace(SETTINGS["healthy"], generator=generator, discriminator=discriminator)
    asked = _latents(config, seed)
    ring, _, places = train(setting, config, seed, asked=asked)
    stops = range(config.every, config.steps + 1, config.every)
    moves = coherence(places.diff(dim=0)).unflatten(0, (-1, config.every)).mean(1)
    modes = [covered(ring, places[k]) for k in stops]
    return {"points": places[-1], "steps": list(stops), "modes": modes, "coherence": moves}


def _latents(config: Config, seed: int) -> Tensor:
    draw = torch.Generator().manual_seed(10_000 + seed)
    return torch.randn(config.points, 2, generator=draw, dtype=torch.float64)


@style()
def draw(found: dict) -> Figure:
    """The generated points above, modes and coherence over the steps below."""
    fig, (ring, course) = figure(2, 1, width=4.2, height=6, height_ratios=(2, 1))
    ring_panel(ring, found["points"])
    course.plot(found["steps"], found["modes"], drawstyle="steps-post")
    course.set(ylim=(0, 8.5), yticks=(0, 4, 8), xlabel="step", ylabel="modes covered")
    return fig


def words(found: dict) -> str:
    """What is to be seen, in numbers."""
    modes, late = found["modes"], found["coherence"][len(found["coherence"]) // 4 :]
    return (
        f"At the end the generator covers {modes[-1]} of 8 modes; the most it ever covered are "
        f"{max(modes)}. Mean coherence of the moves, first quarter left out: {late.mean():.2f}."
    )


def adversarial_rates() -> Explorer:
    """Learning rates of a GAN on a ring of eight Gaussians, three of each.

    Each frame is one training run of 200 steps; about ten seconds to draw them all, which the
    static page needs.
    """
    found = cache(study)
    return Explorer(
        {
            "generator": Control("rate of the generator", GENERATOR, initial=0.002),
            "discriminator": Control("rate of the discriminator", DISCRIMINATOR, initial=0.002),
        },
        draw=lambda generator, discriminator: draw(found(generator, discriminator)),
        alt=lambda generator, discriminator: words(found(generator, discriminator)),
    )
