r"""What a ``torch.optim`` optimizer did in one step, as a linear function of the gradients.

Every optimizer treated here moves each parameter by

.. math::
   \theta_{k+1}-\theta_k &= -D_k\,(h_k m_k+d_k G_k)-s_k\theta_k ,\\
   m_k &= \beta_k m_{k-1}+\tau_k E_k G_k ,\qquad G_k=\pm r_k g_k+\lambda_k\theta_k ,

with the batch gradient :math:`g_k`, a clipping factor :math:`r_k`, one memory :math:`m`, and
diagonal scales :math:`D_k,E_k` that hold the step size, the bias corrections and the second
moments.  Given those numbers, which :func:`coefficients` reads off the optimizer after its step,
the step is linear in the gradients of the samples.  Sources: the update rules in the documentation
of ``torch.optim``; arXiv 2603.13872, eq. (6), (16), (20) and (24).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.optim import NAdam, Optimizer, RAdam, RMSprop

from pkbook.basics.parameters import Tree

Number = float | Tensor
"""One number for a whole parameter, or one for each of its entries."""


@dataclass(frozen=True)
class Coefficients:
    """One step of one parameter, as in the formula at the top of this module."""

    keep: float = 1.0
    r""":math:`\beta_k`, what the memory keeps of itself (1: this step leaves it alone)."""
    take: float = 0.0
    r""":math:`\tau_k`, what it takes of the new gradient."""
    inner: Number = 1.0
    """:math:`E_k`, the scale of a gradient that enters the memory."""
    held: float = 0.0
    """:math:`h_k`, how much of the memory the step uses."""
    direct: float = 0.0
    """:math:`d_k`, how much of the gradient the step uses directly."""
    outer: Number = 1.0
    """:math:`D_k`, the scale of the step."""
    shrink: float = 0.0
    """:math:`s_k`, weight decay that does not pass through the gradient."""
    decay: float = 0.0
    r""":math:`\lambda_k`, weight decay added to the gradient."""
    sign: float = 1.0
    """-1 under ``maximize``."""
    clip: Number = 1.0
    """:math:`r_k`, clipped over unclipped gradient."""


@dataclass(frozen=True)
class StepState:
    """What taking a run apart needs to know about one of its steps, by parameter name."""

    parameters: Tree
    """The parameters before the step."""
    buffers: Tree = field(default_factory=dict)
    """The model's buffers before the step (running statistics)."""
    coefficients: dict[str, Coefficients] = field(default_factory=dict)
    """Parameters without a gradient are missing: the optimizer left them alone."""
    rates: dict[str, float] = field(default_factory=dict)
    """The learning rates in force."""


def _sgd(h: dict, state: Tree, fresh: bool) -> Coefficients:
    rate, momentum = h["lr"], h["momentum"]
    if momentum == 0:
        return Coefficients(direct=rate)
    memory = {"keep": momentum, "take": 1 - h["dampening"]}
    if fresh:  # the first gradient becomes the buffer, undampened
        memory = {"keep": 0.0, "take": 1.0}
    if h["nesterov"]:
        return Coefficients(**memory, held=rate * momentum, direct=rate)
    return Coefficients(**memory, held=rate)


def _rmsprop(h: dict, state: Tree, fresh: bool) -> Coefficients:
    square = state["square_avg"]
    if h["centered"]:
        square = square - state["grad_avg"].square()
    scale = 1 / (square.sqrt() + h["eps"])
    if h["momentum"] > 0:
        return Coefficients(keep=h["momentum"], take=1.0, inner=scale, held=h["lr"])
    return Coefficients(direct=h["lr"], outer=scale)


def _adagrad(h: dict, state: Tree, fresh: bool) -> Coefficients:
    rate = h["lr"] / (1 + (float(state["step"]) - 1) * h["lr_decay"])
    return Coefficients(direct=rate, outer=1 / (state["sum"].sqrt() + h["eps"]))


def _adam(h: dict, state: Tree, fresh: bool) -> Coefficients:
    (b1, b2), step = h["betas"], float(state["step"])
    square = state["max_exp_avg_sq" if h["amsgrad"] else "exp_avg_sq"]
    scale = 1 / (square.sqrt() / math.sqrt(1 - b2**step) + h["eps"])
    return Coefficients(keep=b1, take=1 - b1, held=h["lr"] / (1 - b1**step), outer=scale)


def _nadam(h: dict, state: Tree, fresh: bool) -> Coefficients:
    (b1, b2), step = h["betas"], float(state["step"])
    now, following = (b1 * (1 - 0.5 * 0.96 ** (k * h["momentum_decay"])) for k in (step, step + 1))
    product = float(state["mu_product"])
    return Coefficients(
        keep=b1,
        take=1 - b1,
        held=h["lr"] * following / (1 - product * following),
        direct=h["lr"] * (1 - now) / (1 - product),
        outer=1 / ((state["exp_avg_sq"] / (1 - b2**step)).sqrt() + h["eps"]),
    )


