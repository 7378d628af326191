r"""Noise predictors trained side by side by SGD, and what each training row did to each query.

A recorded run taken apart by itself spends most of its time between small products.  Here R runs
are stacked, and the kernel of fully connected layers is written out: a weight's gradient is an
outer product, so layer l adds :math:`(\langle h_q,h_i\rangle+1)\,\langle\delta_q,\delta_i\rangle`,
with the layer's inputs h and the signals :math:`\delta` that come back to it.
`tests/test_experiments_noise_levels.py` compares this with the package.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pkbook.interpolation.quadrature import gauss_legendre

Layers = list[tuple[Tensor, Tensor]]
"""Weights ``[R, out, in]`` and biases ``[R, out]``."""


def stacked(networks: Sequence[nn.Sequential]) -> Layers:
    """R networks of linear layers with tanh between them."""
    layers = zip(*([m for m in net if isinstance(m, nn.Linear)] for net in networks), strict=True)
    return [
        (torch.stack([m.weight for m in row]).detach(), torch.stack([m.bias for m in row]).detach())
        for row in layers
    ]


def forward(layers: Layers, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Outputs ``[R, n, C]``, and the inputs of each layer."""
    met = []
    for number, (weight, bias) in enumerate(layers):
        x = x if number == 0 else x.tanh()
        met.append(x)
        x = torch.baddbmm(bias[:, None], x, weight.mT)
    return x, met


def pull_back(layers: Layers, met: list[Tensor], told: Tensor) -> list[Tensor]:
    """What comes back to each layer's outputs from ``told [R, n, C]`` at the last."""
    signals = [told]
    for (weight, _), h in zip(reversed(layers[1:]), reversed(met[1:]), strict=True):
        signals.append(signals[-1] @ weight * (1 - h.square()))
    return signals[::-1]


def carried(layers: Layers, asked: Tensor, met: list[Tensor], signals: list[Tensor]) -> Tensor:
    """The queries' kernel with each row, times the row's signal, ``[R, n, m, C]``."""
    outputs, own = forward(layers, asked)
    found = []
    for unit in torch.eye(outputs.shape[2], dtype=outputs.dtype):
        back = pull_back(layers, own, unit.expand_as(outputs))
        found.append(
            sum(
                (h @ q.mT + 1) * (s @ b.mT)
                for h, q, s, b in zip(met, own, signals, back, strict=True)
            )
        )
    return torch.stack(found, 3)


@dataclass(frozen=True)
class TakenApart:
    """R runs."""

    contributions: Tensor
    """Of each row to each query, ``[R, N, m, C]``."""
    gap: Tensor
    """Largest relative gap of their sum, ``[R]``."""
    loss: Tensor
    """Mean squared error over rows and outputs, at the end, ``[R]``."""


@torch.no_grad()
def train(
    networks: Sequence[nn.Sequential],
    rows: tuple[Tensor, Tensor],
    chosen: Tensor,
    asked: Tensor,
    *,
    rate: float,
    nodes: int = 2,
) -> TakenApart:
    """SGD on half the squared error.

    ``rows`` are inputs ``[R, N, d]`` and targets ``[R, N, C]``, ``chosen [R, K, B]`` says which of
    them each step takes, without repetition, and ``asked [R, m, d]`` are the queries.
    """
    (x, y), layers = rows, stacked(networks)
    each = torch.arange(len(x))[:, None]
    start = forward(layers, asked)[0]
    total = x.new_zeros(*x.shape[:2], *start.shape[1:])
    for batch in chosen.unbind(1):
        outputs, met = forward(layers, x[each, batch])
        signals = pull_back(layers, met, (outputs - y[each, batch]) * (-rate / batch.shape[1]))
        steps = [(s.mT @ h, s.sum(1)) for s, h in zip(signals, met, strict=True)]
        for t, share in gauss_legendre(nodes):
            at = [(w + t * u, b + t * v) for (w, b), (u, v) in zip(layers, steps, strict=True)]
            total[each, batch] += share * carried(at, asked, met, signals)
        layers = [(w + u, b + v) for (w, b), (u, v) in zip(layers, steps, strict=True)]
    change = forward(layers, asked)[0] - start
    gap = (change - total.sum(1)).norm(dim=2) / change.norm(dim=2)
    loss = (forward(layers, x)[0] - y).square().mean((1, 2))
    return TakenApart(total, gap.amax(1), loss)
