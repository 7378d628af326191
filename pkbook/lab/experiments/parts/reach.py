r"""From how far away training rows act on a query: one measure for diffusion models and GANs.

Section 4.3 of arXiv 2603.13872 calls the one local and the other globally coupled.  Both are sums
over training rows, so both can be asked the same: how many rows take part, and how much of the
whole do the rows nearest to the query give?
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

import pkbook as pk
from pkbook import generative as gen
from pkbook.basics.checks import require_choice, require_finite, require_tensor
from pkbook.lab.experiments.parts import predictors_together

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
    cases: Sequence[tuple[str, int]], *, samples: int = 24, levels: int = 20, steps: int = 120
) -> list[tuple[Tensor, dict[str, Tensor]]]:
    r"""Small diffusion models of the ring of Gaussians, taken apart side by side.

    ``cases`` are pairs of one of `EMBEDDINGS` and a seed; the embeddings may differ in width. For
    each: sizes ``[R, m]`` of what each row (data sample, level) did to each query, and the
    distances ``[R, m]``: in ``"level"`` :math:`|\tau-\tau'|`, and in ``"place"``
    :math:`\|x_\tau-x'_{\tau'}\|`.
    """
    found = {}
    for name in dict.fromkeys(name for name, _ in cases):
        require_choice(name, "embedding", tuple(EMBEDDINGS))
        seeds = [seed for other, seed in cases if other == name]
        several = _diffusion(name, seeds, samples, levels, steps)
        found |= {(name, seed): one for seed, one in zip(seeds, several, strict=True)}
    return [found[case] for case in cases]


def _diffusion(
    name: str, seeds: Sequence[int], samples: int, levels: int, steps: int
) -> list[tuple[Tensor, dict[str, Tensor]]]:
    ring = gen.ring_of_gaussians(8, scale=RING_SCALE)
    schedule = gen.linear_schedule(levels, last=float(levels) * 0.4)
    rows, asked, models, chosen = [], [], [], []
    for seed in seeds:
        draw = torch.Generator().manual_seed(seed)
        clean = ring.sample(samples, generator=draw).double()
        rows.append(gen.noised(clean, schedule, generator=draw))
        table = EMBEDDINGS[name](levels)
        models.append(gen.NoisePredictor(2, table, hidden=(32, 32), seed=seed).double())
        order = pk.batches(samples * levels, size=48, steps=steps, seed=seed)
        chosen.append(torch.stack(list(order)))
        fresh = ring.sample(2, generator=draw).double()
        asked.append(gen.noised(fresh, schedule, generator=draw))
    told = predictors_together.train(
        [model.net for model in models],
        (
            torch.stack([m.inputs(d.z) for m, d in zip(models, rows, strict=True)]),
            torch.stack([d.noise for d in rows]),
        ),
        torch.stack(chosen),
        torch.stack([m.inputs(q.z) for m, q in zip(models, asked, strict=True)]),
        rate=0.2,
    )
    level = torch.arange(1, levels + 1).repeat(2)
    apart = [
        {
            "level": (data.level[:, None] - level).abs().double(),
            "place": torch.cdist(data.z[:, :2], query.z[:, :2]),
        }
        for data, query in zip(rows, asked, strict=True)
    ]
    return list(zip(told.contributions.norm(dim=3), apart, strict=True))


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
