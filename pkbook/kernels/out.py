"""Where a kernel is put instead of memory: a tensor of the caller's, or a file, block by block.

A file is numpy's ``.npy``, which a memory map can be filled through and any program reads.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pkbook.basics.files import StorageError, require_new_file, written_whole

Out = Tensor | str | os.PathLike[str]


def as_given(out: object) -> Tensor | Path | None:
    """Front-door check of ``out``, as far as the result's shape is not needed for it."""
    if out is None:
        return None
    if isinstance(out, str | os.PathLike):
        path = Path(os.fspath(out))
        if path.suffix != ".npy":
            raise ValueError(f"out must end in .npy, got {str(path)!r}; write '{path}.npy'")
        return require_new_file(path, "out")
    if not isinstance(out, Tensor):
        raise TypeError(
            f"out must be a torch.Tensor or a path ending in .npy, got {type(out).__name__}; "
            "write out=torch.empty(n1, n2) or out='kernel.npy'"
        )
    if out.requires_grad:
        raise ValueError("out must not require a gradient; write out.detach()")
    return out


@contextmanager
def room(
    out: Tensor | Path | None, shape: tuple[int, ...], like: Tensor
) -> Iterator[Tensor | None]:
    """A tensor to be filled inside the block, None where nobody asked for one.

    ``like`` has the result's dtype and device.  A file gets its name when the block has ended well.
    """
    if isinstance(out, Path):
        with written_whole(out) as partial:
            mapped = _memory_map(partial, shape, like)
            yield torch.from_numpy(mapped)
            mapped.flush()
        return
    if out is not None:
        _require_room(out, shape, like)
    yield out


def _require_room(out: Tensor, shape: tuple[int, ...], like: Tensor) -> None:
    if tuple(out.shape) != shape or out.dtype != like.dtype:
        raise ValueError(
            f"out must be {list(shape)} in {like.dtype}, got {list(out.shape)} in {out.dtype}; "
            f"write torch.empty({', '.join(map(str, shape))}, dtype={like.dtype})"
        )
    if out.device not in (like.device, torch.device("cpu")):
        raise ValueError(
            f"out must be on the model's device {like.device} or on the CPU, got {out.device}; "
            f"write out.to({str(like.device)!r})"
        )
    if any(stride == 0 and size > 1 for stride, size in zip(out.stride(), shape, strict=True)):
        raise ValueError("out must have a place for each entry, got an expanded tensor; clone it")


def _memory_map(path: Path, shape: tuple[int, ...], like: Tensor) -> np.memmap:
    dtype = torch.empty(0, dtype=like.dtype).numpy().dtype
    mapped = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    try:
        if hasattr(os, "posix_fallocate"):  # a disk that fills up later kills the process
            with path.open("rb+") as f:
                os.posix_fallocate(f.fileno(), 0, mapped.offset + mapped.nbytes)
    except OSError as error:
        raise StorageError(
            f"out {path.with_suffix('')} needs {mapped.nbytes} bytes, which cannot be had "
            f"({error}); give a path on a larger disk"
        ) from error
    return mapped
