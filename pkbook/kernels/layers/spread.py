r"""Parameters that are the same for all samples and spread over them: added, multiplied, repeated.

Positions (``x + place``), scales (``scale * x``, as in a hand-written RMSNorm) and tokens that are
put before each sequence (``cls.expand(n, -1, -1)``).  The gradient is the output's, times the other
operand where there is a product, summed over everything that one entry was spread over.
"""

import torch
from torch import Tensor

from pkbook.basics.parameters import Tree
from pkbook.kernels.factors import Dense, Layout, widen
from pkbook.kernels.layers.layer import Layer, Named, Reading, Use, split


def _own_shape(weight: Tensor) -> tuple[int, ...]:
    """A shape without the ones that it begins with."""
    shape = list(weight.shape)
    while shape and shape[0] == 1:
        shape.pop(0)
    return tuple(shape)


class _Spread(Layer):
    def leading(self, use: Use) -> int:
        return use.inputs.ndim - len(use.options["shape"])

    def slope(self, use: Use, layout: Layout, g: list[Tensor]) -> list[Tensor]:
        """Derivatives by the spread parameter, C times ``[n, T, *rest]``."""
        return split(g, layout, self.leading(use))

    def factors(self, use: Use, layout: Layout, g: list[Tensor], parameters: Tree) -> Named:
        shape = use.options["shape"]
        rows = [part.sum(1) for part in self.slope(use, layout, g)]
        rows = [part.sum_to_size(len(part), *shape).reshape(len(part), -1) for part in rows]
        yield use.weight, Dense(torch.stack(rows))


class _Pair(_Spread):
    """An activation and a parameter that is spread over it."""

    either = True

    def read(self, input, other, *, alpha=1, out=None) -> Reading | None:
        if not isinstance(input, Tensor) or not isinstance(other, Tensor) or alpha != 1:
            return None
        shape = _own_shape(other)
        fits = len(shape) < input.ndim and out is None
        if not fits or torch.broadcast_shapes(input.shape, other.shape) != input.shape:
            return None
        return Reading(input, other, None, {"shape": shape})


class Added(_Pair):
    """``x + place``."""

    looks_at_inputs = False


class Multiplied(_Pair):
    """``scale * x``."""

    def slope(self, use: Use, layout: Layout, g: list[Tensor]) -> list[Tensor]:
        x = layout.split(widen(use.inputs), self.leading(use))
        return [part * x for part in super().slope(use, layout, g)]


class Repeated(_Spread):
    """``token.expand(n, -1, -1)``: the same for every sample."""

    looks_at_inputs = False

    def read(self, input, *size, **named) -> Reading | None:
        if named:
            return None
        whole = input.detach().expand(*size)
        shape = _own_shape(input)
        if len(shape) >= whole.ndim:
            return None
        return Reading(whole, input, None, {"shape": shape})
