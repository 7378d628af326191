r"""The query's gradient averaged over one step of training.

For a step from :math:`\theta` to :math:`\theta+\Delta`,

.. math:: \bar\varphi(x)=\int_0^1\nabla f(x,\theta+\tau\Delta)\,d\tau,\qquad
          f(x,\theta+\Delta)-f(x,\theta)=\langle\bar\varphi(x),\Delta\rangle .

A Gauss-Legendre rule computes the integral; the identity on the right gives, for the price of two
forward passes, the exact error of that rule.  Where the network has kinks (ReLU, max pooling) the
integrand jumps, and the interval is halved until the error is small enough.
"""

from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from pkbook.tangent import Tree, evaluate, features, inner


@cache
def gauss_legendre(nodes: int) -> tuple[tuple[float, float], ...]:
    """Nodes and weights on [0, 1].

    >>> gauss_legendre(1)
    ((0.5, 1.0),)
    """
    t, w = np.polynomial.legendre.leggauss(nodes)
    return tuple((float((1 + a) / 2), float(b / 2)) for a, b in zip(t, w, strict=True))


def _between(start: Tree, delta: Tree, tau: float) -> Tree:
    return {name: p + tau * delta[name] for name, p in start.items()}


class _Segment:
    """One step: its straight line in parameter space and the query on it."""

    def __init__(self, model: nn.Module, x: Tensor, start: Tree, end: Tree, chosen) -> None:
        self.model, self.x, self.chosen = model, x, chosen
        self.start, self.end = start, end
        self.delta = {name: end[name] - p for name, p in start.items()}

    def value(self, tau: float) -> Tensor:
        at = self.end if tau == 1.0 else _between(self.start, self.delta, tau)
        return evaluate(self.model, self.x, at, self.chosen)

    def integral(self, a: float, b: float, nodes: int) -> Tree:
        """Gauss rule for the integral of the gradient from a to b."""
        total: Tree = {}
        for t, w in gauss_legendre(nodes):
            at = _between(self.start, self.delta, a + (b - a) * t)
            for name, g in features(self.model, self.x, at, self.chosen).items():
                g = g * (w * (b - a))
                total[name] = g if name not in total else total[name] + g
        return total


def left_features(
    model: nn.Module, x: Tensor, start: Tree, end: Tree, chosen: Tensor | None
) -> tuple[Tree, Tensor]:
    """The gradient at the left end (Riemann rule) and what it leaves out, ``[m, C]``."""
    segment = _Segment(model, x, start, end, chosen)
    phi = features(model, x, start, chosen)
    change = segment.value(1.0).double() - segment.value(0.0).double()
    return phi, change - inner(phi, segment.delta).double()


def average_features(
    model: nn.Module,
    x: Tensor,
    start: Tree,
    end: Tree,
    chosen: Tensor | None,
    nodes: int,
    allowed: Tensor | None,
    most_pieces: int,
) -> tuple[Tree, Tensor, int]:
    r"""The averaged gradient ``{name: [m, C, *shape]}``, its residual ``[m, C]``, and the pieces.

    Halves the sub-interval with the largest residual until, for every query and output, both the
    sum of the residuals :math:`r_p` and their root sum of squares are at most ``allowed``
    ``[m, C]``, or ``most_pieces`` is reached.  (The sum alone could be small by luck; at kinks the
    signs are those of a coin, so the sum of absolute values would ask for far too much.)  What
    remains is returned.
    """
    segment = _Segment(model, x, start, end, chosen)

    def piece(a: float, b: float, fa: Tensor, fb: Tensor) -> tuple:
        phi = segment.integral(a, b, nodes)
        return a, b, fa, fb, phi, fb.double() - fa.double() - inner(phi, segment.delta).double()

    pieces = [piece(0.0, 1.0, segment.value(0.0), segment.value(1.0))]
    if allowed is not None:
        rounding = 8 * torch.finfo(pieces[0][2].dtype).eps * pieces[0][2].abs().double()
        allowed = torch.maximum(allowed, rounding)
    while allowed is not None and len(pieces) < most_pieces:
        residuals = torch.stack([p[5] for p in pieces])
        over = torch.maximum(residuals.sum(0).abs(), residuals.norm(dim=0)) > allowed
        if not over.any():
            break
        worst = int((residuals.abs() / allowed)[:, over].amax(1).argmax())
        a, b, fa, fb = pieces.pop(worst)[:4]
        middle = (a + b) / 2
        f = segment.value(middle)
        pieces += [piece(a, middle, fa, f), piece(middle, b, f, fb)]
    average = pieces[0][4]
    for p in pieces[1:]:
        average = {name: g + p[4][name] for name, g in average.items()}
    return average, sum(p[5] for p in pieces), len(pieces)
