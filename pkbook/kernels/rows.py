"""Whether a forward pass keeps sample i in row i by construction, operation by operation.

Where every operation that was seen treats rows one by one, and every tensor that went in came from
such an operation, the samples are where they seem to be.  Anything else (a permutation, a sum over
the batch, an index, a function of the reader's own) leaves it open.
"""

import weakref
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from pkbook.kernels.layers import LAYERS, Reading

EACH_ENTRY: set[Callable] = {
    torch.tanh, torch.sigmoid, torch.relu, torch.exp, torch.sin, torch.cos, torch.abs, torch.square,
    torch.neg, torch.clamp, torch.erf, torch.round, Tensor.round, Tensor.long, Tensor.detach,
    Tensor.tanh, Tensor.sigmoid, Tensor.relu, Tensor.exp, Tensor.sin, Tensor.cos, Tensor.abs,
    Tensor.square, Tensor.neg, Tensor.clamp, Tensor.__neg__, Tensor.contiguous, Tensor.float,
    Tensor.double, torch.relu_, Tensor.relu_, torch.tanh_, Tensor.tanh_,
    F.relu, F.gelu, F.silu, F.elu, F.selu, F.celu, F.softplus, F.leaky_relu, F.tanh, F.sigmoid,
    F.hardtanh, F.relu6, F.hardswish, F.mish, F.logsigmoid, F.softsign, F.tanhshrink, F.dropout,
}  # fmt: skip
PAIRS: set[Callable] = {
    torch.add, torch.sub, torch.mul, torch.div,
    Tensor.add, Tensor.sub, Tensor.mul, Tensor.div, Tensor.add_, Tensor.mul_,
    Tensor.__add__, Tensor.__radd__, Tensor.__iadd__, Tensor.__sub__, Tensor.__rsub__,
    Tensor.__mul__, Tensor.__rmul__, Tensor.__imul__, Tensor.__truediv__,
}  # fmt: skip
RESHAPES: set[Callable] = {
    torch.flatten, torch.reshape, Tensor.flatten, Tensor.reshape, Tensor.view, Tensor.view_as,
}  # fmt: skip
POOLS: dict[Callable, int] = {
    F.max_pool1d: 3, F.max_pool2d: 4, F.max_pool3d: 5,
    F.avg_pool1d: 3, F.avg_pool2d: 4, F.avg_pool3d: 5,
    F.adaptive_avg_pool1d: 3, F.adaptive_avg_pool2d: 4, F.adaptive_avg_pool3d: 5,
    F.adaptive_max_pool1d: 3, F.adaptive_max_pool2d: 4, F.adaptive_max_pool3d: 5,
}  # fmt: skip
# What an operation says about a tensor; one that says nothing (a hook, say) may have changed it.
ANSWERS = torch.Size, int, float, str, torch.dtype, torch.device, torch.layout


class Rows:
    """Follows the tensors whose row i belongs to sample i."""

    def __init__(self, inputs: list[Tensor], constants: Iterable[Tensor]) -> None:
        sizes = {len(x) if x.ndim else 0 for x in inputs}
        self.n, self.kept = max(sizes, default=0), len(sizes) == 1 and 0 not in sizes
        self._known: dict[int, tuple[weakref.ref, int]] = {}
        self._constants = {id(t) for t in constants}
        for x in inputs:
            self._add(x)

    def _add(self, t: Tensor) -> None:
        self._known[id(t)] = weakref.ref(t), t._version

    def has(self, t: object) -> bool:
        """Whether row i of a tensor is known to belong to sample i."""
        if not isinstance(t, Tensor):
            return False
        reference, version = self._known.get(id(t), (None, None))
        # Another version: rows were written to since (h[1] = 0), by whatever means.
        return reference is not None and reference() is t and t._version == version

    def see(self, func: Callable, args: tuple, kwargs: dict, out: object) -> None:
        """Take note of one operation."""
        if not self.kept or isinstance(out, ANSWERS):
            return
        keeps = isinstance(out, Tensor) and out.ndim > 0 and len(out) == self.n
        self.kept = keeps and self._keeps(func, args, kwargs)
        if self.kept and isinstance(out, Tensor):
            self._add(out)

    def _keeps(self, func: Callable, args: tuple, kwargs: dict) -> bool:
        if not args or any(isinstance(a, Tensor) for a in kwargs.values() if func not in LAYERS):
            return False
        if func in PAIRS:
            return self._pair(args)
        if func in LAYERS:
            return self._layer(LAYERS[func].read(*args, **kwargs))
        if func is Tensor.__getitem__:
            return self._picked(*args)
        if func is torch.cat:
            return self._joined(*args, **kwargs)
        first, *others = args
        if not self.has(first) or any(isinstance(a, Tensor) for a in others):
            return False
        if func in POOLS:
            return first.ndim == POOLS[func]
        return func in EACH_ENTRY or func in RESHAPES

    def _layer(self, call: Reading | None) -> bool:
        """Rows that meet a weight and a bias, which must be the same for all of them."""
        if call is None or not self.has(call.inputs) or call.inputs.ndim < 2:
            return False
        others = (t for t in (call.weight, call.bias) if t is not None)
        return all(id(t) in self._constants for t in others)

    def _pair(self, args: tuple) -> bool:
        """Two operands: rows of one kind, or rows and something that is the same for all rows."""
        tensors = [a for a in args if isinstance(a, Tensor)]
        rows = [t for t in tensors if self.has(t)]
        if not rows or any(t.ndim != rows[0].ndim for t in rows):
            return False
        return all(self._same_for_all(t, rows[0].ndim) for t in tensors if not self.has(t))

    def _picked(self, t: Tensor, index: object) -> bool:
        """Columns of all rows, ``x[:, 2:]``; or entries of a table by each row's numbers."""
        if isinstance(index, Tensor):
            return id(t) in self._constants and self.has(index) and not index.is_floating_point()
        if not isinstance(index, tuple) or not index or index[0] != slice(None):
            return False
        return self.has(t) and all(isinstance(i, int | slice) for i in index)

    def _joined(self, tensors: Iterable[Tensor], dim: int = 0) -> bool:
        """Columns beside columns."""
        parts = list(tensors)
        size = parts[0].ndim
        alike = all(self.has(t) and t.ndim == size for t in parts)
        return alike and dim % size != 0

    def _same_for_all(self, t: Tensor, dimensions: int) -> bool:
        return id(t) in self._constants and (
            t.ndim < dimensions or (t.ndim == dimensions and len(t) == 1)
        )
