r"""The query's gradient averaged over one step of training.

For a step from :math:`\theta` to :math:`\theta+\Delta`,

.. math:: \bar\varphi(x)=\int_0^1\nabla f(x,\theta+\tau\Delta)\,d\tau,\qquad
          f(x,\theta+\Delta)-f(x,\theta)=\langle\bar\varphi(x),\Delta\rangle .

A Gauss-Legendre rule computes the integral; the identity on the right gives, for the price of two
forward passes, the exact error of that rule.  Where the network has kinks (ReLU, max pooling) the
integrand jumps, and the interval is split until the error is small enough.
"""

from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from pkbook.basics.parameters import Tree
from pkbook.interpolation.optimizer_memory import Nodes, written
from pkbook.kernels.asked import Inputs
from pkbook.kernels.contraction import project
from pkbook.kernels.factors import Dense, Outer, Transposed, dense
from pkbook.kernels.gradients import query_side
from pkbook.kernels.inputs import evaluate
from pkbook.kernels.plan import Plan
from pkbook.kernels.side import Side

TRIED = 8  # pieces after which it is asked whether splitting helps
SMOOTH = 0.1  # a rule's residual over that of one of its nodes; for a jump the mean is about 0.4
THIRDS = 3  # into as many a part is split, the middle one around its node
KEPT = 4  # gradients of a step kept as factors; more of them are summed as soon as they are known
HELD = 2**28  # bytes of gradients kept for the pieces of a step; those beyond are computed again


@cache
def gauss_legendre(nodes: int) -> tuple[tuple[float, float], ...]:
    """Nodes and weights on [0, 1].

    >>> gauss_legendre(1)
    ((0.5, 1.0),)
    """
    t, w = np.polynomial.legendre.leggauss(nodes)
    return tuple((float((1 + a) / 2), float(b / 2)) for a, b in zip(t, w, strict=True))


@dataclass(frozen=True)
class Query:
    """What is asked: inputs, one output for each or all, and how the model treats them."""

    x: Inputs
    chosen: Tensor | None
    plan: Plan | None

    @property
    def rough(self) -> bool:
        """Whether the model computes with less precision than its parameters have."""
        return self.plan is not None and self.plan.rough

    def value(self, model: nn.Module, parameters: Tree) -> Tensor:
        """The outputs ``[m, C]``."""
        return evaluate(model, self.x, parameters, self.chosen)

    def gradient(self, model: nn.Module, parameters: Tree) -> Side:
        """Their gradients, parameter by parameter."""
        return query_side(model, self.x, parameters, self.plan, self.chosen)


@dataclass(frozen=True)
class Average:
    """The averaged gradient as weighted nodes, and what the rule says about itself."""

    nodes: dict[str, Nodes]
    residual: Tensor | None
    r""":math:`f(\theta+\Delta)-f(\theta)-\langle\bar\varphi,\Delta\rangle`, ``[m, C]``, in
    float64; None where it was not asked for."""
    pieces: int
    noise: Tensor | None = None
    """Where splitting gained nothing: the residual of one piece, ``[m, C]``, elsewhere zero."""


class Segment:
    """One step: its straight line in parameter space and the query on it."""

    def __init__(self, query: Query, model: nn.Module, start: Tree, end: Tree) -> None:
        self.query, self.model, self.start, self.end = query, model, start, end
        self.delta = {name: end[name] - p for name, p in start.items()}

    def _at(self, tau: float) -> Tree:
        if tau in (0.0, 1.0):
            return self.end if tau else self.start
        return {name: torch.add(p, self.delta[name], alpha=tau) for name, p in self.start.items()}

    def value(self, tau: float) -> Tensor:
        return self.query.value(self.model, self._at(tau))

    def gradients(self, points: tuple[tuple[float, float], ...]) -> list[tuple[float, Side]]:
        return [(w, _compact(self.query.gradient(self.model, self._at(t)))) for t, w in points]

    def only(self, rows: Tensor) -> "Segment":
        """The same step for some of the queries."""
        if len(rows) == len(self.query.x):
            return self
        chosen = None if self.query.chosen is None else self.query.chosen[rows]
        some = Query(self.query.x[rows], chosen, self.query.plan)
        return Segment(some, self.model, self.start, self.end)

    def moved(self, sides: list[tuple[float, Side]]) -> Tensor | float:
        """The weighted gradients along the whole step, ``[m, C]``; 0 where there are none."""
        total: float | Tensor = 0.0
        for w, side in sides:
            for name, factor in side.items():
                total = total + w * project(factor, self.delta[name].unsqueeze(0))[0].double()
        return total


