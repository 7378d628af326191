"""The data and the loss of a run, of whatever kind they are, checked before its first step."""

from collections.abc import Mapping
from dataclasses import is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from pkbook.basics.checks import (
    evaluating,
    is_finite_number,
    require_deterministic,
    require_finite,
    require_inputs,
    require_tensor,
)
from pkbook.basics.nested import mapped, tensors_in
from pkbook.basics.randomness import seeded
from pkbook.runs.copies import copied
from pkbook.runs.problem import (
    Loss,
    Problem,
    Reduction,
    is_of_batch,
    is_pair,
    require_reduction,
)
from pkbook.runs.sources import Collate, Samples, Source, Tensors
from pkbook.runs.steps import buffers_of, put_buffers


def problem_of(
    model: nn.Module,
    loss: Loss,
    data: Any,
    collate: Collate | None,
    reduction: Reduction,
    clip_norm: float | None,
    clip_value: float | None,
) -> Problem:
    """The problem that the steps of a run descend.

    ``TypeError`` or ``ValueError`` for data without numbered samples, samples of different
    structures, and a loss that does not fit.
    """
    source = source_of(model, data, collate)
    require_clip(clip_norm, clip_value)
    if not callable(loss):
        raise TypeError(
            "loss must be a function of (outputs, targets) or of (model, batch), got "
            f"{type(loss).__name__}; write torch.nn.CrossEntropyLoss() or pkbook.losses.squared"
        )
    first = _first_batch(source)
    of_batch = is_of_batch(loss) or not is_pair(first)
    reduction = require_reduction(reduction)
    problem = Problem(loss, source, of_batch, reduction, clip_norm, clip_value)
    problem.items([first])
    try:
        # A loss of the model may count, or log, in what the model keeps: it is tried on a copy.
        tried = copied(model)[0] if of_batch else model
        require_fitting_loss(tried, problem)
    except Exception as error:
        if is_of_batch(loss):
            raise
        if of_batch:
            raise TypeError(
                "data must be a pair (x, y) for a loss of (outputs, targets), got "
                f"{type(first).__name__}; for other data write loss(model, batch). As such a loss, "
                f"yours says: {error}"
            ) from error
        try:  # perhaps it is a loss of (model, batch) whose arguments have other names
            other = replace(problem, of_batch=True)
            require_fitting_loss(copied(model)[0], other)
        except Exception:
            raise error from None
        return other
    return problem


def source_of(model: nn.Module, data: Any, collate: Collate | None) -> Source:
    """Tensors, or a ``Dataset``, as numbered samples."""
    device = next(p for p in model.parameters() if p.requires_grad).device
    if is_pair(data) and all(isinstance(t, Tensor) for t in data):
        data = require_pair(model, data)
    elif _is_dataset(data):
        samples = Samples(data, collate, device)
        if len(samples) == 0:
            raise ValueError("data must hold at least one sample, got an empty data set")
        return samples
    elif not tensors_in(data):
        raise TypeError(
            "data must be a pair (x, y) of tensors with one row per sample, a dict, tuple or data "
            f"class of such tensors, or a Dataset, got {type(data).__name__}"
        )
    if collate is not None:
        raise ValueError(
            "collate puts the samples of a Dataset together, got it with data that are tensors; "
            "leave it out, or give data a Dataset"
        )
    for t in tensors_in(data):
        require_finite(t, "data")
        if t.device != device:
            raise ValueError(
                f"data must be on the model's device {device}, got a tensor on {t.device}"
            )
    source = Tensors(data)
    if len(source) == 0:
        raise ValueError("data must hold at least one sample, got none")
    return source


def _is_dataset(data: Any) -> bool:
    """Whether samples are asked for one by one; a list is, unless it holds tensors only."""
    if isinstance(data, Dataset):
        return True
    if isinstance(data, Tensor | Mapping | tuple | str) or is_dataclass(data):
        return False
    if isinstance(data, list):
        return not data or not all(isinstance(entry, Tensor) for entry in data)
    return hasattr(data, "__getitem__") and hasattr(data, "__len__")


def require_pair(model: nn.Module, data: Any) -> tuple[Tensor, Tensor]:
    """Inputs and targets, one row per sample each, on the model's device."""
    x = require_inputs(model, data[0], "x")
    y = require_tensor(data[1], "y")
    if y.ndim == 0 or len(y) != len(x):
        raise ValueError(
            f"x and y must have one row per sample each, got {len(x)} rows in x and "
            f"shape {tuple(y.shape)} for y"
        )
    if y.device != x.device:
        raise ValueError(
            f"y must be on the device of x, {x.device}, got {y.device}; "
            f"write y.to({str(x.device)!r})"
        )
    return x, require_finite(y, "y")


def require_clip(clip_norm: object, clip_value: object) -> None:
    """A positive bound, or none."""
    for name, value in (("clip_norm", clip_norm), ("clip_value", clip_value)):
        if value is not None and (not is_finite_number(value) or value <= 0):
            raise ValueError(f"{name} must be a positive number or None, got {value!r}")
    if clip_norm is not None and clip_value is not None:
        raise ValueError("give clip_norm or clip_value, not both")


def _first_batch(source: Source) -> Any:
    return source.fetch(range(min(2, len(source))), 0)[0]


def require_fitting_loss(model: nn.Module, problem: Problem) -> None:
    """A loss that does not fit the outputs says so now.

    In train mode a model may have other outputs, two views of each sample, say: it is asked there
    where the loss does not fit the outputs of eval mode.
    """
    with evaluating(model):
        require_deterministic(model)
    try:
        with evaluating(model):
            _tried(model, problem)
    except (IndexError, RuntimeError, ValueError) as error:
        buffers = buffers_of(model)
        try:
            _tried(model, problem)
        except (IndexError, RuntimeError, ValueError):
            raise error from None
        finally:
            put_buffers(model, buffers)


def _tried(model: nn.Module, problem: Problem) -> None:
    device, n = problem.source.device, min(2, len(problem.source))
    batch = _first_batch(problem.source)
    if problem.of_batch:  # which may differentiate within, by its inputs, say
        batch = mapped(batch, Tensor.detach)
    with torch.set_grad_enabled(problem.of_batch), seeded(0, device):
        problem.losses(model, batch, n)
