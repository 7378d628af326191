r"""A small diffusion model whose predictions are taken apart (Corollary 4.1).

The network predicts the noise, :math:`\epsilon_\theta(x,e(\tau))`, and is trained on
:math:`\{(x^{(i)}_\tau,\epsilon^{(i)},\tau)\}` with
:math:`\ell=\tfrac12\|\epsilon_\theta-\epsilon\|^2`, so that every formula of the book holds for it
with one training sample for each pair (data sample, noise level).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pkbook.basics.checks import require_finite, require_tensor, require_whole
from pkbook.generative.noise import NoiseSchedule
from pkbook.interpolation import Interpolation
from pkbook.problems.models import mlp


class NoisePredictor(nn.Module):
    r""":math:`\epsilon_\theta(x,e(\tau))`: a fully connected network of the input and of the
    level's embedding.

    It takes one tensor ``[n, d + 1]`` whose last column is the level, see :func:`with_level`, and
    returns ``[n, d]``.

    ``embedding`` is a table ``[T, E]`` such as :func:`sinusoidal`; it is not trained. ``hidden``
    are the widths of the hidden layers.

    >>> from pkbook.generative import sinusoidal
    >>> model = NoisePredictor(2, sinusoidal(50, 8), hidden=(32,), seed=0)
    >>> model(torch.tensor([[0.1, -0.2, 50.0]])).shape
    torch.Size([1, 2])
    """

    embedding: Tensor

    def __init__(
        self,
        dimension: int,
        embedding: Tensor,
        *,
        hidden: tuple[int, ...] = (64, 64),
        activation: str = "tanh",
        seed: int | None = None,
    ) -> None:
        super().__init__()
        require_whole(dimension, "dimension")
        embedding = require_finite(require_tensor(embedding, "embedding"), "embedding")
        if embedding.ndim != 2:
            raise ValueError(f"embedding must be [levels, E], got {list(embedding.shape)}")
        widths = dimension + embedding.shape[1], *hidden, dimension
        self.register_buffer("embedding", embedding.float(), persistent=False)
        self.net = mlp(*widths, activation=activation, seed=seed)

    def inputs(self, z: Tensor) -> Tensor:
        """What the layers see: the point and its level's embedding, ``[n, d + E]``."""
        levels = z[:, -1].detach().round().long()
        return torch.cat([z[:, :-1], self.embedding[levels - 1]], 1)

    def forward(self, z: Tensor) -> Tensor:
        """Predicted noise ``[n, d]``."""
        return self.net(self.inputs(z))


def with_level(x: Tensor, level: Tensor | int, schedule: NoiseSchedule) -> Tensor:
    r"""The query :math:`(x,\tau)` as the network takes it: ``[n, d + 1]``.

    ``ValueError`` for levels outside 1..T.

    >>> from pkbook.generative import linear_schedule
    >>> with_level(torch.zeros(1, 2), 7, linear_schedule(50))
    tensor([[0., 0., 7.]])
    """
    x = require_finite(require_tensor(x, "x"), "x")
    if x.ndim != 2:
        raise ValueError(f"x must be [n, d], got {list(x.shape)}; write x.flatten(1)")
    level = schedule.checked(level, len(x)).to(x.device)
    return torch.cat([x, level.unsqueeze(1).to(x.dtype)], 1)


@dataclass(frozen=True)
class NoisedData:
    """Every data sample at every level: ``R`` rows, to be trained on with ``losses.squared``."""

    z: Tensor
    """Inputs of the network, ``[R, d + 1]``."""
    noise: Tensor
    """Targets, ``[R, d]``."""
    sample: Tensor
    """Number of the data sample of each row, ``[R]``."""
    level: Tensor
    """Level of each row, ``[R]``."""
    schedule: NoiseSchedule

    @property
    def pair(self) -> tuple[Tensor, Tensor]:
        """``(z, noise)``, as :class:`~pkbook.Trajectory` takes data."""
        return self.z, self.noise


def noised(
    x: Tensor, schedule: NoiseSchedule, *, copies: int = 1, generator: torch.Generator
) -> NoisedData:
    r"""Noise ``x [N, d]`` at each level, ``copies`` times: ``R = N T copies`` rows.

    The noise is drawn once, as in Corollary 4.1, where :math:`\epsilon^{(i)}` belongs to its
    sample; more copies come closer to fresh noise in every step.

    Raises ``TypeError`` or ``ValueError`` for inputs that are not ``[N, d]`` and finite.
    """
    require_whole(copies, "copies")
    x = require_finite(require_tensor(x, "x"), "x")
    if x.ndim != 2 or not len(x):
        raise ValueError(f"x must be [N, d], got {list(x.shape)}; write x.flatten(1)")
    rows = len(x) * schedule.levels * copies
    sample = torch.arange(len(x)).repeat_interleave(schedule.levels * copies)
    level = torch.arange(1, schedule.levels + 1).repeat_interleave(copies).repeat(len(x))
    noise = torch.randn(rows, x.shape[1], generator=generator, dtype=x.dtype).to(x.device)
    z = with_level(schedule.noisy(x[sample], noise, level), level, schedule)
    return NoisedData(z, noise, sample, level, schedule)


def by_level(told: Interpolation, data: NoisedData) -> Tensor:
    r"""How strongly each training level moved each query, ``[T, m]``:
    :math:`\sum_i\|c_{i,\tau'}(x)\|`.

    Norms over the outputs, so that nothing cancels.  ``ValueError`` where ``told`` is of other
    data.
    """
    sizes = _rows(told, data).norm(dim=2)
    found = sizes.new_zeros(data.schedule.levels, sizes.shape[1])
    return found.index_add_(0, data.level - 1, sizes)


def by_sample(told: Interpolation, data: NoisedData) -> Tensor:
    """Contributions summed over levels and copies, ``[N, m, d]``."""
    rows = _rows(told, data)
    found = rows.new_zeros(int(data.sample.max()) + 1, *rows.shape[1:])
    return found.index_add_(0, data.sample, rows)


def _rows(told: Interpolation, data: NoisedData) -> Tensor:
    if len(told.contributions) != len(data.z):
        raise ValueError(
            f"told must be of a run on this data, {len(data.z)} rows, got "
            f"{len(told.contributions)} contributions"
        )
    return told.contributions.cpu()


def level_map(strength: Tensor, query_level: Tensor, levels: int) -> Tensor:
    r"""The heat map from level :math:`\tau'` to level :math:`\tau`, ``[T, T]``, rows sum to one.

    ``strength [T, m]`` is :func:`by_level`; row :math:`\tau` is the mean over the queries at that
    level (``query_level [m]``) of each query's shares. NaN where a level has no query.
    """
    shares = (strength / strength.sum(0)).T
    found = torch.full((levels, levels), torch.nan, dtype=shares.dtype)
    for level in query_level.unique():
        found[level - 1] = shares[query_level == level].mean(0)
    return found


def locality(shares: Tensor, distance: int) -> tuple[Tensor, Tensor]:
    r"""Share of the contribution from levels within ``distance`` of the query's, ``[T]``; and what
    it would be if every level gave as much as on average over all queries.

    ``shares [T, T]`` is a :func:`level_map`.  The second number is the fair comparison: some
    levels teach more than others, whoever asks.
    """
    require_whole(distance, "distance", least=0)
    levels = torch.arange(len(shares))
    near = (levels[:, None] - levels).abs() <= distance
    usual = shares.nanmean(0).expand_as(shares)
    return (shares * near).sum(1), torch.where(shares.isnan(), torch.nan, usual * near).sum(1)
