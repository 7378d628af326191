r"""Two-layer ReLU networks of one input whose input weights are one, many at once.

:math:`f(x)=\sum_ja_j\,\mathrm{relu}(x+b_j)`.  Unit j switches on at its *threshold*
:math:`t_j=-b_j`, so that its bias is a place on the line.  What E8 needs is written out here in
closed form; the tests compare it with ``torch.optim``, autograd and the package.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from pkbook.basics.checks import require_choice
from pkbook.problems import models

TRAINED = ("biases", "both")


def outputs(thresholds: Tensor, weights: Tensor, x: Tensor) -> Tensor:
    r""":math:`\sum_ja_j\,\mathrm{relu}(x-t_j)` of networks ``[..., H]``, ``[..., n]``.

    >>> outputs(torch.tensor([0.0, 2.0]), torch.tensor([1.0, -1.0]), torch.tensor([-1.0, 1.0, 3.0]))
    tensor([0., 1., 2.])
    """
    lifted = (x - thresholds.unsqueeze(-1)).clamp_min(0)
    return (weights.unsqueeze(-1) * lifted).sum(-2)


def features(thresholds: Tensor, weights: Tensor, x: Tensor, trained: str = "biases") -> Tensor:
    """Tangent features ``[..., n, P]``: derivatives by the biases, then by the output weights.

    >>> features(torch.tensor([0.0, 2.0]), torch.tensor([1.0, -1.0]), torch.tensor([1.0]), "both")
    tensor([[1., -0., 1., 0.]])
    """
    require_choice(trained, "trained", TRAINED)
    lifted = (x[:, None] - thresholds.unsqueeze(-2)).clamp_min(0)
    biases = lifted.sign() * weights.unsqueeze(-2)
    return biases if trained == "biases" else torch.cat([biases, lifted], -1)


def descend(
    thresholds: Tensor,
    weights: Tensor,
    x: Tensor,
    y: Tensor,
    *,
    rate: float,
    steps: int,
    trained: str = "biases",
) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
    """Full-batch gradient descent on the squared loss, of networks ``[..., H]`` at once.

    ``x`` is ``[n]``, ``y`` ``[..., n]``.  Yields, before each step and after the last, its number,
    thresholds, weights, and the largest entry of each unit's gradient, without sign ``[..., H]``.
    """
    require_choice(trained, "trained", TRAINED)
    for k in range(steps + 1):
        lifted = (x - thresholds.unsqueeze(-1)).clamp_min(0)
        miss = ((weights.unsqueeze(-1) * lifted).sum(-2) - y).unsqueeze(-2) / len(x)
        of_bias = weights * (lifted.sign() * miss).sum(-1)
        of_weight = torch.zeros_like(weights)
        if trained == "both":
            of_weight = (lifted * miss).sum(-1)
        yield k, thresholds, weights, torch.maximum(of_bias.abs(), of_weight.abs())
        thresholds = thresholds + rate * of_bias  # the threshold is minus the bias
        weights = weights - rate * of_weight


def ranks(found: Tensor, n: int, tolerance: float) -> Tensor:
    """Ranks of features ``[..., n + m, P]``: of the first n inputs and of all, ``[..., 2]``.

    As :func:`pkbook.diagnostics.rank_gap` counts, for many networks at once: singular values above
    ``tolerance`` times the largest of the mixture.
    """
    mixture = torch.linalg.svdvals(found)
    training = torch.linalg.svdvals(found[..., :n, :])
    bound = tolerance * mixture[..., :1]
    return torch.stack([(s > bound).sum(-1) for s in (training, mixture)], -1)


def loss(f: Tensor, y: Tensor) -> Tensor:
    """The mean squared loss, ``[...]`` for ``[..., n]``."""
    return (f - y).square().mean(-1) / 2


def network(thresholds: Tensor, weights: Tensor, trained: str = "biases") -> nn.Sequential:
    """One network, ``[H]`` and ``[H]``, as a module; what is not trained takes no gradient."""
    require_choice(trained, "trained", TRAINED)
    net = models.mlp(1, len(thresholds), 1, seed=0).double()
    for p in net.parameters():
        p.requires_grad_(False)
    slopes, biases, outer, shift = net.parameters()
    slopes.fill_(1.0)
    biases.copy_(-thresholds)
    outer.copy_(weights[None])
    shift.zero_()
    biases.requires_grad_()
    outer.requires_grad_(trained == "both")
    return net
