"""One training step: its gradients, and the same step made again from its record."""

import zlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from pkbook.basics.checks import require_finite
from pkbook.basics.parameters import Tree, sum_of
from pkbook.runs.conditions import PLAIN, Conditions, cast_as, drawn_as
from pkbook.runs.loss_rows import LossRows
from pkbook.runs.optimizers import (
    Number,
    StepState,
    apply_settings,
    coefficients,
    memory_key,
    require_linear,
)
from pkbook.runs.problem import Problem
from pkbook.runs.records import StepRecord
from pkbook.runs.snapshot import ReplayError


def set_modes(model: nn.Module, record: StepRecord) -> None:
    """Put every module in the mode, train or eval, that it had at a recorded step."""
    training = set(record.training)
    for name, module in model.named_modules():
        module.training = name in training


def mixes_samples(model: nn.Module) -> bool:
    """Whether a layer in train mode uses statistics of the whole batch."""
    return any(
        module.training and isinstance(module, nn.modules.batchnorm._BatchNorm)
        for module in model.modules()
    )


def step_seed(seed: int, k: int) -> int:
    """A seed for step ``k``: a fixed mixing of the run's seed and the step's number."""
    return zlib.crc32(f"{seed}:{k}".encode())


@dataclass(frozen=True)
class Part:
    """One forward pass of a step."""

    numbers: Sequence[int]
    seed: int
    conditions: Conditions = PLAIN

    @property
    def drawn_seed(self) -> int:
        """From it the samples are drawn, where a data set draws them; the pass has its own."""
        return zlib.crc32(f"{self.seed}/samples".encode())

    def drawing(self, device: torch.device) -> AbstractContextManager[None]:
        """The random numbers of the pass."""
        return drawn_as(self.conditions.random, self.seed, device)


def part_seed(seed: int, j: int) -> int:
    """A seed for the micro-batch ``j`` of a step, by that of the step."""
    return seed if j == 0 else zlib.crc32(f"{seed}/{j}".encode())


def parts_of(record: StepRecord) -> list[Part]:
    """The forward passes of a step."""
    found, start = [], 0
    for j, size in enumerate(record.parts or [len(record.batch)]):
        seed = part_seed(record.seed, j)
        under = Conditions(**record.passes[j]) if record.passes else PLAIN
        found.append(Part(record.batch[start : start + size], seed, under))
        start += size
    return found


def fetched(problem: Problem, record: StepRecord) -> tuple[list[Any], list[str]]:
    """The samples of each forward pass of a step, and the checksums of all."""
    batches, contents = [], []
    for part in parts_of(record):
        batch, found = problem.source.fetch(part.numbers, part.drawn_seed)
        batches.append(batch)
        contents += found
    return batches, contents


def batches_of(problem: Problem, record: StepRecord) -> list[Any]:
    """The samples of each forward pass; ``ReplayError`` where they are others than recorded."""
    batches, contents = fetched(problem, record)
    if contents != record.contents:
        both = zip(record.batch, record.contents, contents, strict=False)
        number = next((n for n, then, now in both if then != now), record.batch[0])
        raise ReplayError(
            f"sample {number} of the data is another one than when the step was recorded; what "
            "__getitem__ or collate draw at random must come from the global generators of torch, "
            "numpy or random, and not from a generator of their own"
        )
    return batches


def run_part(problem: Problem, part: Part, batch: Any, model: nn.Module) -> Tensor:
    """The loss of one forward pass, ``[n]`` or one number, with its own random numbers."""
    n, device = len(part.numbers), problem.source.device
    weights = problem.weights_of(part.numbers)
    with cast_as(part.conditions, device):
        if problem.of_batch:
            with part.drawing(device):
                return problem.losses(model, batch, n)
        with part.drawing(device):
            outputs, targets = problem.outputs(model, batch)
        if weights is not None:
            outputs = weighted(outputs, weights)
        return problem.of_outputs(outputs, targets, n)


