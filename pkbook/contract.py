r"""Inner products of two sides, by the cheapest exact way for each parameter.

Three ways, chosen by counted multiplications:

* *factors*: with one position on each side :math:`\langle g a^\top,g'a'^\top\rangle`
  is :math:`(g\cdot g')(a\cdot a')`;
* *positions*: the same for every pair of positions, then summed;
* *gradients*: write the per-sample gradients out in blocks that stay in the cache, then multiply.
"""

import torch
from torch import Tensor

from pkbook.factors import Dense, Factor, Lookup, Outer, dense

BLOCK_BYTES = 2**20 * 8  # per-sample gradients written out at once, both sides


CACHE_ENTRIES = 2**17  # of a product formed at once, so that it is used while in the cache


class Sum:
    """The growing result, in the layout in which products come out."""

    def __init__(self, reduce: str, n1: int, n2: int, c: int, like: Tensor, symmetric: bool):
        self.reduce, self.n1, self.n2, self.c = reduce, n1, n2, c
        self.symmetric = symmetric
        shape = {"trace": (n1, n2), "diagonal": (c, n1, n2), "full": (n1 * c, n2 * c)}[reduce]
        self.value = like.new_zeros(shape)

    def operand(self, rows: Tensor) -> Tensor:
        """Gradients ``[n, C, P]`` as the operand of the product."""
        if self.reduce == "trace":
            return rows.flatten(1)
        if self.reduce == "full":
            return rows.flatten(0, 1)
        return rows.transpose(0, 1)

    def strips(self) -> list[tuple[int, int, int]]:
        """Row ranges of the result; for a symmetric one only columns from the diagonal on."""
        size, r = self.value.shape[-2], self.c if self.reduce == "full" else 1
        if not self.symmetric or size < 64:
            return [(0, size, 0)]
        step = -(-max(32, -(-size // 8)) // r) * r
        return [(i, min(i + step, size), i) for i in range(0, size, step)]

    def add(self, left: Tensor, right: Tensor, alpha: float) -> None:
        """Add the products of two operands."""
        for i, j, k in self.strips():
            out = self.value[..., i:j, k:]
            if self.reduce == "diagonal":
                out.baddbmm_(left[:, i:j], right[:, k:].transpose(1, 2), alpha=alpha)
            else:
                out.addmm_(left[i:j], right[k:].T, alpha=alpha)

    def add_factors(self, one: Outer, two: Outer, alpha: float) -> None:
        """Add (g . g')(a . a') for factors with one position each."""
        a1, a2 = one.a[:, 0], two.a[:, 0]
        g1, g2 = (self.operand(f.g[..., 0]) for f in (one, two))
        r = self.c if self.reduce == "full" else 1  # rows of the result per sample
        for top, bottom, k in self.strips():
            step = max(1, CACHE_ENTRIES // (self.value.shape[-1] - k) // r) * r
            for i in range(top, bottom, step):
                j = min(i + step, bottom)
                alike = a1[i // r : j // r] @ a2[k // r :].T
                if alpha != 1.0:
                    alike *= alpha
                self._add_product(
                    g1[..., i:j, :], g2[..., k:, :], alike, r, self.value[..., i:j, k:]
                )

    @staticmethod
    def _add_product(g1: Tensor, g2: Tensor, alike: Tensor, r: int, out: Tensor) -> None:
        pull = g1 @ g2.transpose(-1, -2)
        if r == 1:
            out.addcmul_(pull, alike)
        else:
            pull.view(alike.shape[0], r, alike.shape[1], r).mul_(alike[:, None, :, None])
            out += pull

    def add_positions(self, one: Outer | Lookup, two: Outer | Lookup, alpha: float) -> None:
        """Add the sum over pairs of positions of (g . g')(a . a')."""
        alike = one.meet(two) * alpha  # [n1, T1, n2, T2]
        if self.reduce == "trace":
            pull = torch.einsum("iaos,jaot->isjt", one.g, two.g)
            self.value += (pull * alike).sum((1, 3))
        elif self.reduce == "diagonal":
            pull = torch.einsum("iaos,jaot->aisjt", one.g, two.g)
            self.value += (pull * alike).sum((2, 4))
        else:
            pull = torch.einsum("iaos,jbot->iajbst", one.g, two.g)
            total = torch.einsum("iajbst,isjt->iajb", pull, alike)
            self.value += total.reshape(self.value.shape)

    def result(self) -> Tensor:
        """``[n1, n2]``, ``[n1, n2, C]`` or ``[n1, n2, C, C]``."""
        if self.symmetric:
            self._mirror()
        if self.reduce == "trace":
            return self.value
        if self.reduce == "diagonal":
            return self.value.permute(1, 2, 0).contiguous()
        shape = (self.n1, self.c, self.n2, self.c)
        return self.value.view(shape).transpose(1, 2).contiguous()

    def _mirror(self) -> None:
        """Copy the half above the diagonal, so that the result is symmetric to the last bit."""
        for i, j, _ in self.strips():
            self.value[..., j:, i:j] = self.value[..., i:j, j:].transpose(-1, -2)
            square = self.value[..., i:j, i:j]
            square.copy_(square.triu() + square.triu(1).transpose(-1, -2))


def cheapest(one: Factor, two: Factor, reduce: str, weighted: bool, symmetric: bool) -> str:
    """``"factors"``, ``"positions"`` or ``"gradients"``, by counted multiplications."""
    if weighted or type(one) is not type(two) or isinstance(one, Dense):
        return "gradients"
    (n1, c, o, t1), (n2, _, _, t2) = one.g.shape, two.g.shape
    i = one.width // o
    outputs = c * c if reduce == "full" else c
    half = 2 if symmetric else 1
    written = (n1 / half + n2 / half) * c * max(t1, t2) * o * i
    gradients = written + n1 * n2 * outputs * o * i / half
    look = 1 if isinstance(one, Lookup) else i
    positions = n1 * n2 * t1 * t2 * (look + outputs * (o + 1))
    if isinstance(one, Outer) and t1 == t2 == 1:
        return "factors" if positions / half <= gradients else "gradients"
    return "positions" if 4 * positions <= gradients else "gradients"  # slower per multiplication


def contract(total: Sum, one: Factor, two: Factor, weight: Tensor | float | None) -> None:
    """Add one parameter's part to the result."""
    alpha = weight if isinstance(weight, float) else 1.0
    row = weight.flatten() if isinstance(weight, Tensor) else None
    way = cheapest(one, two, total.reduce, row is not None, total.symmetric)
    if way == "factors":
        total.add_factors(one, two, alpha)
    elif way == "positions":
        total.add_positions(one, two, alpha)
    else:
        _add_gradients(total, one, two, row, alpha)


def _add_gradients(total: Sum, one: Factor, two: Factor, row: Tensor | None, alpha: float) -> None:
    """Write both sides' gradients out, a few rows of the weight at a time, and multiply."""
    unit = next((f.step for f in (one, two) if not isinstance(f, Dense)), one.width)
    rows = one.width // unit
    bytes_per_row = unit * sum(map(_entries_per_column, (one, two))) * 4
    step = max(1, min(rows, BLOCK_BYTES // max(1, bytes_per_row)))
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        left = one.block(start, stop, unit)
        right = left if two is one else two.block(start, stop, unit)
        if row is not None:
            left = left * row[start * unit : stop * unit]
        total.add(total.operand(left), total.operand(right), alpha)


def _entries_per_column(factor: Factor) -> int:
    n, c = (factor.rows if isinstance(factor, Dense) else factor.g).shape[:2]
    return 0 if isinstance(factor, Dense) else n * c


def write_out(one: Factor, other: Factor, reduce: str, weighted: bool) -> Factor:
    """``other`` written out once, if it will meet several ``one`` by its gradients."""
    if cheapest(one, other, reduce, weighted, False) == "gradients":
        return dense(other)
    return other


def project(factor: Factor, directions: Tensor) -> Tensor:
    r"""Products with vectors ``[M, *shape]``, :math:`\nabla f_i\,u_m`: ``[M, n, C]``."""
    u = directions.flatten(1).to((factor.rows if isinstance(factor, Dense) else factor.g).dtype)
    if isinstance(factor, Outer) and factor.positions == 1:
        a, g = factor.a[:, 0], factor.g[..., 0]
        pushed = torch.einsum("ni,moi->mno", a, u.unflatten(1, (-1, a.shape[1])))
        return torch.einsum("mno,nco->mnc", pushed, g)
    rows = dense(factor).rows
    return torch.einsum("ncp,mp->mnc", rows, u)
