"""Gradient descent, with momentum."""

from dataclasses import replace

from pkbook.basics.parameters import Tree
from pkbook.runs.optimizers.coefficients import Coefficients


def sgd(h: dict, state: Tree, fresh: bool) -> Coefficients:
    rate, momentum = h["lr"], h["momentum"]
    if momentum == 0:
        return Coefficients(direct=rate)
    memory = {"keep": momentum, "take": 1 - h["dampening"]}
    if fresh:  # the first gradient becomes the buffer, undampened
        memory = {"keep": 0.0, "take": 1.0}
    if h["nesterov"]:
        return Coefficients(**memory, held=rate * momentum, direct=rate)
    return Coefficients(**memory, held=rate)


def with_decay(made: Coefficients, h: dict) -> Coefficients:
    """With ``weight_decay`` and ``maximize``, as all of ``torch.optim`` read them."""
    decoupled, decay = h.get("decoupled_weight_decay", False), h["weight_decay"]
    return replace(
        made,
        sign=-1.0 if h["maximize"] else 1.0,
        decay=0.0 if decoupled else decay,
        shrink=h["lr"] * decay if decoupled else 0.0,
    )
