"""pkbook: how a trained network's prediction is assembled from its training samples.

The companion package of the book.  Source: Guo, He, Morel 2026, *On Interpolation Formulas
Describing Neural Network Generalization*, arXiv 2603.13872.
"""

import importlib
from types import ModuleType

from pkbook import losses, models
from pkbook.basics.files import StorageError
from pkbook.basics.version import __version__
from pkbook.claims import ClaimNotHeld, claim
from pkbook.interpolation import Interpolation, interpolate, path_kernel
from pkbook.interpolation.explain import Explanation, explain
from pkbook.interpolation.influence import self_influence, step_pairs
from pkbook.interpolation.trajectory import Trajectory, batches
from pkbook.kernels import (
    gradient_kernel,
    kernels_by_layer,
    normalised_kernel,
    two_time_kernel,
    weighted_kernel,
)
from pkbook.kernels.distributed import distributed_kernel
from pkbook.kernels.features import tangent_features
from pkbook.runs.snapshot import ReplayError

__all__ = [
    "ClaimNotHeld",
    "Explanation",
    "Interpolation",
    "ReplayError",
    "StorageError",
    "Trajectory",
    "__version__",
    "batches",
    "claim",
    "data",
    "diagnostics",
    "diffusion_limit",
    "distributed_kernel",
    "explain",
    "explorers",
    "function_space",
    "generative",
    "gradient_kernel",
    "interpolate",
    "kernels_by_layer",
    "losses",
    "models",
    "normalised_kernel",
    "path_kernel",
    "plots",
    "self_influence",
    "step_pairs",
    "tangent_features",
    "two_time_kernel",
    "weighted_kernel",
]

# Imported when they are first asked for: what they bring along takes longer to load than torch.
LATER = (
    "data",
    "diagnostics",
    "diffusion_limit",
    "explorers",
    "function_space",
    "generative",
    "plots",
)


def __getattr__(name: str) -> ModuleType:
    """The submodules of `LATER`."""
    if name in LATER:
        return importlib.import_module(f"pkbook.{name}")
    raise AttributeError(f"module 'pkbook' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *LATER})
