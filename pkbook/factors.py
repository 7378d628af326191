r"""Per-sample gradients of one parameter, kept as factors for as long as that is cheaper.

For a linear map :math:`z_t=Wa_t+b` at positions :math:`t`, the gradient of sample :math:`i` is
:math:`\sum_t g_{it}a_{it}^\top`: an *outer* product, :class:`Outer`.  A convolution is the same on
unfolded patches.  Anything smaller (biases, normalisation) is kept as it is, :class:`Dense`.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pkbook.capture import Use


@dataclass
class Dense:
    """Gradients ``[n, C, P]``."""

    rows: Tensor

    @property
    def width(self) -> int:
        return self.rows.shape[2]

    def block(self, start: int, stop: int, unit: int) -> Tensor:
        """Columns ``start * unit`` to ``stop * unit``."""
        return self.rows[..., start * unit : stop * unit]


@dataclass
class Outer:
    r"""Gradients :math:`\sum_t g_t a_t^\top` from ``a [n, T, i]`` and ``g [n, C, o, T]``."""

    a: Tensor
    g: Tensor

    @property
    def width(self) -> int:
        return self.a.shape[2] * self.g.shape[2]

    @property
    def step(self) -> int:
        """Width of one row of the weight."""
        return self.a.shape[2]

    @property
    def positions(self) -> int:
        return self.a.shape[1]

    def block(self, start: int, stop: int, unit: int = 0) -> Tensor:
        """Rows ``start:stop`` of the weight's gradient, ``[n, C, (stop - start) * i]``."""
        n, c, _, t = self.g.shape
        part = self.g[:, :, start:stop].reshape(n, c * (stop - start), t)
        return torch.bmm(part, self.a).reshape(n, c, -1)

    def meet(self, other: "Outer") -> Tensor:
        """Inner products of the activations, ``[n1, T1, n2, T2]``."""
        left, right = self.a.flatten(0, 1), other.a.flatten(0, 1)
        return (left @ right.T).unflatten(1, other.a.shape[:2]).unflatten(0, self.a.shape[:2])


@dataclass
class Lookup:
    """Gradients of a table from ``tokens [n, T]`` and ``g [n, C, d, T]``; -1 is no token."""

    tokens: Tensor
    g: Tensor
    size: int

    @property
    def width(self) -> int:
        return self.size * self.g.shape[2]

    @property
    def step(self) -> int:
        return self.g.shape[2]

    @property
    def positions(self) -> int:
        return self.tokens.shape[1]

    def block(self, start: int, stop: int, unit: int = 0) -> Tensor:
        """Rows ``start:stop`` of the table's gradient, ``[n, C, (stop - start) * d]``."""
        hot = self.tokens.unsqueeze(2) == torch.arange(start, stop, device=self.tokens.device)
        rows = torch.einsum("nts,ncdt->ncsd", hot.to(self.g.dtype), self.g)
        return rows.flatten(2)

    def meet(self, other: "Lookup") -> Tensor:
        """One where two tokens are the same, ``[n1, T1, n2, T2]``."""
        same = self.tokens[:, :, None, None] == other.tokens[None, None]
        return (same & (self.tokens >= 0)[:, :, None, None]).to(self.g.dtype)


Factor = Dense | Outer | Lookup


def dense(factor: Factor) -> Dense:
    """The gradients written out."""
    if isinstance(factor, Dense):
        return factor
    return Dense(factor.block(0, factor.width // factor.step))


def merge(factors: list[Factor]) -> Factor:
    """The gradient of a parameter met several times: the sum over the meetings."""
    if len(factors) == 1:
        return factors[0]
    if all(isinstance(f, Outer) for f in factors):  # more meetings are more positions
        return Outer(torch.cat([f.a for f in factors], 1), torch.cat([f.g for f in factors], 3))
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
    """Patches of a padded input ``[n, c, *space]`` as ``[n, L, c, k]``."""
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
    order = (0, *range(2, 2 + d), 1, *range(2 + d, 2 + 2 * d))
    return x.permute(order).reshape(n, space.numel(), c, -1)


def _each(value, d: int) -> tuple:
    return tuple(value) if isinstance(value, list | tuple) else (value,) * d
