"""Small digits and a small convolutional network, quick to train a thousand times."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pkbook.interpolation.trajectory import Trajectory
from pkbook.problems import data, losses
from pkbook.problems.models.building import activations, initialised, named
from pkbook.runs.recording import batches

OPTIMIZERS: dict[str, tuple[Callable[..., torch.optim.Optimizer], dict[str, float]]] = {
    "SGD": (torch.optim.SGD, {"lr": 0.3}),
    "momentum": (torch.optim.SGD, {"lr": 0.05, "momentum": 0.9}),
    "AdamW": (torch.optim.AdamW, {"lr": 5e-3}),
}
PIXELS = 0.13, 0.28  # mean and standard deviation of the training digits


def network(activation: str, seed: int) -> nn.Sequential:
    """A small convolutional network for digits of 14 x 14 pixels, 2,698 parameters."""
    sigma = named("activation", activation, activations)
    with initialised(seed):
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), sigma(), nn.AvgPool2d(2),
            nn.Conv2d(8, 16, 3, padding=1), sigma(), nn.AvgPool2d(2),
            nn.Flatten(), nn.Linear(16 * 3 * 3, 10),
        )  # fmt: skip


def digits(split: str, count: int) -> data.Samples:
    """Digits of 14 x 14 pixels, as many of each class, of mean 0 and size 1; always the same."""
    draw = torch.Generator().manual_seed(0)
    x, y = data.mnist(split, per_class=count // 10, generator=draw)
    order = torch.randperm(len(x), generator=draw)
    return data.Samples((F.avg_pool2d(x, 2)[order] - PIXELS[0]) / PIXELS[1], y[order])


@dataclass(frozen=True)
class Training:
    """How a network is trained."""

    optimizer: str
    activation: str
    epochs: int
    batch: int
    seed: int
    """Of the first weights and of the batches."""

    @property
    def rate(self) -> float:
        """The learning rate."""
        return OPTIMIZERS[self.optimizer][1]["lr"]

    def build(
        self, device: torch.device | str = "cpu"
    ) -> tuple[nn.Sequential, torch.optim.Optimizer]:
        """The network before training, and what trains it."""
        model = network(self.activation, self.seed).to(device)
        make, options = OPTIMIZERS[self.optimizer]
        return model, make(model.parameters(), **options)

    def on(self, x: Tensor, y: Tensor) -> Trajectory:
        """The recorded run on digits and labels."""
        model, optimizer = self.build(x.device)
        recorded = Trajectory(model, losses.cross_entropy, optimizer, (x, y))
        steps = self.epochs * (len(x) // self.batch)
        for batch in batches(len(x), size=self.batch, steps=steps, seed=self.seed):
            recorded.step(batch)
        return recorded


def accuracy(model: nn.Module, device: torch.device | str) -> Tensor:
    """On 500 test digits."""
    x, truth = digits("test", 500)
    with torch.no_grad():
        return (model(x.to(device)).argmax(1).cpu() == truth).double().mean()
