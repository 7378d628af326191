"""A training run as data: optimizer steps as coefficients, recorded, kept, made again."""

from pkbook.runs.optimizers import Coefficients, register, step_weight

__all__ = ["Coefficients", "register", "step_weight"]
