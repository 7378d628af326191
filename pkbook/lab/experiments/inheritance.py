r"""E12: does the kernel inherit its network's architecture? (arXiv 2603.13872, Section 6.)

Held-out digits are moved by a few pixels.  We ask how alike a network takes a digit and its moved
copy, by the normalised kernel and by the same cosine after the mean feature is taken off.  The
networks differ in how they treat place: fully connected, convolutional with a dense head (the
paper's), convolutional with an average over places, transformer.  All are trained alike.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm.auto import tqdm

from pkbook.basics.checks import require_choice, require_tensor, require_whole
from pkbook.basics.randomness import seeded
from pkbook.kernels import gradient_kernel
from pkbook.lab.experiments import alignment
from pkbook.lab.experiments.machinery.claims import by_seed
from pkbook.lab.experiments.machinery.results import Numbers
from pkbook.lab.experiments.machinery.settings import (
    Settings,
    choice,
    choices,
    increasing,
    positive,
    several,
    whole,
)
from pkbook.lab.experiments.machinery.training import fit
from pkbook.lab.trained import Trained, network as in_words, trained
from pkbook.problems import data, losses, models

WAYS = ((0, 1), (1, 0), (0, -1), (-1, 0))  # right, down, left, up: one image each, in turn
CRITICAL = 2  # pixels, of E12's criteria


class OverPlaces(nn.Module):
    """The mean over places, [n, channels, rows, columns] to [n, channels]."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps.mean((2, 3))


def averaging_cnn(seed: int) -> nn.Sequential:
    """The stages of `models.mnist_cnn`, then the mean over places and one linear layer."""
    cpu = torch.device("cpu")
    stages = list(models.mnist_cnn(seed=seed).named_children())[:9]
    with seeded(seed, cpu), cpu:
        head = [("mean", OverPlaces()), ("fc", nn.Linear(64, alignment.CLASSES))]
    return nn.Sequential(OrderedDict(stages + head))


def _networks(transformer: str) -> dict[str, Callable[[int], nn.Module]]:
    return {
        "MLP": alignment.NETWORKS["large"]["MLP"],
        "CNN": lambda seed: models.mnist_cnn(seed=seed),
        "averaging CNN": averaging_cnn,
        "transformer": alignment.NETWORKS[transformer]["transformer"],
    }


NETWORKS = {"small": _networks("small"), "large": _networks("large")}
ARCHITECTURES = tuple(NETWORKS["small"])


@dataclass(frozen=True)
class Config(Settings):
    """Settings. `quick()` takes some 15 seconds on a CPU; `full()` has the paper's data."""

    networks: str = choice("small", tuple(NETWORKS))
    """Size of the transformer; the others are the same."""
    architectures: tuple[str, ...] = choices(ARCHITECTURES, ARCHITECTURES)
    per_class: int = whole(40)
    """Training images of each class."""
    held_out: int = whole(4, least=2)
    """Images of each class that are moved; four, one for each way, or more."""
    shifts: tuple[int, ...] = increasing((0, 2, 3, 4, 7), start=0, most=27)
    """Pixels; the first is 0."""
    rate: float = positive(3e-3)
    batch: int = whole(50)
    epochs: tuple[int, ...] = increasing((0, 10), least=2, start=0)
    seeds: tuple[int, ...] = several((30, 31))

    FULL: ClassVar = {
        "networks": "large",
        "per_class": 600,
        "held_out": 10,
        "shifts": tuple(range(8)),
        "rate": 1e-3,
        "epochs": (0, 4, 30),
        "seeds": tuple(range(30, 35)),
    }

    def trained(self) -> Trained:
        """The line that names what is trained: the CNN; the other networks alike."""
        models = {name: network(self, name, self.seeds[0]) for name in self.architectures}
        first = "CNN" if "CNN" in models else self.architectures[0]
        model = models.pop(first)
        alike = "; ".join(f"{name} ({in_words(other)})" for name, other in models.items())
        how = {"epochs": self.epochs[-1], "batch": self.batch, "seeds": self.seeds}
        optimizer = torch.optim.Adam(model.parameters(), lr=self.rate)
        digits = f"{10 * self.per_class} MNIST digits"
        also = f"trained alike: {alike}" if alike else ""
        return trained(model, optimizer, losses.cross_entropy, data=digits, also=also, **how)


