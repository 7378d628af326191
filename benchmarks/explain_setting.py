"""What is trained and explained: digits, a network, an optimizer, batches, queries."""

import itertools
import math
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

import pkbook as pk

LOSS = nn.CrossEntropyLoss()
OPTIMIZERS: dict[str, tuple[str, dict]] = {
    "sgd": ("SGD", {"lr": 0.05}),
    "momentum": ("SGD", {"lr": 0.01, "momentum": 0.9}),
    "rmsprop": ("RMSprop", {"lr": 5e-4}),
    "adam": ("Adam", {"lr": 1e-3}),
    "adamw": ("AdamW", {"lr": 1e-3, "weight_decay": 1e-2}),
}
NETWORKS = ("cnn", "mlp", "peers")
TRAIN, TEST = 8000, 2000  # digits in the package


@dataclass(frozen=True)
class Setting:
    """One run and its queries; small enough to travel to another process as text."""

    optimizer: str = "sgd"
    steps: int = 1000
    samples: int = 2000
    queries: int = 100
    network: str = "cnn"
    """"cnn" (MNIST CNN, dropout 0.3), "mlp" (784-width-10), "peers" (CNN without dropout, ending
    in LogSoftmax)."""
    smooth: bool = False
    """tanh and average pooling instead of ReLU and max pooling."""
    width: int = 64
    """Hidden units of the MLP."""
    batch: int = 64

    def __post_init__(self) -> None:
        for name, most in (("steps", math.inf), ("samples", TRAIN), ("queries", TEST)):
            if not 1 <= getattr(self, name) <= most:
                raise ValueError(f"{name} must lie in 1..{most}, got {getattr(self, name)}")
        if self.batch > self.samples:
            raise ValueError(f"samples must be at least the batch, {self.batch}")


@dataclass
class Problem:
    """A setting with its tensors, ready to be trained."""

    setting: Setting
    model: nn.Sequential
    optimizer: torch.optim.Optimizer
    x: Tensor
    y: Tensor
    queries: Tensor
    batches: list[Tensor]


def _network(setting: Setting) -> nn.Sequential:
    activation, pool = ("tanh", "average") if setting.smooth else ("relu", "max")
    if setting.network == "mlp":
        return pk.models.mlp(784, setting.width, 10, activation=activation, seed=0)
    if setting.network == "cnn":
        return pk.models.mnist_cnn(activation, pool, seed=0)
    model = pk.models.mnist_cnn(activation, pool, dropout=0.0, seed=0)
    model.add_module("logs", nn.LogSoftmax(dim=1))
    return model


def optimizer_of(name: str, parameters) -> torch.optim.Optimizer:
    kind, options = OPTIMIZERS[name]
    return getattr(torch.optim, kind)(parameters, **options)


def build(setting: Setting) -> Problem:
    """The same in every process."""
    x, y = pk.data.mnist("train")
    queries, _ = pk.data.mnist("test")
    if setting.network == "mlp":
        x, queries = x.flatten(1), queries.flatten(1)
    n = setting.samples
    model = _network(setting)
    optimizer = optimizer_of(setting.optimizer, model.parameters())
    batches = list(pk.batches(n, size=setting.batch, steps=setting.steps, seed=0))
    return Problem(setting, model, optimizer, x[:n], y[:n], queries[: setting.queries], batches)


def tiny(setting: Setting) -> Setting:
    """A run of two steps and three queries, after which everything is loaded that loads late."""
    return replace(setting, steps=2, queries=3)


def train(problem: Problem, batches) -> None:
    """The plain loop, without recording."""
    model, optimizer, x, y = problem.model, problem.optimizer, problem.x, problem.y
    for batch in batches:
        optimizer.zero_grad()
        loss = LOSS(model(x[batch]), y[batch])
        loss.backward()
        optimizer.step()


def record(problem: Problem, folder: Path | None = None, steps: int | None = None):
    """The same loop through :class:`pkbook.Trajectory`; ``steps=0`` only opens it."""
    data = problem.x, problem.y
    run = pk.Trajectory(problem.model, LOSS, problem.optimizer, data, folder=folder)
    for batch in itertools.islice(problem.batches, steps):
        run.step(batch)
    return run


def winners(model: nn.Module, queries: Tensor) -> Tensor:
    """The largest output of each query."""
    model.eval()
    with torch.no_grad():
        return model(queries).argmax(1)


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())
