r"""Inputs of any structure, and what a model is asked about them.

A network's output is one function of its parameters among many (:mod:`pkbook.kernels.of`).  An
:class:`Asked` is inputs together with such a function; wherever the engine takes a tensor of inputs
``[n, ...]``, it takes one of these.
"""

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from pkbook.basics.graphs import graphs_of
from pkbook.basics.nested import rebuilt, tensors_in
from pkbook.kernels.of import Of, column, output, plain


class Asked:
    """Queries, row by row, and what is asked of the model about them."""

    def __init__(self, value: Any, of: Any = None) -> None:
        """``value``: a tensor or a structure of tensors, all with one row for each query.

        Tensors of other lengths (a graph's nodes and edges) are one query, which is the whole.
        ``of=None`` asks for the model's outputs: ``model(value)``, for a dictionary
        ``model(**value)``, for a tuple or list ``model(*value)``.
        """
        self.of = of if isinstance(of, Of) else Of(getattr(of, "__name__", "f"), of or plain)
        self._value, self.tensors = value, [*tensors_in(value), *self.of.rows]
        sizes = {len(t) if t.ndim else None for t in self.tensors}
        self.whole = len(sizes) != 1 or None in sizes
        self._n = 1 if self.whole else sizes.pop() or 0

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, rows: Any) -> Self:
        if self.whole:
            return self
        return self.with_tensors([t[rows] for t in self.tensors])

    @property
    def device(self) -> torch.device:
        return self.tensors[0].device

    @property
    def ndim(self) -> int:
        """At least 1, as for a tensor of inputs."""
        return self.tensors[0].ndim

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape where all is one tensor, else the shapes of all rows; for messages."""
        return tuple(self.tensors[0].shape) if len(self.tensors) == 1 else self.row_shapes

    @property
    def row_shapes(self) -> tuple:
        """The shapes of one query's tensors."""
        return tuple(tuple(t.shape[1:]) for t in self.tensors)

    def with_tensors(self, tensors: list[Tensor]) -> Self:
        """The same question about other queries."""
        own = len(self.tensors) - len(self.of.rows)
        of = Of(self.of.name, self.of.call, *tensors[own:])
        return type(self)(rebuilt(self._value, tensors[:own]), of)

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Self:
        """Every tensor changed."""
        return self.with_tensors([change(t) for t in self.tensors])

    def clone(self) -> Self:
        return self.mapped(Tensor.clone)

    def detach(self) -> Self:
        return self.mapped(Tensor.detach)

    def is_inference(self) -> bool:
        return any(t.is_inference() for t in self.tensors)

    def to(self, *place: Any) -> Self:
        return self.mapped(lambda t: t.to(*place))

    def applied(self, model: nn.Module) -> Tensor:
        """What is asked, ``[n]`` or ``[n, ...]``."""
        return self.of.call(model, self._value, *self.of.rows)


Inputs = Tensor | Asked
"""What a model is applied to: a tensor ``[n, ...]``, or queries with what is asked about them."""


def asked(x: Any, of: Any = None, name: str = "x") -> Inputs:
    """Inputs as the engine takes them; a tensor of which the outputs are asked stays what it is.

    ``of``: None, an output's index in a tuple (:func:`output`), or a function.
    """
    if isinstance(of, tuple):
        of = output(*of)
    if of is not None and not callable(of) and not isinstance(of, Of):
        raise TypeError(
            f"of must be a function of (model, queries) or a tuple of indices of an output, got "
            f"{type(of).__name__} {of!r}; for one output of [n, C] write outputs={of!r}"
        )
    if isinstance(x, Asked):
        return x if of is None else Asked(x._value, of)
    if isinstance(x, Tensor) and of is None:
        return x
    if graphs_of(x) > 1:
        raise ValueError(
            f"{name} must be one graph, got {graphs_of(x)} joined into one; write one call for "
            f"each of {name}.to_data_list()"
        )
    if not isinstance(x, Tensor) and not tensors_in(x):
        raise TypeError(
            f"{name} must be a torch.Tensor, got {type(x).__name__}; write "
            f"torch.as_tensor({name}), or give a dict, tuple or data class of tensors"
        )
    return Asked(x, of)


def both_asked(x1: Any, x2: Any, of: Any, outputs: int | Tensor | None) -> tuple:
    """The two inputs of a kernel with what is asked about each."""
    if outputs is not None:
        if of is not None:
            raise ValueError("give of or outputs, not both: of is a function of the model already")
        if isinstance(outputs, Tensor) and outputs.ndim and x2 is not None:
            raise ValueError(
                "outputs must be one number where x2 is given, got one for each input; write "
                "x2=None, or reduce='full' and choose among its entries"
            )
        of = column(outputs)
    return asked(x1, of, "x1"), None if x2 is None else asked(x2, of, "x2")


def stacked(*parts: Inputs) -> Inputs:
    """Queries one after the other."""
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat([p for p in parts if isinstance(p, Tensor)])
    columns = zip(*(p.tensors for p in parts if isinstance(p, Asked)), strict=True)
    return first.with_tensors([torch.cat(column) for column in columns])


def tensors_of(x: Inputs) -> list[Tensor]:
    """All tensors with one row for each query."""
    return [x] if isinstance(x, Tensor) else x.tensors


def with_tensors(x: Inputs, tensors: list[Tensor]) -> Inputs:
    """The same question about other tensors."""
    return tensors[0] if isinstance(x, Tensor) else x.with_tensors(tensors)


def row_shapes(x: Inputs) -> tuple:
    """The shapes of one query's tensors."""
    return tuple(x.shape[1:]) if isinstance(x, Tensor) else x.row_shapes


def applied(model: nn.Module, x: Inputs) -> Tensor:
    """The model's outputs, or what is asked of it."""
    return model(x) if isinstance(x, Tensor) else x.applied(model)
