"""A training run as data: recorded step by step, replayed bit for bit.

A :class:`Recording` wraps the reader's own loop: each :meth:`Recording.step` makes one optimizer
step and records what is needed to make it again (batch indices, random seed, hyperparameters), and
every few steps a checkpoint of parameters, buffers and optimizer state.  A replay starts from a
checkpoint, repeats the steps, and must land on the next checkpoint exactly.  What never moves is
kept once, in the first checkpoint.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar, get_args

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from pkbook.basics.checks import require_choice, require_module, require_whole
from pkbook.basics.inference import outside_inference
from pkbook.basics.processes import Processes
from pkbook.runs import environment, spacing
from pkbook.runs.batches import as_numbers, batches, micro_batches
from pkbook.runs.checks import (
    layout,
    require_alone,
    require_moved_by_steps,
    require_same_layout,
    trained_names,
)
from pkbook.runs.conditions import Conditions
from pkbook.runs.faults import Watch
from pkbook.runs.followed import Followed
from pkbook.runs.kept_batches import plain_source
from pkbook.runs.loader import load
from pkbook.runs.one_writer import new_store, opened_store
from pkbook.runs.optimizers import (
    require_linear,
    settings_of,
)
from pkbook.runs.problem import Clipped, Loss, Problem, Reduction, is_pair
from pkbook.runs.records import StepRecord, Store
from pkbook.runs.replay import Replayed
from pkbook.runs.schedules import advance, follow, require_schedule
from pkbook.runs.setting import problem_of
from pkbook.runs.several import require_fitting, several_of
from pkbook.runs.snapshot import snapshot
from pkbook.runs.sources import Collate, Samples, Tensors
from pkbook.runs.steps import buffers_of, fetched, gradients, put_buffers, step_seed

T = TypeVar("T")

__all__ = ["Recording", "Replayed", "batches"]


class Recording(Followed):
    """A run as data; see :class:`pkbook.Trajectory`, which adds what is computed from it.

    Two classes, because this room knows no kernels: a recording can be made, kept and replayed
    without them, and the reader's class stands one floor higher, where runs and kernels meet.
    What each ``every`` costs in memory and time is told in its notes.

    With ``check``, the first step and, with ever longer breaks, one of the others are made again at
    once on a copy of model and optimizer (:mod:`pkbook.runs.faults`).  A step that does not come to
    the same is a ``ReplayError`` then and there, with its likely cause.  This changes nothing of
    the run; it takes the time of about three steps each, and calls the loss once more.
    """

    @outside_inference()
    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        optimizer: torch.optim.Optimizer,
        data: Any,
        *,
        collate: Collate | None = None,
        reduction: Reduction = "mean",
        folder: str | Path | None = None,
        every: int | str = 50,
        seed: int = 0,
        scheduler: LRScheduler | None = None,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        clipped: Clipped = "trained",
        check: bool = True,
        background: bool = False,
    ) -> None:
        spacing.require_background(background, folder)
        self.several = several_of(model)
        self.elsewhere: dict[str, tuple] = {}
        problem = (loss, data, collate, reduction, clip_norm, clip_value)

        def set_up() -> None:
            self._bind(model, optimizer, scheduler)
            require_choice(clipped, "clipped", get_args(Clipped))
            self.problem = replace(problem_of(self.model, *problem), clipped=clipped)
            self.every = spacing.require_every(every)
            self.seed = require_whole(seed, "seed", least=0)

        self._together("checking its arguments", set_up)
        if self.several is not None:
            self.several.agree(self)
        self._watch = Watch(spacing.watched_every(self.every), check)
        self.store: Store = new_store(folder, self._manifest(), self._processes, background)
        try:
            self.store.save(0, snapshot(self.model, self.optimizer))
        except BaseException:
            with suppress(OSError):
                self.close()
            raise

    @classmethod
    @outside_inference()
    def open(
        cls,
        folder: str | Path,
        model: nn.Module,
        loss: Loss,
        optimizer: torch.optim.Optimizer,
        data: Any,
        *,
        collate: Collate | None = None,
        reduction: Reduction = "mean",
        scheduler: LRScheduler | None = None,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        read_only: bool = False,
        check: bool = True,
        background: bool = False,
    ) -> Self:
        """Open a run kept in ``folder`` and bring model and optimizer to its last step.

        Model, loss, optimizer, scheduler and data are made by the reader's code as for the first
        time; what the folder says about them is compared, and a difference is a ``ValueError``.
        A scheduler given here is brought to the last step too; hyperparameters that the reader's
        code sets by hand are left as that code made them.

        With ``read_only`` the run can be taken apart but not continued, also while another process
        goes on writing it.  Without it, ``StorageError`` where the folder cannot be written.
        """
        spacing.require_background(background, folder)
        run = cls.__new__(cls)
        run.several = several_of(model)
        problem = (loss, data, collate, reduction, clip_norm, clip_value)

        def set_up() -> None:
            run._bind(model, optimizer, scheduler)
            run.problem = problem_of(run.model, *problem)

        run._together("checking its arguments", set_up)
        run.store, manifest = opened_store(folder, run._processes, read_only, background)
        try:
            run.every, run.seed = spacing.require_every(manifest["every"]), manifest["seed"]
            run.problem = replace(run.problem, clipped=manifest.get("clipped", "trained"))
            run._watch = Watch(spacing.watched_every(run.every), check)
            run._together("opening the run", lambda: run._go_to_end(folder, manifest))
            if run.several is not None:
                run.several.agree(run)
        except BaseException:
            run.close()
            raise
        return run

    def _go_to_end(self, folder: str | Path, manifest: dict) -> None:
        """Compare a run with its folder and bring it to its last step."""
        steps = self.store.steps
        environment.require_same_run(folder, manifest, self._manifest())
        environment.require_steps_in_order(folder, steps, self.seed)
        self.elsewhere = self._places(manifest)
        if any(record.passes for record in steps):
            self._keep_batches(folder)
        self._rewind(opened=True)
        if self.scheduler is not None:
            follow(self.scheduler, self.optimizer, [record.settings for record in steps])

    @property
    def _processes(self) -> Processes | None:
        return None if self.several is None else self.several.processes

    def _together(self, what: str, function: Callable[[], T]) -> T:
        """What may fail on one of several processes: then all raise."""
        return function() if self.several is None else self.several.together(what, function)

    def _bind(self, model, optimizer, scheduler) -> None:
        """Check the moving parts of a run and keep them."""
        whole = require_module(model)
        model = whole if self.several is None else self.several.ddp.module
        require_moved_by_steps(require_alone(model))
        require_linear(optimizer)
        settings_of(optimizer)  # refuses an option that no record can hold
        self.scheduler = require_schedule(scheduler, optimizer)
        self.names = trained_names(model, optimizer)
        if self.several is not None:
            require_fitting(self.several.ddp, self.names)
            self.several.require_exact()
        self._model, self._optimizer = model, optimizer
        self._layout = layout(model, optimizer)

    @outside_inference()
    def step(self, batch: Tensor | Sequence[int] | Sequence[Tensor]) -> Tensor:
        """Make and record one optimizer step on the samples ``batch`` (indices into the data).

        A list of batches accumulates: the step follows the mean of their gradients.  Where several
        processes train, each gives samples of its own, and the step is that of all of them.
        Returns the batch loss before the step.  ``ValueError`` for indices out of range, for a loss
        or gradient that is not finite, and where parameters were added, exchanged or frozen: the
        step is then not made, the path so far is kept.  ``StorageError`` where the folder cannot be
        written, ``RankError`` where another process failed.  ``ReplayError`` for a step that was
        made and cannot be made again, see ``check``.
        """
        ours = self._begun if self.several is None else partial(self.several.step, self)
        record, descend, made = ours(batch)
        value = self.make(record, descend)
        made()
        return value

    def _begun(self, batch: Any) -> tuple[StepRecord, Callable[[], Tensor], Callable]:
        """The next step: its record, what puts its gradients in place, what is done after it."""
        parts, k = self.numbers_of(batch), len(self)
        training = [name for name, m in self.model.named_modules() if m.training]
        made = self.begin_step()
        record = self.record_of(parts, training)
        batches, contents = fetched(self.problem, record)
        record = replace(record, contents=contents)

        def descend() -> Tensor:
            return gradients(self.problem, record, self.model, self.optimizer, k, batches)[0]

        return record, descend, made

    def loader(self, order: Iterable[Any], *, num_workers: int = 0) -> Iterator[Tensor]:
        """The batches of ``order``, put together ahead of their steps by workers.

        For data that are a ``Dataset``: ``for batch in run.loader(order, num_workers=2):
        run.step(batch)``.  ``order`` gives the sample numbers of each batch, as a batch sampler
        does.  What comes are the numbers; the samples wait for the step, drawn as it would draw
        them itself.  Each batch is one step, and no other steps may be made in between.
        """
        require_whole(num_workers, "num_workers", least=0)
        source = plain_source(self.problem.source)
        if not isinstance(source, Samples):
            raise TypeError("loader is for data that are a Dataset; tensors need no loading")
        return load(self, order, source, num_workers)

    def begin_step(self) -> Callable[[], None]:
        """Look at the run before its next step; what is returned is to be called after it."""
        k = len(self)
        require_same_layout(self._layout, layout(self.model, self.optimizer), k)
        made = self._watch.begin(k, self.replay, self.model, self.optimizer)
        return partial(self._together, f"looking at step {k}", made)

    def record_of(
        self, parts: list[Tensor], training: list[str], passes: Sequence[Conditions] = ()
    ) -> StepRecord:
        """The record of the next step, still without its loss and its samples' checksums."""
        return StepRecord(
            batch=as_numbers(parts),
            seed=step_seed(self.seed, len(self)),
            settings=settings_of(self.optimizer),
            training=training,
            loss=0.0,
            parts=[len(part) for part in parts] if len(parts) > 1 else [],
            place=environment.environment(self.device) if self.elsewhere else {},
            passes=[under.as_json() for under in passes],
        )

    def end_step(self) -> None:
        """After a step: a checkpoint where one is due."""
        if spacing.is_due(self.every, len(self)):
            tensors = snapshot(self.model, self.optimizer)
            self.store.save(len(self), tensors, spacing.keeper(self.every, len(self)))

    def numbers_of(self, batch: Any) -> list[Tensor]:
        """The sample numbers of each micro-batch of a step."""
        source = plain_source(self.problem.source)
        x = source.value[0] if isinstance(source, Tensors) and is_pair(source.value) else None
        whole = isinstance(x, Tensor) and x.ndim == 1 and not x.is_floating_point()
        return micro_batches(batch, self.samples, numbers_too=whole)

    def sibling(self, model: nn.Module, optimizer: Optimizer, problem: Problem) -> Self:
        """A run in memory that begins with this model and optimizer, still without steps."""
        run = type(self).__new__(type(self))
        run.several, run.elsewhere = None, {}
        run._bind(model, optimizer, None)
        run.problem, run.every, run.seed = problem, self.every, self.seed
        run._watch = Watch(spacing.watched_every(self.every), False)
        run.store = new_store(None, {}, None, False)
        run.store.save(0, snapshot(model, optimizer))
        return run

    def make(self, record: StepRecord, descend: Callable[[], Tensor]) -> Tensor:
        """Make the step of a record and keep it; or neither of both."""
        k = len(self)
        buffers = buffers_of(self.model)
        try:
            value = descend()
            self.store.append(replace(record, loss=value.item()))
            self.optimizer.step()
        except BaseException:
            if len(self) > k:  # Ctrl-C, say: the step is on record, so it is made
                self._rewind()
                advance(self.scheduler)
            else:
                put_buffers(self.model, buffers)
            raise
        advance(self.scheduler)
        self.end_step()
        return value
