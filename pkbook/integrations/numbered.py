"""Sample numbers that travel inside the batches of a library's own loader."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from pkbook.interpolation.trajectory import Trajectory
from pkbook.runs.problem import Clipped
from pkbook.runs.resuming import resumed
from pkbook.runs.snapshot import ReplayError
from pkbook.runs.steps import parts_of


def require_numbers(dataset: Any, what: str) -> Any:
    """A data set whose samples have numbers."""
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__"):
        raise TypeError(
            f"{what} must be a Dataset whose samples have numbers, got {type(dataset).__name__}, "
            "which can only be gone through; write a Dataset with __getitem__ and __len__"
        )
    return dataset


class Numbered(Dataset):
    """The same samples, each with its number before it."""

    def __init__(self, plain: Any) -> None:
        self.plain = plain

    def __len__(self) -> int:
        return len(self.plain)

    def __getitem__(self, k: int) -> tuple[int, Any]:
        return k, self.plain[k]

    def __getitems__(self, numbers: Sequence[int]) -> list[tuple[int, Any]]:
        """As loaders ask for a whole batch, where the data set can give one."""
        together = getattr(self.plain, "__getitems__", None)
        if together is None:
            return [self[k] for k in numbers]
        return list(zip(numbers, together(numbers), strict=True))


class Numbering:
    """Puts numbered samples together by the collate of others, and the numbers to the side.

    ``put(batch, numbers)`` makes one thing of both.
    """

    def __init__(self, collate: Callable, put: Callable[[Any, Tensor], Any]) -> None:
        self.collate, self.put = collate, put

    def __call__(self, pairs: Sequence[tuple[int, Any]]) -> Any:
        numbers = torch.tensor([int(k) for k, _ in pairs])
        return self.put(self.collate([sample for _, sample in pairs]), numbers)


def begun(recorder: Any, step: int, parts: tuple, options: dict, clipped: Clipped) -> Trajectory:
    """The run of a recorder that begins now, or goes on in its folder at the trainer's ``step``."""
    if recorder.resume:
        return resumed(
            Trajectory, lambda run: step - first_step(run, step), recorder.folder, *parts, **options
        )
    return Trajectory(
        *parts, folder=recorder.folder, every=recorder.every, clipped=clipped, **options
    )


def first_step(run: Trajectory, step: int) -> int:
    """The trainer's own number of the first step on record; ``step`` where there is none."""
    if len(run) == 0:
        return step
    part = parts_of(run.store.steps[0])[0]
    return run.problem.source.fetch(part.numbers, part.drawn_seed)[0]["step"]


def require_all_seen(recorded: int, made: int, how: str) -> None:
    """``ReplayError`` where a trainer made steps that were not seen."""
    if recorded != made:
        raise ReplayError(
            f"the trainer made {made} steps, of which {recorded} were seen, so the run cannot be "
            f"taken apart; {how}"
        )
