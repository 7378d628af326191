r"""E3: classes appear in the kernel of images (arXiv 2603.13872, Section 5.1, Figure 2e-h).

The paper's convolutional networks learn digits and photographs. Before, during and after training
we take ten images a class, once from the training set and once from images held out, and ask how
much more alike two images of one class are under the normalised kernel than two of different
classes. The same is asked of each layer's own part of the kernel.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from pkbook.function_space.diagnostics.neighbours import as_labels
from pkbook.kernels import kernels_by_layer, layer_names
from pkbook.lab.experiments.machinery.claims import by_seed
from pkbook.lab.experiments.machinery.results import Numbers
from pkbook.lab.experiments.machinery.settings import (
    Checked,
    Settings,
    choice,
    increasing,
    number,
    positive,
    require_at_most,
    several,
    whole,
)
from pkbook.lab.experiments.machinery.training import channels_last, fit
from pkbook.lab.trained import Trained, trained
from pkbook.problems import data, losses, models

CLASSES = 10
SOURCES: dict[str, tuple[Callable[..., data.Samples], Callable[..., nn.Sequential]]] = {
    "MNIST": (data.mnist, models.mnist_cnn),
    "CIFAR-10": (data.cifar10, models.cifar_cnn),
}
HELD_OUT = 50  # images of a class that accuracy is measured on
PROBES = ("training images", "held-out images")


@dataclass(frozen=True)
class Task(Checked):
    """A data set, how much of it, and how long."""

    source: str = choice("MNIST", tuple(SOURCES))
    per_class: int = whole(100)
    epochs: tuple[int, ...] = increasing((0, 2, 10), least=2, start=0)
    """Where the kernel is looked at; the first is 0, before training."""


def _task(task: object, name: str) -> None:
    if not isinstance(task, Task):
        raise ValueError(
            f'{name} must hold Tasks, got {task!r}; write {name}=(Task("MNIST", 100, (0, 8)),)'
        )


FRACTION = "a number from 0 to below 1"


@dataclass(frozen=True)
class Config(Settings):
    """Settings. `quick()` takes under a minute on a CPU; `full()` three quarters of an hour.

    `full()` learns photographs for 200 epochs, the paper for 1,100, which take an hour a seed:
    ``full(tasks=(Task("MNIST", 600, (0, 64)), Task("CIFAR-10", 250, (0, 200, 1100))))``.
    """

    tasks: tuple[Task, ...] = several(
        (Task("MNIST", 40, (0, 2, 8)), Task("CIFAR-10", 8, (0, 10, 30))), _task
    )
    shown: int = whole(6, least=2)
    """Images of each class in a kernel matrix."""
    rate: float = positive(0.02)
    momentum: float = number(0.9, FRACTION, lambda v: 0 <= v < 1)
    batch: int = whole(20)
    dropout: float = number(0.3, FRACTION, lambda v: 0 <= v < 1)
    standardised: bool = True
    """Whether mean and standard deviation of the training pixels are set to zero and one."""
    seeds: tuple[int, ...] = several((0, 1))

    FULL: ClassVar = {
        "rate": 0.005,  # at 0.02 long trainings break down: after 64 epochs digits are at chance
        "shown": 10,
        "seeds": (0, 1, 2),
        "tasks": (
            Task("MNIST", 600, (0, 1, 2, 4, 8, 16, 32, 64)),
            Task("CIFAR-10", 250, (0, 10, 20, 30, 50, 100, 200)),
        ),
    }

    def check_together(self) -> None:
        fewest = min(task.per_class for task in self.tasks)
        require_at_most(self.shown, "shown", fewest, "the images of a class")
        require_at_most(self.batch, "batch", CLASSES * fewest, "the images of a task")

    def trained(self, task: Task) -> Trained:
        """One line that names what is trained on a data set."""
        model = network(self, task, 0)
        return trained(
            model,
            optimizer_of(self, model),
            losses.cross_entropy,
            data=f"{CLASSES * task.per_class} images of {task.source}",
            epochs=task.epochs[-1],
            batch=self.batch,
            seeds=self.seeds,
            also=f"dropout {self.dropout:g}" if self.dropout else "",
        )


class Seen(NamedTuple):
    """One kernel matrix looked at, for a network of L layers."""

    within: Tensor  # [1 + L] mean over pairs of one class: the whole network, then each layer
    across: Tensor  # [1 + L] mean over pairs of different classes
    share: Tensor  # [L] of the trace
    carried: Tensor  # [L] what each layer gives to the whole network's contrast
    kernels: Tensor  # [1 + L, n, n] normalised


@dataclass(frozen=True)
class Outcome:
    """One task: S seeds, E epochs, L layers; the axis of length 2 is that of `PROBES`."""

    layers: tuple[str, ...]
    accuracy: Tensor  # [S, E, 2]
    loss: Tensor  # [S, E] on the training set
    within: Tensor  # [S, E, 2, 1 + L]
    across: Tensor  # [S, E, 2, 1 + L]
    share: Tensor  # [S, E, 2, L]
    carried: Tensor  # [S, E, 2, L]
    pixels: Tensor  # [S, 2] contrast of the cosine between images
    kernels: Tensor  # [E, 2, 1 + L, n, n] normalised, of the first seed
    labels: Tensor  # [n]
    networks: tuple[nn.Module, ...]  # S of them, trained

    @property
    def contrast(self) -> Tensor:
        """Within less across, ``[S, E, 2, 1 + L]``; the whole network stands at place 0."""
        return self.within - self.across

    def whole(self, probes: str = PROBES[0]) -> Tensor:
        """The whole network's contrast, ``[S, E]``."""
        return self.contrast[:, :, PROBES.index(probes), 0]


