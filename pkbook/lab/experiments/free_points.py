"""A GAN without a kernel in its generator: every generated point is a parameter of its own.

Remark 4.1 of arXiv 2603.13872 lays the spread of mode collapse to the kernel, through which one
latent's correction moves all others. Free points share nothing: the kernel between two of them is
zero. They meet the same discriminators as the runs of `mode_collapse`; these are networks, whose
own kernel still ties what they tell one point to what they tell another.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pkbook.basics.checks import is_finite_number
from pkbook.generative import GaussianMixture, Learned, coherence, ring_of_gaussians
from pkbook.lab.experiments.mode_collapse import COLLAPSING, Config, covered, train
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


def with_network(seed: int, config: Config, points: int = 100) -> Course:
    """The collapsing run of `mode_collapse`, watched at some latents."""
    draw = torch.Generator().manual_seed(20_000 + seed)
    asked = torch.randn(points, 2, generator=draw, dtype=torch.float64)
    ring, _, places = train(COLLAPSING, config, seed, asked=asked)
    return Course(places, ring)


def free(seed: int, rate: float, config: Config) -> Course:
    """Points that start where that run's generator puts its latents, and then move by themselves.

    Adam with the generator's betas at ``rate``, on all points in each step, against a
    discriminator with the collapsing run's start and rate.

    ``ValueError`` for a rate that is not positive.
    """
    if not is_finite_number(rate) or rate <= 0:
        raise ValueError(f"rate must be a positive number, got {rate!r}")
    ring = ring_of_gaussians(8, scale=config.scale)
    ring = GaussianMixture(ring.means.double(), config.scale)
    draw = torch.Generator().manual_seed(seed)
    z = torch.randn(config.latents, 2, generator=draw, dtype=torch.float64)
    width = COLLAPSING.width
    start = mlp(2, width, width, 2, activation="tanh", seed=seed).double()
    x = torch.nn.Parameter(start(z).detach())
    critic = mlp(2, 64, 64, 1, seed=100 + seed).double()
    adversary = Learned(
        critic,
        torch.optim.Adam(critic.parameters(), COLLAPSING.discriminator, betas=(0.5, 0.999)),
        lambda n: ring.sample(n, generator=draw),
    )
    optimizer = torch.optim.Adam([x], rate, betas=(COLLAPSING.momentum, 0.999))
    places = [x.detach().clone()]
    for step in range(config.steps):
        x.grad = adversary(start, z, x.detach(), step)[0] / len(x)
        optimizer.step()
        places.append(x.detach().clone())
    return Course(torch.stack(places), ring, critic)
