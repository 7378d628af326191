"""Recorded steps made again, and compared with what was recorded."""

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from math import isqrt

from torch import Tensor, nn
from torch.optim import Optimizer

from pkbook.basics.inference import outside_inference
from pkbook.runs.optimizers import StepState
from pkbook.runs.records import Store, copies_of_moved, whole
from pkbook.runs.snapshot import ReplayError, difference, put_back, snapshot
from pkbook.runs.steps import Problem, buffers_of, moving, repeat

_CAUSE = "Was the model, the loss or the optimizer changed outside of step()?"

_OTHER = "Are the loss, the layers and their options those of the recorded run?"


@dataclass(frozen=True)
class Replayed:
    """A part of a run made again, from one checkpoint to the next, or a piece of a long one."""

    start: int
    states: list[StepState]
    """The states before each step, followed by the state at the end."""
    model: nn.Module
    """A copy of the model; its frozen parameters are those of the model itself."""
    end: dict[str, Tensor]
    """What was recorded for the end."""
    gap: float
    """Largest relative difference between the end recorded and replayed; 0 is bit for bit."""


@dataclass(frozen=True)
class Replay:
    """Makes the steps of a run again, on whatever model and optimizer it is given."""

    problem: Problem
    names: list[str]
    store: Store
    elsewhere: dict[str, tuple]
    """What was otherwise where the run was recorded."""

    keep: bool = False
    """Whether states hold what the optimizer keeps, too."""

    def repeat(self, k: int, model: nn.Module, optimizer: Optimizer) -> tuple[StepState, float]:
        """Step ``k``; the state before it, and its loss."""
        record = self.store.steps[k]
        return repeat(self.problem, record, self.names, model, optimizer, k, self.keep)

    def bring_to(self, k: int, model: nn.Module, optimizer: Optimizer) -> None:
        """Bring model and optimizer to where they were after ``k`` steps."""
        start, tensors = self.store.latest(k)
        put_back(tensors, model, optimizer)
        for step in range(start, k):
            self.repeat(step, model, optimizer)

    def bring_to_end(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Bring model and optimizer of an opened run to its last step.

        What is replayed must have the losses that were recorded, at least one of them, or come to
        the same end: neither loss nor layers are in the folder.
        """
        stop = len(self.store.steps)
        start, tensors = self.store.latest(stop)
        if start == stop and stop > 0:
            before, earlier = self.store.latest(stop - 1)
            put_back(earlier, model, optimizer)
            silent = math.isnan(self.store.steps[before].loss)  # a loop's, compared by its end
            self._repeat_compared(before, stop if silent else before + 1, stop, model, optimizer)
            if silent:
                self._gap(before, stop, tensors, snapshot(model, optimizer), _OTHER)
        put_back(tensors, model, optimizer)
        self._repeat_compared(start, stop, stop, model, optimizer)

    def _repeat_compared(
        self, start: int, end: int, stop: int, model: nn.Module, optimizer: Optimizer
    ) -> None:
        for k in range(start, end):
            _, loss = self.repeat(k, model, optimizer)
            self.require_loss(start, stop, k, loss, _OTHER)
            if k == start and self.elsewhere:
                self._compare_roughly(k, loss)

    def _compare_roughly(self, k: int, loss: float) -> None:
        """Elsewhere last bits may differ, and random numbers of another device altogether."""
        then = self.store.steps[k].loss
        if abs(loss - then) > 0.1 * abs(then):
            warnings.warn(
                f"the loss of step {k} is {loss}, and was {then} where it was recorded: is it "
                "that of the recorded run?",
                stacklevel=5,
            )

    def backwards(
        self, model: nn.Module, optimizer: Optimizer, end: dict[str, Tensor], most: int
    ) -> Iterator[Replayed]:
        r"""Segment by segment, last first; ``end`` is the state after the last step.

        A segment of :math:`L` steps, more than ``most``, is made twice: once to keep the state at
        every :math:`\sqrt L` of them, and then piece by piece from those.
        """
        stop = len(self.store.steps)
        worst, told = 0.0, ""
        while stop > 0:
            start, first = self.store.latest(stop - 1)
            inner = {start: first}
            if stop - start > most:
                with outside_inference():
                    inner = self._inner(start, stop, first, model, optimizer)
            while inner:
                start, moved = inner.popitem()
                tensors = whole(moved, first)
                with outside_inference():
                    states = self._states(start, stop, tensors, model, optimizer)
                gap, what = self._gap(start, stop, end, snapshot(model, optimizer))
                worst, told = max((worst, told), (gap, what))
                yield Replayed(start, states, model, end, gap)
                del states  # not held while the next ones are made
                stop, end = start, tensors
        if worst:
            there = ", ".join(f"{k} {a} there, {b} here" for k, (a, b) in self.elsewhere.items())
            warnings.warn(f"{told} ({there})", stacklevel=2)

    def _inner(
        self,
        start: int,
        stop: int,
        first: dict[str, Tensor],
        model: nn.Module,
        optimizer: Optimizer,
    ) -> dict[int, dict[str, Tensor]]:
        """What moved since ``start``, at the beginning of each piece, by its step."""
        size = isqrt(stop - start - 1) + 1
        *_, last = range(start, stop, size)
        put_back(first, model, optimizer)
        found: dict[int, dict[str, Tensor]] = {}
        for k in range(start, last + 1):
            if (k - start) % size == 0:
                found[k] = copies_of_moved(snapshot(model, optimizer), first)
            if k < last:
                _, loss = self.repeat(k, model, optimizer)
                self.require_loss(start, stop, k, loss)
        return found

    def _states(
        self,
        start: int,
        stop: int,
        tensors: dict[str, Tensor],
        model: nn.Module,
        optimizer: Optimizer,
    ) -> list[StepState]:
        put_back(tensors, model, optimizer)
        states = []
        for k in range(start, stop):
            state, loss = self.repeat(k, model, optimizer)
            states.append(state)
            self.require_loss(start, stop, k, loss)
        return [*states, StepState(moving(model, self.names), buffers_of(model))]

    def require_loss(self, start: int, stop: int, k: int, loss: float, cause: str = _CAUSE) -> None:
        """The only witness of the steps after the last checkpoint of a run that was opened."""
        then = self.store.steps[k].loss
        if loss != then and not (self.elsewhere or math.isnan(then)):
            what = f"the loss of step {k} is {loss}, and was {then}"
            raise ReplayError(f"{_differently(start, stop, what)}. {cause}")

    def _gap(
        self, start: int, stop: int, recorded: dict, replayed: dict, cause: str = _CAUSE
    ) -> tuple[float, str]:
        found = difference(recorded, replayed)
        if found is None:
            return 0.0, ""
        what = f"{found.name} is off by {found.size:.2g} of its size"
        where = _differently(start, stop, what)
        if not self.elsewhere:
            raise ReplayError(f"{where}. {cause}")
        return found.size, where


def _differently(start: int, stop: int, what: str) -> str:
    return f"steps {start} to {stop} replayed differently from the recorded run: {what}"
