"""What a kernel says about a network: neighbours, separability, rank gap, alignment.

Section 5 of arXiv 2603.13872.
"""

from pkbook.function_space.diagnostics.alignment import cka, label_kernel
from pkbook.function_space.diagnostics.neighbours import (
    distance,
    homogeneity,
    nearest,
    overlap,
    silhouette,
)
from pkbook.function_space.diagnostics.rank import (
    Rank,
    RankGap,
    numerical_rank,
    rank_gap,
    tangent_matrix,
)
from pkbook.function_space.diagnostics.separability import Separability, linear_separability
from pkbook.function_space.diagnostics.span import outside_span

__all__ = [
    "Rank",
    "RankGap",
    "Separability",
    "cka",
    "distance",
    "homogeneity",
    "label_kernel",
    "linear_separability",
    "nearest",
    "numerical_rank",
    "outside_span",
    "overlap",
    "rank_gap",
    "silhouette",
    "tangent_matrix",
]
