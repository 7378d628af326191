"""Points that leave a mode of the data for another one and come back, along training."""

import torch
from torch import Tensor

from pkbook.basics.checks import require_finite, require_tensor
from pkbook.generative import GaussianMixture

INSIDE = 2.0  # scales from its centre within which a point is in a mode; no two modes overlap there


def coming_back(places: Tensor, ring: GaussianMixture) -> float:
    """Share of the points ``places [looks, m, d]`` that leave a mode for another and come back.

    Only looks in the last three quarters count: before, all points are on their way to the ring.
    ValueError for places that are not finite, or with too few looks to come back in.
    """
    places = require_finite(require_tensor(places, "places"), "places")
    if places.ndim != 3 or len(places) < 4:
        raise ValueError(
            f"places must be [looks, m, d] with at least 4 looks, got {list(places.shape)}"
        )
    late = places[len(places) // 4 :]
    flat = late.flatten(0, 1)
    mode = ring.mode(flat)
    inside = (flat - ring.means[mode]).norm(dim=1) < INSIDE * ring.scale
    seen = torch.where(inside, mode, -1).reshape(late.shape[:2]).T.tolist()
    return sum(_returns([m for m in row if m >= 0]) for row in seen) / len(seen)


def _returns(modes: list[int]) -> bool:
    """Whether one of the modes is left for another one and seen again."""
    left, now = set(), None
    for mode in modes:
        if mode != now:
            if mode in left:
                return True
            left.add(now)
            now = mode
    return False
