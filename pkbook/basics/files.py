"""Files written whole, by one writer, with their checksums.

Nothing is ever pickled.  Whatever moment the writing process is killed at, what stands there opens.
"""

import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor


class StorageError(OSError):
    """The folder could not be written; what it held before is intact."""


def sole_writer(folder: Path, advice: str) -> FileLock:
    """A lock that is held from now on.

    ``ValueError`` where another writer has it, ``StorageError`` where nobody may write.
    """
    lock = FileLock(folder / "writer.lock", thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ValueError(f"folder {str(folder)!r} is being written by another {advice}") from error
    except OSError as error:
        raise not_writable(folder, error) from error
    return lock


def not_writable(folder: Path, error: OSError) -> StorageError:
    """What to say of a folder in which this user, or nobody, may write."""
    return StorageError(
        f"folder {str(folder)!r} cannot be written ({error}); give a folder where you may write, "
        "or copy this one there; Trajectory.open(folder, ..., read_only=True) only reads"
    )


def sweep(folder: Path) -> None:
    """Remove what a writer that was killed had not finished."""
    for partial in folder.rglob("*.partial"):
        partial.unlink(missing_ok=True)


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
        if path.stem.rpartition("-")[2] != f"{zlib.crc32(content):08x}":
            raise ValueError(f"{path} is damaged (checksum differs); it is not used")
        return load(content)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def require_new_file(path: Path, name: str) -> Path:
    """``ValueError`` where a file is there already, or its folder is not."""
    if path.exists():
        raise ValueError(f"{name} {path} exists already; remove it, or give another name")
    if not path.resolve().parent.is_dir():
        raise ValueError(f"{name} {path}: its folder does not exist; make it first")
    return path


def write_whole(path: Path, content: bytes) -> None:
    """Write, flush to disk, rename: a reader sees the old file or the new one, never a part."""
    with written_whole(path) as partial:
        partial.write_bytes(content)


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A name to write to inside the block; at its end the file is flushed to disk and renamed.

    Where the block fails nothing is left, and what ``path`` held before is intact.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        with partial.open("rb+") as f:
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
