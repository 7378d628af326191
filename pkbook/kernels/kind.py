"""What is asked of a kernel's blocks, and the blocks of one pair of sides."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pkbook.kernels.contraction import Sum, contract, write_out
from pkbook.kernels.factors import Factor, widen
from pkbook.kernels.side import Side

if TYPE_CHECKING:
    from pkbook.kernels.gram import End


class NotFinite(Exception):
    """A block of the result holds NaN or infinity."""


@dataclass(frozen=True)
class Kind:
    """What is asked of the products: over the outputs, by which weights, for which groups."""

    reduce: str
    weights: dict[str, Tensor | float | None]
    groups: list[set[str]]

    def products(
        self, left: Side, right: Side, ends: list["End"], size: tuple[int, int], same: bool
    ) -> list[Tensor]:
        """One block of each group's matrix."""
        like = widen(ends[0].like.new_empty(0))
        both = ends[0].plan.covered & ends[-1].plan.covered
        twins = {w: b for w, b in ends[0].plan.twins.items() if {w, b} <= both}
        blocks = []
        for names in self.groups:
            c = ends[0].plan.outputs
            total = Sum(self.reduce, *size, c, like, same)
            contract(total, _of(left, names), _of(right, names), self.weights, twins)
            blocks.append(total.result())
        # A sum passes over the result once, and shows every NaN and infinity.
        if not all(torch.isfinite(o.sum()) or torch.isfinite(o).all() for o in blocks):
            raise NotFinite
        return blocks

    def shape(self, ends: list["End"]) -> tuple[int, ...]:
        """Of each whole matrix."""
        c = (ends[0].plan.outputs,) * {"trace": 0, "diagonal": 1, "full": 2}[self.reduce]
        return len(ends[0].x), len(ends[-1].x), *c

    def empty(self, ends: list["End"]) -> list[Tensor]:
        """Room for the whole matrices."""
        like = widen(ends[0].like.new_empty(0))
        return [like.new_empty(self.shape(ends)) for _ in self.groups]

    def most(self, ends: list["End"], memory: int) -> int:
        """Rows and columns of a block that takes an eighth of the memory; there may be two."""
        entry = math.prod(self.shape(ends)[2:]) * max(4, ends[0].like.dtype.itemsize)
        return max(1, math.isqrt(memory // (8 * entry)))

    def put(self, outs: list[Tensor], i: slice, j: slice, blocks: Iterable[Tensor]) -> None:
        """Write one block of each group's matrix."""
        with torch.inference_mode(outs[0].is_inference()):
            for out, block in zip(outs, blocks, strict=True):
                out[i, j] = block

    def written(self, one: Factor, other: Factor, name: str) -> Factor:
        return write_out(one, other, self.reduce, isinstance(self.weights[name], Tensor))

    def mirrored(self, block: Tensor) -> Tensor:
        """The block on the other side of the diagonal."""
        block = block.transpose(0, 1)
        return block.transpose(2, 3) if self.reduce == "full" else block


def _of(side: Side, names: set[str]) -> Side:
    return {name: factor for name, factor in side.items() if name in names}
