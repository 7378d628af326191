"""One training step: its gradients, and the same step made again from its record."""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from pkbook.basics.checks import batch_loss, require_finite
from pkbook.basics.parameters import Tree, sum_of
from pkbook.basics.randomness import seeded
from pkbook.runs.optimizers import (
    Number,
    StepState,
    apply_settings,
    coefficients,
    memory_key,
    require_linear,
)
from pkbook.runs.records import StepRecord

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Problem:
    """What a step needs beside the model and the optimizer."""

    loss: Loss
    x: Tensor
    y: Tensor
    clip_norm: float | None = None
    clip_value: float | None = None


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


def parts_of(record: StepRecord) -> list[tuple[Sequence[int], int]]:
    """The sample numbers and the seed of each forward pass of a step."""
    found, start = [], 0
    for j, size in enumerate(record.parts or [len(record.batch)]):
        seed = record.seed if j == 0 else zlib.crc32(f"{record.seed}/{j}".encode())
        found.append((record.batch[start : start + size], seed))
        start += size
    return found


def as_tensor(numbers: Sequence[int], device: torch.device) -> Tensor:
    """Sample numbers on a device."""
    if isinstance(numbers, range):
        return torch.arange(numbers.start, numbers.stop, device=device)
    return torch.tensor(numbers, device=device)


def run_part(problem: Problem, part: tuple[Sequence[int], int], call: Callable) -> tuple:
    """Outputs and targets of one forward pass of a step, with its own random numbers."""
    numbers, seed = part
    batch = as_tensor(numbers, problem.x.device)  # makes copies, which the model may change
    with seeded(seed, problem.x.device):
        return call(problem.x[batch]), problem.y[batch]


def gradients(
    problem: Problem, record: StepRecord, model: nn.Module, optimizer, k: int
) -> tuple[Tensor, dict[str, Number]]:
    """Put the (clipped) gradients of a step in place.

    Returns the loss, and by name what clipping multiplied the gradients with.  ``ValueError`` for
    a loss or a gradient that is not finite.
    """
    optimizer.zero_grad()
    parts = parts_of(record)
    values = []
    for part in parts:
        with torch.enable_grad():  # also where the reader's code has switched gradients off
            outputs, targets = run_part(problem, part, model)
            value = batch_loss(problem.loss, outputs, targets) / len(parts)
        if not torch.isfinite(value):
            raise ValueError(
                f"loss is {value.item()} at step {k}; the step was not made and the path up to "
                f"step {k} is kept: lower the learning rate or look at samples {part[0][:8]}"
            )
        value.backward()
        values.append(value.detach())
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    own: Tree = {}
    for name, p in model.named_parameters():
        if id(p) not in held or p.grad is None:
            continue
        if p.grad.layout != torch.strided:
            _require_dense(name, optimizer, problem)
        require_finite(p.grad, f"the gradient of {name!r} at step {k}")
        own[name] = p
    return sum_of(values), _clip(problem, own)


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


def _clip(problem: Problem, own: Tree) -> dict[str, Number]:
    if problem.clip_norm is not None:
        norm = clip_grad_norm_(own.values(), problem.clip_norm)
        return dict.fromkeys(own, min(1.0, problem.clip_norm / (norm.item() + 1e-6)))
    if problem.clip_value is not None:
        now = {name: p.grad for name, p in own.items() if p.grad is not None}
        before = {name: g.clone() for name, g in now.items()}
        clip_grad_value_(own.values(), problem.clip_value)  # in place
        return {name: torch.where(g == 0, 1.0, now[name] / g) for name, g in before.items()}
    return {}


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
    problem: Problem, record: StepRecord, names: list[str], model: nn.Module, optimizer, k: int
) -> tuple[StepState, float]:
    """Make recorded step ``k`` again on a copy; returns the state before it, and its loss."""
    set_modes(model, record)
    before, buffers = moving(model, names), buffers_of(model)
    apply_settings(optimizer, record.settings)
    by_name = dict(model.named_parameters())
    key = memory_key(require_linear(optimizer))
    states = {n: optimizer.state.get(by_name[n], {}) for n in names}
    fresh = {n for n, state in states.items() if state.get(key) is None}
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
    return StepState(before, buffers, found, rates), value.item()
