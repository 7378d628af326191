r"""Functions a kernel can change, and functions it cannot.

Section 3.4 of arXiv 2603.13872: the integral operator of a kernel, its learnable modes and its
null space, over a distribution of inputs (population) or over a training set (empirical).
"""

from pkbook.function_space.ensemble import ExpectedKernel, expected_kernel
from pkbook.function_space.exact_path import exact_path_kernel
from pkbook.function_space.kernel_machine import (
    coefficient_spread,
    fixed_coefficients,
    interpolating_machine,
    path_coefficients,
    rkhs_norm,
)
from pkbook.function_space.lazy import kernel_drift, lazy_training
from pkbook.function_space.measure import Measure, interval, product, uniform
from pkbook.function_space.modes import Modes, principal_angles
from pkbook.function_space.operator import IntegralOperator, empirical, matrix_free, population
from pkbook.function_space.regression import ntk_regression, ntk_variance

__all__ = [
    "ExpectedKernel",
    "IntegralOperator",
    "Measure",
    "Modes",
    "coefficient_spread",
    "empirical",
    "exact_path_kernel",
    "expected_kernel",
    "fixed_coefficients",
    "interpolating_machine",
    "interval",
    "kernel_drift",
    "lazy_training",
    "matrix_free",
    "ntk_regression",
    "ntk_variance",
    "path_coefficients",
    "population",
    "principal_angles",
    "product",
    "rkhs_norm",
    "uniform",
]
