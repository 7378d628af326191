"""The batches of a run: drawn, and checked when they come from the reader."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from pkbook.basics.checks import require_whole


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


def micro_batches(batch: object) -> Sequence:
    """The micro-batches of a step: one, unless a list of several batches came."""
    nested = isinstance(batch, list | tuple) and any(
        isinstance(b, list | tuple) or (isinstance(b, Tensor) and b.ndim > 0) for b in batch
    )
    return batch if nested else [batch]


def sample_numbers(batch: Tensor | Sequence[int], n: int) -> Tensor:
    """Sample numbers ``[B]``; refused where they are none, or of no sample."""
    batch = torch.as_tensor(batch)
    if batch.is_floating_point() or batch.dtype == torch.bool or batch.ndim != 1:
        raise TypeError(
            f"batch must be a one-dimensional tensor or list of sample numbers, "
            f"got dtype {batch.dtype}, shape {tuple(batch.shape)}"
        )
    if batch.numel() == 0 or int(batch.min()) < 0 or int(batch.max()) >= n:
        raise ValueError(f"batch must hold sample numbers in 0..{n - 1}, got {batch.tolist()}")
    return batch
