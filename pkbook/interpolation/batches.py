"""The forward passes of a recorded step, made again so that the query can meet their samples."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pkbook.basics.checks import as_matrix
from pkbook.basics.parameters import Tree
from pkbook.basics.replaced import replaced
from pkbook.interpolation.shares import Batch
from pkbook.kernels.asked import Asked, Inputs, asked
from pkbook.kernels.passes import calling
from pkbook.kernels.plan import Plan, plan
from pkbook.kernels.watch import Watch
from pkbook.runs.conditions import cast_as
from pkbook.runs.kept_batches import plain_source
from pkbook.runs.loss_rows import LossRows
from pkbook.runs.optimizers import StepState
from pkbook.runs.problem import Problem
from pkbook.runs.records import StepRecord
from pkbook.runs.sources import Tensors
from pkbook.runs.steps import (
    Part,
    batches_of,
    buffers_of,
    mixes_samples,
    parts_of,
    put_buffers,
    set_modes,
)


def plan_of_batches(problem: Problem, first: nn.Module, own: Tree) -> Plan | None:
    """How the model treats a training batch; None where two samples tell nothing about more."""
    two = problem.source.fetch(range(min(2, len(problem.source))), 0)[0]
    inputs, _ = _inputs(problem, two, LossRows(problem))
    if isinstance(inputs, Tensor) or not problem.of_batch:
        return plan(first, inputs, own)
    if inputs.whole:  # graphs put side by side, say
        return None
    try:
        return plan(first, inputs, own)
    except (ValueError, TypeError, RuntimeError):  # losses that compare the samples of a batch
        return None


def _inputs(problem: Problem, batch: Any, rows: LossRows) -> tuple[Inputs, Any]:
    """What the model is asked about a batch, and the targets."""
    if problem.of_batch:
        return Asked(batch, rows.of_batch), None
    x, y = batch
    return asked(x), y


@dataclass(frozen=True)
class Step:
    """The forward passes of one step."""

    problem: Problem
    record: StepRecord
    before: StepState
    model: nn.Module
    plan: Plan | None

    def batches(self) -> list[Batch]:
        """Each forward pass, with the samples, modes, buffers and random numbers it had."""
        parts, samples = parts_of(self.record), batches_of(self.problem, self.record)
        items = self.problem.items(samples)
        buffers = self._buffers_met(parts, samples)
        set_modes(self.model, self.record)
        # Batch statistics mix the samples: a sample's share is then that of its own loss.
        made = None if mixes_samples(self.model) else self.plan
        return [
            self._batch(part, batch, met, self._rows(parts, items, j), made)
            for j, (part, batch, met) in enumerate(zip(parts, samples, buffers, strict=True))
        ]

    @contextmanager
    def _under(self, part: Part) -> Iterator[None]:
        """The autocast and the random numbers that a pass had."""
        device = self.problem.source.device
        with cast_as(part.conditions, device), part.drawing(device):
            yield

    def _rows(self, parts: list[Part], items: list[float], j: int) -> LossRows:
        among = parts[j].conditions.divided_by or len(parts)
        return LossRows(self.problem, among, items, j)

    def _buffers_met(self, parts: list[Part], samples: list[Any]) -> list[Tree]:
        """The buffers that each part of a step met: the parts before it may have moved them."""
        before, model = self.before, self.model
        found = [before.buffers]
        if len(parts) == 1 or not before.buffers:
            return found * len(parts)
        set_modes(model, self.record)
        put_buffers(model, before.buffers)
        for part, batch in zip(parts[:-1], samples, strict=False):
            inputs, _ = _inputs(self.problem, batch, LossRows(self.problem))
            inputs = inputs.clone()
            grad = torch.set_grad_enabled(self.problem.of_batch)
            with grad, self._under(part), replaced(model, before.parameters):
                model(inputs) if isinstance(inputs, Tensor) else inputs.applied(model)
            found.append(buffers_of(model))
        return found

    def _batch(
        self, part: Part, batch: Any, buffers: Tree, rows: LossRows, made: Plan | None
    ) -> Batch:
        problem, model, n = self.problem, self.model, len(part.numbers)
        inputs, targets = _inputs(problem, batch, rows)
        seen: dict[str, torch.Size] = {}

        @contextmanager
        def forward(parameters: Tree, watch: Watch | None = None) -> Iterator[Tensor]:
            set_modes(model, self.record)
            put_buffers(model, buffers)
            with self._under(part), calling(model, inputs)(parameters, watch) as f:
                seen["shape"] = f.shape
                yield as_matrix(f, n)

        def slope(f: Tensor, graph: bool = False) -> Tensor:
            with torch.enable_grad():
                f = f if graph else f.detach().requires_grad_()
                losses = problem.of_outputs(f.reshape(seen["shape"]), targets, n)
                value = problem.reduced(losses, *rows.place)
            return torch.autograd.grad(value, f, create_graph=graph)[0]

        plain, weights = rows.slope_of_batch if problem.of_batch else slope, None
        if problem.weights is not None:
            weights = problem.weights_of(part.numbers)

        def chosen(f: Tensor, graph: bool = False) -> Tensor:
            found = plain(f, graph)
            return found if weights is None else found * weights.to(f.dtype)[:, None]

        def by_token(f: Tensor) -> list[Tensor]:
            shape = rows.shape_of_row() if problem.of_batch else seen["shape"]
            return token_slopes(chosen(f), shape)

        return Batch(forward, chosen, self.before.parameters, made, by_token)


def token_slopes(slope: Tensor, shape: Sequence[int]) -> list[Tensor]:
    """The slope ``[n, T * V]`` by outputs of ``shape`` ``[n, T, ...]``, token by token."""
    if len(shape) < 3:
        raise ValueError(
            f"by_token needs outputs [n, T, ...] with a place for each token, got {tuple(shape)}"
        )
    parts = slope.unflatten(1, (shape[1], -1))
    found = []
    for t in range(shape[1]):
        one = torch.zeros_like(parts)
        one[:, t] = parts[:, t]
        found.append(one.flatten(1))
    return found


def shared_plan(problem: Problem, x: Inputs) -> bool:
    """Whether queries and training inputs are of one kind, so that one plan serves both."""
    return (
        isinstance(x, Tensor)
        and isinstance(plain_source(problem.source), Tensors)
        and not problem.of_batch
    )
