"""Optimizers that scale each entry by a mean of its squared gradients."""

import math

import torch
from torch import Tensor

from pkbook.basics.parameters import Tree
from pkbook.runs.optimizers.coefficients import Coefficients


def _root(square: Tensor) -> Tensor:
    """The root; where the square is zero its derivative, infinite, is left out.

    An entry whose square is zero has never had a gradient, so that it does not move.
    """
    if square.requires_grad:
        square = torch.where(square > 0, square, square.detach())
    return square.sqrt()


def rmsprop(h: dict, state: Tree, fresh: bool) -> Coefficients:
    square = state["square_avg"]
    if h["centered"]:
        square = square - state["grad_avg"].square()
    scale = 1 / (_root(square) + h["eps"])
    if h["momentum"] > 0:
        return Coefficients(keep=h["momentum"], take=1.0, inner=scale, held=h["lr"])
    return Coefficients(direct=h["lr"], outer=scale)


def adagrad(h: dict, state: Tree, fresh: bool) -> Coefficients:
    rate = h["lr"] / (1 + (float(state["step"]) - 1) * h["lr_decay"])
    return Coefficients(direct=rate, outer=1 / (_root(state["sum"]) + h["eps"]))


def adam(h: dict, state: Tree, fresh: bool) -> Coefficients:
    (b1, b2), step = h["betas"], float(state["step"])
    square = state["max_exp_avg_sq" if h["amsgrad"] else "exp_avg_sq"]
    scale = 1 / (_root(square) / math.sqrt(1 - b2**step) + h["eps"])
    return Coefficients(keep=b1, take=1 - b1, held=h["lr"] / (1 - b1**step), outer=scale)


def nadam(h: dict, state: Tree, fresh: bool) -> Coefficients:
    (b1, b2), step = h["betas"], float(state["step"])
    now, following = (b1 * (1 - 0.5 * 0.96 ** (k * h["momentum_decay"])) for k in (step, step + 1))
    product = float(state["mu_product"])
    return Coefficients(
        keep=b1,
        take=1 - b1,
        held=h["lr"] * following / (1 - product * following),
        direct=h["lr"] * (1 - now) / (1 - product),
        outer=1 / (_root(state["exp_avg_sq"] / (1 - b2**step)) + h["eps"]),
    )


def radam(h: dict, state: Tree, fresh: bool) -> Coefficients:
    (b1, b2), step = h["betas"], float(state["step"])
    held = h["lr"] / (1 - b1**step)
    longest = 2 / (1 - b2) - 1
    length = longest - 2 * step * b2**step / (1 - b2**step)
    if length <= 5:  # too few steps to know the second moment
        return Coefficients(keep=b1, take=1 - b1, held=held)
    rectified = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
    scale = math.sqrt(rectified * (1 - b2**step)) / (_root(state["exp_avg_sq"]) + h["eps"])
    return Coefficients(keep=b1, take=1 - b1, held=held, outer=scale)
