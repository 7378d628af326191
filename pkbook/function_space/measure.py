r"""A distribution :math:`\mu` of inputs as nodes and weights."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pkbook.basics.checks import (
    is_finite_number,
    require_choice,
    require_finite,
    require_tensor,
    require_whole,
)

RULES = ("gauss", "midpoint")


@dataclass(frozen=True)
class Measure:
    r""":math:`\int g\,d\mu\approx\sum_jw_jg(x_j)`, with :math:`w_j>0` and :math:`\sum_jw_j=1`.

    ``nodes`` is ``[n, ...]``, ``weights`` is ``[n]``.

    Raises ``TypeError`` or ``ValueError`` for weights that are missing, not positive, not finite
    or do not sum to one.

    >>> two = Measure(torch.tensor([[0.0], [1.0]]), torch.tensor([0.25, 0.75]))
    >>> two.mean(torch.tensor([0.0, 4.0]))
    tensor(3., dtype=torch.float64)
    """

    nodes: Tensor
    weights: Tensor

    def __post_init__(self) -> None:
        require_finite(require_tensor(self.nodes, "nodes"), "nodes")
        object.__setattr__(self, "weights", as_weights(self.weights, len(self.nodes)))

    def mean(self, g: Tensor) -> Tensor:
        r""":math:`\int g\,d\mu` for ``g [..., n]``, float64."""
        return g.double() @ self.weights

    def __len__(self) -> int:
        return len(self.nodes)


def as_weights(weights: object, n: int) -> Tensor:
    """Weights ``[n]`` as float64, each positive, together one."""
    weights = require_finite(require_tensor(weights, "weights"), "weights").detach().double()
    if weights.shape != (n,):
        raise ValueError(f"weights must be [{n}], one a node, got {list(weights.shape)}")
    if (weights <= 0).any():
        place = int((weights <= 0).nonzero()[0])
        raise ValueError(
            f"weights must be positive, got {weights[place].item():.6g} at [{place}]; "
            "leave nodes without weight out"
        )
    if abs(weights.sum().item() - 1) > 1e-5:
        raise ValueError(
            f"weights must sum to one, as a distribution does, got {weights.sum().item():.6g}; "
            "write weights / weights.sum()"
        )
    return weights / weights.sum()


def uniform(nodes: Tensor) -> Measure:
    r"""Equal weight :math:`1/n` for each of the points ``nodes [n, ...]``.

    >>> uniform(torch.zeros(4, 1)).weights
    tensor([0.2500, 0.2500, 0.2500, 0.2500], dtype=torch.float64)
    """
    nodes = require_tensor(nodes, "nodes")
    if nodes.ndim < 1 or not len(nodes):
        raise ValueError(f"nodes must hold at least one point, got {list(nodes.shape)}")
    return Measure(nodes, torch.full((len(nodes),), 1 / len(nodes), dtype=torch.float64))


def interval(
    low: float,
    high: float,
    n: int,
    *,
    rule: str = "gauss",
    dtype: torch.dtype = torch.float32,
) -> Measure:
    """The uniform distribution on ``[low, high]`` as ``n`` nodes ``[n, 1]``.

    ``rule`` is ``"gauss"`` (Gauss-Legendre, exact for polynomials up to degree ``2n - 1``) or
    ``"midpoint"`` (equal steps, better across kinks).

    >>> m = interval(0.0, 2.0, 3, dtype=torch.float64)
    >>> m.mean(m.nodes[:, 0] ** 4)              # half the integral of x^4 from 0 to 2
    tensor(3.2000, dtype=torch.float64)
    """
    if not (is_finite_number(low) and is_finite_number(high)) or low >= high:
        raise ValueError(f"low and high must be numbers with low < high, got {low!r} and {high!r}")
    require_whole(n, "n")
    if require_choice(rule, "rule", RULES) == "gauss":
        places, weights = np.polynomial.legendre.leggauss(n)
    else:
        places, weights = (2 * np.arange(n) + 1) / n - 1, np.full(n, 2 / n)
    nodes = low + (high - low) * (torch.from_numpy(places) + 1) / 2
    return Measure(nodes.unsqueeze(1).to(dtype), torch.from_numpy(weights) / 2)


def product(*measures: Measure) -> Measure:
    """Independent coordinates: all combinations of the nodes, weights multiplied.

    >>> edge = interval(0.0, 1.0, 2)
    >>> product(edge, edge).nodes.shape
    torch.Size([4, 2])
    """
    if not measures:
        raise ValueError("product needs at least one measure")
    nodes, weights = measures[0].nodes, measures[0].weights
    for other in measures[1:]:
        left = nodes.repeat_interleave(len(other), 0)
        nodes = torch.cat([left, other.nodes.repeat(len(nodes), 1)], 1)
        weights = torch.outer(weights, other.weights).flatten()
    return Measure(nodes, weights)
