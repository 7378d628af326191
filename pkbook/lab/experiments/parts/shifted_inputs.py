"""Pictures moved away from the training data: turned, made larger or smaller, covered in noise."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from pkbook.basics.checks import is_finite_number, require_tensor


def turned(x: Tensor, degrees: float = 0.0, *, scale: float = 1.0) -> Tensor:
    """Images ``[n, c, h, w]`` turned counterclockwise and enlarged about their middle.

    What comes in from outside is black; sizes stay.  Between pixels the image is linear.
    TypeError or ValueError for other shapes, and a scale that is not positive.

    >>> x = torch.tensor([[0.0, 1.0], [0.0, 0.0]])[None, None]
    >>> turned(x, 90.0).round(decimals=3)[0, 0].abs()
    tensor([[1., 0.],
            [0., 0.]])
    """
    if require_tensor(x, "x").ndim != 4:
        raise ValueError(f"x must be images [n, c, h, w], got {list(x.shape)}; write x[:, None]")
    for name, value in (("degrees", degrees), ("scale", scale)):
        if not is_finite_number(value):
            raise TypeError(f"{name} must be a finite number, got {value!r}")
    if scale <= 0:
        raise ValueError(f"scale must be positive, got {scale}; write 0.5 for half the size")
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    # The map goes from places in the new image to places in the old one; rows run downwards.
    there = torch.tensor([[cos, -sin, 0.0], [sin, cos, 0.0]], dtype=x.dtype, device=x.device)
    places = functional.affine_grid(
        (there / scale).expand(len(x), 2, 3), list(x.shape), align_corners=False
    )
    return functional.grid_sample(x, places, align_corners=False).clamp(0, 1)


def noisy(x: Tensor, size: float, generator: torch.Generator) -> Tensor:
    """Images with independent normal noise of standard deviation ``size``, cut off to [0, 1].

    The noise is drawn on the CPU, so that it is the same on every device.

    >>> noisy(torch.full((1, 1, 2, 2), 0.5), 0.0, torch.Generator())[0, 0, 0].tolist()
    [0.5, 0.5]
    """
    if not is_finite_number(size) or size < 0:
        raise ValueError(f"size must be a number of at least 0, got {size!r}; write 0.3")
    noise = torch.randn(x.shape, generator=generator, dtype=x.dtype)
    return (x + size * noise.to(x.device)).clamp(0, 1)