def _radam(h: dict, state: Tree, fresh: bool) -> Coefficients:
    (b1, b2), step = h["betas"], float(state["step"])
    held = h["lr"] / (1 - b1**step)
    longest = 2 / (1 - b2) - 1
    length = longest - 2 * step * b2**step / (1 - b2**step)
    if length <= 5:  # too few steps to know the second moment
        return Coefficients(keep=b1, take=1 - b1, held=held)
    rectified = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
    scale = math.sqrt(rectified * (1 - b2**step)) / (state["exp_avg_sq"].sqrt() + h["eps"])
    return Coefficients(keep=b1, take=1 - b1, held=held, outer=scale)


_RULES: dict[type, Callable[[dict, Tree, bool], Coefficients]] = {
    torch.optim.SGD: _sgd,
    RMSprop: _rmsprop,
    torch.optim.Adagrad: _adagrad,
    torch.optim.Adam: _adam,
    torch.optim.AdamW: _adam,
    NAdam: _nadam,
    RAdam: _radam,
}
_MEMORY = {torch.optim.SGD: "momentum_buffer", RMSprop: "momentum_buffer"}
_IMPLEMENTATION = {"foreach", "fused", "capturable", "differentiable"}  # not what is computed

_REASONS = {
    "LBFGS": "its direction divides by differences of gradients, and it evaluates the loss again",
    "Lion": "it moves by the sign of a mean of gradients",
    "Rprop": "it moves by the sign of the gradient",
    "Muon": "it makes the matrix of momenta orthogonal before it moves",
    "Adafactor": "it bounds its step by the root mean square of the step itself",
}


def coefficients(
    optimizer: Optimizer, settings: dict, state: Tree, fresh: bool, clip: Number = 1.0
) -> Coefficients:
    """The coefficients of a step just made, from the state that the optimizer has after it.

    ``fresh``: the parameter had no memory before the step.
    """
    made = _RULES[type(optimizer)](settings, state, fresh)
    decoupled = settings.get("decoupled_weight_decay", False)
    decay = settings["weight_decay"]
    return replace(
        made,
        clip=clip,
        sign=-1.0 if settings["maximize"] else 1.0,
        decay=0.0 if decoupled else decay,
        shrink=settings["lr"] * decay if decoupled else 0.0,
    )


def memory_key(optimizer: Optimizer) -> str:
    """The name of the memory :math:`m` in the optimizer's state."""
    return _MEMORY.get(type(optimizer), "exp_avg")


def require_linear(optimizer: object) -> Optimizer:
    """Refuse, with the reason, an optimizer whose steps are not known to be linear.

    >>> require_linear(torch.optim.LBFGS([torch.zeros(1, requires_grad=True)]))
    Traceback (most recent call last):
        ...
    TypeError: optimizer LBFGS cannot be taken apart: its direction divides by differences of ...
    """
    if not isinstance(optimizer, Optimizer):
        raise TypeError(
            f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}; "
            "write torch.optim.SGD(model.parameters(), lr=...)"
        )
    if type(optimizer) not in _RULES:
        kind = type(optimizer).__name__
        reason = _REASONS.get(kind, "how its step depends on the gradients is not known here")
        known = ", ".join(rule.__name__ for rule in _RULES)
        raise TypeError(
            f"optimizer {kind} cannot be taken apart: {reason}, so its step is not a sum over "
            f"samples; use one of torch.optim's {known}"
        )
    for group in optimizer.param_groups:
        if group.get("differentiable"):
            raise ValueError(
                "optimizer has differentiable=True, which keeps its whole history; leave it out"
            )
    return optimizer


def settings_of(optimizer: Optimizer) -> list[dict]:
    """The hyperparameters of each parameter group as plain numbers."""
    names = [name for name in optimizer.defaults if name not in _IMPLEMENTATION]
    return [{name: _plain(group[name], name) for name in names} for group in optimizer.param_groups]


def apply_settings(optimizer: Optimizer, settings: list[dict]) -> None:
    """Put recorded hyperparameters in force; those that are tensors keep being tensors."""
    for group, values in zip(optimizer.param_groups, settings, strict=True):
        for name, value in values.items():
            if isinstance(group[name], Tensor):
                group[name].fill_(value)
            else:
                group[name] = tuple(value) if isinstance(value, list) else value


def _plain(value: object, name: str) -> float | bool | list:
    if isinstance(value, list | tuple):
        return [_plain(v, name) for v in value]
    if isinstance(value, Tensor):
        if value.numel() != 1:
            raise TypeError(f"optimizer option {name} must be a number, got {tuple(value.shape)}")
        return value.item()
    return value
