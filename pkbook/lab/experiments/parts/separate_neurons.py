r"""How far a kernel moves when its neurons do not meet: any width at the cost of a few neurons.

In NTK scaling the kernel is a mean over neurons.  Give every neuron the residuals of the limit
kernel, :math:`r_k=(1-\eta K_\infty/N)^kr_0`, in place of those of the network it belongs to.  Then
the neurons are independent, and so is what training adds to the kernel of each, :math:`\Delta_j`.
The mean square of the drift is then known exactly,

.. math:: \mathbb E\Big\|\frac1m\sum_j\Delta_j\Big\|^2
    =\|\mathbb E\Delta\|^2+\frac1m\mathbb E\|\Delta-\mathbb E\Delta\|^2,

and the two expectations are means over a sample of neurons, whatever the width :math:`m` is; the
width enters the training of each neuron through the factor :math:`1/\sqrt m`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import stack_module_state

from pkbook.basics.checks import require_choice, require_whole

SIGNS = ("both", "one")


def drift_of_separate_neurons(
    width: int,
    signs: str,
    problem: tuple[Tensor, Tensor, Tensor],
    *,
    rate: float,
    stops: Sequence[int],
    neurons: int = 500,
    seed: int = 0,
) -> Tensor:
    r"""Root mean square drift :math:`\|K_k-K_0\|/\|K_\infty\|` at each stop, ``[E]``.

    ``problem`` holds inputs ``x [N, 1]``, targets ``y [N]`` and the limit kernel ``[N, N]``;
    ``stops`` are increasing numbers of steps.  With ``signs="both"`` each neuron of the sample has
    its mirror image :math:`a\to-a` beside it, so that what cancels in the mean cancels exactly.
    ValueError for an unknown ``signs``, fewer than two neurons, or no stops.
    """
    require_choice(signs, "signs", SIGNS)
    require_whole(neurons, "neurons", 2)
    if not stops or list(stops) != sorted(set(stops)):
        raise ValueError(f"stops must be increasing numbers of steps, got {list(stops)}")
    x, y, limit = problem
    theta = _draw(neurons, signs, seed)
    first = _kernels(theta, x)
    residual, step, found, done = -y, rate / len(x) / width**0.5, [], 0
    for stop in stops:
        for _ in range(stop - done):
            theta = _step(theta, x[:, 0], residual, step)
            residual = residual - rate * limit @ residual / len(x)
        done = stop
        moved = _kernels(theta, x) - first
        images = moved.unflatten(0, (-1, neurons)).mean(0)  # a neuron and its mirror image
        noise = images.var(0).sum() / neurons  # what chance adds to the square of the mean
        mean = (images.mean(0).square().sum() - noise).clamp_min(0)
        found.append((mean + moved.var(0).sum() / width).sqrt() / limit.norm())
    return torch.stack(found)


def two_layer_kernels(nets: list[nn.Sequential], x: Tensor) -> Tensor:
    r"""Kernels of two-layer tanh networks by :math:`\alpha^2`, all at once, ``[S, N, N]``.

    .. math:: K_{x,x'}=\frac1m\sum_j\big(h_jh_j'+a_j^2\,\dot h_j\dot h_j'\,(xx'+1)\big)
    """
    state, _ = stack_module_state(nets)
    w, b, a = (state[name].detach() for name in ("fc1.weight", "fc1.bias", "fc2.weight"))
    value = torch.tanh(x @ w.mT + b.unsqueeze(1))
    slope = (1 - value.square()) * a
    return (value @ value.mT + slope @ slope.mT * (x @ x.T + 1)) / a.shape[-1]


def _draw(neurons: int, signs: str, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """a, w, b ``[n, 1]`` of a sample, with mirror images behind it where signs are free."""
    generator = torch.Generator().manual_seed(seed)
    a, w, b = torch.randn(3, neurons, 1, generator=generator, dtype=torch.float64)
    if signs == "one":
        return a.abs(), w, b.abs()
    return torch.cat([a, -a]), torch.cat([w, w]), torch.cat([b, b])


def _kernels(theta: tuple[Tensor, Tensor, Tensor], x: Tensor) -> Tensor:
    """What each neuron gives to the kernel times the width, ``[n, N, N]``."""
    a, w, b = theta
    value = torch.tanh(w * x[:, 0] + b)
    slope = (1 - value.square()) * a
    inputs = x @ x.T + 1
    return value[:, :, None] * value[:, None] + slope[:, :, None] * slope[:, None] * inputs


def _step(
    theta: tuple[Tensor, Tensor, Tensor], x: Tensor, residual: Tensor, step: float
) -> tuple[Tensor, Tensor, Tensor]:
    """One step of gradient descent of every neuron, given the residual ``[N]``."""
    a, w, b = theta
    value = torch.tanh(w * x + b)
    back = (1 - value.square()) * a * residual
    pull = (value * residual).sum(1, keepdim=True)
    return (
        a - step * pull,
        w - step * (back * x).sum(1, keepdim=True),
        b - step * back.sum(1, keepdim=True),
    )
