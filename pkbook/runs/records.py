"""What is kept of a run: one record for each step, and checkpoints now and then."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, Self

import torch
from torch import Tensor

LATER = ("contents", "passes", "processes")
"""Fields that came later: left out where they say nothing, as in the folders from before."""

Keep = Callable[[int], bool]
"""Whether a checkpoint, by its step, is still kept."""


@dataclass(frozen=True)
class StepRecord:
    """One optimizer step: enough to make it again."""

    batch: Sequence[int]
    """Sample numbers; a ``range`` where they follow one another."""
    seed: int
    settings: list[dict]
    """The optimizer's hyperparameters, one dict per parameter group."""
    training: list[str]
    """Names of the modules that were in train mode."""
    loss: float
    parts: list[int] = field(default_factory=list)
    """Sizes of the micro-batches whose gradients were accumulated; empty for one batch."""
    place: dict = field(default_factory=dict)
    """Where the step was made, if the run was begun elsewhere."""
    contents: list[str] = field(default_factory=list)
    """A checksum of each sample, where the data set may draw it at random."""
    passes: list[dict] = field(default_factory=list)
    """The conditions of each forward pass, of a loop that is not ours."""
    processes: int = 0
    """How many processes made the step, with as many micro-batches each; 0 for one."""

    def as_json(self) -> dict:
        """Plain numbers; a range is its two ends, under a name of its own."""
        told = {k: v for k, v in vars(self).items() if k not in LATER or v}
        if isinstance(self.batch, range):
            del told["batch"]
            return {"range": [self.batch.start, self.batch.stop], **told}
        return told

    @classmethod
    def of_json(cls, told: dict) -> Self:
        """As :meth:`as_json` wrote it."""
        if "range" in told:
            told = told | {"batch": range(*told["range"])}
            del told["range"]
        return cls(**told)


def of_model(name: str) -> bool:
    """Whether a tensor of a snapshot is a parameter or a buffer; the optimizer's always move."""
    return not name.startswith("optimizer/")


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are equal bit for bit: NaN is NaN, and 0 is not -0."""
    alike = a.dtype == b.dtype and a.shape == b.shape
    if not alike or a.layout != torch.strided or b.layout != torch.strided:
        return False
    return torch.equal(_bits(a), _bits(b.to(a.device)))


def _bits(t: Tensor) -> Tensor:
    return t.detach().resolve_conj().contiguous().flatten().view(torch.uint8)


def copies_of_moved(tensors: dict[str, Tensor], first: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies of a snapshot without the parameters and buffers that are those of ``first``."""
    return {
        name: t.detach().clone()
        for name, t in tensors.items()
        if not (of_model(name) and name in first and same_bits(t, first[name]))
    }


def whole(own: dict[str, Tensor], first: dict[str, Tensor]) -> dict[str, Tensor]:
    """A snapshot put together from what it holds itself and what has not moved since ``first``."""
    return {name: t for name, t in first.items() if of_model(name)} | own


class Store(Protocol):
    """Where a run keeps its steps and checkpoints."""

    steps: list[StepRecord]

    def append(self, record: StepRecord) -> None:
        """Keep a step; on failure nothing has changed."""

    def save(self, k: int, tensors: dict[str, Tensor], keep: Keep | None = None) -> None:
        """Keep copies of the tensors as the checkpoint before step ``k``.

        Parameters and buffers that are bit for bit those of step 0 are kept there alone.  Once it
        is there, those that ``keep`` says no to are dropped.
        """

    def load(self, k: int) -> dict[str, Tensor]:
        """The whole checkpoint before step ``k``; the tensors are not to be changed."""
        ...

    def latest(self, k: int) -> tuple[int, dict[str, Tensor]]:
        """The last checkpoint at or before step ``k``: its step, and what :meth:`load` gives."""
        ...

    def cut(self, k: int) -> None:
        """Drop the steps from ``k`` on, and the checkpoints after it."""
        ...

    def saved(self) -> list[int]:
        """The steps of which there is a checkpoint, in order."""
        ...

    def close(self) -> None:
        """Keep nothing more; what is kept can still be read."""


class MemoryStore:
    """Checkpoints and steps in memory, gone with the process."""

    def __init__(self) -> None:
        self.steps: list[StepRecord] = []
        self.checkpoints: dict[int, dict[str, Tensor]] = {}

    def append(self, record: StepRecord) -> None:
        self.steps.append(record)

    def save(self, k: int, tensors: dict[str, Tensor], keep: Keep | None = None) -> None:
        self.checkpoints[k] = copies_of_moved(tensors, self.checkpoints.get(0, {}))
        if keep is not None:
            self.checkpoints = {c: own for c, own in self.checkpoints.items() if keep(c)}

    def load(self, k: int) -> dict[str, Tensor]:
        return whole(self.checkpoints[k], self.checkpoints[0])

    def latest(self, k: int) -> tuple[int, dict[str, Tensor]]:
        start = max(c for c in self.checkpoints if c <= k)
        return start, self.load(start)

    def cut(self, k: int) -> None:
        del self.steps[k:]
        self.checkpoints = {c: own for c, own in self.checkpoints.items() if c <= k}

    def saved(self) -> list[int]:
        return sorted(self.checkpoints)

    def close(self) -> None:
        """Nothing to release."""
