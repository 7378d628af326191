r"""E6 and E7: print and letters for a reader of handwriting (arXiv 2603.13872, Figures 5 and 6).

A convolutional network learns handwritten digits.  Then it is shown printed digits and printed
letters, and we look at the normalised kernel between them and the training digits: by class, as
training goes on, and beside the share of each printed digit that is read correctly.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from pkbook.kernels import feature_norms, normalised_kernel, weighted_kernel
from pkbook.lab.experiments.alignment import spearman
from pkbook.lab.experiments.machinery.claims import by_seed
from pkbook.lab.experiments.machinery.results import Numbers
from pkbook.lab.experiments.machinery.settings import (
    Settings,
    numbers,
    positive,
    require_at_most,
    several,
    whole,
)
from pkbook.lab.experiments.machinery.training import channels_last, fit
from pkbook.lab.experiments.parts.shifted_inputs import turned
from pkbook.lab.trained import Trained, trained
from pkbook.problems import data, losses, models
from pkbook.runs import step_weight

STEP = "in the geometry of Adam's last step"
BOX = 20  # longer side of MNIST's digits, in pixels; `data.printed_glyphs` keeps to it


@dataclass(frozen=True)
class Config(Settings):
    """Settings. `quick()` takes some seconds on a CPU; `full()` has the paper's 600 a class."""

    per_class: int = whole(50)
    """Training digits of each class."""
    shown: int = whole(6, least=2)
    """Of these, digits of each class that the kernel is computed with."""
    faces: int = whole(8, most=len(data.printed_faces))
    """Printed pictures of each character."""
    held_out: int = whole(50)
    """Handwritten digits of each class that accuracy is measured on."""
    sizes: tuple[int, ...] = numbers((BOX, 28), "pixels from 1 to 28", lambda v: 0 < v <= 28)
    """Longer side of printed digits, in pixels; the first is used throughout."""
    letters: str = "ABCDEFGHIJ"
    rate: float = positive(1e-3)
    batch: int = whole(32)
    epochs: tuple[int, ...] = (0, 4, 20)
    seeds: tuple[int, ...] = several((0, 1))

    FULL: ClassVar = {
        "per_class": 600,
        "shown": 10,
        "faces": 10,
        "sizes": (BOX, 28, 10),
        "held_out": 200,
        "epochs": (0, 1, 4, 10, 30),
        "seeds": tuple(range(5)),
    }

    def check_together(self) -> None:
        require_at_most(self.shown, "shown", self.per_class, "the training digits of a class")

    def trained(self) -> Trained:
        """One line that names what is trained."""
        model = network(0)
        return trained(
            model,
            adam(self, model),
            losses.cross_entropy,
            data=f"{10 * self.per_class} digits of MNIST",
            epochs=self.epochs[-1],
            batch=self.batch,
            seeds=self.seeds,
        )


@dataclass(frozen=True)
class Result:
    """Of S seeds, E epochs and V sizes of print; L letters; pictures are of the first seed."""

    config: Config
    handwriting: Tensor  # [S, E] accuracy on held-out digits
    accuracy: Tensor  # [S, E, 10] of each printed digit, at the first size
    means: Tensor  # [S, E, 10, 20 + L] mean normalised kernel of pairs of classes
    sized_accuracy: Tensor  # [S, V, 10] of each printed digit after training
    sized_means: Tensor  # [S, V, 10] mean kernel with the training digits of its own class
    step_means: Tensor  # [S, 10, 20 + L] the same in the geometry of Adam's last step
    step_kernels: Tensor  # [S, 10 shown, n] and the weighted kernel itself, not normalised
    step_lengths: Tensor  # [S, n] its diagonal's roots
    networks: tuple[dict[str, Tensor], ...]  # [S] parameters after training, on the CPU
    weights: tuple[dict[str, Tensor], ...]  # [S] the diagonal of Adam's last step, on the CPU
    x: Tensor  # [n, 1, 28, 28] training digits, printed digits, letters
    y: Tensor  # [n] 0 to 9, then 10 to 19 for print, then from 20 on for letters
    kernels: Tensor  # [E, n, n] normalised kernels

    def network(self, place: int = 0) -> nn.Sequential:
        """The trained network of a seed, ready to be asked."""
        model = network(self.config.seeds[place])
        model.load_state_dict(self.networks[place])
        return model.eval()


