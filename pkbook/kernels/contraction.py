r"""Inner products of two sides, by the cheapest exact way for each parameter.

Three ways, chosen by counted multiplications:

* *factors*: with one position on each side :math:`\langle g a^\top,g'a'^\top\rangle`
  is :math:`(g\cdot g')(a\cdot a')`;
* *positions*: the same for every pair of positions, then summed;
* *gradients*: write the per-sample gradients out in blocks that stay in the cache, then multiply.
"""

from collections.abc import Iterator
from typing import TypeGuard

import torch
from torch import Tensor

from pkbook.basics.parameters import sum_of
from pkbook.kernels.factors import Dense, Factor, Lookup, Outer, Transposed, dense

BLOCK_ENTRIES = 2**21  # of per-sample gradients written out at once, on each side
CACHE_ENTRIES = 2**17  # of a product formed at once, so that it is used while in the cache
SMALL = 2**16  # entries; below it one product of all outputs beats one for each


class Sum:
    """The growing result, in the layout in which products come out: outputs before samples."""

    def __init__(self, reduce: str, n1: int, n2: int, c: int, like: Tensor, symmetric: bool):
        self.reduce, self.n1, self.n2, self.c = reduce, n1, n2, c
        self.symmetric = symmetric
        shape = {"trace": (n1, n2), "diagonal": (c, n1, n2), "full": (c * n1, c * n2)}[reduce]
        self.value = like.new_zeros(shape)

    def strips(self) -> list[tuple[int, int, int]]:
        """Strips ``[:rows, start:stop]``; of a symmetric result those above the diagonal.

        Widths are multiples of 32: a product with 128 columns is 15 % faster than with 125.
        """
        rows, columns = self.value.shape[-2:]
        if not self.symmetric or rows < 64:
            return [(rows, 0, columns)]
        step = 32 * -(-rows // 256)
        stops = [min(i + step, rows) for i in range(0, rows, step)]
        return [
            (stop, start, stop) for start, stop in zip(range(0, rows, step), stops, strict=True)
        ]

    def add(self, left: Tensor, right: Tensor, alpha: float, outputs: slice) -> None:
        """Add the products of two sets of gradients ``[c, n, P]`` of some outputs."""
        if self.reduce == "full":
            pairs = [(left.flatten(0, 1), right.flatten(0, 1))]
        elif self.reduce == "diagonal":
            pairs = [(left, right)]
        elif left.numel() + right.numel() < SMALL:
            pairs = [tuple(t.transpose(0, 1).flatten(1) for t in (left, right))]
        else:
            pairs = list(zip(left, right, strict=True))
        for rows, start, stop in self.strips():
            out = self.value[..., :rows, start:stop]
            out = out[outputs] if self.reduce == "diagonal" else out
            for a, b in pairs:
                if self.reduce == "diagonal":
                    out.baddbmm_(a[:, :rows], b[:, start:stop].transpose(1, 2), alpha=alpha)
                else:
                    out.addmm_(a[:rows], b[start:stop].T, alpha=alpha)

    def add_factors(self, one: Outer, two: Outer, alpha: float, plus: float) -> None:
        """Add (g . g')(alpha a . a' + plus) for factors with one position each."""
        a1, a2 = one.a[:, 0] * alpha if alpha != 1.0 else one.a[:, 0], two.a[:, 0]
        g1, g2 = (torch.stack(f.g).squeeze(3) for f in (one, two))  # [C, n, o]
        offset = a1.new_full((1,), plus)
        if self.reduce == "trace":
            g1, g2 = (g.transpose(0, 1).flatten(1) for g in (g1, g2))
            for rows, start, stop in self.strips():
                step = max(1, CACHE_ENTRIES // (stop - start))
                for i in range(0, rows, step):
                    j = min(i + step, rows)
                    alike = torch.addmm(offset, a1[i:j], a2[start:stop].T)
                    self.value[i:j, start:stop].addcmul_(g1[i:j] @ g2[start:stop].T, alike)
            return
        alike = torch.addmm(offset, a1, a2.T)
        if self.reduce == "diagonal":
            self.value.addcmul_(g1 @ g2.transpose(1, 2), alike)
            return
        blocks = self.value.view(self.c, self.n1, self.c, self.n2)
        for c in range(self.c):
            for d in range(c if self.symmetric else 0, self.c):
                blocks[c, :, d].addcmul_(g1[c] @ g2[d].T, alike)

    def add_positions(self, one: Outer | Lookup, two: Outer | Lookup, alpha: float) -> None:
        """Add the sum over pairs of positions of (g . g')(a . a')."""
        alike = one.meet(two) * alpha  # [n1, T1, n2, T2]

        def total(g: Tensor, h: Tensor) -> Tensor:
            return (torch.einsum("ios,jot->isjt", g, h) * alike).sum((1, 3))

        if self.reduce == "full":
            blocks = self.value.view(self.c, self.n1, self.c, self.n2)
            for c, g in enumerate(one.g):
                for d, h in enumerate(two.g):
                    blocks[c, :, d] += total(g, h)
            return
        for c, (g, h) in enumerate(zip(one.g, two.g, strict=True)):
            (self.value if self.reduce == "trace" else self.value[c]).add_(total(g, h))

    def result(self) -> Tensor:
        """``[n1, n2]``, ``[n1, n2, C]`` or ``[n1, n2, C, C]``."""
        if self.symmetric:
            self._mirror()
        if self.reduce == "trace":
            return self.value
        if self.reduce == "diagonal":
            return self.value.permute(1, 2, 0).contiguous()
        shape = (self.c, self.n1, self.c, self.n2)
        return self.value.view(shape).permute(1, 3, 0, 2).contiguous()

    def _mirror(self) -> None:
        """Copy the half above the diagonal, so that the result is symmetric to the last bit."""
        for _, i, j in self.strips():
            self.value[..., i:j, :i] = self.value[..., :i, i:j].transpose(-1, -2)
            square = self.value[..., i:j, i:j]
            square.copy_(square.triu() + square.triu(1).transpose(-1, -2))


def cheapest(one: Factor, two: Factor, reduce: str, weighted: bool, symmetric: bool) -> str:
    """``"factors"``, ``"positions"`` or ``"gradients"``, by counted multiplications."""
    if weighted or type(one) is not type(two):
        return "gradients"
    if isinstance(one, Transposed) and isinstance(two, Transposed):
        one, two = one.inner, two.inner
    if not isinstance(one, Outer | Lookup) or not isinstance(two, Outer | Lookup):
        return "gradients"
    c, (n1, o, t1), (n2, _, t2) = len(one.g), one.g[0].shape, two.g[0].shape
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


Weights = dict[str, Tensor | float | None]


def contract(total: Sum, one: dict[str, Factor], two: dict[str, Factor], weights: Weights, twins):
    """Add the parts of all parameters; a bias goes with its weight where both are factors."""
    done = set()
    for name in (*twins, *one):
        if name in done or name not in one or name not in two:
            continue
        done.add(name)
        weight, twin = weights[name], twins.get(name)
        twin = twin if twin in one and twin in two else None
        alpha = weight if isinstance(weight, float) else 1.0
        row = weight.flatten() if isinstance(weight, Tensor) else None
        bias = None if twin is None else weights[twin]
        left, right = pair = _turned(one[name], two[name], row is not None)
        way = cheapest(left, right, total.reduce, row is not None, total.symmetric)
        if way == "factors" and isinstance(left, Outer) and isinstance(right, Outer):
            plus = 0.0
            if twin is not None and not isinstance(bias, Tensor):
                plus = 1.0 if bias is None else bias
                done.add(twin)
            total.add_factors(left, right, alpha, plus)
        elif (
            way == "positions"
            and isinstance(left, Outer | Lookup)
            and isinstance(right, Outer | Lookup)
        ):
            total.add_positions(left, right, alpha)
        else:
            if twin is not None and _joinable(pair, weight, bias):
                done.add(twin)
                left = _with_bias(pair[0])
                pair = left, left if pair[1] is pair[0] else _with_bias(pair[1])
            _add_gradients(total, *pair, row, alpha)


def _turned(one: Factor, two: Factor, weighted: bool) -> tuple[Factor, Factor]:
    """Two transposed matrices, turned back: their products are the same.

    Not with a weight for each entry, nor where one side alone is transposed: there the order of the
    entries counts.
    """
    turned = [isinstance(f, Transposed) for f in (one, two)]
    if isinstance(one, Transposed) and isinstance(two, Transposed) and not weighted:
        return one.inner, one.inner if two is one else two.inner
    if any(turned) and not all(turned):
        return dense(one), dense(two)
    return one, two


def _joinable(
    pair: tuple[Factor, Factor], weight: Tensor | float | None, bias: Tensor | float | None
) -> TypeGuard[tuple[Outer, Outer]]:
    """Whether a layer's weight and bias can be one matrix: same scalar weight, one position."""
    if isinstance(weight, Tensor) or isinstance(bias, Tensor) or weight != bias:
        return False
    return all(isinstance(f, Outer) and f.positions == 1 for f in pair)


def _with_bias(factor: Outer) -> Outer:
    """Weight and bias as one: an activation that is always 1 has the bias as its weight."""
    return Outer(torch.nn.functional.pad(factor.a, (0, 1), value=1.0), factor.g)


def _add_gradients(total: Sum, one: Factor, two: Factor, row: Tensor | None, alpha: float) -> None:
    """Write both sides' gradients out, a block at a time, and multiply.

    A block holds some rows of the weight, for all outputs where their products are wanted pair by
    pair, else for as many as fit.
    """
    unit = next((f.step for f in (one, two) if not isinstance(f, Dense)), one.width)
    rows, outputs = one.width // unit, one.outputs
    sides = [one] if two is one else [one, two]
    per_row = unit * max(1, *(0 if isinstance(f, Dense) else f.samples for f in sides))
    room = BLOCK_ENTRIES * (4 if total.reduce == "full" else 1)
    together = outputs if total.reduce == "full" else max(1, min(outputs, room // (per_row * rows)))
    step = max(1, min(rows, room // (per_row * together)))
    like = total.value
    spaces = [
        None if isinstance(f, Dense) else like.new_empty(together * step * unit * f.samples)
        for f in sides
    ]
    for c in range(0, outputs, together):
        some = slice(c, min(c + together, outputs))
        for start in range(0, rows, step):
            stop = min(start + step, rows)
            left = one.block(some, start, stop, unit, spaces[0])
            right = left if two is one else two.block(some, start, stop, unit, spaces[1])
            if row is not None:
                left = left * row[start * unit : stop * unit]
            total.add(left, right, alpha, some)


def write_out(one: Factor, other: Factor, reduce: str, weighted: bool) -> Factor:
    """``other`` written out once, if it will meet several ``one`` by its gradients."""
    if cheapest(one, other, reduce, weighted, False) == "gradients":
        return dense(other)
    return other


def squares(factor: Factor, weight: Tensor | float | None = None) -> Tensor:
    """Squared lengths of all gradients of a sample, ``[n]``, summed over outputs.

    With a diagonal ``weight`` those in its geometry.
    """
    if isinstance(weight, Tensor):
        return _weighted_squares(factor, weight.flatten())
    if weight is not None:
        return weight * squares(factor)
    if isinstance(factor, Transposed):
        return squares(factor.inner)
    if isinstance(factor, Dense):
        return factor.rows.square().sum((0, 2))
    if isinstance(factor, Outer) and factor.positions == 1:
        return factor.a.square().sum((1, 2)) * sum_of(g.square().sum((1, 2)) for g in factor.g)
    c, n, t, (_, o, _) = factor.outputs, factor.samples, factor.positions, factor.g[0].shape
    by_pairs = t * t * (factor.width // o + c * o) <= c * t * factor.width
    step = max(1, BLOCK_ENTRIES // (t * t if by_pairs else factor.width))
    parts = [factor.only(slice(i, i + step)) for i in range(0, n, step)]
    if by_pairs:
        return torch.cat([_squares_by_pairs(part) for part in parts])
    return torch.cat([sum_of(g.square().sum((0, 2)) for g in _each(part)) for part in parts])


def _weighted_squares(factor: Factor, row: Tensor) -> Tensor:
    """The same with a weight for each entry ``[P]``, which needs the gradients themselves."""
    if isinstance(factor, Dense):
        return (factor.rows.square() @ row.to(factor.rows.dtype)).sum(0)
    row = row.to(factor.like.dtype)
    step = max(1, BLOCK_ENTRIES // factor.width)
    parts = (factor.only(slice(i, i + step)) for i in range(0, factor.samples, step))
    return torch.cat([sum_of((g.square() @ row).sum(0) for g in _each(part)) for part in parts])


def _squares_by_pairs(factor: Outer | Lookup) -> Tensor:
    """The sum over pairs of positions of (g . g')(a . a')."""
    return sum_of((g.transpose(1, 2) @ g * factor.meet_itself()).sum((1, 2)) for g in factor.g)


def _each(factor: Outer | Transposed | Lookup) -> Iterator[Tensor]:
    """The gradients of one output after the other written out, ``[1, n, P]``."""
    rows = factor.width // factor.step
    for c in range(factor.outputs):
        yield factor.block(slice(c, c + 1), 0, rows, factor.step, None)


def project(factor: Factor, directions: Tensor) -> Tensor:
    r"""Products with vectors ``[M, *shape]``, :math:`\nabla f_i\,u_m`: ``[M, n, C]``."""
    u = directions.reshape(len(directions), -1).to(factor.like.dtype)
    if isinstance(factor, Transposed) and factor.positions == 1:
        return project(factor.inner, u.unflatten(1, (-1, factor.step)).transpose(1, 2))
    if isinstance(factor, Outer) and factor.positions == 1:
        a = factor.a[:, 0]
        pushed = torch.einsum("ni,moi->mno", a, u.unflatten(1, (-1, a.shape[1])))
        return torch.stack([(pushed * g[..., 0]).sum(2) for g in factor.g], dim=2)
    return torch.einsum("cnp,mp->mnc", dense(factor).rows, u)