def begun(
    problem: Problem, part: Part, batch: Any, model: nn.Module, place: tuple
) -> tuple[Tensor, Tensor, Tensor | None]:
    """A micro-batch's part of the loss, and where its backward pass begins, with which slope.

    ``place`` says which of how many micro-batches it is.  It begins at the loss, but for losses of
    ``(model, batch)`` with weights: there at what the samples have apart.
    """
    weights = problem.weights_of(part.numbers)
    if weights is None or not problem.of_batch:
        value = problem.reduced(run_part(problem, part, batch, model), *place)
        return value, value, None
    rows = LossRows(problem, *place)
    with cast_as(part.conditions, problem.source.device), part.drawing(problem.source.device):
        f = rows.of_batch(model, batch)
    slope = rows.slope_of_batch(f)
    value = problem.reduced(f if rows.value is None else rows.value, *place)
    return value, f, slope * weights.to(f.dtype).reshape(-1, *[1] * (f.ndim - 1))


def weighted(rows: Tensor, weights: Tensor) -> Tensor:
    """The same numbers, whose gradient by row i is multiplied with weight i."""
    still, weights = rows.detach(), weights.to(rows.dtype)
    return still + weights.reshape(-1, *[1] * (rows.ndim - 1)) * (rows - still)


def gradients(
    problem: Problem,
    record: StepRecord,
    model: nn.Module,
    optimizer,
    k: int,
    batches: list[Any] | None = None,
) -> tuple[Tensor, dict[str, Number]]:
    """Put the (clipped) gradients of a step in place.

    Returns the loss, and by name what clipping multiplied the gradients with.  ``ValueError`` for
    a loss or a gradient that is not finite.
    """
    optimizer.zero_grad()
    if problem.clipped == "all":  # gradients of what is not trained count in the norm
        model.zero_grad()
    parts = parts_of(record)
    batches = batches_of(problem, record) if batches is None else batches
    items = problem.items(batches)
    values = []
    others: Tree = {}
    own = len(parts) // max(record.processes, 1)
    for j, (part, batch) in enumerate(zip(parts, batches, strict=True)):
        among = part.conditions.divided_by or len(parts)
        with torch.enable_grad():  # also where the reader's code has switched gradients off
            value, start, slope = begun(problem, part, batch, model, (among, items, j))
        require_finite_loss(value, k, part)
        require_gradient(start, k)
        scale = part.conditions.scale
        if slope is None:
            (value if scale == 1.0 else value * scale).backward()
        else:
            start.backward(slope * scale)
        values.append(value.detach())
        if record.processes and (j + 1) % own == 0:
            _add_to(others, model)
    for name, p in model.named_parameters() if others else ():
        p.grad = others.get(name)
    _unscale(model, parts[0].conditions.scale)
    return sum_of(values), clipped(problem, model, optimizer, k)


def _add_to(others: Tree, model: nn.Module) -> None:
    """Add the gradients of one process to those of the others, as all of them are added up."""
    for name, p in model.named_parameters():
        if p.grad is not None:
            others[name] = others[name] + p.grad if name in others else p.grad
            p.grad = None


def require_finite_loss(value: Tensor, k: int, part: Part) -> None:
    """``ValueError`` for a loss that is not finite."""
    if not torch.isfinite(value):
        raise ValueError(
            f"loss is {value.item()} at step {k}; the step was not made and the path up to "
            f"step {k} is kept: lower the learning rate or look at samples {part.numbers[:8]}"
        )


def require_gradient(value: Tensor, k: int) -> None:
    """``ValueError`` for a loss that no parameter has a hand in."""
    if not value.requires_grad:
        raise ValueError(
            f"the loss of step {k} must depend on the model's parameters, got a number without "
            "a gradient; look for detach(), no_grad() or whole numbers in forward and loss"
        )


def clipped(problem: Problem, model: nn.Module, optimizer, k: int) -> dict[str, Number]:
    """Check the gradients that are in place and clip them; by name what they were multiplied by."""
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    own: Tree = {}
    for name, p in model.named_parameters():
        if id(p) not in held or p.grad is None:
            continue
        if p.grad.layout != torch.strided:
            _require_dense(name, optimizer, problem)
        require_finite(p.grad, f"the gradient of {name!r} at step {k}")
        own[name] = p
    return _clip(problem, own, _clipped(problem, own, model, optimizer))


