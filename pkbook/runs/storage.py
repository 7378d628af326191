"""A run kept in a folder that survives the process.

A folder holds ``manifest.json``, ``steps.jsonl`` (one line a step, appended, each with its
checksum) and ``checkpoints/STEP-CHECKSUM.safetensors``.  Nothing is ever pickled.  Whatever moment
the writing process is killed at, what stands there opens.
"""

import json
import os
import warnings
import zlib
from contextlib import suppress
from pathlib import Path

from filelock import FileLock
from torch import Tensor

from pkbook.basics.files import (
    StorageError,
    not_writable,
    read_checked,
    sole_writer,
    sweep,
    write_checked,
    write_whole,
)
from pkbook.runs.manifest import dump_manifest, load_manifest
from pkbook.runs.records import MemoryStore, StepRecord

__all__ = ["FolderStore", "MemoryStore", "StepRecord", "dump_manifest", "load_manifest"]


class FolderStore:
    """Checkpoints and steps in a folder, written so that what stands there is always whole."""

    _log = None
    _lock: FileLock | None = None

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.steps: list[StepRecord] = []

    @classmethod
    def create(cls, folder: str | Path, manifest: dict) -> "FolderStore":
        """A new store; ``ValueError`` if the folder already holds something."""
        store = cls(folder)
        store._require_unused()
        try:
            (store.folder / "checkpoints").mkdir(parents=True, exist_ok=True)
            store._acquire()
            store._require_unused()  # again, now that nobody else can begin a run here
            sweep(store.folder)
            write_whole(store.folder / "manifest.json", dump_manifest(manifest))
            store._log = store._path.open("ab", buffering=0)
        except BaseException as error:
            with suppress(OSError):
                store.close()
            if isinstance(error, OSError):
                told = error.__cause__ if isinstance(error, StorageError) else error
                cause = told if isinstance(told, OSError) else error
                raise store._failed("the beginning of the run", cause) from cause
            raise
        return store

    def _require_unused(self) -> None:
        if self.folder.exists() and any(self.folder.iterdir()) and not self._barely_begun():
            raise ValueError(
                f"folder {str(self.folder)!r} is not empty; open it with "
                "Trajectory.open(folder, model, loss, optimizer, data), or give a new one"
            )

    def _barely_begun(self) -> bool:
        """Whether nothing is here but what a writer leaves that was stopped before step 0."""
        manifest = self.folder / "manifest.json"
        found = {path.name.removesuffix(".partial") for path in self.folder.iterdir()}
        if found - {manifest.name, "checkpoints", "writer.lock", self._path.name} or self.saved():
            return False
        try:
            ours = not manifest.exists() or "samples" in load_manifest(manifest)
        except ValueError:
            return False
        return ours and (not self._path.exists() or self._path.stat().st_size == 0)

    @classmethod
    def open(cls, folder: str | Path, *, read_only: bool = False) -> tuple["FolderStore", dict]:
        """An existing store and its manifest.

        Unless ``read_only``, nobody else may write to the folder from now on; a torn last line of
        the step log is cut off, and a warning says so.
        """
        store = cls(folder)
        manifest = load_manifest(store.folder / "manifest.json")
        if not read_only:
            store._acquire()
        try:
            saved = store.saved()  # before the log, to which a writer may add meanwhile
            store._read_steps(mend=not read_only)
            _require_known(store, saved)
            if not read_only:
                store._begin_writing()
        except BaseException:
            store.close()
            raise
        return store, manifest

    def _begin_writing(self) -> None:
        try:
            self._log = self._path.open("ab", buffering=0)
            sweep(self.folder)
        except OSError as error:
            raise not_writable(self.folder, error) from error

    @property
    def _path(self) -> Path:
        return self.folder / "steps.jsonl"

    def _acquire(self) -> None:
        self._lock = sole_writer(
            self.folder, "run; close that one first, or open the folder with read_only=True"
        )

    def close(self) -> None:
        """Let others write to the folder."""
        log, self._log = self._log, None
        lock, self._lock = self._lock, None
        try:
            if log is not None:
                with log:
                    os.fsync(log.fileno())
        except OSError as error:
            raise self._failed("the last steps", error) from error
        finally:
            if lock is not None:
                lock.release()

    def __del__(self) -> None:
        self.close()

    def _read_steps(self, mend: bool) -> None:
        raw = self._path.read_bytes() if self._path.exists() else b""
        whole = raw[: raw.rfind(b"\n") + 1]
        self.steps = [self._parse(k, line) for k, line in enumerate(whole.split(b"\n")[:-1])]
        if len(whole) < len(raw):  # a kill in mid-append, or a damaged end: that step is lost
            warnings.warn(
                f"{self._path}: the last line is not whole, so the run ends after "
                f"{len(self.steps)} steps",
                stacklevel=2,
            )
            if mend:
                os.truncate(self._path, len(whole))

    def _parse(self, k: int, line: bytes) -> StepRecord:
        check, _, body = line.partition(b" ")
        if check != b"%08x" % zlib.crc32(body):
            raise ValueError(f"{self._path}: the line of step {k} is damaged (checksum differs)")
        return StepRecord.of_json(json.loads(body))

    def append(self, record: StepRecord) -> None:
        """Append one line; on failure the log is as it was."""
        log = self._writable()
        body = json.dumps(record.as_json(), separators=(",", ":")).encode()
        line = b"%08x %s\n" % (zlib.crc32(body), body)
        number, size = len(self.steps), os.fstat(log.fileno()).st_size
        try:
            if log.write(line) != len(line):
                raise OSError("the line was not written whole")
            self.steps.append(record)
        except BaseException as error:
            self._withdraw(number, size)
            if isinstance(error, OSError):
                raise self._failed(f"step {number}", error) from error
            raise

    def _withdraw(self, number: int, size: int) -> None:
        """Take a step back; where even that fails, nothing may be written after a torn line."""
        del self.steps[number:]
        log = self._writable()
        try:
            os.ftruncate(log.fileno(), size)
        except OSError:
            self._log = None
            log.close()
            self.close()

    def _failed(self, what: str, error: OSError) -> StorageError:
        rest = "the steps before it are intact: make room, open the folder again and go on"
        if not self.saved():
            rest = "nothing was recorded: make room and begin again in the same folder"
        where = f"{str(self.folder)!r} ({error})"
        return StorageError(f"{what} could not be written to {where}; {rest}")

    def _writable(self):
        if self._log is None:
            raise ValueError(
                f"folder {str(self.folder)!r} was opened read-only or closed, so no step can be "
                "added; open it with Trajectory.open(folder, ...)"
            )
        return self._log

    def save(self, k: int, tensors: dict[str, Tensor]) -> None:
        """Write a checkpoint, after everything it rests on has reached the disk."""
        log = self._writable()
        tensors = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
        try:
            os.fsync(log.fileno())
            write_checked(self.folder / "checkpoints", f"{k:09d}", tensors)
        except OSError as error:
            raise self._failed(f"the checkpoint of step {k}", error) from error

    def load(self, k: int) -> dict[str, Tensor]:
        return read_checked(self._checkpoints()[k])

    def _checkpoints(self) -> dict[int, Path]:
        found = {}
        for path in sorted((self.folder / "checkpoints").glob("*.safetensors")):
            number = path.stem.partition("-")[0]
            if not number.isdecimal():
                raise ValueError(f"checkpoint {path} has no step number in its name")
            if int(number) in found:
                raise ValueError(f"checkpoints {found[int(number)]} and {path} are of one step")
            found[int(number)] = path
        return found

    def saved(self) -> list[int]:
        return sorted(self._checkpoints())


def _require_known(store: FolderStore, saved: list[int]) -> None:
    """A checkpoint is only written after the steps before it: a later one means lost steps."""
    if 0 not in saved:
        why = "it is lost"
        if not saved and not store.steps:
            why = "the run was stopped before its first step; record it again in this folder"
        raise ValueError(f"folder {str(store.folder)!r} has no checkpoint of step 0: {why}")
    if saved[-1] > len(store.steps):
        raise ValueError(
            f"{store._path} holds {len(store.steps)} steps, but there is a checkpoint of step "
            f"{saved[-1]}: the log has lost its end"
        )
