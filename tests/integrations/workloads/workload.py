"""What every training here has: its parts, and the samples that it visits."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader, Dataset

Batch = Any  # what the collate makes: tensors, a tuple, a dict, a batch of graphs


@dataclass
class Workload:
    """A training before its first step.

    Attributes:
        loss: ``loss(model, batch)`` -> [n], one number a sample.
        scalar: ``scalar(model, batch)``, the number that the author's loop differentiates.
        outputs: ``outputs(model, queries)`` -> [m, C], what is asked about.
        queries: a batch without labels, of samples that are not trained on.
        batches: sample numbers, one list a batch; None where a trainer draws them itself.
        collate: samples to a batch; None for PyTorch's own.
        parts: batches a step, whose gradients are accumulated.
        max_norm: gradients are clipped at this norm; None for no clipping.
        trainer: what a library trains with; None for a loop written out.
        losses: filled by ``train_plain``, one number a batch.
    """

    model: nn.Module
    optimizer: Optimizer | None
    scheduler: LRScheduler | None
    dataset: Dataset
    batches: list[list[int]] | None
    loss: Callable[[nn.Module, Batch], Tensor]
    scalar: Callable[[nn.Module, Batch], Tensor]
    outputs: Callable[[nn.Module, Batch], Tensor]
    queries: Batch
    collate: Callable[[Sequence[Any]], Batch] | None = None
    parts: int = 1
    max_norm: float | None = None
    trainer: Any = None
    seed: int = 0
    losses: list[float] = field(default_factory=list)

    def loader(self) -> DataLoader:
        """The training batches, in their order."""
        return DataLoader(self.dataset, batch_sampler=self.batches, collate_fn=self.collate)


def shuffled(samples: int, size: int, count: int, seed: int) -> list[list[int]]:
    """``count`` batches of ``size``, epoch after epoch, each sample once an epoch."""
    generator = torch.Generator().manual_seed(seed)
    drawn: list[list[int]] = []
    while len(drawn) < count:
        order = torch.randperm(samples, generator=generator)
        drawn += [part.tolist() for part in order.split(size) if len(part) == size]
    return drawn[:count]


def final(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the trained state."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}