@dataclass(frozen=True)
class Result:
    """What was measured."""

    config: Config
    outcomes: dict[str, Outcome]


def class_means(kernel: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Mean entry over pairs of one class, without the diagonal, and over pairs of two classes.

    ``kernel`` is ``[n, n]``, ``y`` is ``[n]``. ValueError where a class has one image only, or
    all have one class.

    >>> k = torch.tensor([[1.0, 0.8, 0.1], [0.8, 1.0, 0.3], [0.1, 0.3, 1.0]])
    >>> within, across = class_means(k, torch.tensor([4, 4, 7]))
    >>> round(float(within), 3), round(float(across), 3)
    (0.8, 0.2)
    """
    labels = as_labels(y, len(kernel)).to(kernel.device)
    same = labels[:, None] == labels
    pairs = same & ~torch.eye(len(kernel), dtype=torch.bool, device=kernel.device)
    if not pairs.any():
        raise ValueError("y must hold a class with two images, came one image of each class")
    return kernel[pairs].mean(), kernel[~same].mean()


def look(model: nn.Module, x: Tensor, y: Tensor) -> Seen:
    """Means within and across classes, for the whole network and layer by layer."""
    parts = torch.stack(list(kernels_by_layer(model, x).values())).double().cpu()
    whole = parts.sum(0)
    kernels = torch.stack([_normalised(k, k) for k in (whole, *parts)])
    within, across = torch.tensor([class_means(k, y) for k in kernels]).T
    gives = [class_means(_normalised(part, whole), y) for part in parts]
    share = parts.diagonal(dim1=1, dim2=2).sum(1) / whole.trace()
    carried = torch.tensor([w - a for w, a in gives])
    return Seen(within, across, share, carried, kernels.float())


def _normalised(kernel: Tensor, by: Tensor) -> Tensor:
    roots = by.diagonal().sqrt()
    return kernel / roots / roots[:, None]


def samples(config: Config, task: Task, seed: int) -> tuple[data.Samples, data.Samples]:
    """Training and held-out images ordered by class; a seed draws its own."""
    source, generator = SOURCES[task.source][0], torch.Generator().manual_seed(seed)
    train = source("train", per_class=task.per_class, generator=generator)
    held = source("test", per_class=HELD_OUT, generator=generator)
    std, mean = torch.std_mean(train.x) if config.standardised else (1.0, 0.0)

    def ready(side: data.Samples) -> data.Samples:
        x = ((side.x - mean) / std).to(memory_format=torch.channels_last)
        return data.Samples(x, side.y)

    return ready(train), ready(held)


def shown(images: data.Samples, count: int) -> data.Samples:
    """The first `count` images of each class, of images ordered by class."""
    each = len(images.y) // CLASSES
    rows = (each * torch.arange(CLASSES)[:, None] + torch.arange(count)).flatten()
    return data.Samples(images.x[rows], images.y[rows])


def network(config: Config, task: Task, seed: int) -> nn.Sequential:
    """The paper's network for a data set, before training."""
    return channels_last(SOURCES[task.source][1](dropout=config.dropout, seed=seed))


def train(
    config: Config,
    model: nn.Module,
    images: data.Samples,
    epochs: tuple[int, ...],
    seed: int,
    **how,
) -> Iterator[int]:
    """Train `model` in place by SGD with momentum on the cross entropy; yields each epoch."""
    loss, batch, optimizer = losses.cross_entropy, config.batch, optimizer_of(config, model)
    return fit(model, loss, optimizer, images, epochs=epochs, batch=batch, seed=seed, **how)


def optimizer_of(config: Config, model: nn.Module) -> torch.optim.Optimizer:
    """SGD with the momentum of the settings."""
    return torch.optim.SGD(model.parameters(), lr=config.rate, momentum=config.momentum)


def run(
    config: Config,
    *,
    device: torch.device | str = "cpu",
    folder: Path | None = None,
    progress: bool = False,
) -> Result:
    """Train once for each task and seed; look at the kernel, layer by layer, at each epoch."""
    outcomes = {}
    for task in config.tasks:
        found = []
        for seed in tqdm(config.seeds, disable=not progress, desc=task.source):
            keep = None if folder is None else folder / f"{task.source}-seed{seed}"
            found.append(_one(config, task, seed, device, keep=keep, progress=progress))
        outcomes[task.source] = _together(config, task, found)
    return Result(config, outcomes)


def _one(config: Config, task: Task, seed: int, device, **how) -> dict:
    """One run: what was seen at each epoch, on the training images and on those held out."""
    sides = [data.Samples(*(t.to(device) for t in side)) for side in samples(config, task, seed)]
    probes = [shown(side, config.shown) for side in sides]
    model = network(config, task, seed).to(device)
    found: dict[str, Any] = {"seen": [], "accuracy": [], "loss": []}
    for _ in train(config, model, sides[0], task.epochs, seed, **how):
        found["seen"].append([look(model, *probe) for probe in probes])
        with torch.no_grad():
            outputs = [model(x) for x, _ in sides]
        rights = zip(outputs, sides, strict=True)
        found["accuracy"].append(
            [(f.argmax(1) == y).double().mean().item() for f, (_, y) in rights]
        )
        found["loss"].append(losses.cross_entropy(outputs[0], sides[0].y).mean().item())
    pixels = []
    for x, y in probes:
        images = x.flatten(1).double()
        pixels.append(class_means(_normalised(gram := images @ images.T, gram), y))
    found["network"] = model.cpu()
    found["pixels"] = [(within - across).item() for within, across in pixels]
    return found


def _together(config: Config, task: Task, found: list[dict]) -> Outcome:
    def stacked(name: str) -> Tensor:
        return torch.stack(
            [
                torch.stack([torch.stack([getattr(s, name) for s in e]) for e in f["seen"]])
                for f in found
            ]
        )

    layers = layer_names(network(config, task, 0))
    measured = {name: stacked(name) for name in ("within", "across", "share", "carried")}
    return Outcome(
        layers=layers,
        accuracy=torch.tensor([f["accuracy"] for f in found], dtype=torch.float64),
        loss=torch.tensor([f["loss"] for f in found], dtype=torch.float64),
        pixels=torch.tensor([f["pixels"] for f in found], dtype=torch.float64),
        kernels=torch.stack([torch.stack([s.kernels for s in e]) for e in found[0]["seen"]]),
        labels=torch.arange(CLASSES).repeat_interleave(config.shown),
        networks=tuple(f["network"] for f in found),
        **measured,
    )


def findings(result: Result) -> dict[str, dict[str, Numbers]]:
    """E3's numbers, on training images (first) and on images held out."""
    settings = {}
    for probes in PROBES:
        values = []
        for source in SOURCES:
            contrast = result.outcomes[source].whole(probes)
            values += [contrast[:, -1] / contrast[:, 0], contrast[:, -1]]
        settings[f"{result.config.shown} {probes} a class"] = by_seed("E3", values)
    return {"E3": settings}
