r"""How much the gradient of step :math:`s` counts in step :math:`t`, for five optimizers.

A step of an optimizer that moves linearly is
:math:`\Delta_t=-\sum_{s\le t}W(t,s)\,g_s-\eta\lambda\theta_t`, with
:math:`W(t,s)=w_{t,s}D_t` (the chapter *Bring your own network*).  The plane of :math:`t` and
:math:`s` is its memory in time; what the push of step :math:`s` has become by step :math:`t` is the
sum of its row so far, shrunk by weight decay.
"""

import torch
from matplotlib.figure import Figure
from torch import Tensor

from pkbook.lab.live import Live
from pkbook.lab.plots import PALETTE, PLUS, SEQUENTIAL, figure, style

STEPS, SHOWN, BETA, DECAY, RATE = 40, 8, 0.9, 0.5, 0.1
LARGE, TIMES = 12, 6
NAMES = {
    "sgd": "SGD",
    "momentum": f"Momentum {BETA:g}",
    "rmsprop": f"RMSprop with β = {BETA:g}",
    "adam": f"Adam with both β = {BETA:g}",
    "adamw": f"AdamW with both β = {BETA:g} and weight decay {DECAY:g}",
}


def memory(**settings: object) -> Live:
    """The plane of times, live; ``settings`` are initial values of its controls.

    ``optimizer`` ("sgd", "momentum", "rmsprop", "adam", "adamw"), ``gradients`` ("one", "alike",
    "fading", "noisy"), ``beta1``, ``beta2``, ``decay`` (weight decay, of AdamW), ``t`` (the step
    whose make-up is shown).  The still picture is that optimizer's, with the usual betas.
    """
    optimizer = str(settings.get("optimizer", "momentum"))
    gradients = str(settings.get("gradients", "one"))
    if optimizer not in NAMES:
        raise ValueError(f"optimizer: expected one of {list(NAMES)}, got {optimizer!r}")
    plane, pushes = _plane(optimizer, _series(gradients))
    words = f"{NAMES[optimizer]}. {_words(plane, pushes)}"
    return Live("memory", alt=words, still=lambda: _draw(plane), settings=settings)


def _series(gradients: str) -> Tensor:
    """The gradients of the steps ``[K]``: as in the page, but for noisy ones, here all alike."""
    g = torch.ones(STEPS, dtype=torch.float64)
    if gradients == "fading":
        return BETA ** torch.arange(STEPS, dtype=torch.float64)
    if gradients == "one":
        g[LARGE] = TIMES
    return g


def _optimizer(name: str, theta: Tensor) -> torch.optim.Optimizer:
    if name in ("sgd", "momentum"):
        return torch.optim.SGD([theta], lr=RATE, momentum=BETA if name == "momentum" else 0.0)
    if name == "rmsprop":
        return torch.optim.RMSprop([theta], lr=RATE, alpha=BETA)
    if name == "adam":
        return torch.optim.Adam([theta], lr=RATE, betas=(BETA, BETA))
    return torch.optim.AdamW([theta], lr=RATE, betas=(BETA, BETA), weight_decay=DECAY)


def _plane(name: str, g: Tensor) -> tuple[Tensor, Tensor]:
    r""":math:`W(t,s)` and what the pushes have become, in learning rates, ``[K, K]`` each.

    A gradient with its sign turned leaves every square alone, so it shows its own weight: entry
    ``s`` of a parameter meets :math:`g_s` turned, the last entry none.
    """
    turned = torch.cat([1 - 2 * torch.eye(STEPS, dtype=g.dtype), g.new_ones(STEPS, 1)], 1)
    theta = torch.zeros(STEPS + 1, dtype=g.dtype, requires_grad=True)
    optimizer, places = _optimizer(name, theta), []
    for t in range(STEPS):
        theta.grad = g[t] * turned[t]
        optimizer.step()
        places.append(theta.detach().clone())
    found = torch.stack(places)
    pushes = (found[:, :-1] - found[:, -1:]) / (2 * g * RATE)
    weights = pushes.clone()
    weights[1:] -= (1 - RATE * DECAY if name == "adamw" else 1.0) * pushes[:-1]
    return weights.tril(), pushes.tril()


@style()
def _draw(plane: Tensor) -> Figure:
    fig, (whole, row) = figure(2, 1, width=4.5, height=5.4, sharex=True, height_ratios=(2, 1))
    whole.imshow(plane.T.numpy(), origin="lower", cmap=SEQUENTIAL, aspect="auto")
    whole.axhline(SHOWN, color=PALETTE[1], linewidth=0.9, linestyle=":")
    whole.set(ylabel="gradient of step $s$", title="how much it counts in step $t$")
    row.bar(range(STEPS), plane[:, SHOWN].numpy(), color=PLUS)
    row.set(xlabel="step $t$", ylabel=f"row $s={SHOWN}$")
    return fig


def _words(plane: Tensor, pushes: Tensor) -> str:
    return (
        f"The gradient of step {SHOWN} counts {plane[SHOWN, SHOWN]:.2f} "
        f"learning rates in its own step and {plane[SHOWN + 10, SHOWN]:.2f} ten steps later; by "
        f"step {STEPS - 1} it has pushed by {pushes[-1, SHOWN]:.2f}. No step knows "
        "later gradients: above the diagonal stands nothing."
    )
