r"""Transposed convolutions: each entry of the input spreads a patch over the output.

What a convolution does with patches of its input, this does with patches of the output gradient:
:math:`\sum_ta_tg_t^\top` with the input's channels :math:`a_t` at each place, and the patch
:math:`g_t` that place was spread over.
"""

import math

import torch
from torch import Tensor

from pkbook.basics.parameters import Tree
from pkbook.kernels.factors import Dense, Layout, Outer, Transposed, widen
from pkbook.kernels.layers.convolution import Convolution, each, positions_last, unfold
from pkbook.kernels.layers.layer import Named, Reading, Use


class TransposedConvolution(Convolution):
    """``F.conv_transpose1d``, ``2d`` or ``3d`` on a batch."""

    # torch's own order of arguments, which is not a convolution's
    def read(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1
    ) -> Reading | None:
        return super().read(input, weight, bias, stride, padding, dilation, groups)

    def entries(self, use: Use) -> int:
        # Patches are taken of the output's gradient, as many as the input has places.
        return use.inputs.numel() + use.out * math.prod(use.options["kernel"])

    def factors(self, use: Use, layout: Layout, g: list[Tensor], parameters: Tree) -> Named:
        space = use.inputs.shape[2:]
        a = layout.split(widen(use.inputs).flatten(2), 1).transpose(2, 3).flatten(1, 2)  # [n, L, i]
        g = [widen(part) for part in g]
        yield use.bias, Dense(torch.stack([_over_space(part, layout) for part in g]))
        patches = [self._patches(part, use, space, layout) for part in g]  # [n, o k, L]
        groups = use.options["groups"]
        if groups == 1:
            yield use.weight, Transposed(Outer(a, patches))
            return
        mine = a.transpose(1, 2).unflatten(1, (groups, -1))  # [n, G, i/G, L]
        rows = [(mine @ p.unflatten(1, (groups, -1)).transpose(2, 3)).flatten(1) for p in patches]
        yield use.weight, Dense(torch.stack(rows))

    def _patches(self, g: Tensor, use: Use, space: torch.Size, layout: Layout) -> Tensor:
        """Where each place of the input was spread to, ``[n, o k, T L]``."""
        found = unfold(g, self.dimensions, use.options)  # [B, o, k, places]
        given = _places(g.shape[2:], self.dimensions, use.options)
        if given != tuple(space):  # an output padding as large as the stride adds places
            cut = (slice(None),) * 3 + tuple(slice(size) for size in space)
            found = found.unflatten(3, given)[cut].flatten(3)
        return positions_last(layout.split(found.flatten(1, 2), 1))


def _over_space(g: Tensor, layout: Layout) -> Tensor:
    """The gradient of the bias, ``[n, o]``."""
    return layout.split(g.flatten(2).sum(2), 1).sum(1)


def _places(size: torch.Size, dimensions: int, options: dict) -> tuple[int, ...]:
    """How many patches fit along each dimension of an output."""

    lengths = (each(options[name], dimensions) for name in ("stride", "padding", "dilation"))
    every = zip(size, options["kernel"], *lengths, strict=True)
    return tuple((n + 2 * p - w * (k - 1) - 1) // s + 1 for n, k, s, p, w in every)
