r"""Per-sample gradients of one parameter, kept as factors for as long as that is cheaper.

For a linear map :math:`z_t=Wa_t+b` at positions :math:`t`, the gradient of sample :math:`i` is
:math:`\sum_t g_{it}a_{it}^\top`: an *outer* product, :class:`Outer`.  A convolution is the same on
unfolded patches.  Anything smaller (biases, normalisation) is kept as it is, :class:`Dense`.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pkbook.kernels.watch import Use


@dataclass
class Dense:
    """Gradients ``[C, n, P]``."""

    rows: Tensor

    @property
    def width(self) -> int:
        return self.rows.shape[2]

    @property
    def outputs(self) -> int:
        return self.rows.shape[0]

    @property
    def samples(self) -> int:
        return self.rows.shape[1]

    @property
    def like(self) -> Tensor:
        """Some tensor of the gradients' type and device."""
        return self.rows

    def block(self, c: slice, start: int, stop: int, unit: int, space: Tensor | None) -> Tensor:
        """Columns ``start * unit`` to ``stop * unit`` for some outputs (nothing is written)."""
        return self.rows[c, :, start * unit : stop * unit]


class _Pulled:
    """What kinds with output gradients ``g`` have in common."""

    g: list[Tensor]

    @property
    def outputs(self) -> int:
        return len(self.g)

    @property
    def samples(self) -> int:
        return len(self.g[0])

    @property
    def like(self) -> Tensor:
        return self.g[0]


@dataclass
class Outer(_Pulled):
    r"""Gradients :math:`\sum_t g_t a_t^\top` from ``a [n, T, i]`` and ``g``, C times ``[n, o, T]``.

    The outputs' gradients stay the separate tensors that the backward passes returned: putting
    them into one would cost as much as the products themselves.
    """

    a: Tensor
    g: list[Tensor]

    @property
    def width(self) -> int:
        return self.a.shape[2] * self.g[0].shape[1]

    @property
    def step(self) -> int:
        """Width of one row of the weight."""
        return self.a.shape[2]

    @property
    def positions(self) -> int:
        return self.a.shape[1]

    def block(self, c: slice, start: int, stop: int, unit: int, space: Tensor | None) -> Tensor:
        """Rows ``start:stop`` of the weight's gradient for some outputs, ``[c, n, rows * i]``.

        Written into ``space`` where one is given: fresh memory costs more than the product.
        """
        n, _, i = self.a.shape
        some = self.g[c]
        size = len(some) * n * (stop - start) * i
        out = self.a.new_empty(size) if space is None else space[:size]
        out = out.view(len(some), n, stop - start, i)
        for into, g in zip(out, some, strict=True):
            torch.bmm(g[:, start:stop], self.a, out=into)
        return out.flatten(2)

    def meet(self, other: "Outer") -> Tensor:
        """Inner products of the activations, ``[n1, T1, n2, T2]``."""
        left, right = self.a.flatten(0, 1), other.a.flatten(0, 1)
        return (left @ right.T).unflatten(1, other.a.shape[:2]).unflatten(0, self.a.shape[:2])


@dataclass
class Lookup(_Pulled):
    """Gradients of a table from ``tokens [n, T]`` (-1: none) and ``g``, C times ``[n, d, T]``."""

    tokens: Tensor
    g: list[Tensor]
    size: int

    @property
    def width(self) -> int:
        return self.size * self.g[0].shape[1]

    @property
    def step(self) -> int:
        return self.g[0].shape[1]

    @property
    def positions(self) -> int:
        return self.tokens.shape[1]

    def block(self, c: slice, start: int, stop: int, unit: int, space: Tensor | None) -> Tensor:
        """Rows ``start:stop`` of the table's gradient for some outputs, ``[c, n, rows * d]``."""
        numbers = torch.arange(start, stop, device=self.tokens.device)
        hot = (self.tokens.unsqueeze(1) == numbers.unsqueeze(1)).to(self.g[0].dtype)
        return torch.stack([(hot @ g.transpose(1, 2)).flatten(1) for g in self.g[c]])

    def meet(self, other: "Lookup") -> Tensor:
        """One where two tokens are the same, ``[n1, T1, n2, T2]``."""
        same = self.tokens[:, :, None, None] == other.tokens[None, None]
        return (same & (self.tokens >= 0)[:, :, None, None]).to(self.g[0].dtype)


