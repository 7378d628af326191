"""Finding samples with a wrong label: how well a score tells them apart."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from torch import Tensor

from pkbook.basics.extras import needs_lab
from pkbook.evaluation.interval import Interval, as_mask, as_scores, resampled


class Detection(NamedTuple):
    """How well a score finds the marked samples."""

    auroc: Interval
    """The chance that a marked sample has the larger score than an unmarked one; 0.5 is blind."""
    average_precision: Interval
    """The mean share of marked samples among the first found; blind is their share of all."""


def mislabelled(
    scores: Tensor, marked: Tensor, *, bootstrap: int = 1000, seed: int = 0
) -> Detection:
    """How well large scores ``[N]`` point at the samples ``marked [N]``, a mask.

    ``ValueError`` for other shapes, and where all or none of the samples are marked.

    >>> import torch
    >>> told = mislabelled(torch.arange(10.0), torch.arange(10) > 7)
    >>> told.auroc.value, told.average_precision.value
    (1.0, 1.0)
    """
    with needs_lab("pkbook.evaluation"):
        from sklearn.metrics import average_precision_score, roc_auc_score
    found = as_scores(scores)
    if found.shape[1] != 1:
        raise ValueError(f"scores must be one for each sample [N], got shape {tuple(found.shape)}")
    score, mask = found[:, 0].numpy(), as_mask(marked, "marked", len(found)).numpy()
    if mask.all() or not mask.any():
        raise ValueError(f"marked must mark some samples and not others, got {int(mask.sum())}")
    groups = np.flatnonzero(mask), np.flatnonzero(~mask)  # so that each drawing has both

    def interval(measure: Callable) -> Interval:
        return resampled(lambda at: float(measure(mask[at], score[at])), groups, bootstrap, seed)

    return Detection(interval(roc_auc_score), interval(average_precision_score))
