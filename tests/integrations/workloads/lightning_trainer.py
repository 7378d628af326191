"""The Trainer of Lightning: a module that says what a step's loss is; the rest is the Trainer's.

``make(dropout=0.0)`` is the same training without random numbers in the network.
"""

import logging
import warnings

import lightning
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from .workload import Workload, final

logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)


class Spirals(lightning.LightningModule):
    """A small network that tells two spirals apart."""

    def __init__(self, losses: list[float], dropout: float = 0.1) -> None:
        super().__init__()
        self.losses = losses
        self.network = nn.Sequential(
            nn.Linear(2, 64), nn.GELU(), nn.Dropout(dropout),
            nn.Linear(64, 64), nn.GELU(), nn.Dropout(dropout), nn.Linear(64, 2),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        value = functional.cross_entropy(self(x), y)
        self.losses.append(value.item())
        return value

    def configure_optimizers(self) -> dict:
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2, weight_decay=0.01)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }


def spirals(samples: int) -> tuple[Tensor, Tensor]:
    y = torch.arange(samples) % 2
    angle = torch.linspace(0.5, 5.0, samples)
    turned = angle + torch.pi * y
    x = torch.stack([angle * turned.cos(), angle * turned.sin()], dim=1) / 3
    return x + 0.02 * torch.randn(samples, 2), y


def loss(model: nn.Module, batch: list[Tensor]) -> Tensor:
    x, y = batch
    return functional.cross_entropy(model(x), y, reduction="none")


def scalar(model: nn.Module, batch: list[Tensor]) -> Tensor:
    return loss(model, batch).mean()


def make(seed: int = 0, dropout: float = 0.1) -> Workload:
    torch.manual_seed(seed)
    losses: list[float] = []
    dataset, model = TensorDataset(*spirals(72)), Spirals(losses, dropout)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = lightning.Trainer(
            accelerator="cpu", devices=1, max_epochs=4, accumulate_grad_batches=2,
            gradient_clip_val=1.0, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
    return Workload(
        model, None, None, dataset, None, loss, scalar, lambda model, x: model(x),
        torch.tensor([[0.5, 0.5], [-1.0, 0.2]]), parts=2, max_norm=1.0, trainer=trainer,
        seed=seed, losses=losses,
    )  # fmt: skip


def train_plain(w: Workload) -> dict[str, Tensor]:
    torch.manual_seed(w.seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The 'train_dataloader' does not have many workers")
        w.trainer.fit(w.model, DataLoader(w.dataset, batch_size=8, shuffle=True))
    return final(w.model)
