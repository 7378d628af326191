"""A run kept in a folder that survives the process.

A folder holds ``manifest.json``, ``steps.jsonl`` (one line a step, appended, each with its
checksum) and ``checkpoints/STEP-CHECKSUM.safetensors``.  A parameter or buffer that a checkpoint
lacks is that of step 0: what does not move is written once.  Nothing is ever pickled.  Whatever
moment the writing process is killed at, what stands there opens.
"""

import json
import os
import warnings
import zlib
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path
from typing import BinaryIO
from weakref import WeakValueDictionary

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
from pkbook.basics.fingerprints import digest
from pkbook.runs.background import Background
from pkbook.runs.manifest import dump_manifest, load_manifest
from pkbook.runs.records import Keep, MemoryStore, StepRecord, of_model

__all__ = ["FolderStore", "MemoryStore", "StepRecord", "dump_manifest", "load_manifest"]


class FolderStore:
    """Checkpoints and steps in a folder, written so that what stands there is always whole."""

    _log = None
    _lock: FileLock | None = None
    _background: Background | None = None

    def __init__(self, folder: str | Path, background: bool = False) -> None:
        self.folder = Path(folder)
        self.steps: list[StepRecord] = []
        self._moving: set[str] = set()
        self._unmoved: WeakValueDictionary[str, Tensor] = WeakValueDictionary()
        if background:
            self._background = Background()

    @classmethod
    def create(
        cls, folder: str | Path, manifest: dict, *, background: bool = False
    ) -> "FolderStore":
        """A new store; ``ValueError`` if the folder already holds something.

        With ``background`` all checkpoints but the first are written by a thread, at most one at a
        time; what goes wrong there is raised by the next :meth:`append`, :meth:`save` or
        :meth:`close`.
        """
        store = cls(folder, background)
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
    def open(
        cls, folder: str | Path, *, read_only: bool = False, background: bool = False
    ) -> tuple["FolderStore", dict]:
        """An existing store and its manifest.

        Unless ``read_only``, nobody else may write to the folder from now on; a torn last line of
        the step log is cut off, and a warning says so.
        """
        store = cls(folder, background)
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
        try:
            self._settle()
        finally:
            self._let_go()

    def _settle(self, waiting: bool = True) -> None:
        """Raise what went wrong in the background, once."""
        if self._background is None:
            return
        try:
            self._background.settle(waiting)
        except OSError as error:
            raise self._failed(self._background.what, error) from error

    def _let_go(self) -> None:
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
        self._settle(waiting=False)
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
            if self._background is not None:
                self._background.wait()  # it flushes the log
            log.close()
            self._let_go()

    def cut(self, k: int) -> None:
        """Drop the steps from ``k`` on, and first the checkpoints after it, which rest on them."""
        self._settle()
        log = self._writable()
        try:
            for c, path in _checkpoints(self.folder / "checkpoints").items():
                if c > k:
                    path.unlink(missing_ok=True)
            lines = self._path.read_bytes().splitlines(keepends=True)
            os.ftruncate(log.fileno(), sum(map(len, lines[:k])))
        except OSError as error:
            raise self._failed(f"the cut after step {k}", error) from error
        del self.steps[k:]

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

    def save(self, k: int, tensors: dict[str, Tensor], keep: Keep | None = None) -> None:
        """Write a checkpoint, after everything it rests on has reached the disk."""
        self._settle()
        log = self._writable()
        if k == 0:
            self._first = _digests(tensors)
            own = tensors
        else:
            own = {name: t for name, t in tensors.items() if self._has_moved(name, t)}
        copies = {name: _copy(t) for name, t in own.items()}
        write = partial(_write, self.folder / "checkpoints", log, k, copies, keep)
        what = f"the checkpoint of step {k}"
        if k > 0 and self._background is not None:
            self._background.begin(write, what)
            return
        try:
            write()
        except OSError as error:
            raise self._failed(what, error) from error

    @cached_property
    def _first(self) -> dict[str, str]:
        """What the parameters and buffers were at step 0, in short: no copy of them is held."""
        return _digests(self.load(0))

    def _has_moved(self, name: str, t: Tensor) -> bool:
        """Whether a tensor is otherwise than at step 0, or was; the optimizer's always move."""
        if name not in self._moving and digest(t) != self._first.get(name):
            self._moving.add(name)
        return name in self._moving

    def load(self, k: int) -> dict[str, Tensor]:
        paths = _checkpoints(self.folder / "checkpoints")
        if k not in paths:
            raise ValueError(f"folder {str(self.folder)!r} has no checkpoint of step {k}")
        own = read_checked(paths[k])
        lacking = [] if k == 0 else [name for name in self._first if name not in own]
        shared = dict(self._unmoved)  # by all checkpoints that are held at a time
        if not shared.keys() >= set(lacking):
            shared = self.load(0)
            self._unmoved.update({name: shared[name] for name in lacking})
        return {name: shared[name] for name in lacking} | own

    def latest(self, k: int) -> tuple[int, dict[str, Tensor]]:
        while True:
            start = max((c for c in self.saved() if c <= k), default=0)
            try:
                return start, self.load(start)
            except ValueError:
                if start == 0 or start in self.saved():
                    raise  # otherwise the writer has just dropped it, and has an earlier one

    def saved(self) -> list[int]:
        return sorted(_checkpoints(self.folder / "checkpoints"))


def _digests(tensors: dict[str, Tensor]) -> dict[str, str]:
    return {name: digest(t) for name, t in tensors.items() if of_model(name)}


def _copy(t: Tensor) -> Tensor:
    return t.detach().to("cpu", copy=True).contiguous()


def _write(
    folder: Path, log: BinaryIO, k: int, tensors: dict[str, Tensor], keep: Keep | None
) -> None:
    """Write a checkpoint, and only when it is on the disk drop those it makes superfluous."""
    os.fsync(log.fileno())
    write_checked(folder, f"{k:09d}", tensors)
    if keep is not None:
        for c, path in _checkpoints(folder).items():
            if not keep(c):
                path.unlink(missing_ok=True)


def _checkpoints(folder: Path) -> dict[int, Path]:
    found: dict[int, Path] = {}
    for path in sorted(folder.glob("*.safetensors")):
        number = path.stem.partition("-")[0]
        if not number.isdecimal():
            raise ValueError(f"checkpoint {path} has no step number in its name")
        if int(number) in found:
            raise ValueError(f"checkpoints {found[int(number)]} and {path} are of one step")
        found[int(number)] = path
    return found


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
