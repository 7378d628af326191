"""pkbook: how a trained network's prediction is assembled from its training samples.

The companion package of the book.  Source: Guo, He, Morel 2026, *On Interpolation Formulas
Describing Neural Network Generalization*, arXiv 2603.13872.
"""

import importlib
from typing import TYPE_CHECKING

from pkbook.basics import extras, old_paths
from pkbook.basics.files import StorageError
from pkbook.basics.processes import RankError
from pkbook.basics.version import __version__
from pkbook.interpolation.effect import Influence
from pkbook.interpolation.explain import explain
from pkbook.interpolation.explanation import Explanation
from pkbook.interpolation.influence import influence
from pkbook.interpolation.interpolate import interpolate
from pkbook.interpolation.path_kernel import path_kernel
from pkbook.interpolation.result import Interpolation
from pkbook.interpolation.self_influence import self_influence
from pkbook.interpolation.step_pairs import step_pairs
from pkbook.interpolation.trajectory import Trajectory, batches, record
from pkbook.kernels import (
    KernelOperator,
    feature_norms,
    gradient_kernel,
    kernel_operator,
    kernels_by_layer,
    normalised_kernel,
    of,
    two_time_kernel,
    weighted_kernel,
)
from pkbook.kernels.distributed import Shard, distributed_kernel
from pkbook.kernels.features import tangent_features
from pkbook.runs.snapshot import ReplayError

old_paths.install()

if TYPE_CHECKING:
    from pkbook import diffusion_limit, evaluation, function_space, generative
    from pkbook.function_space import diagnostics
    from pkbook.lab import explorers, plots
    from pkbook.lab.claims import ClaimNotHeld, claim
    from pkbook.lab.exercises import check
    from pkbook.lab.trained import trained
    from pkbook.problems import data, losses, models

__all__ = [
    "ClaimNotHeld",
    "Explanation",
    "Influence",
    "Interpolation",
    "KernelOperator",
    "RankError",
    "ReplayError",
    "Shard",
    "StorageError",
    "Trajectory",
    "__version__",
    "batches",
    "check",
    "claim",
    "data",
    "diagnostics",
    "diffusion_limit",
    "distributed_kernel",
    "evaluation",
    "explain",
    "explorers",
    "feature_norms",
    "function_space",
    "generative",
    "gradient_kernel",
    "influence",
    "interpolate",
    "kernel_operator",
    "kernels_by_layer",
    "losses",
    "models",
    "normalised_kernel",
    "of",
    "path_kernel",
    "plots",
    "record",
    "self_influence",
    "step_pairs",
    "tangent_features",
    "trained",
    "two_time_kernel",
    "weighted_kernel",
]

# Imported when they are first asked for: what they bring along takes longer to load than torch.
LATER = {
    "ClaimNotHeld": "pkbook.lab.claims:ClaimNotHeld",
    "check": "pkbook.lab.exercises:check",
    "claim": "pkbook.lab.claims:claim",
    "data": "pkbook.problems.data",
    "diagnostics": "pkbook.function_space.diagnostics",
    "diffusion_limit": "pkbook.diffusion_limit",
    "evaluation": "pkbook.evaluation",
    "explorers": "pkbook.lab.explorers",
    "function_space": "pkbook.function_space",
    "generative": "pkbook.generative",
    "losses": "pkbook.problems.losses",
    "models": "pkbook.problems.models",
    "plots": "pkbook.lab.plots",
    "trained": "pkbook.lab.trained:trained",
}


def __getattr__(name: str) -> object:
    """The names of `LATER`."""
    if name not in LATER:
        raise AttributeError(f"module 'pkbook' has no attribute {name!r}")
    module, _, attribute = LATER[name].partition(":")
    with extras.needs_lab(f"pkbook.{name}"):
        found = importlib.import_module(module)
    globals()[name] = found = getattr(found, attribute) if attribute else found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *LATER})
