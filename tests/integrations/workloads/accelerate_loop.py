"""A loop around what ``Accelerator.prepare`` gives back: two batches a step by ``accumulate``."""

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from pkbook.problems.data import mnist

from .workload import Workload, final, shuffled


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2), nn.GroupNorm(2, 8), nn.SiLU(),
        nn.Conv2d(8, 16, 3, stride=2), nn.GroupNorm(2, 16), nn.SiLU(),
        nn.Flatten(), nn.Dropout(0.2), nn.Linear(16 * 6 * 6, 10),
    )  # fmt: skip


def loss(model: nn.Module, batch: list[Tensor]) -> Tensor:
    images, labels = batch
    return functional.cross_entropy(model(images), labels, reduction="none")


def scalar(model: nn.Module, batch: list[Tensor]) -> Tensor:
    return loss(model, batch).mean()


def make(seed: int = 0) -> Workload:
    torch.manual_seed(seed)
    model, dataset = network(), TensorDataset(*mnist(per_class=8))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=5, gamma=0.5)
    batches = shuffled(len(dataset), 10, 24, seed)
    return Workload(
        model, optimizer, scheduler, dataset, batches, loss, scalar,
        lambda model, images: model(images), mnist("test", per_class=1)[0],
        parts=2, max_norm=1.0, seed=seed,
    )  # fmt: skip


def train_plain(w: Workload) -> dict[str, Tensor]:
    torch.manual_seed(w.seed)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=w.parts)
    model, optimizer, loader, scheduler = accelerator.prepare(
        w.model, w.optimizer, w.loader(), w.scheduler
    )
    model.train()
    for images, labels in loader:
        with accelerator.accumulate(model):
            value = functional.cross_entropy(model(images), labels)
            accelerator.backward(value)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), w.max_norm)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
        w.losses.append(value.item())
    return final(w.model)
