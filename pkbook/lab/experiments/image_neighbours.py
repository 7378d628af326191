r"""Beyond E3: do optimizers agree on an image's neighbours, at equal training loss?

One network for digits is trained by momentum (SGDM), Adam and, at full size, RMSprop, each from
the same starts and with the same batches, until its training loss is below one bound. For every
held-out image we take its nearest others under the normalised kernel, and ask how many of them two
runs share. Two runs of one optimizer, from two starts or with two orders of batches, are the
control.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import combinations, product
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm.auto import tqdm

from pkbook.function_space.diagnostics import homogeneity, nearest
from pkbook.kernels import normalised_kernel
from pkbook.lab.experiments.image_kernels import (
    HELD_OUT,
    Config as Training,
    Task,
    network,
    samples,
    shown,
)
from pkbook.lab.experiments.machinery.settings import (
    Settings,
    positive,
    require_at_most,
    several,
    whole,
)
from pkbook.lab.experiments.machinery.training import fit, remembered
from pkbook.lab.trained import Trained, trained
from pkbook.problems import data, losses

OPTIMIZERS: dict[str, Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]] = {
    "SGDM": lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9),
    "Adam": lambda p: torch.optim.Adam(p, lr=1e-3),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=1e-3),
}
ORDERS = 1000  # added to a start's seed, a multiple of it is the seed of another order of batches


class Run(NamedTuple):
    """One training run."""

    optimizer: str
    start: int
    order: int


# No two runs that are compared had the same batches.
RELATIONS: dict[str, Callable[[Run, Run], bool]] = {
    "same optimizer, same start": lambda a, b: a[:2] == b[:2],
    "other optimizer, same start": lambda a, b: (
        a.optimizer != b.optimizer and a.start == b.start and a.order != b.order
    ),
    "same optimizer, other start": lambda a, b: a.optimizer == b.optimizer and a.start != b.start,
    "other optimizer, other start": lambda a, b: a.optimizer != b.optimizer and a.start != b.start,
}


def _optimizer(word: object, name: str) -> None:
    if word not in OPTIMIZERS:
        raise ValueError(f"{name} must be among {', '.join(OPTIMIZERS)}, got {word!r}")


@dataclass(frozen=True)
class Config(Settings):
    """Settings. `quick()` takes seconds on a CPU; `full()` has more images and more starts."""

    per_class: int = whole(20)
    asked: int = whole(12, 2, HELD_OUT)
    """Held-out images of each class whose neighbours are looked for."""
    neighbours: int = whole(5)
    loss: float = positive(0.3)
    """Training stops after the first epoch whose loss on the training set is at most this."""
    most: int = whole(100)
    """Epochs after which a run is given up."""
    batch: int = whole(20)
    dropout: float = 0.3
    optimizers: tuple[str, ...] = several(("SGDM", "Adam"), _optimizer)
    starts: tuple[int, ...] = several((0, 1), least=2)
    orders: int = whole(2, least=2)

    FULL: ClassVar = {
        "per_class": 600,
        "asked": 50,
        "neighbours": 10,
        "loss": 0.1,
        "optimizers": tuple(OPTIMIZERS),
        "starts": tuple(range(5)),
    }

    def check_together(self) -> None:
        why = "fewer than the images of a class that are asked"
        require_at_most(self.neighbours, "neighbours", self.asked - 1, why)

    @property
    def runs(self) -> tuple[Run, ...]:
        """All of them, optimizer by optimizer."""
        return tuple(Run(*run) for run in product(self.optimizers, self.starts, range(self.orders)))

    def trained(self, name: str) -> Trained:
        """One line that names the runs of one optimizer."""
        model = _network(self, 0, "cpu")
        return trained(
            model,
            OPTIMIZERS[name](model.parameters()),
            losses.cross_entropy,
            data=f"{10 * self.per_class} images of MNIST",
            epochs=self.most,
            batch=self.batch,
            seeds=self.starts,
            also=f"stopped at the first epoch with a loss of at most {self.loss:g}",
        )


@dataclass(frozen=True)
class Result:
    """What was measured, for the R runs of `config.runs`."""

    config: Config
    epochs: Tensor  # [R] until the loss was reached
    loss: Tensor  # [R] that was reached, on the training set
    accuracy: Tensor  # [R] on the held-out images
    alike: Tensor  # [R] share of the neighbours that have the image's own class
    near: Tensor  # [R, m, k] the neighbours of each held-out image
    before: Tensor  # [S, m, k] the same before training, for each start
    pixels: Tensor  # [m, k] the nearest by the cosine of the images themselves
    images: Tensor  # [m, 1, 28, 28] the held-out images
    labels: Tensor  # [m]

    def pairs(self, relation: str) -> list[tuple[int, int]]:
        """Places of the runs that stand in a relation."""
        runs, holds = self.config.runs, RELATIONS[relation]
        return [(i, j) for i, j in combinations(range(len(runs)), 2) if holds(runs[i], runs[j])]

    def shared(self, relation: str) -> Tensor:
        """Share of neighbours that two runs have in common, one number a pair."""
        return torch.stack([overlap(self.near[i], self.near[j]) for i, j in self.pairs(relation)])

    @property
    def chance(self) -> float:
        """What two runs would share that drew neighbours blindly from the image's own class."""
        return self.config.neighbours / (self.config.asked - 1)


