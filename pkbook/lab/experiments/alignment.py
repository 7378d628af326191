r"""E11: does the tangent kernel come to resemble the label kernel? (arXiv 2603.13872, Sec. 1, 6.)

Three architectures learn the same digits. At several steps of training we take the tangent kernel
of a few training images and of a few held-out ones, and its centred alignment (CKA) with the label
kernel. Controls: the same training with a share of random labels, and with fewer or more images;
both compare runs of equally many steps, in which nothing can rise merely because time passes.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from pkbook.basics.checks import require_choice
from pkbook.basics.randomness import seeded
from pkbook.function_space.diagnostics import cka, label_kernel
from pkbook.kernels import gradient_kernel
from pkbook.lab.experiments.machinery.claims import by_seed, claim
from pkbook.lab.experiments.machinery.results import Numbers, rank_interval
from pkbook.lab.experiments.machinery.settings import (
    Settings,
    choice,
    choices,
    increasing,
    numbers,
    positive,
    require_at_most,
    several,
    whole,
)
from pkbook.lab.experiments.machinery.training import remembered
from pkbook.lab.trained import Trained, trained
from pkbook.problems import data, losses, models
from pkbook.runs.recording import batches

CLASSES, HELD_OUT = 10, 500
PLACES = ("training", "held-out")


def _mlp(*widths: int) -> Callable[[int], nn.Module]:
    return lambda seed: nn.Sequential(nn.Flatten(), *models.mlp(*widths, seed=seed))


def small_cnn(seed: int) -> nn.Sequential:
    """Two convolutions with stride 2 (8 and 16 channels) and a hidden layer of 32 units."""
    cpu = torch.device("cpu")
    with seeded(seed, cpu), cpu:
        layers: OrderedDict[str, nn.Module] = OrderedDict(
            conv1=nn.Conv2d(1, 8, 5, stride=2, padding=2),
            act1=nn.ReLU(),
            conv2=nn.Conv2d(8, 16, 3, stride=2, padding=1),
            act2=nn.ReLU(),
            flatten=nn.Flatten(),
            fc1=nn.Linear(16 * 7 * 7, 32),
            act3=nn.ReLU(),
            fc2=nn.Linear(32, CLASSES),
        )
    return nn.Sequential(layers)


NETWORKS: dict[str, dict[str, Callable[[int], nn.Module]]] = {
    "small": {
        "MLP": _mlp(784, 64, CLASSES),
        "CNN": small_cnn,
        "transformer": lambda seed: models.vit(heads=2, blocks=1, seed=seed),
    },
    "large": {
        "MLP": _mlp(784, 256, 256, CLASSES),
        "CNN": lambda seed: models.mnist_cnn(dropout=0, seed=seed),
        "transformer": lambda seed: models.vit(width=64, blocks=2, seed=seed),
    },
}
ARCHITECTURES = tuple(NETWORKS["small"])


@dataclass(frozen=True)
class Config(Settings):
    """Settings. `quick()` takes half a minute on a CPU; `full()` an hour, with larger networks."""

    networks: str = choice("small", tuple(NETWORKS))
    architectures: tuple[str, ...] = choices(ARCHITECTURES, ARCHITECTURES)
    samples: int = whole(300, 2 * CLASSES, multiple=CLASSES)
    shares: tuple[float, ...] = numbers(
        (0.0, 0.5, 1.0), "numbers from 0 to 1", lambda v: 0 <= v <= 1
    )
    """Share of training images whose label is drawn anew; each is followed along training."""
    sizes: tuple[int, ...] = (100, 600)
    """Other numbers of training images, right labels; looked at after the last step only."""
    probes: int = whole(100, 2 * CLASSES, multiple=CLASSES)
    rate: float = positive(3e-3)
    batch: int = whole(50)
    steps: tuple[int, ...] = increasing((0, 5, 10, 20, 40, 80, 160), least=3, low=0)
    seeds: tuple[int, ...] = several((20, 21))

    FULL: ClassVar = {
        "networks": "large",
        "samples": 2000,
        "shares": (0.0, 0.25, 0.5, 0.75, 1.0),
        "sizes": (200, 500, 1000, 4000),
        "probes": 200,
        "rate": 1e-3,
        "steps": (0, *(2**k for k in range(2, 12))),
        "seeds": (20, 21, 22),
    }

    def check_together(self) -> None:
        for size in self.sizes:
            if size < 2 * CLASSES or size % CLASSES:
                raise ValueError(
                    f"sizes must hold multiples of {CLASSES}, at least {2 * CLASSES}, got {size}"
                )
        fewest = min((self.samples, *self.sizes, HELD_OUT))
        for name in ("probes", "batch"):
            require_at_most(getattr(self, name), name, fewest, "the fewest images of a run")

    def trained(self, architecture: str) -> Trained:
        """One line that names what is trained."""
        model = NETWORKS[self.networks][architecture](0)
        return trained(
            model,
            torch.optim.Adam(model.parameters(), lr=self.rate),
            losses.cross_entropy,
            data=f"{architecture}, {self.samples} images of MNIST",
            steps=self.steps[-1],
            batch=self.batch,
            seeds=self.seeds,
        )


@dataclass(frozen=True)
class Run:
    """One training run, looked at after E steps, at P training and P held-out images."""

    architecture: str
    share: float
    samples: int
    seed: int
    steps: Sequence[int]
    fitted: Tensor  # [E] accuracy on the training images, with the labels that were trained on
    accuracy: Tensor  # [E] on held-out images, with their true labels
    kernels: Tensor  # [2, E, P, P] trace kernel of training and of held-out images
    labels: Tensor  # [2, P] trained-on labels of the former, true labels of the latter

    def alignment(
        self, where: str = "held-out", *, normalised: bool = False, debiased: bool = True
    ) -> Tensor:
        """CKA of the kernel with the label kernel after each of the steps, ``[E]``."""
        place = PLACES.index(require_choice(where, "where", PLACES))
        labels, found = label_kernel(self.labels[place]), []
        for kernel in self.kernels[place]:
            if normalised:
                root = kernel.diagonal().sqrt()
                kernel = kernel / root / root[:, None]
            found.append(cka(kernel, labels, debiased=debiased))
        return torch.tensor(found)


@dataclass(frozen=True)
class Result:
    """All runs; `of` chooses among them."""

    config: Config
    runs: tuple[Run, ...]

    def of(self, architecture: str, share: float = 0.0, samples: int | None = None) -> list[Run]:
        """The runs of one setting, one a seed; ValueError if there are none."""
        asked = (architecture, share, samples or self.config.samples)
        found = [r for r in self.runs if (r.architecture, r.share, r.samples) == asked]
        if not found:
            raise ValueError(f"architecture, share, samples: no run has {asked}")
        return found


def spearman(a: Tensor, b: Tensor) -> float:
    """Spearman's rank correlation of two series; NaN where one of them is constant.

    >>> spearman(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 4.0, 9.0]))
    1.0
    """
    from scipy.stats import spearmanr  # takes a second to import

    if (a == a[0]).all() or (b == b[0]).all():
        return float("nan")
    return float(spearmanr(a, b).statistic)


def correlations(result: Result, architecture: str, **how) -> Tensor:
    """Rank correlation of alignment and accuracy along training, one a seed ``[S]``.

    Held-out alignment with held-out accuracy, or with ``where="training"`` that on the training
    images with the accuracy there. ``how`` goes to `Run.alignment`.
    """
    fitted = how.get("where") == "training"
    runs = result.of(architecture)
    return torch.tensor(
        [spearman(r.alignment(**how), r.fitted if fitted else r.accuracy) for r in runs]
    )


# ---- training -------------------------------------------------------------------------------


def relabelled(y: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Labels of which a share, chosen at random, is drawn anew from all classes."""
    drawn = torch.randint(0, CLASSES, y.shape, generator=generator)
    chosen = torch.randperm(len(y), generator=generator) < round(share * len(y))
    return torch.where(chosen, drawn, y)