def _unscale(model: nn.Module, scale: float) -> None:
    """As ``GradScaler.unscale_`` does."""
    for p in model.parameters() if scale != 1.0 else ():
        if p.grad is not None:
            p.grad.mul_(1.0 / scale)


def _require_dense(name: str, optimizer: torch.optim.Optimizer, problem: Problem) -> None:
    """Sparse gradients are for plain gradient descent: no other state can be made of them."""
    clipped = problem.clip_norm is not None or problem.clip_value is not None
    plain = type(optimizer) is torch.optim.SGD and not any(
        group["momentum"] or group["weight_decay"] for group in optimizer.param_groups
    )
    if clipped or not plain:
        raise ValueError(
            f"the gradient of {name!r} must be dense for {type(optimizer).__name__} with these "
            "options, got a sparse one; write nn.Embedding(..., sparse=False)"
        )


def _clipped(problem: Problem, own: Tree, model: nn.Module, optimizer) -> list[Tensor]:
    """The parameters whose gradients are clipped together; in another order a norm rounds
    otherwise."""
    if problem.clipped == "all":
        return list(model.parameters())
    if problem.clipped == "groups":
        return [p for group in optimizer.param_groups for p in group["params"]]
    return list(own.values())


def _clip(problem: Problem, own: Tree, clipped: list[Tensor]) -> dict[str, Number]:
    if problem.clip_norm is not None:
        norm = clip_grad_norm_(clipped, problem.clip_norm)
        return dict.fromkeys(own, min(1.0, problem.clip_norm / (norm.item() + 1e-6)))
    if problem.clip_value is not None:
        now = {name: p.grad for name, p in own.items() if p.grad is not None}
        before = {name: g.clone() for name, g in now.items()}
        clip_grad_value_(clipped, problem.clip_value)  # in place
        return {name: torch.where(g == 0, 1.0, now[name] / g) for name, g in before.items()}
    return {}


def copies(state: dict[str, Any]) -> Tree:
    """Copies of what an optimizer keeps of one parameter."""
    return {key: t.detach().clone() for key, t in state.items() if isinstance(t, Tensor)}


def moving(model: nn.Module, names: list[str]) -> Tree:
    """Copies of the trained parameters."""
    by_name = dict(model.named_parameters())
    return {name: by_name[name].detach().clone() for name in names}


def buffers_of(model: nn.Module) -> Tree:
    """Copies of the buffers."""
    return {name: b.detach().clone() for name, b in model.named_buffers()}


def put_buffers(model: nn.Module, buffers: Tree) -> None:
    """Bring the model's buffers to recorded values."""
    with torch.no_grad():
        for name, b in model.named_buffers():
            if name in buffers:
                b.copy_(buffers[name])


def repeat(
    problem: Problem,
    record: StepRecord,
    names: list[str],
    model: nn.Module,
    optimizer,
    k: int,
    keep: bool = False,
) -> tuple[StepState, float]:
    """Make recorded step ``k`` again on a copy; returns the state before it, and its loss.

    ``keep``: the state is to hold what the optimizer keeps, too.
    """
    set_modes(model, record)
    before, buffers = moving(model, names), buffers_of(model)
    apply_settings(optimizer, record.settings)
    by_name = dict(model.named_parameters())
    key = memory_key(require_linear(optimizer))
    states = {n: optimizer.state.get(by_name[n], {}) for n in names}
    fresh = {n for n, state in states.items() if state.get(key) is None}
    kept = {n: copies(state) for n, state in states.items()} if keep else {}
    value, clip = gradients(problem, record, model, optimizer, k)
    optimizer.step()
    groups = {id(p): h for group, h in zip(optimizer.param_groups, record.settings, strict=True)
              for p in group["params"]}  # fmt: skip
    found = {}
    for name in names:
        p = by_name[name]
        if p.grad is not None:
            state = optimizer.state.get(p, {})
            found[name] = coefficients(
                optimizer, groups[id(p)], state, name in fresh, clip.get(name, 1.0)
            )
    rates = {name: groups[id(by_name[name])]["lr"] for name in names}
    return StepState(before, buffers, found, rates, kept), value.item()
