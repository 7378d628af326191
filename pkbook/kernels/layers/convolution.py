r"""Convolutions: linear maps on patches, :math:`\sum_tg_ta_t^\top` with a patch at each place."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pkbook.basics.parameters import Tree
from pkbook.kernels.factors import Dense, Layout, Outer, widen
from pkbook.kernels.layers.layer import Layer, Named, Reading, Use, split


class Convolution(Layer):
    """``F.conv1d``, ``F.conv2d`` or ``F.conv3d`` on a batch."""

    def __init__(self, dimensions: int) -> None:
        self.dimensions = dimensions

    def read(self, input, weight, bias=None, stride=1, padding=0, dilation=1,
             groups=1) -> Reading | None:  # fmt: skip
        if input.ndim != self.dimensions + 2:
            return None
        options = {
            "kernel": tuple(weight.shape[2:]),
            "stride": stride,
            "padding": padding,
            "dilation": dilation,
            "groups": groups,
        }
        return Reading(input, weight, bias, options)

    def leading(self, use: Use) -> int:
        return 1

    def entries(self, use: Use) -> int:
        return use.inputs.numel() * math.prod(use.options["kernel"])

    def factors(self, use: Use, layout: Layout, g: list[Tensor], parameters: Tree) -> Named:
        patches = unfold(widen(use.inputs), self.dimensions, use.options)  # [B, c, k, L]
        patches = layout.split(patches, 1).movedim(4, 2).flatten(1, 2)  # [n, T L, c, k]
        g = [part.flatten(2) for part in g]  # [B, o, L]
        g = [positions_last(part) for part in split(g, layout, 1)]  # [n, o, T L]
        yield use.bias, Dense(torch.stack([part.sum(2) for part in g]))
        groups = use.options["groups"]
        if groups == 1:
            yield use.weight, Outer(patches.flatten(2), g)
            return
        a = patches.unflatten(2, (groups, -1)).flatten(3).movedim(2, 1)  # [n, G, L, i k]
        rows = [(part.unflatten(1, (groups, -1)) @ a).flatten(1) for part in g]  # [n, G, o/G, i k]
        yield use.weight, Dense(torch.stack(rows))


def positions_last(g: Tensor) -> Tensor:
    """From ``[n, T, o, L]`` to ``[n, o, T L]``."""
    return g.squeeze(1) if g.shape[1] == 1 else g.transpose(1, 2).flatten(2)


def unfold(x: Tensor, d: int, o: dict[str, Any]) -> Tensor:
    """Patches of a padded input ``[n, c, *space]`` of d dimensions as ``[n, c, k, L]``.

    Positions last: whole rows of the input are then copied, several times faster than patches.
    """
    stride, dilation = (each(o[name], d) for name in ("stride", "dilation"))
    padding = o["padding"]
    if padding == "same":
        total = [w * (k - 1) for w, k in zip(dilation, o["kernel"], strict=True)]
        pads = [(p // 2, p - p // 2) for p in total]
    else:
        pads = [(p, p) for p in each(0 if padding == "valid" else padding, d)]
    if any(p != (0, 0) for p in pads):
        x = F.pad(x, [side for pair in reversed(pads) for side in pair])
    for axis, (k, s, w) in enumerate(zip(o["kernel"], stride, dilation, strict=True)):
        x = x.unfold(axis + 2, w * (k - 1) + 1, s)[..., ::w]
    n, c = x.shape[:2]
    space = x.shape[2 : 2 + d]
    order = (0, 1, *range(2 + d, 2 + 2 * d), *range(2, 2 + d))
    return x.permute(order).reshape(n, c, -1, space.numel())


def each(value: Any, d: int) -> tuple:
    """One number for each of d dimensions."""
    return tuple(value) if isinstance(value, list | tuple) else (value,) * d
