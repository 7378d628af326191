"""A GAN without a kernel in its generator: every generated point is a parameter of its own.

Remark 4.1 of arXiv 2603.13872 lays the spread of mode collapse to the kernel, through which one
latent's correction moves all others. Free points share nothing: the kernel between two of them is
zero. They meet the same discriminators as the runs of `mode_collapse`; these are networks, whose
own kernel still ties what they tell one point to what they tell another.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pkbook.basics.checks import is_finite_number
from pkbook.generative import GaussianMixture, coherence, ring_of_gaussians
from pkbook.lab.experiments.mode_collapse import COLLAPSING, Config, build, covered, train
from pkbook.lab.experiments.parts import gans_together
from pkbook.problems.models import mlp


@dataclass(frozen=True)
class Course:
    """K steps of n points."""

    places: Tensor
    """``[K + 1, n, 2]``."""
    ring: GaussianMixture
    critic: nn.Module | None = None
    """The discriminator at the end, of free points."""

    @property
    def late(self) -> Tensor:
        """Places from the first quarter on: before, all points are on their way to the ring."""
        return self.places[len(self.places) // 4 :]

    @property
    def modes(self) -> float:
        """Mean number of modes covered, late."""
        return sum(covered(self.ring, x) for x in self.late) / len(self.late)

    @property
    def speed(self) -> float:
        """Mean length of a move in one step, late."""
        return self.late.diff(dim=0).norm(dim=2).mean().item()

    @property
    def coherence(self) -> float:
        """Mean coherence of the moves of all points, late."""
        return coherence(self.late.diff(dim=0)).mean().item()


def with_network(seeds: Sequence[int], config: Config, points: int = 100) -> list[Course]:
    """The collapsing runs of `mode_collapse`, watched at some latents."""
    draws = [torch.Generator().manual_seed(20_000 + seed) for seed in seeds]
    asked = [torch.randn(points, 2, generator=g, dtype=torch.float64) for g in draws]
    ring, made = train([COLLAPSING] * len(seeds), config, seeds)
    return [Course(places, ring) for places in made.places(torch.stack(asked))]


class Points(nn.Module):
    """A generator that is a list of points: its latents are their numbers ``[n, 1]``."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.points = nn.Parameter(start)

    def forward(self, number: Tensor) -> Tensor:
        """``[n, 2]``."""
        return self.points[number[:, 0]]


def free(
    seeds: Sequence[int], rates: Sequence[float], config: Config, points: int = 128
) -> dict[float, list[Course]]:
    """Points that start where those runs' generators put latents, and then move by themselves.

    For each rate a run for each seed: Adam with the generator's betas, on all points in each step,
    against a discriminator with the collapsing run's start and rate.

    ``ValueError`` for a rate that is not positive.
    """
    for rate in rates:
        if not is_finite_number(rate) or rate <= 0:
            raise ValueError(f"rate must be a positive number, got {rate!r}")
    ring = ring_of_gaussians(8, scale=config.scale)
    ring = GaussianMixture(ring.means.double(), config.scale)
    cases = [(rate, seed) for rate in rates for seed in seeds]
    draws = [torch.Generator().manual_seed(seed) for _, seed in cases]
    starts = []
    for (_, seed), draw in zip(cases, draws, strict=True):
        z = torch.randn(points, 2, generator=draw, dtype=torch.float64)
        starts.append(build(COLLAPSING, seed)[0](z).detach())
    made = gans_together.train(
        [Points(start) for start in starts],
        [mlp(2, 64, 64, 1, seed=100 + seed).double() for _, seed in cases],
        torch.arange(points)[:, None].expand(len(cases), -1, -1),
        torch.arange(points).expand(len(cases), config.steps, -1),
        lambda n: torch.stack([ring.sample(n, generator=draw) for draw in draws]),
        rates=([rate for rate, _ in cases], [COLLAPSING.discriminator] * len(cases)),
        betas=[COLLAPSING.momentum] * len(cases),
    )
    places = made.states.unflatten(2, (points, 2)).unbind(1)
    found: dict[float, list[Course]] = {rate: [] for rate in rates}
    for (rate, _), way, critic in zip(cases, places, made.critics, strict=True):
        found[rate].append(Course(way, ring, critic))
    return found
