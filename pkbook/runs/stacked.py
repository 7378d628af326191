"""Steps of many trainings at once: stacked parameters under ``torch.func.vmap``."""

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.func import grad, vmap

from pkbook.basics.parameters import Tree, sum_of
from pkbook.basics.replaced import replaced
from pkbook.runs.clipping import clipped
from pkbook.runs.conditions import cast_as
from pkbook.runs.copies import copied
from pkbook.runs.optimizers import Coefficients, apply_settings, memory_key, moved, rule_of
from pkbook.runs.problem import Problem
from pkbook.runs.recording import Recording
from pkbook.runs.records import StepRecord
from pkbook.runs.snapshot import put_back
from pkbook.runs.steps import Part, batches_of, gradients, parts_of, set_modes, weighted

BEGINS, GOES_ON = Coefficients(keep=0.0, take=1.0), Coefficients()


def can_be_stacked(run: Recording) -> bool:
    """Losses of outputs and targets, an optimizer of torch, gradients of the trained parameters."""
    plain = run.problem.clip_norm is None or run.problem.clipped == "trained"
    return plain and not run.problem.of_batch and not rule_of(run.optimizer).own


class Stacked:
    """``R`` trainings that differ in the weights of their samples, at the same step."""

    def __init__(self, run: Recording, problem: Problem, rows: Tensor) -> None:
        """``rows``: the weights ``[R, N]``; ``problem`` says what a mean is divided by."""
        self.run, self.problem, self.rows = run, problem, rows
        self.model, self.optimizer = copied(run.model, run.optimizer)
        put_back(run.store.load(0), self.model, self.optimizer)
        own = dict(self.model.named_parameters())
        self.parameters = {name: self._stack(own[name]) for name in run.names}
        self.buffers = {name: self._stack(b) for name, b in self.model.named_buffers()}
        key = memory_key(self.optimizer)
        self.memories: Tree = {}
        self.states: dict[str, Tree] = {}
        for name in run.names:
            kept = dict(self.optimizer.state.get(own[name], {}))
            memory = kept.pop(key, None)
            if memory is not None:
                self.memories[name] = self._stack(memory)
            self.states[name] = {
                n: self._stack(t) if t.shape == own[name].shape else t.clone()
                for n, t in kept.items()
                if isinstance(t, Tensor)
            }
        self.group = {
            name: number
            for number, group in enumerate(self.optimizer.param_groups)
            for name, p in own.items()
            if any(p is q for q in group["params"])
        }
        self.alone, self.moving = self._first_step_alone()

    def _stack(self, t: Tensor) -> Tensor:
        return t.detach().expand(len(self.rows), *t.shape).clone()

    def _first_step_alone(self) -> tuple[Tree, set[str]]:
        """Parameters and buffers after the first training's first step, and which it moved."""
        model, optimizer = copied(self.model, self.optimizer)
        put_back(self.run.store.load(0), model, optimizer)
        record = self.run.store.steps[0]
        set_modes(model, record)
        apply_settings(optimizer, record.settings)
        gradients(self.problem, record, model, optimizer, 0)
        moving = {name for name, p in model.named_parameters() if p.grad is not None}
        optimizer.step()
        named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        return {name: t.detach() for name, t in named.items()}, moving

    def agrees(self) -> bool:
        """Whether the first step came to what the first training alone came to."""
        start = self.run.store.load(0)
        for name, t in (self.parameters | self.buffers).items():
            alone, kind = self.alone[name], "parameter" if name in self.parameters else "buffer"
            step = (alone.double() - start[f"{kind}/{name}"].to(alone.device).double()).abs().max()
            gap = float((t[0].double() - alone.double()).abs().max())
            eps = torch.finfo(t.dtype).eps if t.is_floating_point() else 0.0
            if gap > 1e-3 * float(step) + 64 * eps * float(alone.double().abs().max()):
                return False
        return True

    def step(self, k: int) -> None:
        """Step ``k`` of all trainings."""
        record = self.run.store.steps[k]
        set_modes(self.model, record)
        each_by_itself = vmap(partial(clipped, self.problem))
        pulled = each_by_itself(self._gradients(record))
        for name, g in pulled.items():
            theta = self.parameters[name]
            fresh = name not in self.memories
            memory = self.memories.get(name, torch.zeros_like(theta))
            made = moved(
                self.optimizer,
                record.settings[self.group[name]],
                BEGINS if fresh else GOES_ON,
                (theta, memory, self.states[name]),
                g,
            )
            self.parameters[name], self.memories[name] = made.parameter, made.memory
            self.states[name] = self.states[name] | made.state

    def _gradients(self, record: StepRecord) -> Tree:
        parts, batches = parts_of(record), batches_of(self.problem, record)
        items = self.problem.items(batches)
        found = []
        for j, (part, batch) in enumerate(zip(parts, batches, strict=True)):
            among = part.conditions.divided_by or len(parts)
            found.append(self._of_part(part, batch, (among, items, j)))
        return {n: sum_of(f[n] for f in found) for n in self.parameters if n in self.moving}

    def _of_part(self, part: Part, batch: Any, place: tuple) -> Tree:
        """The gradients of a micro-batch, ``[R, *shape]``; moves the buffers."""
        problem, n = self.problem, len(part.numbers)

        def value(parameters: Tree, buffers: Tree, weights: Tensor) -> tuple[Tensor, Tree]:
            own = {name: b.clone() for name, b in buffers.items()}
            with replaced(self.model, parameters | own):
                outputs, targets = problem.outputs(self.model, batch)
            losses = problem.of_outputs(weighted(outputs, weights), targets, n)
            return problem.reduced(losses, *place), own

        device = self.run.device
        with ExitStack() as under:
            under.enter_context(torch.enable_grad())
            under.enter_context(cast_as(part.conditions, device))
            under.enter_context(part.drawing(device))
            pulled, self.buffers = vmap(grad(value, has_aux=True), randomness="same")(
                self.parameters, self.buffers, self._weights(part.numbers)
            )
        return {name: g.detach() for name, g in pulled.items()}

    def _weights(self, numbers: Sequence[int]) -> Tensor:
        """``[R, n]``, as `Problem.weights_of` has them for one training."""
        found = self.rows[:, torch.as_tensor(numbers, device=self.rows.device)]
        if not self.problem.whole:
            found = found * (len(numbers) / found.sum(1, keepdim=True))
        return found