def digits(config: Config, seed: int) -> data.Samples:
    """The training digits of a seed, ordered by class."""
    generator = torch.Generator().manual_seed(seed)
    return data.mnist("train", per_class=config.per_class, generator=generator)


def shown(config: Config, samples: data.Samples) -> data.Samples:
    """The first few of each class: those that the kernel is computed with."""
    rows = torch.cat([(samples.y == c).nonzero()[: config.shown, 0] for c in range(10)])
    return data.Samples(samples.x[rows], samples.y[rows])


def printed(config: Config, size: int = BOX) -> data.Samples:
    """Printed digits, so many pixels large."""
    x, y = data.printed_glyphs(faces=data.printed_faces[: config.faces])
    return data.Samples(x if size == BOX else turned(x, scale=size / BOX), y)


def letters(config: Config) -> data.Samples:
    """Printed letters; y counts them from 0."""
    return data.printed_glyphs(config.letters, faces=data.printed_faces[: config.faces])


def network(seed: int) -> nn.Sequential:
    """The paper's network before training."""
    return channels_last(models.mnist_cnn(seed=seed))


def adam(config: Config, model: nn.Module) -> torch.optim.Adam:
    """The optimizer of every network here."""
    return torch.optim.Adam(model.parameters(), lr=config.rate)


def train(
    config: Config,
    model: nn.Module,
    samples: data.Samples,
    seed: int,
    *,
    optimizer: torch.optim.Adam | None = None,
    **how,
) -> Iterator:
    """Train `model` in place with Adam; yields each of `config.epochs`."""
    optimizer = adam(config, model) if optimizer is None else optimizer
    loss, batch = losses.cross_entropy, config.batch
    settings = {"epochs": config.epochs, "batch": batch, "seed": seed}
    return fit(model, loss, optimizer, samples, **settings, **how)


def class_means(kernel: Tensor, y: Tensor) -> Tensor:
    """Mean of a kernel over pairs of classes, ``[10, classes]``; no sample meets itself.

    `kernel` is ``[n, m]``; its first n columns belong to the samples of its rows, training digits.
    `y` ``[m]`` has the classes of its columns.
    """
    others = torch.ones_like(kernel)
    others.diagonal().zero_()
    columns = functional.one_hot(y).to(kernel)
    rows = columns[: len(kernel), :10]
    return (rows.T @ (kernel * others) @ columns) / (rows.T @ others @ columns)


def read(model: nn.Module, samples: data.Samples) -> Tensor:
    """Share of each digit that is read correctly, ``[10]``."""
    with torch.no_grad():
        right = (model(samples.x).argmax(1) == samples.y).float()
    return torch.stack([right[samples.y == c].mean() for c in range(10)])


def run(
    config: Config,
    *,
    device: torch.device | str = "cpu",
    folder: Path | None = None,
    progress: bool = False,
) -> Result:
    """Train once for each seed; read print and compute kernels as training goes on."""
    rows, sized, weighted, networks, weights, kernels, drawn = [], [], [], [], [], [], {}
    prints = [_to(printed(config, size), device) for size in config.sizes]
    held_out = _to(data.mnist("test", per_class=config.held_out), device)
    for seed in config.seeds:
        samples = _to(digits(config, seed), device)
        asked = _asked(config, samples, prints[0], device)
        model = network(seed).to(device)
        how = {"optimizer": adam(config, model), "progress": progress}
        keep = None if folder is None else folder / f"seed{seed}"
        for _ in train(config, model, samples, seed, keep=keep, **how):
            kernel = normalised_kernel(model, asked.x)
            right = read(model, held_out).mean(), read(model, prints[0])
            rows.append((*right, class_means(kernel[: 10 * config.shown], asked.y)))
            if seed == config.seeds[0]:
                kernels.append(kernel.cpu())
        sized.append(_sized(config, model, asked, prints))
        weight = step_weight(model, how["optimizer"])
        n = 10 * config.shown
        lengths = feature_norms(model, asked.x, weight=weight)
        products = weighted_kernel(model, asked.x[:n], asked.x, weight=weight)
        cosines = products / lengths[:n, None] / lengths
        weighted.append((class_means(cosines, asked.y), products, lengths))
        weights.append({name: w.cpu() for name, w in weight.items()})
        networks.append({name: p.detach().cpu() for name, p in model.state_dict().items()})
        if seed == config.seeds[0]:
            drawn = {"x": asked.x.cpu(), "y": asked.y.cpu()}
    shape = (len(config.seeds), len(config.epochs))
    handwriting, accuracy, means = (
        torch.stack(column).cpu().unflatten(0, shape) for column in zip(*rows, strict=True)
    )
    by_size = [torch.stack(column).cpu() for column in zip(*sized, strict=True)]
    step = (torch.stack(column).cpu() for column in zip(*weighted, strict=True))
    drawn |= {"kernels": torch.stack(kernels)}
    return Result(
        config,
        handwriting,
        accuracy,
        means,
        sized_accuracy=by_size[0],
        sized_means=by_size[1],
        **dict(zip(("step_means", "step_kernels", "step_lengths"), step, strict=True)),
        networks=tuple(networks),
        weights=tuple(weights),
        **drawn,
    )


