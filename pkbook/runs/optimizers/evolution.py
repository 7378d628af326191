r"""How the squares that an optimizer scales by follow from the gradients, as torch computes them.

A step's coefficients are read off the optimizer's state *after* it.  Whoever wants the step's
derivative by its gradient needs that state as a function of the gradient :math:`G_k`:

=================  =============================================================================
RMSprop            :math:`v_k=\alpha v_{k-1}+(1-\alpha)G_k^2`, centered also its mean of :math:`G`
Adagrad            :math:`v_k=v_{k-1}+G_k^2`
Adam, AdamW,       :math:`v_k=\beta_2v_{k-1}+(1-\beta_2)G_k^2`, with ``amsgrad`` its largest value
NAdam, RAdam
=================  =============================================================================

Source: the update rules in the documentation of ``torch.optim``.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.optim import Optimizer

from pkbook.basics.parameters import Tree
from pkbook.runs.optimizers.coefficients import Coefficients
from pkbook.runs.optimizers.momentum import with_decay
from pkbook.runs.optimizers.rules import rule_of

Evolves = Callable[[dict, Tree, Tensor], Tree]
"""From the hyperparameters, the state before the step and :math:`G_k` to the state after it."""


def _nothing(h: dict, state: Tree, g: Tensor) -> Tree:
    return {}


def _rmsprop(h: dict, state: Tree, g: Tensor) -> Tree:
    zero, alpha = torch.zeros_like(g), h["alpha"]
    found = {"square_avg": alpha * state.get("square_avg", zero) + (1 - alpha) * g.square()}
    if h["centered"]:
        found["grad_avg"] = torch.lerp(state.get("grad_avg", zero), g, 1 - alpha)
    return found


def _adagrad(h: dict, state: Tree, g: Tensor) -> Tree:
    return {"sum": state["sum"] + g.square(), "step": state["step"] + 1}


def _adam(h: dict, state: Tree, g: Tensor) -> Tree:
    zero, beta = torch.zeros_like(g), h["betas"][1]
    square = beta * state.get("exp_avg_sq", zero) + (1 - beta) * g.square()
    found = {"exp_avg_sq": square, "step": state.get("step", torch.zeros(())) + 1}
    if h.get("amsgrad"):
        found["max_exp_avg_sq"] = torch.maximum(state.get("max_exp_avg_sq", zero), square)
    return found


def _nadam(h: dict, state: Tree, g: Tensor) -> Tree:
    found = _adam(h, state, g)
    mu = h["betas"][0] * (1 - 0.5 * 0.96 ** (float(found["step"]) * h["momentum_decay"]))
    return found | {"mu_product": state.get("mu_product", torch.ones(())) * mu}


EVOLUTIONS: dict[type[Optimizer], Evolves] = {
    torch.optim.SGD: _nothing,
    torch.optim.RMSprop: _rmsprop,
    torch.optim.Adagrad: _adagrad,
    torch.optim.Adam: _adam,
    torch.optim.AdamW: _adam,
    torch.optim.NAdam: _nadam,
    torch.optim.RAdam: _adam,
}

SQUARES = ("square_avg", "grad_avg", "sum", "exp_avg_sq", "max_exp_avg_sq")
"""What an optimizer keeps beside its memory that depends on the gradients."""


@dataclass(frozen=True)
class Moved:
    """One parameter after a step, as a differentiable function of what it was before."""

    parameter: Tensor
    memory: Tensor
    state: Tree
    """What else the optimizer keeps of it."""


def moved(
    optimizer: Optimizer,
    settings: dict,
    recorded: Coefficients,
    before: tuple[Tensor, Tensor, Tree],
    gradient: Tensor,
) -> Moved:
    r"""The step of one parameter by its (clipped) gradient :math:`r_kg_k`.

    ``before``: parameter, memory :math:`m_{k-1}` and the rest of the optimizer's state.
    ``recorded`` are the step's coefficients: for an optimizer with a rule of the reader's they
    must be numbers.  Everything is entry by entry, so leading dimensions may number several runs.
    """
    theta, memory, state = before
    fresh = recorded.keep == 0.0 and recorded.take == 1.0
    evolves = EVOLUTIONS.get(type(optimizer))
    if evolves is None:
        _require_constant(optimizer, recorded)
        return _made(replace(recorded, clip=1.0), theta, memory, {}, gradient)
    base = with_decay(Coefficients(), settings)
    after = evolves(settings, state, base.entering(gradient, theta))
    made = rule_of(optimizer).read(settings, after, fresh)
    return _made(made, theta, memory, after, gradient)


def _made(c: Coefficients, theta: Tensor, memory: Tensor, after: Tree, g: Tensor) -> Moved:
    entering = c.entering(g, theta)
    memory = c.remembered(memory, entering)
    return Moved(theta + c.move(memory, entering, theta), memory, after)


def _require_constant(optimizer: Optimizer, c: Coefficients) -> None:
    """An own rule whose scales are tensors: nobody knows what they depend on."""
    if isinstance(c.inner, Tensor) or isinstance(c.outer, Tensor):
        raise TypeError(
            f"the scales of {type(optimizer).__name__}, an optimizer of your own, are tensors, and "
            "how they follow from the gradients is not known; influence needs an optimizer of "
            "torch.optim, or a rule whose scales are numbers"
        )
