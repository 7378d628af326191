"""Turn the learning rates of generator and discriminator, and see modes come and go."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import product

from matplotlib.figure import Figure

from pkbook.generative import coherence
from pkbook.lab.experiments.figures.mode_collapse import ring_panel
from pkbook.lab.experiments.mode_collapse import SETTINGS, Config, asked, covered, train
from pkbook.lab.explorers.base import Explorer
from pkbook.lab.explorers.controls import Control
from pkbook.lab.plots import figure, style

GENERATOR = (0.0005, 0.002, 0.01)
DISCRIMINATOR = (0.0005, 0.002, 0.01)
RUN = Config(steps=200, points=300)
SEED = 1


def study(
    rates: Sequence[tuple[float, float]], config: Config = RUN, seed: int = SEED
) -> list[dict]:
    """A run on the ring for each pair of rates, generator's and discriminator's, side by side.

    Each has its points at the end, the modes covered and the coherence of the moves over time.
    """
    healthy, seeds = SETTINGS["healthy"], [seed] * len(rates)
    settings = [replace(healthy, generator=g, discriminator=d) for g, d in rates]
    ring, made = train(settings, config, seeds)
    stops = range(config.every, config.steps + 1, config.every)
    found = []
    for places in made.places(asked(config, seeds)):
        moves = coherence(places.diff(dim=0)).unflatten(0, (-1, config.every)).mean(1)
        modes = [covered(ring, places[k]) for k in stops]
        found.append(
            {"points": places[-1], "steps": list(stops), "modes": modes, "coherence": moves}
        )
    return found


@cache
def _every() -> dict[tuple[float, float], dict]:
    """The runs behind all frames, trained when the first one is drawn."""
    rates = list(product(GENERATOR, DISCRIMINATOR))
    return dict(zip(rates, study(rates), strict=True))


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

    Each frame is one training run of 200 steps; a few seconds to train and draw them all.
    """
    return Explorer(
        {
            "generator": Control("rate of the generator", GENERATOR, initial=0.002),
            "discriminator": Control("rate of the discriminator", DISCRIMINATOR, initial=0.002),
        },
        draw=lambda generator, discriminator: draw(_every()[generator, discriminator]),
        alt=lambda generator, discriminator: words(_every()[generator, discriminator]),
    )
