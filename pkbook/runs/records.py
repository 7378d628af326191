"""What is kept of a run: one record for each step, and checkpoints now and then."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, Self

from torch import Tensor

LATER = ("contents", "passes", "processes")
"""Fields that came later: left out where they say nothing, as in the folders from before."""


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


class Store(Protocol):
    """Where a run keeps its steps and checkpoints."""

    steps: list[StepRecord]

    def append(self, record: StepRecord) -> None:
        """Keep a step; on failure nothing has changed."""

    def save(self, k: int, tensors: dict[str, Tensor]) -> None:
        """Keep copies of the tensors as the checkpoint before step ``k``."""

    def load(self, k: int) -> dict[str, Tensor]:
        """The checkpoint before step ``k``; the tensors are not to be changed."""
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

    def save(self, k: int, tensors: dict[str, Tensor]) -> None:
        self.checkpoints[k] = {name: t.detach().clone() for name, t in tensors.items()}

    def load(self, k: int) -> dict[str, Tensor]:
        return self.checkpoints[k]

    def saved(self) -> list[int]:
        return sorted(self.checkpoints)

    def close(self) -> None:
        """Nothing to release."""
