"""Where kernels and runs meet: a prediction taken apart into its training samples.

Source: arXiv 2603.13872, Theorems 2.2 and 3.4 to 3.7, Appendix A.
"""

from pkbook.interpolation.effect import Influence
from pkbook.interpolation.explain import explain
from pkbook.interpolation.explanation import Explanation
from pkbook.interpolation.influence import influence
from pkbook.interpolation.interpolate import interpolate
from pkbook.interpolation.path_kernel import path_kernel
from pkbook.interpolation.result import Interpolation
from pkbook.interpolation.self_influence import self_influence
from pkbook.interpolation.step_pairs import step_pairs
from pkbook.interpolation.trajectory import Trajectory, batches

__all__ = [
    "Explanation",
    "Influence",
    "Interpolation",
    "Trajectory",
    "batches",
    "explain",
    "influence",
    "interpolate",
    "path_kernel",
    "self_influence",
    "step_pairs",
]
