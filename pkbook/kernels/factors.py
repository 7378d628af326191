r"""Per-sample gradients of one parameter, kept as factors for as long as that is cheaper.

For a linear map :math:`z_t=Wa_t+b` at positions :math:`t`, the gradient of sample :math:`i` is
:math:`\sum_t g_{it}a_{it}^\top`: an *outer* product, :class:`Outer`; :class:`Transposed` where the
matrix stands on the right.  A convolution is the same on unfolded patches.  Anything smaller
(biases, normalisation) is kept as it is, :class:`Dense`.
"""

from dataclasses import dataclass
from typing import overload

import torch
from torch import Tensor

from pkbook.basics.parameters import sum_of


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

    def absolute(self) -> "Dense":
        """The same with every number's size in its place."""
        return Dense(self.rows.abs())


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

    def absolute(self) -> "Outer":
        """The same with every number's size in its place."""
        return Outer(self.a.abs(), [g.abs() for g in self.g])

    def only(self, some: slice) -> "Outer":
        """Some of the samples."""
        return Outer(self.a[some], [g[some] for g in self.g])

    def meet_itself(self) -> Tensor:
        """Inner products of a sample's activations among each other, ``[n, T, T]``."""
        return self.a @ self.a.transpose(1, 2)

    def meet(self, other: "Outer | Lookup") -> Tensor:
        """Inner products of the activations, ``[n1, T1, n2, T2]``; ``TypeError`` for a Lookup."""
        if not isinstance(other, Outer):
            raise TypeError(f"other must be an Outer, got {type(other).__name__}")
        left, right = self.a.flatten(0, 1), other.a.flatten(0, 1)
        return (left @ right.T).unflatten(1, other.a.shape[:2]).unflatten(0, self.a.shape[:2])


@dataclass
class Transposed:
    r"""Gradients :math:`\sum_t a_tg_t^\top` of a matrix that stands on the right, as in ``x @ w``.

    ``inner`` are those of its transpose.  Inner products of two such factors are those of their
    inner ones; wherever entries are counted, they stand in the order of ``w [i, o]`` itself.
    """

    inner: Outer

    @property
    def width(self) -> int:
        return self.inner.width

    @property
    def step(self) -> int:
        """Width of one row of the weight."""
        return self.inner.g[0].shape[1]

    @property
    def positions(self) -> int:
        return self.inner.positions

    @property
    def outputs(self) -> int:
        return self.inner.outputs

    @property
    def samples(self) -> int:
        return self.inner.samples

    @property
    def like(self) -> Tensor:
        return self.inner.like

    def block(self, c: slice, start: int, stop: int, unit: int, space: Tensor | None) -> Tensor:
        """Rows ``start:stop`` of the weight's gradient for some outputs, ``[c, n, rows * o]``."""
        a = self.inner.a[:, :, start:stop].transpose(1, 2)  # [n, rows, T]
        return torch.stack([(a @ g.transpose(1, 2)).flatten(1) for g in self.inner.g[c]])

    def absolute(self) -> "Transposed":
        """The same with every number's size in its place."""
        return Transposed(self.inner.absolute())

    def only(self, some: slice) -> "Transposed":
        """Some of the samples."""
        return Transposed(self.inner.only(some))


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

    def absolute(self) -> "Lookup":
        """The same with every number's size in its place."""
        return Lookup(self.tokens, [g.abs() for g in self.g], self.size)

    def only(self, some: slice) -> "Lookup":
        """Some of the samples."""
        return Lookup(self.tokens[some], [g[some] for g in self.g], self.size)

    def meet_itself(self) -> Tensor:
        """One where two tokens of a sample are the same, ``[n, T, T]``."""
        same = self.tokens.unsqueeze(1) == self.tokens.unsqueeze(2)
        return (same & (self.tokens >= 0).unsqueeze(1)).to(self.g[0].dtype)

    def meet(self, other: "Outer | Lookup") -> Tensor:
        """One where two tokens are the same, ``[n1, T1, n2, T2]``; ``TypeError`` for an Outer."""
        if not isinstance(other, Lookup):
            raise TypeError(f"other must be a Lookup, got {type(other).__name__}")
        same = self.tokens[:, :, None, None] == other.tokens[None, None]
        return (same & (self.tokens >= 0)[:, :, None, None]).to(self.g[0].dtype)


