r"""The query's gradient averaged over one step of training.

For a step from :math:`\theta` to :math:`\theta+\Delta`,

.. math:: \bar\varphi(x)=\int_0^1\nabla f(x,\theta+\tau\Delta)\,d\tau,\qquad
          f(x,\theta+\Delta)-f(x,\theta)=\langle\bar\varphi(x),\Delta\rangle .

A Gauss-Legendre rule computes the integral; the identity on the right gives, for the price of two
forward passes, the exact error of that rule.  Where the network has kinks (ReLU, max pooling) the
integrand jumps, and the interval is halved until the error is small enough.
"""

from dataclasses import dataclass
from functools import cache

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

TRIED = 8  # pieces after which it is asked whether halving helps
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
    """Where halving gained nothing: the residual of one piece, ``[m, C]``, elsewhere zero."""


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
    r"""Gauss-Legendre rules on sub-intervals, for each query as many as its residual asks for.

    Halves a query's sub-interval with the largest residual until, for each of its outputs, both the
    sum of its residuals :math:`r_p` and their root sum of squares are at most ``allowed``
    ``[m, C]``, or it has ``most`` pieces.  (The sum alone could be small by luck; at kinks the
    signs are those of a coin, so the sum of absolute values would ask for far too much.)  What
    remains is returned.

    A kink's residual shrinks with its piece.  What does not shrink is the computation's own
    rounding: where a model works with less precision than its parameters have (bfloat16 inside,
    say), a query whose residuals are still half as large at ``TRIED`` pieces is halved no more.
    """
    rounding = 8 * torch.finfo(ends[0].dtype).eps * ends[0].abs().double()
    allowed = torch.maximum(allowed, rounding)
    everybody = torch.arange(len(ends[0]), device=ends[0].device)
    pieces = [_Piece(segment, nodes, (0.0, 1.0), everybody, ends)]
    count = torch.ones_like(everybody)
    peak, stalled = torch.zeros_like(allowed[:, 0]), torch.zeros_like(everybody, dtype=torch.bool)
    while True:
        state = _State(pieces, allowed)
        peak = torch.where(count < TRIED, torch.maximum(peak, state.level), peak)
        if segment.query.rough:
            stalled |= (count >= TRIED) & (state.level > peak / 2)
        split = state.over & (count < most) & ~stalled
        if not split.any():
            break
        count += split
        for piece in list(pieces):
            rows = piece.rows[split[piece.rows] & (state.worst[piece.rows] == id(piece))]
            if len(rows):
                pieces += piece.halved(rows)
        _forget(pieces)
    if len(pieces) == 1:
        collected = _collected([pieces[0].sides], segment)
    else:
        collected = _added(pieces, len(everybody), segment)
    each = state.size / count.sqrt().unsqueeze(1)
    noise = torch.where(stalled.unsqueeze(1), each, 0.0)
    return Average(collected, state.total, int(count.max()), noise)


class _Piece:
    """A sub-interval for some queries, its gradients and its residuals."""

    def __init__(self, segment: Segment, nodes: int, interval, rows: Tensor, ends) -> None:
        self.whole, self.nodes, self.rows, self.ends = segment, nodes, rows, ends
        self.a, self.b = interval
        self.alive = torch.ones_like(rows, dtype=torch.bool)
        self.segment = segment.only(rows)
        width = self.b - self.a
        points = tuple((self.a + width * t, w * width) for t, w in gauss_legendre(nodes))
        self.points, sides = points, self.segment.gradients(points)
        self.kept: list[tuple[float, Side]] | None = sides
        self.residual = ends[1].double() - ends[0].double() - self.segment.moved(sides)

    @property
    def sides(self) -> list[tuple[float, Side]]:
        return self.segment.gradients(self.points) if self.kept is None else self.kept

    def halved(self, rows: Tensor) -> list["_Piece"]:
        """Two pieces for some of the queries, which this one then no longer serves."""
        chosen = torch.isin(self.rows, rows)
        self.alive &= ~chosen
        left, right = (end[chosen] for end in self.ends)
        middle = (self.a + self.b) / 2
        f = self.whole.only(rows).value(middle)
        return [
            _Piece(self.whole, self.nodes, (self.a, middle), rows, (left, f)),
            _Piece(self.whole, self.nodes, (middle, self.b), rows, (f, right)),
        ]


def _forget(pieces: list[_Piece]) -> None:
    """Let go of the gradients of as many pieces as do not fit in memory, the last ones first."""
    delta = pieces[0].segment.delta.values()
    each = sum(d.numel() * d.element_size() for d in delta) * pieces[0].nodes
    held = 0
    for piece in pieces:
        held += each * len(piece.rows) * piece.residual.shape[1]
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
        largest = torch.full_like(allowed[:, 0], -1.0)
        self.worst = torch.zeros(len(allowed), dtype=torch.int64, device=allowed.device)
        for p in pieces:
            rows = p.rows[p.alive]
            share = (p.residual[p.alive].abs() / allowed[rows] * open_[rows]).amax(1)
            better = share > largest[rows]
            largest[rows[better]] = share[better]
            self.worst[rows[better]] = id(p)


def _added(pieces: list[_Piece], m: int, segment: Segment) -> dict[str, Nodes]:
    """The gradients of all pieces added up for the queries that each of them serves."""
    totals: dict[str, Tensor] = {}
    for p in pieces:
        if not p.alive.any():
            continue
        for weight, side in p.sides:
            for name, factor in side.items():
                rows = dense(factor).rows
                if name not in totals:
                    totals[name] = rows.new_zeros(rows.shape[0], m, rows.shape[2])
                totals[name].index_add_(1, p.rows[p.alive], rows[:, p.alive], alpha=weight)
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