def _compact(side: Side) -> Side:
    """Gradients with many positions written out once: each would be for every use."""
    return {
        name: dense(factor)
        if isinstance(factor, Outer | Transposed) and factor.positions > 1
        else factor
        for name, factor in side.items()
    }


def left_end(segment: Segment, ends: tuple[Tensor, Tensor] | None) -> Average:
    """The gradient at the left end (Riemann rule)."""
    return _whole(segment, ((0.0, 1.0),), ends)


def gauss(segment: Segment, nodes: int, ends: tuple[Tensor, Tensor] | None) -> Average:
    """One Gauss-Legendre rule over the whole step; ``ends`` are the outputs before and after."""
    return _whole(segment, gauss_legendre(nodes), ends)


def _whole(segment: Segment, points, ends: tuple[Tensor, Tensor] | None) -> Average:
    sides = segment.gradients(points)
    residual = None
    if ends is not None:
        residual = ends[1].double() - ends[0].double() - segment.moved(sides)
    return Average(_collected([sides], segment), residual, 1)


def refined(
    segment: Segment, nodes: int, ends: tuple[Tensor, Tensor], allowed: Tensor, most: int
) -> Average:
    r"""A Gauss-Legendre rule, and on sub-intervals for each query what its residual asks for.

    Splits a query's sub-intervals with large residuals until, for each of its outputs, both the
    sum of its residuals :math:`r_p` and their root sum of squares are at most ``allowed``
    ``[m, C]``, or it has no room for more pieces within ``most``.  (The sum alone could be small by
    luck; at kinks the signs are those of a coin, so the sum of absolute values would ask for far
    too much.)  What remains is returned.

    Where the integrand is smooth an interval is halved, with a rule of its own on each half.  Where
    it jumps, the rule's nodes each get the part of the interval that their weights stand for, and
    a part is split in three around its node: nothing that was computed is thrown away.

    A kink's residual shrinks with its piece.  What does not shrink is the computation's own
    rounding: where a model works with less precision than its parameters have (bfloat16 inside,
    say), a query whose residuals are still half as large at ``TRIED`` pieces is split no more.
    """
    rounding = 8 * torch.finfo(ends[0].dtype).eps * ends[0].abs().double()
    allowed = torch.maximum(allowed, rounding)
    everybody = torch.arange(len(ends[0]), device=ends[0].device)
    pieces: list[_Piece] = [_Rule(segment, nodes, (0.0, 1.0), everybody, ends)]
    count = torch.ones_like(everybody)
    peak, stalled = torch.zeros_like(allowed[:, 0]), torch.zeros_like(everybody, dtype=torch.bool)
    while True:
        state = _State(pieces, allowed)
        peak = torch.where(count < TRIED, torch.maximum(peak, state.level), peak)
        if segment.query.rough:
            stalled |= (count >= TRIED) & (state.level > peak / 2)
        open_, before = state.over & ~stalled, count.clone()
        for piece, share in zip(list(pieces), state.shares, strict=True):
            large = (share > before[piece.rows].rsqrt()) | (share == state.worst[piece.rows])
            chosen = piece.alive & open_[piece.rows] & large
            more = piece.parts - 1
            chosen &= count[piece.rows] + more <= most
            if chosen.any():
                count[piece.rows[chosen]] += more[chosen]
                piece.alive &= ~chosen
                pieces += piece.split(chosen)
        if bool((count == before).all()):
            break
        _forget(pieces)
    if len(pieces) == 1:
        collected = _collected([pieces[0].sides], segment)
    else:
        collected = _added(pieces, len(everybody), segment)
    each = state.size / count.sqrt().unsqueeze(1)
    noise = torch.where(stalled.unsqueeze(1), each, 0.0)
    return Average(collected, state.total, int(count.max()), noise)


