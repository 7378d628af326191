"""Batches of a loop that is not ours, kept as the model met them.

Where a data set draws its samples at random and nobody has seeded it, a replay cannot draw them
again.  Such a batch is kept itself: tensors in dictionaries, lists, tuples and graphs, and plain
values.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pkbook.basics import graphs
from pkbook.basics.files import read_checked, write_checked
from pkbook.basics.nested import mapped
from pkbook.runs.sources import Source

FOLDER = "batches"


class Kept:
    """A source of samples, some of whose batches are kept, by the seed that tells them apart."""

    def __init__(self, source: Source, folder: Path | None) -> None:
        self.source, self.device, self.folder = source, source.device, folder
        self._held: dict[int, dict[str, Tensor]] = {}

    def __len__(self) -> int:
        return len(self.source)

    def keep(self, seed: int, batch: Any) -> None:
        """Keep a batch; ``TypeError`` where it holds what is no tensor and no plain value."""
        tensors = packed(batch)
        if self.folder is None:
            self._held[seed] = {name: t.detach().cpu().clone() for name, t in tensors.items()}
            return
        (self.folder / FOLDER).mkdir(exist_ok=True)
        tensors = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
        write_checked(self.folder / FOLDER, f"{seed:08x}", tensors)

    def sweep(self, seeds: set[int]) -> None:
        """Drop all batches but those of these seeds: of steps that are made again."""
        self._held = {seed: held for seed, held in self._held.items() if seed in seeds}
        if self.folder is not None:
            for path in (self.folder / FOLDER).glob("*.safetensors"):
                if int(path.name.partition("-")[0], 16) not in seeds:
                    path.unlink(missing_ok=True)

    def fetch(self, numbers: Sequence[int], seed: int) -> tuple[Any, list[str]]:
        tensors = self._held.get(seed)
        if tensors is None and self.folder is not None:
            files = list((self.folder / FOLDER).glob(f"{seed:08x}-*.safetensors"))
            tensors = read_checked(files[0]) if files else None
        if tensors is None:
            return self.source.fetch(numbers, seed)
        return mapped(unpacked(tensors), lambda t: t.to(self.device, copy=True)), []

    def fingerprint(self) -> str:
        return self.source.fingerprint()

    def versions(self) -> tuple[int, ...]:
        return self.source.versions()


def plain_source(source: Source) -> Source:
    """The source of samples without what is kept of its batches."""
    return source.source if isinstance(source, Kept) else source


def packed(batch: Any) -> dict[str, Tensor]:
    """A batch as named tensors, one of which says how they belong together.

    >>> batch = {"x": torch.ones(2), "more": (torch.zeros(1), "word", None)}
    >>> str(unpacked(packed(batch))) == str(batch)
    True
    """
    tensors: dict[str, Tensor] = {}

    def put(value: Any) -> Any:
        if isinstance(value, Tensor):
            tensors[f"t{len(tensors)}"] = value
            return {"tensor": f"t{len(tensors) - 1}"}
        if isinstance(value, Mapping):
            return {"dict": [[key, put(entry)] for key, entry in value.items()]}
        if isinstance(value, list | tuple):
            return {type(value).__name__: [put(entry) for entry in value]}
        if graphs.is_graph(value):
            return {"graph": put(graphs.taken_apart(value))}
        if isinstance(value, str | int | float | bool | None):
            return {"plain": value}
        raise TypeError(
            "batch must hold tensors, plain values, graphs of torch_geometric, and dictionaries, "
            f"lists and tuples of them, got {type(value).__name__}"
        )

    told = json.dumps(put(batch)).encode()
    return {**tensors, "structure": torch.frombuffer(bytearray(told), dtype=torch.uint8)}


def unpacked(tensors: dict[str, Tensor]) -> Any:
    """What :func:`packed` put away."""

    def hashable(key: Any) -> Any:  # JSON has made lists of the tuples
        return tuple(key) if isinstance(key, list) else key

    def get(told: dict) -> Any:
        ((kind, value),) = told.items()
        if kind == "tensor":
            return tensors[value]
        if kind == "dict":
            return {hashable(key): get(entry) for key, entry in value}
        if kind == "graph":
            return graphs.put_together(get(value))
        if kind in ("list", "tuple"):
            return (list if kind == "list" else tuple)(get(entry) for entry in value)
        return value

    return get(json.loads(bytes(tensors["structure"].tolist())))
