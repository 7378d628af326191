"""What a kind of layer has to say so that its per-sample gradients need not be written out.

A :class:`Layer` reads a call of ``torch.nn.functional`` into a :class:`Use`, and turns the use's
activation and its output gradients into the factors of its parameters.  Everything else that the
engine does, it does for all kinds alike.  A new kind is a file beside this one and a line in
``layers/__init__.py``.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.autograd.graph import GradientEdge

from pkbook.basics.parameters import Tree
from pkbook.kernels.factors import Factor, Layout, widen


@dataclass
class Use:
    """One meeting of parameters and an activation."""

    layer: "Layer"
    weight: str | None
    """Name of the weight, None if it is not a watched parameter."""
    bias: str | None
    inputs: Tensor
    """The activation (token numbers for an embedding)."""
    options: dict[str, Any] = field(default_factory=dict)
    edge: GradientEdge | None = None
    """Where the gradient of what came out returns."""
    out: int = 0
    """Number of entries of what came out."""
    version: int = 0
    """The activation's in-place counter when it was used."""
    meeting: int = 0
    """Its number among all meetings with parameters."""

    @property
    def kind(self) -> tuple:
        """What must be the same whenever the model takes the same path."""
        return type(self.layer), self.weight, self.bias


@dataclass
class Reading:
    """The arguments of a call, by their role."""

    inputs: Tensor
    weight: Tensor | None
    bias: Tensor | None
    options: dict[str, Any] = field(default_factory=dict)


Named = Iterator[tuple[str | None, Factor]]
"""Factors by parameter name; a name is None where that parameter is not watched."""


class Layer:
    """One kind of layer."""

    either = False
    """Whether the parameter may be the first of two operands as well as the second."""
    looks_at_inputs = True
    """Whether the factors need the activation's values, which must not change after the use."""

    def read(self, *args: Any, **kwargs: Any) -> Reading | None:
        """The call's arguments, None where this way of using the layer has no known factors."""
        raise NotImplementedError

    def leading(self, use: Use) -> int:
        """How many leading dimensions of the activation hold samples and positions."""
        raise NotImplementedError

    def factors(self, use: Use, layout: Layout, g: list[Tensor], parameters: Tree) -> Named:
        """The factors of weight and bias; ``g`` are output gradients, one for each output."""
        raise NotImplementedError

    def entries(self, use: Use) -> int:
        """Numbers that are held of the activation while its factors are used."""
        return use.inputs.numel()


def split(g: list[Tensor], layout: Layout, leading: int) -> list[Tensor]:
    """Output gradients of C outputs, each as ``[n, T, *rest]``."""
    return [widen(layout.split(part, leading)) for part in g]
