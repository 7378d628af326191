"""Front-door checks of Gram matrices, shared by function spaces and diagnostics."""

import torch
from torch import Tensor

from pkbook.basics.checks import require_finite, require_tensor

ROUNDING = 1e3
"""Asymmetry and negative eigenvalues up to this many units of rounding are taken for rounding."""


def as_gram(kernel: object, name: str = "kernel") -> Tensor:
    """A symmetric, finite Gram matrix as float64 ``[s, s]``, made symmetric to the last bit.

    ``kernel`` is ``[n, n]``, or ``[n, n, C, C]`` with :math:`s=nC` (sample after sample).

    >>> as_gram(torch.eye(2))
    tensor([[1., 0.],
            [0., 1.]], dtype=torch.float64)
    >>> as_gram(torch.tensor([[1.0, 0.5], [0.2, 1.0]]))
    Traceback (most recent call last):
    ...
    ValueError: kernel must be symmetric, got 0.5 at [0, 1] and 0.2 at [1, 0]; pass the kernel \
of one set of points with itself, or write (kernel + kernel.T) / 2
    """
    kernel = require_tensor(kernel, name)
    if not kernel.is_floating_point():
        raise TypeError(f"{name} must hold real numbers, got {kernel.dtype}; write {name}.double()")
    if kernel.ndim not in (2, 4) or kernel.shape[0] != kernel.shape[1] or not kernel.numel():
        raise ValueError(
            f"{name} must be square, [n, n] or [n, n, C, C], got {list(kernel.shape)}; "
            "pass the kernel of one set of points with itself"
        )
    if kernel.ndim == 4:
        if kernel.shape[2] != kernel.shape[3]:
            raise ValueError(
                f"{name} must be [n, n, C, C], got {list(kernel.shape)}; "
                'write gradient_kernel(model, x, reduce="full")'
            )
        size = kernel.shape[0] * kernel.shape[2]
        kernel = kernel.permute(0, 2, 1, 3).reshape(size, size)
    require_finite(kernel, name)
    rounding = ROUNDING * torch.finfo(kernel.dtype).eps
    gap = (kernel - kernel.T).abs()
    if gap.max() > rounding * kernel.abs().max():
        i, j = divmod(int(gap.argmax()), len(kernel))
        raise ValueError(
            f"{name} must be symmetric, got {kernel[i, j].item():.6g} at [{i}, {j}] and "
            f"{kernel[j, i].item():.6g} at [{j}, {i}]; pass the kernel of one set of points with "
            f"itself, or write ({name} + {name}.T) / 2"
        )
    kernel = kernel.detach().double()
    return (kernel + kernel.T) / 2


def require_not_negative(values: Tensor, dtype: torch.dtype, name: str = "kernel") -> None:
    """Refuse eigenvalues of a Gram matrix that are negative beyond the rounding of ``dtype``."""
    least, most = values.min().item(), values.abs().max().item()
    if least < -ROUNDING * torch.finfo(dtype).eps * most:
        raise ValueError(
            f"{name} must be positive semi-definite, got an eigenvalue {least:.3g} beside "
            f"{most:.3g}; a kernel of inner products has none below zero"
        )