class _Piece:
    """A sub-interval for some queries, the weighted gradients on it and what they leave out."""

    def __init__(self, whole: Segment, interval, rows: Tensor, ends, points) -> None:
        self.whole, self.rows, self.ends, self.points = whole, rows, ends, points
        self.a, self.b = interval
        self.alive = torch.ones_like(rows, dtype=torch.bool)
        self.kept: list[tuple[float, Side]] | None = None
        self.inside = torch.arange(len(rows), device=rows.device)
        """Where the queries stand among the rows of what is kept."""

    def keep(self) -> list[Tensor]:
        """Compute the gradients; returns each node's slope along the step, ``[m, C]``."""
        self.kept = self.segment.gradients(self.points)
        zero = torch.zeros_like(self.ends[0], dtype=torch.float64)
        return [zero + self.whole.moved([(1.0, side)]) for _, side in self.kept]

    def measure(self, slopes: list[Tensor]) -> None:
        """Note what the weighted slopes leave out of the change between the ends."""
        self.slopes = slopes
        told = sum(w * slope for (_, w), slope in zip(self.points, slopes, strict=True))
        self.residual = self.ends[1].double() - self.ends[0].double() - told

    @property
    def segment(self) -> Segment:
        return self.whole.only(self.rows)

    @property
    def sides(self) -> list[tuple[float, Side]]:
        """The weighted gradients, computed again where they were let go."""
        if self.kept is not None:
            return self.kept
        self.inside = torch.arange(len(self.rows), device=self.rows.device)
        return self.segment.gradients(self.points)

    def values(self, rows: Tensor, places: list[float]) -> list[Tensor]:
        """The outputs of some queries at places on the step."""
        some = self.whole.only(rows)
        return [some.value(place) for place in places]

    @property
    def parts(self) -> Tensor:
        """Into how many pieces `split` splits, for each query."""
        return torch.full_like(self.rows, THIRDS)

    def split(self, chosen: Tensor) -> list["_Piece"]:
        """Smaller pieces for the chosen queries."""
        raise NotImplementedError