Factor = Dense | Outer | Transposed | Lookup


def dense(factor: Factor) -> Dense:
    """The gradients written out."""
    if isinstance(factor, Dense):
        return factor
    rows = factor.width // factor.step
    return Dense(factor.block(slice(None), 0, rows, factor.step, None))


@overload
def outputs_as_samples(factor: Outer) -> Outer: ...
@overload
def outputs_as_samples(factor: Factor) -> Factor: ...
def outputs_as_samples(factor: Factor) -> Factor:
    """The same gradients with C times as many samples and one output, outputs varying slowest."""
    c = factor.outputs
    if c == 1:
        return factor
    if isinstance(factor, Dense):
        return Dense(factor.rows.flatten(0, 1).unsqueeze(0))
    if isinstance(factor, Transposed):
        return Transposed(outputs_as_samples(factor.inner))
    g = [torch.cat(factor.g)]
    if isinstance(factor, Lookup):
        return Lookup(factor.tokens.repeat(c, 1), g, factor.size)
    return Outer(factor.a.repeat(c, 1, 1), g)


def weighted_sum(factor: Factor, r: Tensor) -> Tensor:
    r"""The sum :math:`\sum_{ik}r_{ik}g_{ik}` of all gradients, ``[P]``; weights ``r [n, K]``."""
    r = r.to(factor.like)
    if isinstance(factor, Dense):
        return torch.einsum("knp,nk->p", factor.rows, r)
    pulled = factor.inner if isinstance(factor, Transposed) else factor
    g = sum_of(part * column[:, None, None] for part, column in zip(pulled.g, r.T, strict=True))
    if isinstance(factor, Transposed):
        return torch.bmm(factor.inner.a.transpose(1, 2), g.transpose(1, 2)).sum(0).flatten()
    if isinstance(factor, Outer):
        return torch.bmm(g, factor.a).sum(0).flatten()
    found = g.new_zeros(factor.size + 1, g.shape[1])  # the last row takes what counts for none
    tokens = torch.where(factor.tokens < 0, factor.size, factor.tokens)
    return found.index_add_(0, tokens.flatten(), g.transpose(1, 2).flatten(0, 1))[:-1].flatten()


def some_rows(factor: Factor, most: int) -> tuple[Factor, slice]:
    """The gradients of a few rows of a weight matrix, and where they are among all entries."""
    if isinstance(factor, Transposed) and factor.inner.a.shape[2] > most:
        inner = Outer(factor.inner.a[..., :most], factor.inner.g)
        return Transposed(inner), slice(0, most * factor.step)
    if not isinstance(factor, Outer) or factor.g[0].shape[1] <= most:
        return factor, slice(None)
    rows, i = slice(0, most), factor.step
    return Outer(factor.a, [g[:, rows] for g in factor.g]), slice(0, most * i)


def merge(factors: list[Factor]) -> Factor:
    """The gradient of a parameter met several times: the sum over the meetings."""
    if len(factors) == 1:
        return factors[0]
    outer = [f for f in factors if isinstance(f, Outer)]
    if len(outer) == len(factors):
        return _joined(outer)
    right = [f.inner for f in factors if isinstance(f, Transposed)]
    if len(right) == len(factors):
        return Transposed(_joined(right))
    return Dense(sum_of(dense(f).rows for f in factors))


def _joined(outer: list[Outer]) -> Outer:
    """More meetings are more positions."""
    pulls = zip(*(f.g for f in outer), strict=True)
    return Outer(torch.cat([f.a for f in outer], 1), [torch.cat(g, 2) for g in pulls])


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


def widen(t: Tensor) -> Tensor:
    """Half precision as float32: products of gradients are formed and summed there."""
    return t.float() if t.dtype in (torch.bfloat16, torch.float16) else t
