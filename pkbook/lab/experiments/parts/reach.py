r"""From how far away training rows act on a query: one measure for diffusion models and GANs.

Section 4.3 of arXiv 2603.13872 calls the one local and the other globally coupled.  Both are sums
over training rows, so both can be asked the same: how many rows take part, and how much of the
whole do the rows nearest to the query give?
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

import pkbook as pk
from pkbook import generative as gen
from pkbook.basics.checks import require_choice, require_finite, require_tensor
from pkbook.lab.experiments.parts import known_densities

PART = 0.1  # which rows count as near: this part of all
RING_SCALE = 0.15
EMBEDDINGS = {
    "sines": partial(gen.sinusoidal, width=16),
    "more sines": partial(gen.sinusoidal, width=64, frequency=2.0),
    "none": partial(gen.no_embedding, width=16),
}


@dataclass(frozen=True)
class Reach:
    """For m queries."""

    effective: Tensor
    r"""Effective number of rows as a part of all, ``[m]``: :math:`e^{H}/R`, where H is the entropy
    of the absolute contributions; 1 if all R rows give the same."""
    near: Tensor
    """Share of the contribution from the nearest tenth of the rows, ``[m]``."""
    usual: Tensor
    """What these rows would give if each gave every query its average share, ``[m]``."""

    @property
    def lift(self) -> float:
        """Mean of ``near`` over mean of ``usual``: 1 if nearness does not matter."""
        return (self.near.mean() / self.usual.mean()).item()


def reach(sizes: Tensor, distance: Tensor) -> Reach:
    """The two measures for absolute contributions ``sizes [R, m]`` of rows at ``distance [R, m]``.

    Rows as far as the tenth's last one count as near too.  ``ValueError`` for shapes that differ,
    negative sizes, and a query that nothing moved.
    """
    sizes = require_finite(require_tensor(sizes, "sizes"), "sizes").double()
    distance = require_finite(require_tensor(distance, "distance"), "distance").double()
    if sizes.ndim != 2 or sizes.shape != distance.shape:
        raise ValueError(
            f"sizes and distance must both be [R, m], got {list(sizes.shape)} and "
            f"{list(distance.shape)}"
        )
    if (sizes < 0).any() or (sizes.sum(0) == 0).any():
        raise ValueError("sizes must be absolute, and not all zero for any query; take a norm")
    shares = sizes / sizes.sum(0)
    entropy = torch.special.entr(shares).sum(0)
    count = max(1, round(PART * len(sizes)))
    edge = distance.kthvalue(count, dim=0).values
    near = distance <= edge
    usual = shares.mean(1, keepdim=True) * near
    return Reach(entropy.exp() / len(sizes), (shares * near).sum(0), usual.sum(0))


def diffusion(
    seed: int, *, samples: int = 24, levels: int = 20, steps: int = 120, embedding: str = "sines"
) -> tuple[Tensor, dict[str, Tensor]]:
    r"""A small diffusion model of the ring of Gaussians, taken apart.

    Returns sizes ``[R, m]`` of what each row (data sample, level) did to each query, and the
    distances ``[R, m]``: in ``"level"`` :math:`|\tau-\tau'|`, and in ``"place"``
    :math:`\|x_\tau-x'_{\tau'}\|`.  ``embedding`` is one of `EMBEDDINGS`.
    """
    require_choice(embedding, "embedding", tuple(EMBEDDINGS))
    draw = torch.Generator().manual_seed(seed)
    ring = gen.ring_of_gaussians(8, scale=RING_SCALE)
    schedule = gen.linear_schedule(levels, last=float(levels) * 0.4)
    data = gen.noised(ring.sample(samples, generator=draw).double(), schedule, generator=draw)
    table = EMBEDDINGS[embedding](levels)
    model = gen.NoisePredictor(2, table, hidden=(32, 32), seed=seed).double()
    optimizer = torch.optim.SGD(model.parameters(), 0.2)
    trained = pk.Trajectory(model, pk.losses.squared, optimizer, data.pair)
    for batch in pk.batches(len(data.z), size=48, steps=steps, seed=seed):
        trained.step(batch)
    level = torch.arange(1, levels + 1).repeat(2)
    asked = gen.noised(ring.sample(2, generator=draw).double(), schedule, generator=draw)
    told = trained.interpolate(asked.z, nodes=2, tolerance=None)
    apart = {
        "level": (data.level[:, None] - level).abs().double(),
        "place": torch.cdist(data.z[:, :2], asked.z[:, :2]),
    }
    return told.contributions.norm(dim=2), apart


def adversarial(made: gen.AdversarialRun, queries: Tensor) -> tuple[Tensor, Tensor]:
    """Sizes ``[N, m]`` of what each latent did to each query, and their distances ``[N, m]``.

    Latents that no batch has drawn are left out.
    """
    told = made.run.interpolate(queries, nodes=2, tolerance=None)
    drawn = made.chosen.unique()
    sizes = made.by_latent(told).norm(dim=2)[drawn]
    return sizes, torch.cdist(made.latents[drawn], queries)


def ring_gan(
    seed: int, *, latents: int = 480, steps: int = 120, queries: int = 40
) -> tuple[Tensor, Tensor]:
    """The same for a GAN on the same ring, by SGD against a learned discriminator, with as many
    rows, steps and samples a step as `diffusion` has."""
    draw = torch.Generator().manual_seed(seed)
    ring = gen.ring_of_gaussians(8, scale=RING_SCALE)
    z = torch.randn(latents, 2, generator=draw, dtype=torch.float64)
    net: nn.Module = pk.models.mlp(2, 32, 32, 2, activation="tanh", seed=seed).double()
    critic = pk.models.mlp(2, 64, 64, 1, seed=100 + seed).double()
    adversary = gen.Learned(
        critic,
        torch.optim.Adam(critic.parameters(), 0.002, betas=(0.5, 0.999)),
        lambda n: ring.sample(n, generator=draw).double(),
    )
    made = gen.train_generator(
        net, adversary, z, torch.optim.SGD(net.parameters(), 0.2), steps=steps, batch=48, seed=seed
    )
    asked = torch.randn(queries, 2, generator=draw, dtype=torch.float64)
    return adversarial(made, asked)


def known_gan(seed: int, *, steps: int = 100, queries: int = 40) -> tuple[Tensor, Tensor]:
    """The same for the plane with known densities, whose generator is affine."""
    made = known_densities.train("plane", seed, steps=steps)
    return adversarial(made, known_densities.latents("plane", queries, 500 + seed))