Factor = Dense | Outer | Lookup


def dense(factor: Factor) -> Dense:
    """The gradients written out."""
    if isinstance(factor, Dense):
        return factor
    rows = factor.width // factor.step
    return Dense(factor.block(slice(None), 0, rows, factor.step, None))


def outputs_as_samples(factor: Factor) -> Factor:
    """The same gradients with C times as many samples and one output, outputs varying slowest."""
    c = factor.outputs
    if c == 1:
        return factor
    if isinstance(factor, Dense):
        return Dense(factor.rows.flatten(0, 1).unsqueeze(0))
    g = [torch.cat(factor.g)]
    if isinstance(factor, Lookup):
        return Lookup(factor.tokens.repeat(c, 1), g, factor.size)
    return Outer(factor.a.repeat(c, 1, 1), g)


def merge(factors: list[Factor]) -> Factor:
    """The gradient of a parameter met several times: the sum over the meetings."""
    if len(factors) == 1:
        return factors[0]
    if all(isinstance(f, Outer) for f in factors):  # more meetings are more positions
        pulls = zip(*(f.g for f in factors), strict=True)
        return Outer(torch.cat([f.a for f in factors], 1), [torch.cat(g, 2) for g in pulls])
    return Dense(sum(dense(f).rows for f in factors))


@dataclass(frozen=True)
class Layout:
    """Where the samples are in the leading dimensions of an activation."""

    dim: int
    inner: int
    """Positions merged into that dimension (1: it counts the samples alone)."""
    sample_first: bool
    """In a merged dimension, whether the sample's number varies slowest."""

    def split(self, tensor: Tensor, leading: int) -> Tensor:
        """From ``[*leading, *rest]`` to ``[n, T, *rest]``."""
        if self.inner > 1:
            size = tensor.shape[self.dim]
            shape = (size // self.inner, self.inner)
            tensor = tensor.unflatten(self.dim, shape if self.sample_first else shape[::-1])
            leading += 1
        dim = self.dim if self.sample_first else self.dim + 1
        tensor = tensor.movedim(dim, 0)
        return tensor.flatten(1, leading - 1) if leading > 1 else tensor.unsqueeze(1)


def leading_dimensions(use: Use) -> int:
    """How many leading dimensions of a use's activation hold samples and positions."""
    x = use.inputs
    if use.kind == "linear":
        return x.ndim - 1
    if use.kind == "embedding":
        return x.ndim
    if use.kind in ("layer_norm", "rms_norm"):
        return x.ndim - len(use.options["shape"])
    return 1  # convolutions, group and batch norm


def unfold(x: Tensor, o: dict) -> Tensor:
    """Patches of a padded input ``[n, c, *space]`` as ``[n, c, k, L]``.

    Positions last: whole rows of the input are then copied, several times faster than patches.
    """
    d = o["dimensions"]
    stride, dilation = (_each(o[name], d) for name in ("stride", "dilation"))
    padding = o["padding"]
    if padding == "same":
        total = [w * (k - 1) for w, k in zip(dilation, o["kernel"], strict=True)]
        pads = [(p // 2, p - p // 2) for p in total]
    else:
        pads = [(p, p) for p in _each(0 if padding == "valid" else padding, d)]
    if any(p != (0, 0) for p in pads):
        x = F.pad(x, [side for pair in reversed(pads) for side in pair])
    for axis, (k, s, w) in enumerate(zip(o["kernel"], stride, dilation, strict=True)):
        x = x.unfold(axis + 2, w * (k - 1) + 1, s)[..., ::w]
    n, c = x.shape[:2]
    space = x.shape[2 : 2 + d]
    order = (0, 1, *range(2 + d, 2 + 2 * d), *range(2, 2 + d))
    return x.permute(order).reshape(n, c, -1, space.numel())


def _each(value, d: int) -> tuple:
    return tuple(value) if isinstance(value, list | tuple) else (value,) * d
