"""A run whose steps a loop makes that is not ours: what that loop tells, and what is kept of it."""

import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from pkbook.basics.checks import require_whole
from pkbook.runs import spacing
from pkbook.runs.kept_batches import Kept
from pkbook.runs.loops import Loop, Watched
from pkbook.runs.recorded import Recorded
from pkbook.runs.records import MemoryStore, StepRecord
from pkbook.runs.snapshot import ReplayError, difference, snapshot
from pkbook.runs.steps import parts_of


class Followed(Recorded):
    """A recorded run that may follow a loop; see :func:`pkbook.record`."""

    loop: Loop | None = None
    """The loop that is watched, if it is not this class that makes the steps."""

    def _keep_batches(self, folder: str | Path | None) -> None:
        where = None if folder is None else Path(folder)
        self.problem = replace(self.problem, source=Kept(self.problem.source, where))

    def follow_loop(self, folder: str | Path | None, scaler: Any = None, **how: Any) -> Loop:
        """Record the steps of a loop that is not ours, from now on; see :func:`pkbook.record`.

        ``how``: as for :class:`pkbook.runs.loops.Loop`.
        """
        if not isinstance(self.problem.source, Kept):
            self._keep_batches(folder)
        self.loop = Loop(self, scaler, **how)  # pyright: ignore[reportArgumentType]
        return self.loop

    def keep_step(self, record: StepRecord, given: list[Any]) -> None:
        """Keep a step that somebody else makes, with the batches that were given for it."""
        contents = []
        for part, batch in zip(parts_of(record), given, strict=True):
            if batch is None:
                contents += self.problem.source.fetch(part.numbers, part.drawn_seed)[1]
            else:
                self.kept.keep(part.drawn_seed, batch)
        self.store.append(replace(record, loss=math.nan, contents=contents))

    def end_loop(self, whole: bool = True) -> None:
        """Watch the loop no longer; ``whole``: it ended with a step, which a folder then opens at.

        Losses of such a run are on no record, so this is what an opened one is compared with.
        Nothing is kept where the model was changed after its last step: by averaged weights, say.
        """
        unchanged = [str(self.watched_loop.unchanged)]
        if whole and self.several is not None:  # all must come to the same decision
            unchanged = self.several.processes.collect("ending the loop", lambda: unchanged[0])
        whole = whole and unchanged.count("True") == len(unchanged)
        self.watched_loop.end()
        try:
            on_disk = not isinstance(self.store, MemoryStore)
            if whole and on_disk and not spacing.is_due(self.every, len(self)):
                self.store.save(len(self), snapshot(self.model, self.optimizer))
        finally:
            self.close()

    def take_back(self, k: int, there: dict[str, Tensor]) -> None:
        """Drop the steps from ``k`` on, which a loop is about to make again.

        ``there`` is the state that it goes on from: ``ReplayError`` where that is not the one on
        record after ``k`` steps, and nothing is dropped.
        """
        if require_whole(k, "the number of steps made", least=0) > len(self):
            raise ValueError(
                f"the record holds {len(self)} steps, got a training that has made {k} already; "
                "go on from an earlier checkpoint, or give a new folder"
            )
        if k == 0 and len(self) > 0:
            raise ValueError(
                f"the record holds {len(self)} steps, got a training that begins anew; go on from "
                "one of its checkpoints, or give a new folder"
            )
        self._rewind(k=k)
        found = difference(snapshot(self.model, self.optimizer), there)
        if found is not None:
            raise ReplayError(
                f"the training goes on from another state than the one on record after {k} steps: "
                f"{found.name} is off by {found.size:.2g} of its size; give a new folder"
            )
        if k < len(self):
            self.store.cut(k)
        if isinstance(self.problem.source, Kept):
            self.kept.sweep({p.drawn_seed for record in self.store.steps for p in parts_of(record)})

    @property
    def kept(self) -> Kept:
        """Where batches are kept that a loop gave."""
        source = self.problem.source
        if not isinstance(source, Kept):
            raise TypeError("batches are kept of a loop that pkbook.record watches")
        return source

    def saw(self, numbers: Any, batch: Any = None, *, divided_by: float | None = None) -> None:
        """Tell which samples a forward pass of the watched loop is made of.

        To be called once for each batch, before ``optimizer.step()``.

        Parameters
        ----------
        numbers
            sample numbers ``[B]``.
        batch
            the batch itself, as the loss takes it, where the data set draws it at random; it is
            kept.  Default what ``data`` gives for these numbers.
        divided_by
            what the loop divides the loss by before its backward pass; default the number of
            batches in the step.

        Raises
        ------
        ValueError, TypeError
            for a run that no loop is watched for, and numbers that are none.
        """
        self.watched_loop.saw(numbers, batch, divided_by)

    def watch(self, batch_sampler: Iterable) -> Watched:
        """The same sampler, whose batches tell themselves: ``DataLoader(batch_sampler=...)``."""
        return self.watched_loop.watch(batch_sampler)

    @property
    def watched_loop(self) -> Loop:
        """The loop that the run is recorded from, with :func:`pkbook.record`."""
        if self.loop is None:
            raise ValueError(
                "no loop is watched; write 'with pkbook.record(model, optimizer, ...) as run', or "
                "make the steps with run.step(numbers)"
            )
        return self.loop
