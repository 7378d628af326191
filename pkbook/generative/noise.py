r"""Noise levels of a diffusion model: how much of the data is left at each."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pkbook.basics.checks import is_finite_number, require_finite, require_tensor, require_whole


@dataclass(frozen=True)
class NoiseSchedule:
    r""":math:`x_\tau=\sqrt{\bar\alpha_\tau}\,x+\sqrt{1-\bar\alpha_\tau}\,\epsilon`, levels
    :math:`\tau=1,\dots,T` (Ho, Jain, Abbeel 2020, eq. 4).

    ``betas [T]`` are the :math:`\beta_\tau`, with :math:`\alpha_\tau=1-\beta_\tau` and
    :math:`\bar\alpha_\tau=\prod_{\sigma\le\tau}\alpha_\sigma`.

    Raises ``TypeError`` or ``ValueError`` for betas outside (0, 1).
    """

    betas: Tensor

    def __post_init__(self) -> None:
        betas = require_finite(require_tensor(self.betas, "betas"), "betas").double()
        if betas.ndim != 1 or not len(betas) or (betas <= 0).any() or (betas >= 1).any():
            raise ValueError(
                f"betas must be one number in (0, 1) a level, got {self.betas.tolist()}; "
                "write generative.linear_schedule(50)"
            )
        object.__setattr__(self, "betas", betas)

    @property
    def levels(self) -> int:
        """T."""
        return len(self.betas)

    @property
    def kept(self) -> Tensor:
        r""":math:`\bar\alpha_\tau`, ``[T]``, float64: 1 is data, 0 is noise."""
        return (1 - self.betas).cumprod(0)

    def checked(self, level: object, n: int) -> Tensor:
        """Levels ``[n]`` as whole numbers from 1 to T; one number stands for all."""
        if isinstance(level, int) and not isinstance(level, bool):
            level = torch.full((n,), level)
        level = require_tensor(level, "level")
        if level.shape != (n,) or level.is_floating_point():
            raise ValueError(
                f"level must be one whole number a row, [{n}], got {level.dtype} "
                f"{list(level.shape)}"
            )
        if (level < 1).any() or (level > self.levels).any():
            wrong = level[(level < 1) | (level > self.levels)][0].item()
            raise ValueError(f"level must lie in 1..{self.levels}, got {wrong}")
        return level

    def noisy(self, x: Tensor, noise: Tensor, level: Tensor | int) -> Tensor:
        r""":math:`x_\tau` for ``x [n, d]``, ``noise [n, d]`` and levels ``[n]``.

        ``ValueError`` for levels outside 1..T and noise of another shape than ``x``.

        >>> linear_schedule(50).noisy(torch.ones(1, 2), torch.zeros(1, 2), 50) < 0.1
        tensor([[True, True]])
        """
        x = require_finite(require_tensor(x, "x"), "x")
        noise = require_finite(require_tensor(noise, "noise"), "noise")
        if x.shape != noise.shape or x.ndim != 2:
            raise ValueError(
                f"x and noise must both be [n, d], got {list(x.shape)} and {list(noise.shape)}; "
                "flatten images with x.flatten(1)"
            )
        kept = self.kept.to(x.device)[self.checked(level, len(x)).to(x.device) - 1].unsqueeze(1)
        return kept.sqrt().to(x) * x + (1 - kept).sqrt().to(x) * noise


def linear_schedule(levels: int, *, first: float = 0.1, last: float = 20.0) -> NoiseSchedule:
    r""":math:`\beta_\tau` from ``first/T`` to ``last/T`` in equal steps.

    With the defaults and T = 1000 it is the schedule of Ho, Jain and Abbeel (2020); with fewer
    levels each takes a larger step, so that the last is noise alone.

    >>> linear_schedule(1000).betas[[0, -1]].tolist()
    [0.0001, 0.02]
    """
    require_whole(levels, "levels", least=2)
    for name, value in (("first", first), ("last", last)):
        if not is_finite_number(value) or not 0 < value < levels:
            raise ValueError(f"{name} must lie between 0 and levels ({levels}), got {value!r}")
    return NoiseSchedule(torch.linspace(first, last, levels, dtype=torch.float64) / levels)


def sinusoidal(levels: int, width: int, *, frequency: float = 1.0) -> Tensor:
    r"""The embedding :math:`e(\tau)`, ``[T, width]``: sines and cosines of falling frequency.

    .. math:: e(\tau)_{2j}=\sin(\omega_j\tau),\qquad e(\tau)_{2j+1}=\cos(\omega_j\tau),\qquad
       \omega_j=\text{frequency}\cdot T^{-2j/\text{width}} .

    A larger ``frequency`` tells near levels further apart.  ``ValueError`` for an odd width or a
    frequency that is not positive.
    """
    require_whole(levels, "levels")
    if require_whole(width, "width", least=2) % 2:
        raise ValueError(f"width must be even, a sine and a cosine each, got {width}")
    if not is_finite_number(frequency) or frequency <= 0:
        raise ValueError(f"frequency must be a positive number, got {frequency!r}")
    rates = frequency * levels ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angle = torch.arange(1, levels + 1, dtype=torch.float64).unsqueeze(1) * rates
    return torch.stack([angle.sin(), angle.cos()], 2).flatten(1)


def rough(levels: int, width: int, *, generator: torch.Generator) -> Tensor:
    """An embedding without order: a random direction for each level, as long as the sinusoidal.

    >>> rough(3, 8, generator=torch.Generator().manual_seed(0)).norm(dim=1).round(decimals=6)
    tensor([2., 2., 2.], dtype=torch.float64)
    """
    shape = require_whole(levels, "levels"), require_whole(width, "width")
    table = torch.randn(shape, generator=generator, dtype=torch.float64)
    return table / table.norm(dim=1, keepdim=True) * math.sqrt(width / 2)


def no_embedding(levels: int, width: int) -> Tensor:
    """An embedding that says nothing: zeros ``[T, width]``."""
    return torch.zeros(levels, width, dtype=torch.float64)
