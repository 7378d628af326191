"""How a kernel matrix is shared: every rank gets tiles that cost it about the same.

A tile costs the passes through the network for its rows and its columns, and an inner product for
each of its pairs.  Strips of whole rows would repeat the passes of all columns on every rank, so
that more processes help little; tiles that are near to squares repeat the least.
"""

from itertools import combinations, pairwise
from math import isqrt
from typing import NamedTuple

Span = tuple[int, int]
ROW_COST = 100.0
"""Passes for one input, in inner products; 135 was measured for the book's MNIST network."""


class Tile(NamedTuple):
    """Rows and columns ``(start, stop)`` of a kernel matrix."""

    rows: Span
    columns: Span
    symmetric: bool = False
    """Part of a symmetric matrix: what it mirrors is not computed anywhere."""

    @property
    def diagonal(self) -> bool:
        """Whether the tile mirrors itself."""
        return self.symmetric and self.rows == self.columns

    def cost(self) -> float:
        """Counted work, in inner products."""
        height, width = (stop - start for start, stop in (self.rows, self.columns))
        if self.diagonal:
            return ROW_COST * height + height * width / 2
        return ROW_COST * (height + width) + height * width


def cut(n: int, pieces: int) -> list[Span]:
    """Neighbouring spans of nearly the same length; short ones are left out when empty.

    >>> cut(10, 3), cut(2, 3)
    ([(0, 3), (3, 6), (6, 10)], [(0, 1), (1, 2)])
    """
    bounds = sorted({k * n // pieces for k in range(pieces + 1)})
    return list(pairwise(bounds))


def tiles(n1: int, n2: int, processes: int, symmetric: bool) -> list[list[Tile]]:
    """The tiles of every rank, the same on whichever rank it is called; a rank may have none.

    >>> tiles(10, 600, 2, symmetric=False)
    [[Tile(rows=(0, 10), columns=(0, 300), symmetric=False)],
     [Tile(rows=(0, 10), columns=(300, 600), symmetric=False)]]
    >>> [[tile[:2] for tile in own] for own in tiles(8, 8, 2, symmetric=True)]
    [[((0, 4), (4, 8))], [((0, 4), (0, 4)), ((4, 8), (4, 8))]]
    """
    if symmetric:
        choices = [_triangle(n1, k) for k in range(1, min(n1, 4 * isqrt(processes) + 4) + 1)]
    else:
        grids = [(p, processes // p) for p in range(1, processes + 1) if processes % p == 0]
        choices = [[Tile(i, j) for i in cut(n1, p) for j in cut(n2, q)] for p, q in grids]
    return min((_dealt(choice, processes) for choice in choices), key=_slowest)


def _triangle(n: int, pieces: int) -> list[Tile]:
    spans = cut(n, pieces)
    return [Tile(i, j, True) for i, j in combinations(spans, 2)] + [Tile(i, i, True) for i in spans]


def _dealt(choice: list[Tile], processes: int) -> list[list[Tile]]:
    """Deal the tiles out, the costliest first, always to the rank that has least to do."""
    owned: list[list[Tile]] = [[] for _ in range(processes)]
    load = [0.0] * processes
    for tile in sorted(choice, key=Tile.cost, reverse=True):
        least = load.index(min(load))
        owned[least].append(tile)
        load[least] += tile.cost()
    return owned


def _slowest(owned: list[list[Tile]]) -> float:
    return max(sum(map(Tile.cost, mine)) for mine in owned)
