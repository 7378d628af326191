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

STEPS, SHOWN, BETA = 40, 8, 0.9


def memory(**settings: object) -> Live:
    """The plane of times, live; ``settings`` are initial values of its controls.

    ``optimizer`` ("sgd", "momentum", "rmsprop", "adam", "adamw"), ``gradients`` ("one", "alike",
    "fading", "noisy"), ``beta1``, ``beta2``, ``decay`` (weight decay, of AdamW), ``t`` (the step
    whose make-up is shown).  The still picture is momentum's.
    """
    plane = _plane(BETA)
    return Live("memory", alt=_words(plane), still=lambda: _draw(plane), settings=settings)


def _plane(beta: float) -> Tensor:
    r""":math:`W(t,s)=\beta^{t-s}` of SGD with momentum, in learning rates, ``[K, K]``."""
    age = torch.arange(STEPS)[:, None] - torch.arange(STEPS)
    return torch.where(age >= 0, beta ** age.clamp_min(0).double(), 0.0)


@style()
def _draw(plane: Tensor) -> Figure:
    fig, (whole, row) = figure(2, 1, width=4.5, height=5.4, sharex=True, height_ratios=(2, 1))
    whole.imshow(plane.T.numpy(), origin="lower", cmap=SEQUENTIAL, aspect="auto")
    whole.axhline(SHOWN, color=PALETTE[1], linewidth=0.9, linestyle=":")
    whole.set(ylabel="gradient of step $s$", title="how much it counts in step $t$")
    row.bar(range(STEPS), plane[:, SHOWN].numpy(), color=PLUS)
    row.set(xlabel="step $t$", ylabel=f"row $s={SHOWN}$")
    return fig


def _words(plane: Tensor) -> str:
    push = plane[:, SHOWN].cumsum(0)
    return (
        f"Momentum {BETA:g}. The gradient of step {SHOWN} counts {plane[SHOWN, SHOWN]:.2f} "
        f"learning rates in its own step and {plane[SHOWN + 10, SHOWN]:.2f} ten steps later; by "
        f"step {STEPS - 1} it has pushed by {push[-1]:.2f}. No step knows "
        "later gradients: above the diagonal stands nothing."
    )
