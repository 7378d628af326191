"""The batches of a run: drawn, and checked when they come from the reader."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from pkbook.basics.checks import require_whole

SHORT = 8
"""A range is written as one from this length on."""


def batches(n: int, *, size: int | None = None, steps: int, seed: int = 0) -> Iterator[Tensor]:
    r"""Mini-batches as in the paper: independent, each uniform among the subsets of ``size``.

    ``size=None`` gives the full batch every time (gradient descent).  The generator is its own:
    the global random state is not touched.

    >>> [b.tolist() for b in batches(3, size=None, steps=2)]
    [[0, 1, 2], [0, 1, 2]]
    """
    require_whole(n, "n")
    require_whole(steps, "steps", least=0)
    if size is not None and require_whole(size, "size") > n:
        raise ValueError(f"size must be at most the number of samples {n}, got {size}")
    generator = torch.Generator().manual_seed(require_whole(seed, "seed", least=0))
    full = torch.arange(n)
    for _ in range(steps):
        yield full if size is None else torch.randperm(n, generator=generator)[:size]


def micro_batches(batch: object, n: int, numbers_too: bool = False) -> list[Tensor]:
    """The micro-batches of a step on ``n`` samples: one, unless a list of several batches came.

    ``numbers_too``: the samples are single whole numbers, which look like sample numbers.
    """
    if isinstance(batch, slice):
        batch = range(n)[batch]
    if isinstance(batch, Iterator | set | frozenset | dict):
        made = "sorted" if isinstance(batch, set | frozenset) else "list"
        raise TypeError(
            f"batch must be a one-dimensional tensor or list of sample numbers, "
            f"got {type(batch).__name__}; write {made}(batch)"
        )
    if isinstance(batch, list | tuple) and any(_is_batch(b) for b in batch):
        _refuse_data(batch, n, numbers_too)
        return [sample_numbers(b, n) for b in batch]
    return [sample_numbers(batch, n)]


def _is_batch(entry: object) -> bool:
    return isinstance(entry, list | tuple | range) or getattr(entry, "ndim", 0) > 0


def _refuse_data(batch: list | tuple, n: int, numbers_too: bool) -> None:
    """Refuse what a ``DataLoader`` over data gives, which may look like two micro-batches."""
    give = (
        "a DataLoader over data gives such; give the numbers of the samples, "
        f"DataLoader(range({n}), batch_size=...), and for accumulation a list of batches"
    )
    if isinstance(batch, tuple):
        kinds = ", ".join(type(b).__name__ for b in batch)
        raise TypeError(f"batch must be sample numbers, got a tuple ({kinds}); {give}")
    tensors = [b for b in batch if isinstance(b, Tensor)]
    if any(t.is_floating_point() or t.ndim != 1 for t in tensors):
        raise TypeError(
            f"batch must be a one-dimensional tensor or list of sample numbers, got tensors of "
            f"{', '.join(f'dtype {t.dtype}, shape {tuple(t.shape)}' for t in tensors)}; {give}"
        )
    # Where a sample is one whole number, a pair of data looks like two batches.
    pair = len(batch) == len(tensors) == 2 and len(tensors[0]) == len(tensors[1])
    if pair and numbers_too:
        raise TypeError(
            "batch must be sample numbers, got a list of two integer tensors of one length, which "
            "may be data as well, as your samples are whole numbers themselves; "
            f"{give} that are lists, [first.tolist(), second.tolist()]"
        )


def sample_numbers(batch: object, n: int) -> Tensor:
    """Sample numbers ``[B]``; refused where they are none, or of no sample."""
    batch = torch.as_tensor(batch)
    kind = batch.dtype
    if kind.is_floating_point or kind.is_complex or kind == torch.bool or batch.ndim != 1:
        raise TypeError(
            f"batch must be a one-dimensional tensor or list of sample numbers, "
            f"got dtype {kind}, shape {tuple(batch.shape)}"
        )
    batch = batch.long()  # small unsigned ones have no least and no largest
    if batch.numel() == 0 or int(batch.min()) < 0 or int(batch.max()) >= n:
        raise ValueError(f"batch must hold sample numbers in 0..{n - 1}, got {batch.tolist()}")
    return batch


def as_numbers(parts: list[Tensor]) -> Sequence[int]:
    """All numbers of a step, for its record; a ``range`` where they follow one another.

    >>> as_numbers([torch.arange(4, 20)]), as_numbers([torch.tensor([4, 6])])
    (range(4, 20), [4, 6])
    """
    whole = torch.cat(parts) if len(parts) > 1 else parts[0]
    if len(whole) < SHORT:
        return whole.tolist()
    first, last = int(whole[0]), int(whole[-1])
    if last - first + 1 != len(whole) or bool((whole.diff() != 1).any()):
        return whole.tolist()
    return range(first, last + 1)
