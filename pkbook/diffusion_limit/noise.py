r"""The gradient noise of mini-batches, and its Gaussian twin.

.. math:: \Sigma(\theta)=\kappa\cdot\frac1N\sum_i(\nabla\ell_i-\nabla L)(\nabla\ell_i-\nabla L)^\top

with :math:`\kappa=\frac{N-B}{B(N-1)}` for batches drawn without replacement and :math:`\frac1B`
with it (arXiv 2603.13872, Section 2.2).  The vector
:math:`\sqrt{\kappa/N}\sum_i(\xi_i-\bar\xi)\nabla\ell_i` with N independent standard normals has
that covariance, so the diffusion needs N scalar Brownian motions and one gradient.
"""

import math

import torch
from torch import Tensor

from pkbook.basics.checks import require_whole


def covariance_factor(samples: int, batch_size: int, replace: bool) -> float:
    r""":math:`\kappa`; 0 for the full batch without replacement.

    >>> covariance_factor(10, 10, replace=False), covariance_factor(10, 2, replace=True)
    (0.0, 0.5)
    """
    require_whole(batch_size, "batch_size")
    if not replace and batch_size > samples:
        raise ValueError(
            f"batch_size must be at most the number of samples {samples} when batches are drawn "
            f"without replacement, got {batch_size}; write replace=True or a smaller batch"
        )
    if replace:
        return 1 / batch_size
    return 0.0 if samples == 1 else (samples - batch_size) / (batch_size * (samples - 1))


def noise_weights(normals: Tensor, factor: float) -> Tensor:
    r"""Weights ``[R, N]`` of the losses whose gradient is one draw of :math:`\Sigma^{1/2}\xi`."""
    centred = normals - normals.mean(1, keepdim=True)
    return math.sqrt(factor / normals.shape[1]) * centred


def draw_batches(normals: Tensor, batch_size: int) -> Tensor:
    """Batches without replacement ``[R, B]``: the samples with the largest normals ``[R, N]``.

    Every subset is equally likely.  Driven by the normals of a diffusion, the discrete run and its
    diffusion have correlated noise, and the difference of their means is known better.
    """
    return normals.topk(batch_size, dim=1).indices


def draw_with_replacement(
    paths: int, samples: int, batch_size: int, generator: torch.Generator
) -> Tensor:
    """Batches with replacement ``[R, B]``."""
    size = (paths, batch_size)
    return torch.randint(samples, size, generator=generator, device=generator.device)
