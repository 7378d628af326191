r"""A recorded training made again with other weights of its samples, or without some of them.

All other things are equal: the start, the batches and their order, learning rates, dropout masks.
Only the gradient of each sample's own loss is multiplied with its weight,

.. math:: g_s=\frac1B\sum_{i\in\mathcal B_s}w_i\,\nabla\ell_i(\theta_s) .
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Literal, TypeVar

import torch
from torch import Tensor
from tqdm.auto import tqdm

from pkbook.basics.checks import require_choice, require_finite, require_tensor
from pkbook.basics.inference import outside_inference
from pkbook.runs.copies import copied
from pkbook.runs.optimizers import apply_settings
from pkbook.runs.recording import Recording
from pkbook.runs.snapshot import put_back
from pkbook.runs.steps import gradients, set_modes

Divisor = Literal["batch", "rest"]
R = TypeVar("R", bound=Recording)


@outside_inference()
def reweighted(
    run: R,
    weights: Tensor,
    *,
    divisor: Divisor = "batch",
    negative: bool = False,
    progress: bool = False,
) -> R:
    """The same training with weights of its samples, as a run of its own.

    Parameters
    ----------
    run
        the recorded training.
    weights
        one for each sample ``[N]``; 1 leaves it as it is, 0 leaves it out, 2 counts it twice.
    divisor
        ``"batch"``: a mean is divided by the size of the batch, so a sample that is left out
        leaves a gap; this is what :func:`pkbook.influence` is the derivative of.  ``"rest"``: by
        the sum of the weights in the batch, so that the others take its place.
    negative
        allow weights below zero, which push a prediction away from a sample.
    progress
        show a bar over the steps.

    Returns
    -------
    Trajectory
        kept in memory, with a model and an optimizer of its own (``.model``), which can be asked
        all that the run can be asked.

    Raises
    ------
    TypeError, ValueError
        for weights that are not finite, not one per sample, or negative without ``negative``; with
        ``"rest"``, for a batch whose weights have no positive sum.

    Notes
    -----
    Batch statistics go on to see every sample of a batch, whatever its weight.

    Examples
    --------
    >>> import torch, pkbook as pk
    >>> x = torch.tensor([[-1.0], [0.0], [1.0]])
    >>> line = torch.nn.Linear(1, 1)
    >>> sgd = torch.optim.SGD(line.parameters(), lr=0.5)
    >>> run = pk.Trajectory(line, pk.losses.squared, sgd, (x, 2 * x))
    >>> for batch in pk.batches(3, size=2, steps=40, seed=0):
    ...     _ = run.step(batch)
    >>> again = run.reweighted(torch.ones(3))
    >>> bool((again.model.weight == line.weight).all())
    True
    """
    weights = checked_weights(run, weights, divisor, negative)
    problem = replace(run.problem, weights=weights, whole=divisor == "batch")
    return made_again(run, problem, progress)


def without(
    run: R,
    samples: Sequence[int] | Tensor,
    *,
    divisor: Divisor = "batch",
    progress: bool = False,
) -> R:
    """The same training without some samples: their weights are zero in :func:`reweighted`.

    Examples
    --------
    >>> import torch, pkbook as pk
    >>> x = torch.tensor([[-1.0], [0.0], [1.0]])
    >>> line = torch.nn.Linear(1, 1, bias=False)
    >>> sgd = torch.optim.SGD(line.parameters(), lr=0.5)
    >>> run = pk.Trajectory(line, pk.losses.squared, sgd, (x, 2 * x))
    >>> for batch in pk.batches(3, size=2, steps=40, seed=0):
    ...     _ = run.step(batch)
    >>> run.without([1]).model.weight.item() == line.weight.item()  # x = 0 pushes nothing
    True
    """
    numbers = run.checked_batch(samples)
    weights = torch.ones(run.samples, device=run.device, dtype=torch.float64)
    weights[numbers.to(run.device)] = 0.0
    return reweighted(run, weights, divisor=divisor, progress=progress)


def checked_weights(run: Recording, weights: Tensor, divisor: str, negative: bool) -> Tensor:
    """Weights ``[N]`` on the run's device."""
    require_choice(divisor, "divisor", ("batch", "rest"))
    weights = require_finite(require_tensor(weights, "weights"), "weights")
    if weights.shape != (run.samples,):
        raise ValueError(
            f"weights must be one for each sample [{run.samples}], got shape {tuple(weights.shape)}"
        )
    if not negative and bool((weights < 0).any()):
        number = int((weights < 0).nonzero()[0, 0])
        raise ValueError(
            f"weights must not be negative, got {weights[number].item():g} for sample {number}; "
            "write negative=True if that is meant"
        )
    weights = weights.detach().to(run.device)
    for k, record in enumerate(run.store.steps) if divisor == "rest" else ():
        start = 0
        for size in record.parts or [len(record.batch)]:
            if float(weights[record.batch[start : start + size]].sum()) <= 0:
                raise ValueError(
                    f"weights leave a batch of step {k} without a sample to take the place of "
                    "those left out; write divisor='batch'"
                )
            start += size
    return weights


def made_again(run: R, problem, progress: bool = False) -> R:
    """All steps of a run again, on copies of its model and optimizer, with another problem."""
    again = beginning(run, problem)
    for record in tqdm(run.store.steps, disable=not progress, desc="steps made again"):
        set_modes(again.model, record)
        apply_settings(again.optimizer, record.settings)
        descend = partial(
            gradients, again.problem, record, again.model, again.optimizer, len(again)
        )
        again.make(record, lambda descend=descend: descend()[0])
    modes = {name: module.training for name, module in run.model.named_modules()}
    for name, module in again.model.named_modules():
        module.training = modes[name]
    return again


def beginning(run: R, problem) -> R:
    """A run without steps that begins where this one began."""
    model, optimizer = copied(run.model, run.optimizer)
    put_back(run.store.load(0), model, optimizer)
    return run.sibling(model, optimizer, problem)