@dataclass(frozen=True)
class Result:
    """Of A architectures, S seeds, E looks, D shifts and n images.

    "Kinds" are two: the cosine of features as they are, and of features less their mean.
    """

    config: Config
    similarity: Tensor  # [A, S, E, 2, D, n] of an image and its moved copy, by kind
    others: Tensor  # [A, S, E, 2, 2] mean over pairs of different images, by kind: of one
    # class, of two classes
    accuracy: Tensor  # [A, S, E, D] on the moved images
    pixels: Tensor  # [S, 2, D, n] cosine of the pictures themselves, by kind
    pixel_others: Tensor  # [S, 2, 2] like others
    networks: dict[str, nn.Module]  # trained, of the first seed

    def place(self, architecture: str) -> int:
        """Where an architecture stands; ValueError for one that was not run."""
        names = self.config.architectures
        return names.index(require_choice(architecture, "architecture", names))

    def curve(self, architecture: str, look: int = -1, *, centred: bool = False) -> Tensor:
        """Similarity of an image and its moved copy, mean over images, ``[S, D]``."""
        return self.similarity[self.place(architecture), :, look, int(centred)].mean(-1)

    def unmoved(self, architecture: str, look: int = -1, *, centred: bool = False) -> Tensor:
        """The same for two different images: of one class, of two classes, ``[S, 2]``."""
        return self.others[self.place(architecture), :, look, int(centred)]

    def at(self, architecture: str, pixels: int, look: int = -1, *, centred=False) -> Tensor:
        """The curve at one shift, ``[S]``; ValueError for a shift that was not taken."""
        if pixels not in self.config.shifts:
            raise ValueError(f"pixels: expected one of {self.config.shifts}, came {pixels}")
        curve = self.curve(architecture, look, centred=centred)
        return curve[:, self.config.shifts.index(pixels)]


# ---- pictures and their similarity ----------------------------------------------------------


def moved(x: Tensor, pixels: int, way: tuple[int, int] = (0, 1)) -> Tensor:
    """Images ``[..., h, w]`` moved; what leaves is lost, what comes in is black.

    `way` says how often down and to the right.  TypeError or ValueError for anything but images
    and whole numbers from 0 on.

    >>> moved(torch.tensor([[1.0, 2.0, 3.0]]), 1)
    tensor([[0., 1., 2.]])
    """
    require_whole(pixels, "pixels", 0)
    if require_tensor(x, "x").ndim < 2:
        raise ValueError(f"x must be images [..., h, w], got shape {list(x.shape)}")
    if way not in WAYS:
        raise ValueError(f"way must be one of {WAYS}, got {way!r}")
    down, right = way[0] * pixels, way[1] * pixels
    return functional.pad(x, (right, -right, down, -down))


def queries(config: Config, seed: int) -> tuple[data.Samples, data.Samples, Tensor]:
    """Training images, held-out images ``[n, ...]`` and their moved copies ``[D, n, ...]``."""
    generator = torch.Generator().manual_seed(seed)
    held = data.mnist("test", per_class=config.held_out, generator=generator)
    train = data.mnist("train", per_class=config.per_class, generator=generator)
    copies = torch.stack(
        [
            torch.stack([moved(x, pixels, WAYS[i % 4]) for i, x in enumerate(held.x)])
            for pixels in config.shifts
        ]
    )
    return train, held, copies


def centred(kernel: Tensor, n: int) -> Tensor:
    r"""The kernel of features less the mean feature of the first `n` samples, ``[m, m]``:

    .. math:: \langle\varphi(x)-\bar\varphi,\varphi(x')-\bar\varphi\rangle,
        \qquad \bar\varphi=\tfrac1n\sum_{i\le n}\varphi(x_i).

    >>> centred(torch.ones(3, 3), 2).abs().max().item()
    0.0
    """
    return kernel - kernel[:, :n].mean(1, keepdim=True) - kernel[:n].mean(0) + kernel[:n, :n].mean()


