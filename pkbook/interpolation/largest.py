"""The largest contributions alone, all others as one term: for many samples and many queries."""

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from pkbook.basics.checks import require_whole

if TYPE_CHECKING:
    from pkbook.interpolation.result import Interpolation

OTHERS = "other samples"


def only_largest(told: "Interpolation", k: int) -> "Interpolation":
    """See :meth:`pkbook.Interpolation.largest`."""
    k = min(require_whole(k, "keep"), len(told.contributions))
    if told.by_parameter or told.by_part or told.by_token is not None:
        raise ValueError(
            "keep is for contributions alone, got some by parameter or by token; leave out keep, "
            "or by_parameter and by_token"
        )
    order = told.contributions.abs().argsort(dim=0, descending=True, stable=True)[:k]
    values = told.contributions.gather(0, order)
    kept = torch.zeros_like(told.contributions).scatter_(0, order, values)
    # Rather the rest itself than a difference: it is then exact where nothing is left out.
    rest = told.contributions.scatter(0, order, 0.0).sum(0)
    before = told.other.get(OTHERS, torch.zeros_like(rest))
    return replace(
        told,
        contributions=kept,
        by_step=[],
        other=told.other | {OTHERS: before + rest},
        kept=k,
    )
