"""Optimizer steps as linear functions of the gradients: the numbers, and who knows them."""

from pkbook.runs.optimizers.coefficients import Coefficients, Number, StepState
from pkbook.runs.optimizers.evolution import Moved, moved
from pkbook.runs.optimizers.rules import (
    coefficients,
    memory_key,
    register,
    require_linear,
    rule_of,
)
from pkbook.runs.optimizers.settings import apply_settings, settings_of
from pkbook.runs.optimizers.weight import step_weight, weight_of

__all__ = [
    "Coefficients",
    "Moved",
    "Number",
    "StepState",
    "apply_settings",
    "coefficients",
    "memory_key",
    "moved",
    "register",
    "require_linear",
    "rule_of",
    "settings_of",
    "step_weight",
    "weight_of",
]
