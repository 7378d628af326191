r"""The samples of a run, wherever they come from: asked for by number, always given the same.

A sample may be drawn at random (an augmentation in ``__getitem__``, a mask in ``collate``).  Then
what it is follows from the run's seed, the step, its place in the batch and its number, so a replay
meets the same picture again.  Nothing of the data is stored.  Of each sample of a ``Dataset`` a
step's record keeps a checksum of 32 bits, and a replay that meets another sample says which.
"""

import random
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, default_collate

from pkbook.basics.fingerprints import fingerprint
from pkbook.basics.nested import leaves, mapped, outline, rows_of, tensors_in
from pkbook.basics.randomness import others_kept, seeded

Collate = Callable[[list], Any]


class Source(Protocol):
    """``N`` samples."""

    device: torch.device

    def __len__(self) -> int: ...

    def fetch(self, numbers: Sequence[int], seed: int) -> tuple[Any, list[str]]:
        """The samples with these numbers, together, and a checksum for each.

        They are a copy, which the model may change.  There are no checksums where
        :meth:`fingerprint` tells all samples from others.
        """
        ...

    def fingerprint(self) -> str:
        """What tells these samples from others, as far as it is known beforehand."""
        ...

    def versions(self) -> tuple[int, ...]:
        """How often the data were changed in place."""
        ...


class Tensors:
    """Tensors with one row for each sample, alone or in a structure."""

    def __init__(self, value: Any) -> None:
        self.value = value
        self._n = rows_of(value, "data")
        self.device = tensors_in(value)[0].device

    def __len__(self) -> int:
        return self._n

    def fetch(self, numbers: Sequence[int], seed: int = 0) -> tuple[Any, list[str]]:
        rows = as_tensor(numbers, self.device)
        return mapped(self.value, lambda t: t[rows]), []

    def fingerprint(self) -> str:
        return fingerprint(*tensors_in(self.value))

    def versions(self) -> tuple[int, ...]:
        """How often each was changed in place; tensors of inference mode do not count."""
        return tuple(-1 if t.is_inference() else t._version for t in tensors_in(self.value))


class Samples:
    """The samples of a ``Dataset``, put together by ``collate``, on a device."""

    def __init__(self, dataset: Dataset, collate: Collate | None, device: torch.device) -> None:
        if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__"):
            raise TypeError(
                f"data must be a Dataset whose samples have numbers, got {type(dataset).__name__}, "
                "which can only be gone through; write a Dataset with __getitem__ and __len__, or "
                "Trajectory(..., data=list(dataset))"
            )
        self.dataset, self.collate, self.device = dataset, collate or default_collate, device
        self._ready: dict[tuple, tuple[Any, list[str]]] = {}

    def __len__(self) -> int:
        return len(self.dataset)  # pyright: ignore[reportArgumentType]

    def fetch(self, numbers: Sequence[int], seed: int) -> tuple[Any, list[str]]:
        ready = self._ready.pop((tuple(numbers), seed), None)
        batch, contents = ready or together(self.dataset, self.collate, numbers, seed)
        return mapped(batch, lambda t: t.to(self.device, copy=True)), contents

    def prepared(self, numbers: Sequence[int], seed: int, made: tuple[Any, list[str]]) -> None:
        """What somebody else has put together (:func:`together`), to be fetched later."""
        self._ready[tuple(numbers), seed] = made

    def fingerprint(self) -> str:
        return f"{type(self.dataset).__name__} of {len(self)}"

    def versions(self) -> tuple[int, ...]:
        return ()


def together(
    dataset: Dataset, collate: Collate, numbers: Sequence[int], seed: int
) -> tuple[Any, list[str]]:
    """A batch and its checksums, by random numbers of their own for each sample."""
    samples = []
    for place, number in enumerate(numbers):
        with drawing(zlib.crc32(f"{seed}:{place}:{number}".encode())):
            samples.append(dataset[number])
    first = outline(samples[0])
    for number, sample in zip(numbers, samples, strict=True):
        if outline(sample) != first:
            raise ValueError(
                f"data must have samples of one structure, got {first} for sample {numbers[0]} "
                f"and {outline(sample)} for sample {number}"
            )
    with drawing(zlib.crc32(f"{seed}:collate".encode())):
        batch = collate(list(samples))
    return batch, [content(sample) for sample in samples]


@contextmanager
def drawing(seed: int) -> Iterator[None]:
    """Random numbers of torch, numpy and ``random`` from a seed; the global ones stay."""
    with others_kept(), seeded(seed, torch.device("cpu")):
        np.random.seed(seed)  # noqa: NPY002 - the global one
        random.seed(seed)
        yield


def content(sample: Any) -> str:
    """CRC-32 of one sample: its tensors and arrays, and its plain values."""
    crc = 0
    for value in leaves(sample):
        if isinstance(value, Tensor):
            crc = zlib.crc32(fingerprint(value).encode(), crc)
        elif hasattr(value, "__array__"):  # numpy, and images of PIL
            array = np.ascontiguousarray(np.asarray(value))
            crc = zlib.crc32(f"{array.dtype} {array.shape}".encode() + array.tobytes(), crc)
        elif isinstance(value, str | bytes | int | float | bool | None):
            crc = zlib.crc32(repr(value).encode(), crc)
        else:
            crc = zlib.crc32(type(value).__name__.encode(), crc)
    return f"{crc:08x}"


def as_tensor(numbers: Sequence[int], device: torch.device) -> Tensor:
    """Sample numbers on a device."""
    if isinstance(numbers, range):
        return torch.arange(numbers.start, numbers.stop, device=device)
    return torch.tensor(numbers, device=device)
