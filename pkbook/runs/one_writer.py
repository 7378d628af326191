"""A run's folder that several processes read and the first of them writes."""

from pathlib import Path

from torch import Tensor

from pkbook.basics.files import StorageError
from pkbook.basics.processes import Processes
from pkbook.runs.records import Keep, MemoryStore, StepRecord, Store
from pkbook.runs.storage import FolderStore


class Seen(FolderStore):
    """A folder that another process writes: what is appended here stands there already."""

    def append(self, record: StepRecord) -> None:
        self.steps.append(record)

    def save(self, k: int, tensors: dict[str, Tensor], keep: Keep | None = None) -> None:
        """It is written by the first process."""


class OneWriter:
    """The store of one process among several; each call that writes is made by all of them.

    Where the first process cannot write, all raise, and nothing has changed on any.
    """

    def __init__(self, store: Store, processes: Processes) -> None:
        self.store, self.processes = store, processes
        self.steps = store.steps  # the same list

    def append(self, record: StepRecord) -> None:
        first = self.processes.index == 0

        def write() -> None:
            if first:
                self.store.append(record)

        self.processes.together(f"keeping step {len(self.steps)}", write)
        if not first:
            self.store.append(record)

    def save(self, k: int, tensors: dict[str, Tensor], keep: Keep | None = None) -> None:
        what = f"keeping the checkpoint of step {k}"
        self.processes.together(what, lambda: self.store.save(k, tensors, keep))

    def cut(self, k: int) -> None:
        first = self.processes.index == 0

        def write() -> None:
            if first:
                self.store.cut(k)

        self.processes.together(f"dropping the steps from {k} on", write)
        if not first:
            del self.steps[k:]

    def load(self, k: int) -> dict[str, Tensor]:
        return self.store.load(k)

    def latest(self, k: int) -> tuple[int, dict[str, Tensor]]:
        return self.store.latest(k)

    def saved(self) -> list[int]:
        return self.store.saved()

    def close(self) -> None:
        self.store.close()


def new_store(
    folder: str | Path | None, manifest: dict, processes: Processes | None, background: bool
) -> Store:
    """Where a run is kept that begins now, on this process."""
    if folder is None:
        return MemoryStore()
    if processes is None:
        return FolderStore.create(folder, manifest, background=background)

    def create() -> FolderStore:
        if processes.index > 0:
            return Seen(folder)
        return FolderStore.create(folder, manifest, background=background)

    created = processes.together("beginning the folder", create)

    def see() -> OneWriter:
        if not (created.folder / "manifest.json").exists():
            raise StorageError(
                f"folder {str(folder)!r} must be one that all processes see, but rank "
                f"{processes.index} does not; give a folder of a shared file system"
            )
        return OneWriter(created, processes)

    try:
        return processes.together("looking for the folder", see)
    except BaseException:
        created.close()
        raise


def opened_store(
    folder: str | Path, processes: Processes | None, read_only: bool, background: bool
) -> tuple[Store, dict]:
    """A run that is kept in a folder, and its manifest."""
    if processes is None or read_only:
        return FolderStore.open(folder, read_only=read_only, background=background)
    first = processes.index == 0
    # The others after the first, which may have to mend the end of the log.
    found = processes.together(
        "opening the folder",
        lambda: FolderStore.open(folder, background=background) if first else None,
    )
    try:
        found = processes.together(
            "reading the folder", lambda: found or Seen.open(folder, read_only=True)
        )
    except BaseException:
        if found is not None:
            found[0].close()
        raise
    return OneWriter(found[0], processes), found[1]
