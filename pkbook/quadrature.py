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

from pkbook.contract import project
from pkbook.factors import Dense, Outer, dense
from pkbook.memory import Nodes, written
from pkbook.sides import Plan, Side
from pkbook.tangent import Tree, evaluate, query_side

KEPT = 4  # gradients of a step kept as factors; more of them are summed as soon as they are known


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

    x: Tensor
    chosen: Tensor | None
    plan: Plan | None

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

    def moved(self, sides: list[tuple[float, Side]]) -> Tensor:
        """The weighted gradients along the whole step, ``[m, C]``."""
        total: float | Tensor = 0.0
        for w, side in sides:
            for name, factor in side.items():
                total = total + w * project(factor, self.delta[name].unsqueeze(0))[0].double()
        return total


def _compact(side: Side) -> Side:
    """Gradients with many positions written out once: each would be for every use."""
    return {
        name: dense(factor) if isinstance(factor, Outer) and factor.positions > 1 else factor
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
    r"""Gauss-Legendre rules on sub-intervals, as many as the residual asks for.

    Halves the sub-interval with the largest residual until, for every query and output, both the
    sum of the residuals :math:`r_p` and their root sum of squares are at most ``allowed``
    ``[m, C]``, or there are ``most`` pieces.  (The sum alone could be small by luck; at kinks the
    signs are those of a coin, so the sum of absolute values would ask for far too much.)  What
    remains is returned.
    """
    rounding = 8 * torch.finfo(ends[0].dtype).eps * ends[0].abs().double()
    allowed = torch.maximum(allowed, rounding)
    pieces = [_Piece(segment, nodes, 0.0, 1.0, *ends)]
    while len(pieces) < most:
        residuals = torch.stack([p.residual for p in pieces])
        over = torch.maximum(residuals.sum(0).abs(), residuals.norm(dim=0)) > allowed
        if not over.any():
            break
        worst = int((residuals.abs() / allowed)[:, over].amax(1).argmax())
        whole = pieces.pop(worst)
        for kept in pieces[: max(0, len(pieces) - KEPT)]:
            kept.sides = None
        middle = (whole.a + whole.b) / 2
        f = segment.value(middle)
        pieces.append(_Piece(segment, nodes, whole.a, middle, whole.fa, f))
        pieces.append(_Piece(segment, nodes, middle, whole.b, f, whole.fb))
    residual = sum(p.residual for p in pieces)
    return Average(_collected((p.again() for p in pieces), segment), residual, len(pieces))


class _Piece:
    """A sub-interval, its gradients (forgotten when many are held) and its residual."""

    def __init__(self, segment: Segment, nodes: int, a: float, b: float, fa, fb) -> None:
        self.a, self.b, self.fa, self.fb = a, b, fa, fb
        self.segment = segment
        self.points = tuple((a + (b - a) * t, w * (b - a)) for t, w in gauss_legendre(nodes))
        self.sides = segment.gradients(self.points)
        self.residual = fb.double() - fa.double() - segment.moved(self.sides)

    def again(self) -> list[tuple[float, Side]]:
        return self.segment.gradients(self.points) if self.sides is None else self.sides


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
