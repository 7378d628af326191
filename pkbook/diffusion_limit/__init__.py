r"""Optimizers and the diffusions that approximate them weakly.

Section 3 and Appendix B of arXiv 2603.13872: SGD, momentum, RMSprop and Adam as stochastic
differential equations, simulated for thousands of paths at once next to the optimizers themselves.
"""

from pkbook.diffusion_limit.closed_form import (
    Moments,
    diffusion_moments,
    discrete_moments,
    linear_problem,
)
from pkbook.diffusion_limit.limits import SGD, Adam, Limit, Momentum, RMSprop
from pkbook.diffusion_limit.noise import covariance_factor
from pkbook.diffusion_limit.paths import DivergenceError, Paths
from pkbook.diffusion_limit.second_order import SecondOrderSGD
from pkbook.diffusion_limit.simulate import diffusion, discrete
from pkbook.diffusion_limit.task import Task
from pkbook.diffusion_limit.weak import Slope, WeakError, fit_slope, weak_error

__all__ = [
    "SGD",
    "Adam",
    "DivergenceError",
    "Limit",
    "Moments",
    "Momentum",
    "Paths",
    "RMSprop",
    "SecondOrderSGD",
    "Slope",
    "Task",
    "WeakError",
    "covariance_factor",
    "diffusion",
    "diffusion_moments",
    "discrete",
    "discrete_moments",
    "fit_slope",
    "linear_problem",
    "weak_error",
]
