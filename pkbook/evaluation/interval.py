"""A number with an interval from resampling."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pkbook.basics.checks import require_finite, require_tensor, require_whole


class Interval(NamedTuple):
    """A number and an interval that holds it with 95 per cent confidence."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def resampled(
    statistic: Callable[[np.ndarray], float], groups: Sequence[np.ndarray], times: int, seed: int
) -> Interval:
    """The bootstrap's percentile interval of a statistic of things, given by their numbers.

    ``statistic(numbers)`` is asked about all of them, and about ``times`` drawings with
    replacement, from each group as many as it has.  Efron 1979.
    """
    require_whole(times, "bootstrap", least=100)
    draw = np.random.default_rng(seed)
    found = [
        statistic(np.concatenate([draw.choice(group, len(group)) for group in groups]))
        for _ in range(times)
    ]
    low, high = np.percentile(found, [2.5, 97.5])
    return Interval(float(statistic(np.concatenate(groups))), float(low), float(high))


def as_scores(scores: object, name: str = "scores") -> Tensor:
    """Scores ``[N, m]`` in float64 on the CPU; ``[N]`` is one query."""
    found = require_finite(require_tensor(scores, name), name).detach().cpu().double()
    if found.ndim == 1:
        found = found[:, None]
    if found.ndim != 2:
        raise ValueError(
            f"{name} must be [N, m], one number for each sample and query, got shape "
            f"{tuple(found.shape)}; choose an output, contributions[..., 0] say"
        )
    return found


def as_mask(mask: object, name: str, n: int) -> Tensor:
    """Truth values ``[n]`` on the CPU."""
    found = torch.as_tensor(mask).cpu()
    if found.dtype != torch.bool or found.shape != (n,):
        raise ValueError(
            f"{name} must be a bool for each of {n} samples, got {found.dtype} of shape "
            f"{tuple(found.shape)}"
        )
    return found
