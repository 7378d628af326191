"""A run whose steps a loop makes that is not ours: what that loop tells, and what is kept of it."""

import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pkbook.runs.kept_batches import Kept
from pkbook.runs.loops import Loop, Watched
from pkbook.runs.recorded import Recorded
from pkbook.runs.records import StepRecord
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