def overlap(near: Tensor, other: Tensor) -> Tensor:
    """Mean share of entries that two tables of neighbours ``[m, k]`` have in common.

    >>> overlap(torch.tensor([[1, 2], [0, 2]]), torch.tensor([[2, 3], [2, 0]]))
    tensor(0.7500)
    """
    if near.shape != other.shape or near.ndim != 2:
        raise ValueError(
            f"other: expected a table like near, {list(near.shape)}, came {list(other.shape)}"
        )
    return (near[:, :, None] == other[:, None, :]).any(2).float().mean()


def run(
    config: Config,
    *,
    device: torch.device | str = "cpu",
    folder: Path | None = None,
    progress: bool = False,
) -> Result:
    """Train all runs on the same digits and find the neighbours of the same held-out ones."""
    images, held = samples(Training(), Task("MNIST", config.per_class, (0, 1)), seed=0)
    images, held = (data.Samples(*(t.to(device) for t in side)) for side in (images, held))
    held = shown(held, config.asked)
    found = []
    for one in tqdm(config.runs, disable=not progress, desc="runs"):
        path = None if folder is None else folder / f"{'-'.join(map(str, one))}"
        found.append(remembered(path, partial(_measure, config, one, images, held)))
    flat = held.x.flatten(1)
    pixels = nearest(functional.cosine_similarity(flat[:, None], flat, dim=2), config.neighbours)
    told = {name: torch.stack([f[name] for f in found]) for name in found[0]}
    untrained = [_network(config, start, device) for start in config.starts]
    before = [nearest(normalised_kernel(net, held.x), config.neighbours) for net in untrained]
    return Result(
        config,
        **told,
        before=torch.stack(before).cpu(),
        pixels=pixels.cpu(),
        images=held.x.cpu(),
        labels=held.y.cpu(),
    )


def _measure(
    config: Config, one: Run, images: data.Samples, held: data.Samples
) -> dict[str, Tensor]:
    model = _network(config, one.start, images.x.device)
    epochs, reached = train(config, one, model, images)
    kernel = normalised_kernel(model, held.x)
    with torch.no_grad():
        right = (model(held.x).argmax(1) == held.y).double().mean()
    return {
        "epochs": torch.tensor(epochs),
        "loss": torch.tensor(reached, dtype=torch.float64),
        "accuracy": right.cpu(),
        "alike": homogeneity(kernel, held.y, config.neighbours).mean(),
        "near": nearest(kernel, config.neighbours).cpu(),
    }


def _network(config: Config, start: int, device: torch.device | str) -> nn.Module:
    task = Task("MNIST", config.per_class, (0, 1))
    return network(Training(dropout=config.dropout), task, start).to(device).eval()


def train(config: Config, one: Run, model: nn.Module, images: data.Samples) -> tuple[int, float]:
    """Train until the loss is reached; the epoch and the loss. FloatingPointError if it is not."""
    optimizer = OPTIMIZERS[one.optimizer](model.parameters())
    seed, loss = one.start + ORDERS * (one.order + 1), losses.cross_entropy
    epochs, batch, reached = range(config.most + 1), config.batch, math.inf
    for epoch in fit(model, loss, optimizer, images, epochs=epochs, batch=batch, seed=seed):
        with torch.no_grad():
            reached = loss(model(images.x), images.y).mean().item()
        if reached <= config.loss:
            return epoch, reached
    raise FloatingPointError(
        f"{one.optimizer}, start {one.start}: the loss is {reached:.3g} after {config.most} "
        f"epochs and not {config.loss:g}; raise most or loss"
    )