class _Rule(_Piece):
    """A sub-interval with a Gauss-Legendre rule of its own."""

    def __init__(self, whole: Segment, nodes: int, interval, rows: Tensor, ends) -> None:
        a, b = interval
        points = tuple((a + (b - a) * t, w * (b - a)) for t, w in gauss_legendre(nodes))
        super().__init__(whole, interval, rows, ends, points)
        self.nodes = nodes
        self.measure(self.keep())
        one = ends[1].double() - ends[0].double() - self.slopes[nodes // 2] * (b - a)
        self.smooth = self.residual.square().sum(1) < SMOOTH**2 * one.square().sum(1)
        """For which queries the rule is far better than one of its nodes: for no jump it is."""

    @property
    def parts(self) -> Tensor:
        jumpy = self.nodes if self.nodes > 1 else THIRDS
        return torch.where(self.smooth, 2, jumpy)

    def split(self, chosen: Tensor) -> list[_Piece]:
        smooth, found = chosen & self.smooth, []
        if smooth.any():
            found += self._halved(smooth)
        jumpy = chosen & ~smooth
        if jumpy.any():
            found += self._parted(jumpy)
        return found

    def _halved(self, chosen: Tensor) -> list[_Piece]:
        rows, middle = self.rows[chosen], (self.a + self.b) / 2
        start, end = (f[chosen] for f in self.ends)
        (f,) = self.values(rows, [middle])
        return [
            _Rule(self.whole, self.nodes, (self.a, middle), rows, (start, f)),
            _Rule(self.whole, self.nodes, (middle, self.b), rows, (f, end)),
        ]

    def _parted(self, chosen: Tensor) -> list[_Piece]:
        cuts = [self.a]
        for _, weight in self.points[:-1]:
            cuts.append(cuts[-1] + weight)
        cuts.append(self.b)
        ends = [end[chosen] for end in self.ends]
        f = [ends[0], *self.values(self.rows[chosen], cuts[1:-1]), ends[1]]
        pairs = enumerate(zip(pairwise(cuts), pairwise(f), strict=True))
        found: list[_Piece] = [_Part(self, k, cut, chosen, two) for k, (cut, two) in pairs]
        if self.nodes == 1:  # its part is the whole
            return found[0].split(torch.ones_like(found[0].alive))
        return found


class _Part(_Piece):
    """A sub-interval with one node, taken over from a larger one or new."""

    def __init__(self, of: _Piece, k: int | None, interval, chosen: Tensor, ends) -> None:
        a, b = interval
        place = (a + b) / 2 if k is None else of.points[k][0]
        super().__init__(of.whole, interval, of.rows[chosen], ends, ((place, b - a),))
        if k is None:
            slopes = self.keep()
        else:
            if of.kept is not None:
                self.kept, self.inside = [(b - a, of.kept[k][1])], of.inside[chosen]
            slopes = [of.slopes[k][chosen]]
        self.measure(slopes)

    def split(self, chosen: Tensor) -> list[_Piece]:
        place, third = self.points[0][0], (self.b - self.a) / 3
        left = max(place - third / 2, (self.a + place) / 2)
        right = min(place + third / 2, (place + self.b) / 2)
        start, end = (f[chosen] for f in self.ends)
        one, two = self.values(self.rows[chosen], [left, right])
        return [
            _Part(self, None, (self.a, left), chosen, (start, one)),
            _Part(self, 0, (left, right), chosen, (one, two)),
            _Part(self, None, (right, self.b), chosen, (two, end)),
        ]


def _forget(pieces: list[_Piece]) -> None:
    """Let go of the gradients of as many pieces as do not fit in memory, the last ones first."""
    delta = pieces[0].whole.delta.values()
    each = sum(d.numel() * d.element_size() for d in delta)
    held = 0
    for piece in pieces:
        held += each * len(piece.points) * len(piece.rows) * piece.residual.shape[1]
        if held > HELD:
            piece.kept = None


class _State:
    """What the pieces leave out, by query and output ``[m, C]``, and who must go on."""

    def __init__(self, pieces: list[_Piece], allowed: Tensor) -> None:
        self.total, square = torch.zeros_like(allowed), torch.zeros_like(allowed)
        for p in pieces:
            rows, r = p.rows[p.alive], p.residual[p.alive]
            self.total.index_add_(0, rows, r)
            square.index_add_(0, rows, r.square())
        self.size = square.sqrt()
        self.level = (self.size / allowed).amax(1)
        open_ = torch.maximum(self.total.abs(), self.size) > allowed
        self.over = open_.any(1)
        self.worst = torch.full_like(allowed[:, 0], -1.0)
        self.shares: list[Tensor] = []
        """Of each piece, its queries' residuals in units of what is allowed, the largest output's;
        -1 where it serves no more."""
        for p in pieces:
            share = (p.residual.abs() / allowed[p.rows] * open_[p.rows]).amax(1)
            share = torch.where(p.alive, share, -1.0)
            self.shares.append(share)
            self.worst.scatter_reduce_(0, p.rows, share, "amax")


def _added(pieces: list[_Piece], m: int, segment: Segment) -> dict[str, Nodes]:
    """The gradients of all pieces added up for the queries that each of them serves."""
    totals: dict[str, Tensor] = {}
    for p in pieces:
        if not p.alive.any():
            continue
        for weight, side in p.sides:
            here = p.inside[p.alive]
            for name, factor in side.items():
                rows = dense(factor).rows
                if name not in totals:
                    totals[name] = rows.new_zeros(rows.shape[0], m, rows.shape[2])
                totals[name].index_add_(1, p.rows[p.alive], rows[:, here], alpha=weight)
        p.kept = None
    found: dict[str, Nodes] = {name: [(1.0, Dense(total))] for name, total in totals.items()}
    return {name: found.get(name, []) for name in segment.start}


def _collected(groups, segment: Segment) -> dict[str, Nodes]:
    """The nodes of all pieces by parameter; more than a few are added up on the way."""
    nodes: dict[str, Nodes] = {name: [] for name in segment.start}
    for sides in groups:
        for weight, side in sides:
            for name, factor in side.items():
                nodes[name].append((weight, factor))
        for name, found in nodes.items():
            if len(found) > KEPT:
                nodes[name] = [(1.0, Dense(written(found)))]
    return nodes
