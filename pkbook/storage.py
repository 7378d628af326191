"""Where a trajectory is kept: in memory, or in a folder that survives the process.

A folder holds ``manifest.json``, ``steps.jsonl`` (one line a step, appended, each with its
checksum) and ``checkpoints/STEP-CHECKSUM.safetensors``.  Nothing is ever pickled.  Whatever moment
the writing process is killed at, what stands there opens.
"""

import json
import os
import warnings
import zlib
from dataclasses import asdict, dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

FORMAT = 2


class StorageError(OSError):
    """The folder could not be written; what it held before is intact."""


@dataclass(frozen=True)
class StepRecord:
    """One optimizer step: enough to make it again."""

    batch: list[int]
    seed: int
    settings: list[dict]
    """The optimizer's hyperparameters, one dict per parameter group."""
    training: list[str]
    """Names of the modules that were in train mode."""
    loss: float
    parts: list[int] = field(default_factory=list)
    """Sizes of the micro-batches whose gradients were accumulated; empty for one batch."""


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


class FolderStore:
    """Checkpoints and steps in a folder, written so that what stands there is always whole."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.steps: list[StepRecord] = []
        self._log = None
        self._lock: FileLock | None = None

    @classmethod
    def create(cls, folder: str | Path, manifest: dict) -> "FolderStore":
        """A new store; ``ValueError`` if the folder already holds something."""
        store = cls(folder)
        if store.folder.exists() and any(store.folder.iterdir()):
            raise ValueError(
                f"folder {str(folder)!r} is not empty; open it with "
                "Trajectory.open(folder, model, loss, optimizer, data), or give a new one"
            )
        (store.folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        store._acquire()
        write_whole(store.folder / "manifest.json", _dump(manifest))
        store._log = (store.folder / "steps.jsonl").open("ab", buffering=0)
        return store

    @classmethod
    def open(cls, folder: str | Path, *, read_only: bool = False) -> tuple["FolderStore", dict]:
        """An existing store and its manifest.

        Unless ``read_only``, nobody else may write to the folder from now on; a torn last line of
        the step log is cut off, and a warning says so.
        """
        store = cls(folder)
        manifest = _read_manifest(store.folder / "manifest.json")
        if not read_only:
            store._acquire()
        try:
            store._read_steps(mend=not read_only)
            _require_known(store)
        except BaseException:
            store.close()
            raise
        if not read_only:
            store._log = store._path.open("ab", buffering=0)
            for partial in store.folder.rglob("*.partial"):  # of a writer that was killed
                partial.unlink(missing_ok=True)
        return store, manifest

    @property
    def _path(self) -> Path:
        return self.folder / "steps.jsonl"

    def _acquire(self) -> None:
        lock = FileLock(self.folder / "writer.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise ValueError(
                f"folder {str(self.folder)!r} is being written by another run; close that one "
                "first, or open the folder with read_only=True"
            ) from error
        self._lock = lock

    def close(self) -> None:
        """Let others write to the folder."""
        if self._log is not None:
            os.fsync(self._log.fileno())
            self._log.close()
            self._log = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None

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
        return StepRecord(**json.loads(body))

    def append(self, record: StepRecord) -> None:
        """Append one line; on failure the log is as it was."""
        log = self._writable()
        body = json.dumps(asdict(record), separators=(",", ":")).encode()
        line = b"%08x %s\n" % (zlib.crc32(body), body)
        before = os.fstat(log.fileno()).st_size
        try:
            if log.write(line) != len(line):
                raise OSError("the line was not written whole")
        except BaseException as error:
            os.ftruncate(log.fileno(), before)
            if isinstance(error, OSError):
                raise self._failed(f"step {len(self.steps)}", error) from error
            raise
        self.steps.append(record)

    def _failed(self, what: str, error: OSError) -> StorageError:
        return StorageError(
            f"{what} could not be written to {str(self.folder)!r} ({error}); the steps before it "
            "are intact: make room, open the folder again and go on"
        )

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
            if not number.isdigit():
                raise ValueError(f"checkpoint {path} has no step number in its name")
            found[int(number)] = path
        return found

    def saved(self) -> list[int]:
        return sorted(self._checkpoints())


def _require_known(store: FolderStore) -> None:
    """A checkpoint is only written after the steps before it: a later one means lost steps."""
    saved = store.saved()
    if 0 not in saved:
        raise ValueError(f"folder {str(store.folder)!r} has no checkpoint of step 0")
    if saved[-1] > len(store.steps):
        raise ValueError(
            f"{store._path} holds {len(store.steps)} steps, but there is a checkpoint of step "
            f"{saved[-1]}: the log has lost its end"
        )


def _dump(manifest: dict) -> bytes:
    content = {"format": FORMAT, **manifest}
    check = f"{zlib.crc32(json.dumps(content, sort_keys=True).encode()):08x}"
    return (json.dumps({"checksum": check, **content}, indent=1) + "\n").encode()


def _read_manifest(path: Path) -> dict:
    if not path.is_file():
        raise ValueError(f"folder {str(path.parent)!r} holds no trajectory (no manifest.json)")
    raw = path.read_bytes()
    try:
        manifest = json.loads(raw)
        known = manifest.pop("checksum", None), manifest.pop("format", None)
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if known[1] != FORMAT and known[0] is None:
        raise ValueError(
            f"{path} has format {known[1]!r} (written by pkbook {manifest.get('pkbook')!r}), this "
            f"pkbook reads {FORMAT}; use that version, or record the run again"
        )
    if _dump(manifest) != raw:  # byte for byte, so that no damage passes as white space
        raise ValueError(f"{path} is damaged (checksum differs), or of another format")
    return manifest


def write_checked(folder: Path, stem: str, tensors: dict[str, Tensor]) -> Path:
    """Write tensors whole, with the checksum of the file's bytes in its name."""
    content = save(tensors)
    path = folder / f"{stem}-{zlib.crc32(content):08x}.safetensors"
    write_whole(path, content)
    return path


def read_checked(path: Path) -> dict[str, Tensor]:
    """Read what :func:`write_checked` wrote; ``ValueError`` naming a file that is damaged."""
    try:
        content = path.read_bytes()
        if path.stem.partition("-")[2] != f"{zlib.crc32(content):08x}":
            raise ValueError(f"{path} is damaged (checksum differs); it is not used")
        return load(content)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def write_whole(path: Path, content: bytes) -> None:
    """Write, flush to disk, rename: a reader sees the old file or the new one, never a part."""
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as f:
            f.write(content)
            f.flush()
            os.fsync(f.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    _flush_folder(path.parent)


def _flush_folder(folder: Path) -> None:
    """Make the rename itself last (systems that cannot open a folder do without)."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)