def compare(kernel: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines of images with their copies ``[2, D, n]`` and with one another ``[2, 2]``.

    `kernel` is that of all copies, ``[D n, D n]``, the images themselves first; `y` are their
    classes.  By kind: as they are, and less the mean.
    """
    n, kernel = len(y), kernel.double()
    alike = y[:, None] == y
    pairs = alike & ~torch.eye(n, dtype=torch.bool), ~alike
    curves, levels = [], []
    for k in (kernel, centred(kernel, n)):
        root = k.diagonal().sqrt()
        rows = k[:n] / root[:n, None] / root
        curves.append(rows.reshape(n, -1, n).diagonal(dim1=0, dim2=2))
        levels.append(torch.stack([rows[:, :n][pair].mean() for pair in pairs]))
    return torch.stack(curves), torch.stack(levels)


def by_layer(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    r"""The parts of the kernel that belong to one layer each, ``{layer: [n, n]}``:

    .. math:: K_{x,x'}=\sum_\ell K^{(\ell)}_{x,x'},\qquad
        K^{(\ell)}_{x,x'}=\langle\nabla_{\theta_\ell}f(x),\nabla_{\theta_\ell}f(x')\rangle .

    A layer is a direct child of `model` with parameters; those are switched on and off meanwhile.
    """
    layers = {name: child for name, child in model.named_children() if list(child.parameters())}
    flags = [(p, p.requires_grad) for p in model.parameters()]
    found = {}
    try:
        for name, layer in layers.items():
            model.requires_grad_(False)
            layer.requires_grad_(True)
            found[name] = gradient_kernel(model, x)
    finally:
        for p, flag in flags:
            p.requires_grad_(flag)
    return found


# ---- the experiment -------------------------------------------------------------------------


def network(config: Config, architecture: str, seed: int) -> nn.Module:
    """A network before training."""
    return NETWORKS[config.networks][architecture](seed)


def train(config: Config, model: nn.Module, samples: data.Samples, seed: int, **how):
    """Train `model` in place with Adam on the cross entropy; yields each of `config.epochs`."""
    optimizer = torch.optim.Adam(model.parameters(), lr=config.rate)
    settings = {"epochs": config.epochs, "batch": config.batch, "seed": seed}
    return fit(model, losses.cross_entropy, optimizer, samples, **settings, **how)


def follow(
    config: Config, architecture: str, seed: int, device: torch.device | str = "cpu", **how
) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """One network, trained; and at all looks similarity ``[E, 2, D, n]``, others, accuracy."""
    samples, held, copies = queries(config, seed)
    samples = data.Samples(samples.x.to(device), samples.y.to(device))
    inputs, truth = copies.flatten(0, 1).to(device), held.y.to(device)
    model, looks = network(config, architecture, seed).to(device), []
    for _ in train(config, model, samples, seed, **how):
        with torch.no_grad():
            right = model(inputs).argmax(1).reshape(len(copies), -1) == truth
        found = compare(gradient_kernel(model, inputs).cpu(), held.y)
        looks.append((*found, right.double().mean(1).cpu()))
    return model.cpu(), tuple(torch.stack(part) for part in zip(*looks, strict=True))


def run(
    config: Config,
    *,
    device: torch.device | str = "cpu",
    folder: Path | None = None,
    progress: bool = False,
) -> Result:
    """Train every architecture with every seed; look at it at each of the epochs."""
    plan = [(name, seed) for name in config.architectures for seed in config.seeds]
    found, networks = [], {}
    for name, seed in tqdm(plan, disable=not progress, desc="runs"):
        keep = None if folder is None else folder / f"{name.replace(' ', '-')}-{seed}"
        model, looks = follow(config, name, seed, device, keep=keep)
        networks.setdefault(name, model)
        found.append(looks)
    shape = len(config.architectures), len(config.seeds)
    parts = [torch.stack(part).unflatten(0, shape) for part in zip(*found, strict=True)]
    pixels = []
    for seed in config.seeds:
        _, held, copies = queries(config, seed)
        flat = copies.flatten(2).flatten(0, 1).double()
        pixels.append(compare(flat @ flat.T, held.y))
    pixel, pixel_others = (torch.stack(part) for part in zip(*pixels, strict=True))
    return Result(config, *parts, pixels=pixel, pixel_others=pixel_others, networks=networks)


SETTINGS = {
    "the paper's CNN": ("CNN", False),
    "the paper's CNN, mean feature taken off": ("CNN", True),
    "a CNN that averages over places": ("averaging CNN", False),
}


def findings(result: Result) -> dict[str, dict[str, Numbers]]:
    """E12's numbers, one a seed."""

    def numbers(cnn: str, kind: bool) -> Numbers:
        def at(name: str, look: int = -1) -> Tensor:
            return result.at(name, CRITICAL, look, centred=kind)

        margins = [at(cnn, look) - at("MLP", look) for look in (0, -1)]
        values = [*margins, at(cnn), at("MLP"), at("transformer")]
        return by_seed("E12", values)

    return {"E12": {setting: numbers(*how) for setting, how in SETTINGS.items()}}
