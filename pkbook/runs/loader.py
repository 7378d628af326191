"""Batches of a data set put together ahead of their steps, by several workers."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pkbook.runs.sources import Samples, together
from pkbook.runs.steps import Part, step_seed

if TYPE_CHECKING:
    from pkbook.runs.recording import Recording

Visit = tuple[Sequence[int], int]
"""Sample numbers, and the seed that they are drawn by."""


class Together(Dataset):
    """Whole batches, asked for by sample numbers and seed."""

    def __init__(self, source: Samples) -> None:
        self.dataset, self.collate = source.dataset, source.collate

    def __getitem__(self, visit: Visit) -> tuple[Visit, tuple[Any, list[str]]]:
        numbers, seed = visit
        return visit, together(self.dataset, self.collate, numbers, seed)


def load(
    run: "Recording", order: Iterable[Any], source: Samples, num_workers: int
) -> Iterator[Tensor]:
    """See :meth:`Recording.loader`."""
    visits = _visits(run, order)
    loader = DataLoader(
        Together(source),
        sampler=visits,  # pyright: ignore[reportArgumentType]  # any iterable will do
        batch_size=None,
        num_workers=num_workers,
        generator=torch.Generator(),  # from which it draws a seed; ours are those of the visits
    )
    for (numbers, seed), made in loader:
        source.prepared(numbers, seed, made)
        yield torch.tensor(numbers)


def _visits(run: "Recording", order: Iterable[Any]) -> Iterator[Visit]:
    """Each batch with the seed of the step that it will be."""
    for k, batch in enumerate(order, start=len(run)):
        numbers = run.checked_batch(batch).tolist()
        yield numbers, Part(numbers, step_seed(run.seed, k)).drawn_seed