def _of_each_class(n: int, count: int) -> Tensor:
    """Places of the first ``count / CLASSES`` images of each class among ``n`` sorted by class."""
    return torch.arange(n).reshape(CLASSES, -1)[:, : count // CLASSES].flatten()


def _train(config: Config, model: nn.Module, x: Tensor, y: Tensor, seed: int) -> Iterator[int]:
    """Adam on the cross entropy; stops before step k = 0, 1, ... and after the last."""
    optimizer = torch.optim.Adam(model.parameters(), lr=config.rate, fused=True)  # faster
    for k, batch in enumerate(
        batches(len(x), size=config.batch, steps=config.steps[-1], seed=seed)
    ):
        yield k
        optimizer.zero_grad()
        losses.cross_entropy(model(x[batch]), y[batch]).mean().backward()
        optimizer.step()
    yield config.steps[-1]


def follow(
    config: Config,
    architecture: str,
    share: float,
    samples: int,
    seed: int,
    steps: Sequence[int],
    device: torch.device | str = "cpu",
) -> dict[str, Tensor]:
    """Train one network and look at it after each of ``steps``: the tensors of a `Run`."""
    generator = torch.Generator().manual_seed(seed)
    held, truth = data.mnist("test", per_class=HELD_OUT // CLASSES, generator=generator)
    x, y = data.mnist("train", per_class=samples // CLASSES, generator=generator)
    y = relabelled(y, share, generator)
    x, y, held, truth = (t.to(device) for t in (x, y, held, truth))
    at, held_at = (_of_each_class(n, config.probes) for n in (samples, HELD_OUT))
    model = NETWORKS[config.networks][architecture](seed).to(device)
    rows, kernels = [], []
    for k in _train(config, model, x, y, seed):
        if k in steps:
            rows.append([_accuracy(model, x, y), _accuracy(model, held, truth)])
            pair = gradient_kernel(model, x[at]), gradient_kernel(model, held[held_at])
            kernels.append(torch.stack(pair).cpu())
    fitted, accuracy = torch.tensor(rows).T
    labels = torch.stack([y[at], truth[held_at]]).cpu()
    kernels = torch.stack(kernels, 1)
    return {"fitted": fitted, "accuracy": accuracy, "kernels": kernels, "labels": labels}


def _accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        return (model(x).argmax(1) == y).double().mean().item()


def run(
    config: Config,
    *,
    device: torch.device | str = "cpu",
    folder: Path | None = None,
    progress: bool = False,
) -> Result:
    """Train every architecture with every share of random labels and every size, seed by seed."""
    settings = [(share, config.samples, config.steps) for share in config.shares]
    settings += [(0.0, size, config.steps[-1:]) for size in config.sizes]
    plan = [
        (name, share, samples, seed, steps)
        for name in config.architectures
        for seed in config.seeds
        for share, samples, steps in settings
    ]
    runs = []
    for one in tqdm(plan, disable=not progress, desc="runs"):
        name, share, samples, seed, _ = one
        path = None if folder is None else folder / f"{name}-{share:g}-{samples}-{seed}"
        found = remembered(path, partial(follow, config, *one, device))
        runs.append(Run(*one, **found))
    return Result(config, tuple(runs))


# ---- runs of equal length, and networks side by side ----------------------------------------


def at_the_end(runs: Sequence[Run], **how) -> float:
    """Rank correlation of last held-out alignment and last held-out accuracy over runs."""
    ends = [(r.alignment(**how)[-1], r.accuracy[-1]) for r in runs]
    return spearman(*map(torch.stack, zip(*ends, strict=True)))


def within_a_seed(result: Result, settings: Sequence[dict], **how) -> Tensor:
    """For each seed that correlation over runs that differ by ``settings``, as `Result.of` takes
    them; mean over architectures, ``[S]``."""
    found = []
    for name in result.config.architectures:
        groups = (result.of(name, **setting) for setting in settings)
        found.append([at_the_end(runs, **how) for runs in zip(*groups, strict=True)])
    return torch.tensor(found).mean(0)


SETTINGS = {
    "plain CKA": {"debiased": False},
    "debiased CKA": {},
    "debiased CKA of the normalised kernel": {"normalised": True},
}


def findings(result: Result) -> dict[str, dict[str, Numbers]]:
    """E11's numbers, one a seed, and C5's: held-out images."""
    along = {setting: _along_training(result, how) for setting, how in SETTINGS.items()}
    across = {setting: _across_networks(result, how) for setting, how in SETTINGS.items()}
    return {"E11": along, "C5": across}


def _along_training(result: Result, how: dict) -> Numbers:
    """Right labels along training; then runs of equal length, in which no clock helps."""
    config = result.config
    found = [correlations(result, architecture, **how) for architecture in ARCHITECTURES]
    shares = [{"share": share} for share in config.shares]
    sizes = [{"samples": size} for size in sorted((config.samples, *config.sizes))]
    equal = [within_a_seed(result, settings, **how) for settings in (shares, sizes)]
    clock = [
        [spearman(torch.tensor(run.steps).double(), run.accuracy) for run in result.of(name)]
        for name in ARCHITECTURES
    ]
    return by_seed("E11", [*found, *equal, torch.tensor(clock).mean(0)])


def _across_networks(result: Result, how: dict) -> Numbers:
    """Right labels: all networks and seeds; also with other numbers of training images."""
    own = [run for name in ARCHITECTURES for run in result.of(name)]
    every = [run for run in result.runs if run.share == 0]
    values = (rank_interval(at_the_end(runs, **how), len(runs)) for runs in (own, every))
    return dict(zip((c.name for c in claim("C5").criteria), values, strict=True))
