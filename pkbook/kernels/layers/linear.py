r"""Linear maps :math:`z_t=Wa_t+b`: gradients :math:`\sum_tg_ta_t^\top` and :math:`\sum_tg_t`."""

import torch
from torch import Tensor

from pkbook.basics.parameters import Tree
from pkbook.kernels.factors import Dense, Layout, Outer, widen
from pkbook.kernels.layers.layer import Layer, Named, Reading, Use, split


class Linear(Layer):
    """``F.linear`` with a matrix, and a bias of one entry for each of its rows."""

    def read(self, input, weight, bias=None) -> Reading | None:
        # A bias of one entry, or a vector for a weight, is spread over the outputs.
        whole = weight.ndim == 2 and (bias is None or bias.shape == weight.shape[:1])
        return Reading(input, weight, bias) if whole else None

    def leading(self, use: Use) -> int:
        return use.inputs.ndim - 1

    def factors(self, use: Use, layout: Layout, g: list[Tensor], parameters: Tree) -> Named:
        outer, bias = products(use, layout, g, self.leading(use))
        yield use.weight, outer
        yield use.bias, bias


def products(use: Use, layout: Layout, g: list[Tensor], leading: int) -> tuple[Outer, Dense]:
    """The factors of a matrix ``[o, i]`` and of a bias ``[o]``."""
    g = split(g, layout, leading)
    a = layout.split(widen(use.inputs), leading)
    bias = Dense(torch.stack([part.sum(1) for part in g]))
    return Outer(a, [part.transpose(1, 2) for part in g]), bias
