"""Samples really left out: one by one, and the ones a score calls most important."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pkbook.basics.checks import require_whole
from pkbook.basics.outputs import outputs_of, the_tensor
from pkbook.evaluation.interval import as_scores
from pkbook.runs.recording import Recording
from pkbook.runs.retraining import Retrained, retrained
from pkbook.runs.reweighting import Divisor


def answers(models: Retrained, x: Any, of: Any = None) -> Tensor:
    """What each of ``R`` trained models answers, ``[R, m, C]``; ``of`` as in `interpolate`."""
    if of is None:
        return models.outputs(x)
    if isinstance(of, tuple):
        return models.outputs(x, lambda model, queries: _entry(model, queries, of))
    return models.outputs(x, of)


def _entry(model: nn.Module, queries: Any, place: tuple) -> Tensor:
    return the_tensor(outputs_of(model, queries))[(slice(None), *place)]


def leave_one_out(
    run: Recording,
    x: Any,
    samples: Sequence[int] | Tensor | None = None,
    *,
    of: Any = None,
    divisor: Divisor = "batch",
    progress: bool = False,
) -> Tensor:
    r"""How the answers change when each sample is really left out, ``[n, m, C]`` in float64.

    :math:`f_{-i}(x)-f(x)`, for all samples or some; to first order that is ``-effects`` of
    :func:`pkbook.influence`.  One training for each sample, several at once.

    Raises
    ------
    ValueError
        for sample numbers that are none.
    """
    numbers = torch.arange(run.samples) if samples is None else run.checked_batch(samples).cpu()
    rows = torch.ones(len(numbers) + 1, run.samples, dtype=torch.float64)
    rows[torch.arange(len(numbers)), numbers] = 0.0
    models = retrained(run, rows.to(run.device), divisor=divisor, progress=progress)
    found = answers(models, x, of).double()
    return found[:-1] - found[-1]


class Curve(NamedTuple):
    """How an answer changes when samples are left out."""

    counts: list[int]
    """How many were left out."""
    top: Tensor
    """The change ``[c]`` without the samples of the largest scores."""
    random: Tensor
    """The changes ``[c, repeats]`` without as many drawn at random."""


def removal_curve(
    run: Recording,
    scores: Tensor,
    x: Any,
    counts: Sequence[int],
    *,
    labels: Tensor | None = None,
    of: Any = None,
    repeats: int = 5,
    seed: int = 0,
    divisor: Divisor = "batch",
    progress: bool = False,
) -> Curve:
    """The change of one answer without the ``k`` samples that a score ``[N]`` puts first.

    Parameters
    ----------
    run
        the recorded training.
    scores
        one for each sample ``[N]``: what pushed the answer up most has the largest.
    x, of
        one query and what is asked of it, a single number.
    counts
        the numbers ``k`` of samples to leave out.
    labels
        ``[N]``: those left out at random then have the labels of those left out by score.
    repeats, seed
        drawings at random for each ``k``.

    Returns
    -------
    Curve

    Raises
    ------
    ValueError
        for counts that leave nobody, and a query whose answer is not one number.
    """
    found = as_scores(scores)
    if found.shape != (run.samples, 1):
        raise ValueError(
            f"scores must be one for each sample [{run.samples}], got shape {tuple(found.shape)}"
        )
    counts = [require_whole(int(k), "counts") for k in counts]
    if not counts or max(counts) >= run.samples:
        raise ValueError(f"counts must lie in 1..{run.samples - 1}, got {counts}")
    require_whole(repeats, "repeats")
    order = found[:, 0].argsort(descending=True, stable=True)
    draw = torch.Generator().manual_seed(seed)
    left_out = []
    for k in counts:
        left_out.append(order[:k])
        left_out += [_like(order[:k], labels, run.samples, draw) for _ in range(repeats)]
    rows = torch.ones(len(left_out) + 1, run.samples, dtype=torch.float64)
    for row, numbers in zip(rows, left_out, strict=False):
        row[numbers] = 0.0
    models = retrained(run, rows.to(run.device), divisor=divisor, progress=progress)
    given = answers(models, x, of).double()
    if given[0].numel() != 1:
        raise ValueError(
            f"x must be one query with one number asked of it, got {tuple(given.shape[1:])}; "
            "write x[:1] and of=(c,) for one output"
        )
    change = (given[:-1] - given[-1]).reshape(len(counts), 1 + repeats)
    return Curve(counts, change[:, 0], change[:, 1:])


def _like(chosen: Tensor, labels: Tensor | None, n: int, draw: torch.Generator) -> Tensor:
    """As many samples at random; with labels, of the same labels as those chosen."""
    if labels is None:
        return torch.randperm(n, generator=draw)[: len(chosen)]
    labels, found = labels.cpu(), []
    for value, count in zip(*labels[chosen].unique(return_counts=True), strict=True):
        same = (labels == value).nonzero()[:, 0]
        found.append(same[torch.randperm(len(same), generator=draw)[: int(count)]])
    return torch.cat(found)
