"""Kernels of tangent features: what a network takes to be alike.

Source: arXiv 2603.13872, Definitions 2.1, 3.2 and 3.3.
"""

from pkbook.kernels.definitions import (
    feature_norms,
    gradient_kernel,
    kernels_by_layer,
    layer_names,
    normalised_kernel,
    two_time_kernel,
    weighted_kernel,
)
from pkbook.kernels.operator import KernelOperator, kernel_operator

__all__ = [
    "KernelOperator",
    "feature_norms",
    "gradient_kernel",
    "kernel_operator",
    "kernels_by_layer",
    "layer_names",
    "normalised_kernel",
    "two_time_kernel",
    "weighted_kernel",
]
