"""Where a trajectory is kept: in memory, or in a folder that survives the process.

A folder holds ``manifest.json``, ``steps.jsonl`` (one line a step, appended) and
``checkpoints/*.safetensors``.  Nothing is ever pickled.
"""

import json
import os
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from pkbook.snapshot import fingerprint

FORMAT = 1


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


class FolderStore:
    """Checkpoints and steps in a folder, written so that what stands there is always whole."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.steps: list[StepRecord] = []

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
        text = json.dumps({"format": FORMAT, **manifest}, indent=1)
        _write_whole(store.folder / "manifest.json", text.encode())
        return store

    @classmethod
    def open(cls, folder: str | Path) -> tuple["FolderStore", dict]:
        """An existing store and its manifest; a torn last line of the step log is cut off."""
        store = cls(folder)
        path = store.folder / "manifest.json"
        if not path.is_file():
            raise ValueError(f"folder {str(folder)!r} holds no trajectory (no manifest.json)")
        manifest = json.loads(path.read_text())
        if manifest.get("format") != FORMAT:
            raise ValueError(
                f"{path} has format {manifest.get('format')!r}, this pkbook reads {FORMAT}"
            )
        store.steps = store._read_steps()
        return store, manifest

    @property
    def _log(self) -> Path:
        return self.folder / "steps.jsonl"

    def _read_steps(self) -> list[StepRecord]:
        if not self._log.exists():
            return []
        raw = self._log.read_bytes()
        whole = raw[: raw.rfind(b"\n") + 1]
        if len(whole) < len(raw):  # a kill in mid-append: that step never counted
            with self._log.open("r+b") as log:
                log.truncate(len(whole))
        return [self._parse(k, line) for k, line in enumerate(whole.splitlines())]

    def _parse(self, k: int, line: bytes) -> StepRecord:
        check, _, body = line.partition(b" ")
        if check != b"%08x" % zlib.crc32(body):
            raise ValueError(f"{self._log}: the line of step {k} is damaged (checksum differs)")
        return StepRecord(**json.loads(body))

    def append(self, record: StepRecord) -> None:
        body = json.dumps(asdict(record), separators=(",", ":")).encode()
        with self._log.open("ab") as log:
            log.write(b"%08x %s\n" % (zlib.crc32(body), body))
        self.steps.append(record)

    def _checkpoint(self, k: int) -> Path:
        return self.folder / "checkpoints" / f"{k:09d}.safetensors"

    def save(self, k: int, tensors: dict[str, Tensor]) -> None:
        tensors = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
        _write_whole(self._checkpoint(k), save(tensors, metadata={"checksum": _checksum(tensors)}))

    def load(self, k: int) -> dict[str, Tensor]:
        path = self._checkpoint(k)
        try:
            with safe_open(path, framework="pt") as f:
                tensors = {name: f.get_tensor(name) for name in f.keys()}
                whole = (f.metadata() or {}).get("checksum") == _checksum(tensors)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"checkpoint {path} cannot be read: {error}") from error
        if not whole:
            raise ValueError(f"checkpoint {path} is damaged (checksum differs); it is not used")
        return tensors

    def saved(self) -> list[int]:
        return sorted(int(p.stem) for p in (self.folder / "checkpoints").glob("*.safetensors"))


def _checksum(tensors: dict[str, Tensor]) -> str:
    """One fingerprint of all tensors and their names."""
    names = sorted(tensors)
    return f"{zlib.crc32(' '.join(names).encode()):08x}" + fingerprint(*map(tensors.get, names))


def _write_whole(path: Path, content: bytes) -> None:
    """Write, flush to disk, rename: a reader sees the old file or the new one, never a part."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as f:
        f.write(content)
        f.flush()
        os.fsync(f.fileno())
    partial.replace(path)
