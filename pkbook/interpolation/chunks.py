"""An explanation in chunks: its manifest, and each chunk written whole, read and checked.

A folder holds ``manifest.json``, which says what was asked, and
``chunks/NUMBER-CHECKSUM.safetensors``, each written whole or not at all.
"""

import json
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
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
from pkbook.interpolation.effect import Influence
from pkbook.interpolation.packing import (
    as_fields,
    as_tensors,
    influence_fields,
    influence_tensors,
)
from pkbook.interpolation.result import Interpolation
from pkbook.runs.storage import dump_manifest, load_manifest

KIND = "explanation"


def manifest_of(facts: dict, chunk: int | None) -> dict:
    """What was asked and the size of the chunks, as the folder gives it back."""
    return json.loads(json.dumps(facts | {"chunk": chunk}))


def all_chunks(manifest: dict) -> range:
    """The numbers of all chunks."""
    return range(-(-manifest["queries"]["number"] // manifest["chunk"]))


def rows_of(manifest: dict, number: int) -> slice:
    """The queries of a chunk."""
    start = number * manifest["chunk"]
    return slice(start, min(start + manifest["chunk"], manifest["queries"]["number"]))


def place_of(manifest: dict, number: int) -> Tensor:
    """Which queries of which explanation a chunk tells of, int64 ``[3]``."""
    rows = rows_of(manifest, number)
    identity = zlib.crc32(json.dumps(manifest, sort_keys=True).encode())
    return torch.tensor([rows.start, rows.stop, identity])


def packed(told: Interpolation | Influence, place: Tensor) -> dict[str, Tensor]:
    """Everything in a result as tensors, and which queries it tells of."""
    tensors = influence_tensors(told) if isinstance(told, Influence) else as_tensors(told)
    return {"place": place, **tensors}


def unpacked(tensors: dict[str, Tensor]) -> Interpolation | Influence:
    """What :func:`packed` put away."""
    if "effects" in tensors:
        return Influence(**influence_fields(tensors))
    return Interpolation(**as_fields(tensors))


class InMemory:
    """Chunks in memory."""

    def __init__(self) -> None:
        self.kept: dict[int, dict[str, Tensor]] = {}

    def begin(self, facts: dict, fits: int, asked: int | None) -> int:
        return fits

    def end(self) -> None:
        """Nothing to release."""

    def there(self) -> set[int]:
        return set(self.kept)

    def has(self, number: int) -> bool:
        return number in self.kept

    def keep(self, number: int, tensors: dict[str, Tensor]) -> None:
        self.kept[number] = tensors

    def load(self, number: int) -> dict[str, Tensor]:
        return self.kept[number]

    def name(self, number: int) -> str:
        return f"chunk {number}"


class InFolder:
    """Chunks in a folder; one ``explain`` writes there at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock: FileLock | None = None
        self._known: dict[int, Path] = {}

    @property
    def _path(self) -> Path:
        return self.folder / "manifest.json"

    def begin(self, facts: dict, fits: int, asked: int | None) -> int:
        """Take the folder for writing; the size of its chunks.

        A folder without any finished chunk is begun anew.
        """
        strange = self._strange()
        if strange is not None:
            raise ValueError(
                f"folder {str(self.folder)!r} holds {strange} and is no explanation; give an "
                "empty or a new folder"
            )
        try:
            (self.folder / "chunks").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise not_writable(self.folder, error) from error
        self._acquire()
        try:
            self._write("nothing yet", lambda: sweep(self.folder))
            if self.there():
                return self._compare(facts, asked)
            content = dump_manifest(manifest_of(facts, fits))
            self._write("the manifest", lambda: write_whole(self._path, content))
        except BaseException:
            self.end()
            raise
        return fits

    def _strange(self) -> str | None:
        """Something that is not of an explanation."""
        if not self.folder.exists():
            return None
        if not self.folder.is_dir():
            return "no files: it is a file itself"
        found = {path.name for path in self.folder.iterdir() if path.suffix != ".partial"}
        others = sorted(found - {"manifest.json", "chunks", "writer.lock"})
        if others:
            return repr(others[0])
        if "manifest.json" in found:
            read_manifest(self.folder)
        return None

    def _acquire(self) -> None:
        advice = "explain; wait for its end, or give another folder"
        self._lock = sole_writer(self.folder, advice)

    def _compare(self, facts: dict, asked: int | None) -> int:
        there = read_manifest(self.folder)
        here = manifest_of(facts, there.get("chunk") if asked is None else asked)
        for name in here | there:
            difference = _first_difference(name, there.get(name), here.get(name))
            if difference is not None:
                what, old, new = difference
                raise ValueError(
                    f"folder {str(self.folder)!r} holds an explanation with another {what}: "
                    f"{old!r} there, {new!r} here; give the same run, queries and options, or "
                    "another folder"
                )
        return there["chunk"]

    def end(self) -> None:
        """Let others write."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def there(self) -> set[int]:
        """The numbers of the chunks, read from the folder anew."""
        found: dict[int, Path] = {}
        for path in sorted((self.folder / "chunks").glob("*.safetensors")):
            number = path.stem.partition("-")[0]
            if not number.isdecimal() or int(number) in found:
                raise ValueError(
                    f"{path} is damaged: its name must begin with the number of a chunk that no "
                    "other file has; remove it"
                )
            found[int(number)] = path
        self._known = found
        return set(found)

    def has(self, number: int) -> bool:
        return number in self._known or number in self.there()

    def keep(self, number: int, tensors: dict[str, Tensor]) -> None:
        place, stem = self.folder / "chunks", f"{number:09d}"
        self._write(f"chunk {number}", lambda: write_checked(place, stem, tensors))

    def _write(self, what: str, write: Callable[[], object]) -> None:
        try:
            write()
        except OSError as error:
            raise StorageError(
                f"{what} could not be written to {str(self.folder)!r} ({error}); the chunks that "
                "are there are intact: make room and call explain again to go on"
            ) from error

    def load(self, number: int) -> dict[str, Tensor]:
        try:
            return read_checked(self._known[number])
        except ValueError as error:
            raise ValueError(
                f"{error}; remove it, and explain will compute it again from the same run"
            ) from error

    def name(self, number: int) -> str:
        return str(self._known[number])


def _first_difference(name: str, there: object, here: object) -> tuple | None:
    """Where two manifests differ first: its name, what it is there and here."""
    if there == here:
        return None
    if isinstance(there, dict) and isinstance(here, dict):
        for key in here | there:
            found = _first_difference(f"{name}.{key}", there.get(key), here.get(key))
            if found is not None:
                return found
    return name, there, here


def read_manifest(folder: Path) -> dict:
    """What an explanation says of itself; ``ValueError`` where it is damaged or something else."""
    if not (folder / "manifest.json").is_file():
        raise ValueError(f"folder {str(folder)!r} holds no explanation (no manifest.json)")
    manifest = load_manifest(folder / "manifest.json")
    if manifest.get("kind") != KIND:
        raise ValueError(
            f"folder {str(folder)!r} holds a recorded run and no explanation; open it with "
            "Trajectory.open(folder, model, loss, optimizer, data)"
        )
    return manifest


Shelf = InMemory | InFolder
"""Where the chunks of an explanation are kept."""


def read_chunk(shelf: Shelf, manifest: dict, number: int) -> dict[str, Tensor]:
    """The tensors of a chunk, if they are those of this explanation."""
    tensors = shelf.load(number)
    wanted = place_of(manifest, number)
    if number not in all_chunks(manifest) or not torch.equal(tensors.get("place", -wanted), wanted):
        raise ValueError(
            f"{shelf.name(number)} is damaged: it is not chunk {number} of this explanation; "
            "remove it"
        )
    return tensors


def complaints(read: Callable, things: Iterable) -> list[str]:
    """What ``read`` says of each thing that is damaged."""
    found = []
    for thing in things:
        try:
            read(thing)
        except ValueError as error:
            found.append(str(error))
    return found


def refuse(damaged: list[str]) -> None:
    """``ValueError`` naming all that is damaged, if anything is."""
    if damaged:
        raise ValueError("\n  ".join([f"{len(damaged)} damaged or missing:", *damaged]))