def _to(samples: data.Samples, device: torch.device | str) -> data.Samples:
    return data.Samples(samples.x.to(device), samples.y.to(device))


def _asked(config: Config, samples, print_, device) -> data.Samples:
    """What the kernel is computed on: training digits, printed digits, letters."""
    parts = shown(config, samples), print_, _to(letters(config), device)
    y = torch.cat([part.y + 10 * place for place, part in enumerate(parts)])
    return data.Samples(torch.cat([part.x for part in parts]), y)


def _sized(config: Config, model, asked: data.Samples, prints) -> tuple[Tensor, Tensor]:
    """Accuracy ``[V, 10]`` and own-class kernel ``[V, 10]`` for each size of print."""
    n = 10 * config.shown
    kernel = normalised_kernel(model, torch.cat([asked.x[:n], *(some.x for some in prints)]))
    means = []
    for block in kernel[:n, n:].chunk(len(prints), 1):
        both = torch.cat([kernel[:n, :n], block], 1)
        found = class_means(both, torch.cat([asked.y[:n], prints[0].y + 10]))
        means.append(found[:, 10:].diagonal())
    return torch.stack([read(model, some) for some in prints]), torch.stack(means)


def alike(result: Result) -> dict[str, Tensor]:
    """Mean kernel over seeds and epochs ``[S, E]``: pairs of one class, of two, and letters."""
    return kinds(result.means)


def kinds(means: Tensor) -> dict[str, Tensor]:
    """The same of class means ``[S, E, 10, 20 + L]``."""
    own = torch.eye(10, dtype=torch.bool)
    return {
        "one class": means[..., :10][..., own].mean(2),
        "two classes": means[..., :10][..., ~own].mean(2),
        "letters": means[..., 20:].flatten(2).mean(2),
    }


def findings(result: Result) -> dict[str, dict[str, Numbers]]:
    """E6's numbers for each size of print, and E7's, after training, and by Adam's steps."""
    config, e6 = result.config, {}
    for place, size in enumerate(config.sizes):
        accuracy, kernel = result.sized_accuracy[:, place], result.sized_means[:, place]
        values = (
            result.handwriting[:, -1] - accuracy.mean(1),
            [spearman(k, a) for k, a in zip(kernel, accuracy, strict=True)],
        )
        like = "as large as MNIST's" if size == BOX else f"{size} pixels large instead of {BOX}"
        e6[f"printed digits {like}"] = by_seed("E6", values)
        if size == BOX:
            own = result.step_means[:, :, 10:20].diagonal(dim1=1, dim2=2)
            rank = [spearman(k, a) for k, a in zip(own, accuracy, strict=True)]
            e6[f"printed digits {like}, {STEP}"] = by_seed("E6", (values[0], rank))
    setting, e7 = f"{config.per_class} digits a class, {config.epochs[-1]} epochs", {}
    last = result.means[:, -1:], result.step_means[:, None]
    for name, means in zip((setting, f"{setting}, {STEP}"), last, strict=True):
        one, two, letter = (values[:, -1] for values in kinds(means).values())
        e7[name] = by_seed("E7", (one, two / one, letter / one))
    return {"E6": e6, "E7": e7}
