r"""E4: can a plane part the classes in tangent space? (arXiv 2603.13872, Section 5.2, Figure 3).

Points of a square are labelled by a circle or an ellipse. A network learns the labels. Then a
linear support vector machine gets the tangent features :math:`\varphi_\theta(x)` (of the trained
and of the untrained network), an RBF machine gets the points themselves, and both are compared
with the true set: on fresh points, and by the area on which they disagree with it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from pkbook.kernels import gradient_kernel
from pkbook.lab.experiments.machinery.claims import by_seed
from pkbook.lab.experiments.machinery.results import Numbers
from pkbook.lab.experiments.machinery.settings import (
    Settings,
    increasing,
    numbers,
    positive,
    require_at_most,
    several,
    whole,
)
from pkbook.lab.experiments.machinery.training import fit, remembered
from pkbook.lab.experiments.parts.support_vectors import KINDS, machine, turned
from pkbook.lab.trained import Trained, trained
from pkbook.problems import data, losses, models

HALF = 1.25  # half the side of the square
CIRCLE, ELLIPSE = (1.0, 1.0), (1.0, 0.5)  # half axes; the paper's settings are not known to us
EXTENT = (-HALF, HALF, -HALF, HALF)

MACHINES = (*(f"{kind}, {way}" for kind in KINDS for way in ("plain", "tuned")), "network")
FRESH = 1_000_000  # added to a seed, it is that of the fresh points


def thin(ratio: float) -> tuple[float, float]:
    """Half axes of an ellipse as long as the circle."""
    return CIRCLE[0], CIRCLE[0] / ratio


class Case(NamedTuple):
    """A set to learn and a number of samples."""

    axes: tuple[float, float]
    samples: int

    @property
    def area(self) -> float:
        """Of the true set."""
        return float(np.pi * self.axes[0] * self.axes[1])


@dataclass(frozen=True)
class Config(Settings):
    """Settings. `quick()` takes half a minute on a CPU; `full()` has ten seeds and longer runs."""

    sizes: tuple[int, ...] = increasing((100, 200, 400))
    """Numbers of samples; the last is the one of the paper's figure."""
    few: int = 100
    """The number of samples reported as few."""
    swept: int = 200
    """The number of samples with which radii and ratios are varied."""
    radii: tuple[float, ...] = numbers(
        (), f"numbers from 1e-6 to {HALF:g}", lambda v: 1e-6 <= v <= HALF, least=0
    )
    ratios: tuple[float, ...] = numbers(
        (1.0, 2.0, 4.0, 8.0), "numbers from 1 on", lambda v: v >= 1, least=0
    )
    """Of the ellipse's axes; the longer one is the circle's."""
    widths: tuple[int, ...] = (64, 64, 64)
    activation: str = "relu"
    rate: float = positive(0.4)
    batch: int = whole(30)
    steps: int = whole(1000)
    asked: int = whole(1000)
    """Fresh points that accuracy is measured on."""
    grid: int = whole(48)
    """Cells along each side of the square, for the area."""
    seeds: tuple[int, ...] = several((0, 1))

    FULL: ClassVar = {
        "sizes": (50, 100, 200, 600, 2000),
        "radii": (0.5, 1.0, 1.2),
        "steps": 10_000,
        "asked": 10_000,
        "grid": 160,
        "seeds": tuple(range(10)),
    }

    def check_together(self) -> None:
        for name in ("few", "swept"):
            if getattr(self, name) not in self.sizes:
                raise ValueError(
                    f"{name} must be one of the sizes {self.sizes}, got {getattr(self, name)}"
                )
        require_at_most(self.batch, "batch", self.sizes[0], "the fewest samples")

    @property
    def cases(self) -> tuple[Case, ...]:
        """All that is measured, each once."""
        found = [Case(axes, n) for n in self.sizes for axes in (CIRCLE, ELLIPSE)]
        found += [Case((float(r), float(r)), self.swept) for r in self.radii]
        found += [Case(thin(ratio), self.swept) for ratio in self.ratios]
        return tuple(dict.fromkeys(found))

    def trained(self, samples: int) -> Trained:
        """One line that names what is trained on so many samples."""
        model = network(self, 0)
        return trained(
            model,
            sgd(self, model),
            losses.squared,
            data=f"{samples} points of a square",
            steps=self.steps,
            batch=self.batch,
            seeds=self.seeds,
        )


@dataclass(frozen=True)
class Outcome:
    """Of S seeds and the M `MACHINES` on one case; pictures are of the first seed."""

    accuracy: Tensor  # [S, M] on fresh points
    area: Tensor  # [S, M] on which the machine and the true set disagree
    training: Tensor  # [S, M] accuracy on the samples
    vectors: Tensor  # [S, M] number of support vectors; NaN for the network
    turned: Tensor  # [S, 3, C] accuracy of the three KINDS on fresh points at each of STRENGTHS
    values: Tensor  # [M, GRID, GRID] decision values over EXTENT
    x: Tensor  # [n, 2]
    y: Tensor  # [n, 1]

    def of(self, number: str, machine: str) -> Tensor:
        """One of the numbers of one machine, ``[S]``."""
        return getattr(self, number)[:, MACHINES.index(machine)]


@dataclass(frozen=True)
class Result:
    """What was measured."""

    config: Config
    outcomes: dict[Case, Outcome]

    def at(self, axes: tuple[float, float], samples: int | None = None) -> Outcome:
        """The outcome for a set, with the largest number of samples if none is given."""
        return self.outcomes[Case(axes, samples or self.config.sizes[-1])]


def sample(case: Case, seed: int, n: int | None = None) -> data.Samples:
    """Points of the square and their labels."""
    generator = torch.Generator().manual_seed(seed)
    n = case.samples if n is None else n
    return data.ellipse(n, axes=case.axes, half_width=HALF, generator=generator)


def cells(grid: int) -> Tensor:
    """Middles of the cells of the square, ``[grid * grid, 2]``, the lowest row first."""
    side = HALF * ((2 * torch.arange(grid) + 1) / grid - 1)
    rows, columns = torch.meshgrid(side, side, indexing="ij")
    return torch.stack([columns.flatten(), rows.flatten()], 1)


def truth(points: Tensor, axes: tuple[float, float]) -> Tensor:
    """The label of each point, ``[n]``."""
    inside = (points / torch.tensor(axes)).square().sum(1) < 1
    return torch.where(inside, -1.0, 1.0)


def network(config: Config, seed: int) -> nn.Sequential:
    """The network before training; that of E1."""
    return models.mlp(2, *config.widths, 1, activation=config.activation, seed=seed)


def sgd(config: Config, model: nn.Module) -> torch.optim.SGD:
    """The optimizer of every network here."""
    return torch.optim.SGD(model.parameters(), lr=config.rate)


def train(
    config: Config, model: nn.Module, x: Tensor, y: Tensor, seed: int, **how
) -> Iterator[int]:
    """Train `model` in place by SGD on the squared loss; yields before and after."""
    optimizer = sgd(config, model)
    epochs = (0, max(1, round(config.steps / (len(x) // config.batch))))
    return fit(
        model,
        losses.squared,
        optimizer,
        (x, y),
        epochs=epochs,
        batch=config.batch,
        seed=seed,
        **how,
    )


def measure(
    config: Config, case: Case, seed: int, device: torch.device | str, keep: Path | None
) -> dict[str, Tensor]:
    """Train one network and fit all machines.

    "numbers" ``[4, M]`` (accuracy, area, accuracy on the samples, support vectors), "turned"
    ``[3, C]``, "values" ``[M, GRID, GRID]``, and the samples "x" and "y".
    """
    (x, y), fresh = sample(case, seed), sample(case, seed + FRESH, config.asked)
    points = torch.cat([x, fresh.x, cells(config.grid)])
    labels, near = y[:, 0].numpy(), len(x) + config.asked
    decisions, vectors, by_strength = [], [], []
    model = network(config, seed).to(device)
    for kind, seen in zip(KINDS, _seen(config, model, points, y, seed, device, keep), strict=True):
        for tune in (False, True):
            made = machine(kind, seen[: len(x)], labels, tune=tune, seed=seed)
            decisions.append(torch.from_numpy(made.decision_function(seen)))
            vectors.append(float(len(made.support_)))
        by_strength.append(turned(kind, seen[:near], labels, fresh.y[:, 0].numpy()))
    with torch.no_grad():
        decisions.append(model(points.to(device))[:, 0].cpu().double())
    values = torch.stack(decisions)
    true = torch.cat([y[:, 0], fresh.y[:, 0], truth(cells(config.grid), case.axes)])
    right = ((values > 0) == (true > 0)).double().split([len(x), config.asked, config.grid**2], 1)
    on_samples, on_fresh, on_cells = (part.mean(1) for part in right)
    area = (1 - on_cells) * (2 * HALF) ** 2
    support = torch.tensor([*vectors, torch.nan], dtype=torch.float64)
    return {
        "numbers": torch.stack([on_fresh, area, on_samples, support]),
        "turned": torch.tensor(by_strength, dtype=torch.float64),
        "values": values[:, near:].float().reshape(-1, config.grid, config.grid),
        "x": x,
        "y": y,
    }


def _seen(config, model, points, y, seed, device, keep) -> Iterator[np.ndarray]:
    """What the three kinds of machine see of all points: places, and kernels with the samples."""
    yield points.numpy()
    at, n = points.to(device), len(y)
    for _ in train(config, model, at[:n], y.to(device), seed, keep=keep):
        yield gradient_kernel(model, at, at[:n]).cpu().double().numpy()


def run(
    config: Config,
    *,
    device: torch.device | str = "cpu",
    folder: Path | None = None,
    progress: bool = False,
) -> Result:
    """Measure every case with every seed; a seed has its own points, start and batches."""
    outcomes = {}
    for case in tqdm(config.cases, disable=not progress, desc="cases"):
        found = []
        for seed in config.seeds:
            (a, b), n = case
            name = f"axes{a:g}x{b:g}-n{n}-seed{seed}"
            path, keep = (None, None) if folder is None else (folder / name, folder / name)
            found.append(remembered(path, partial(measure, config, case, seed, device, keep)))
        accuracy, area, training, vectors = torch.stack([f["numbers"] for f in found]).unbind(1)
        curves = torch.stack([one["turned"] for one in found])
        pictures = {key: found[0][key] for key in ("values", "x", "y")}
        outcomes[case] = Outcome(accuracy, area, training, vectors, curves, **pictures)
    return Result(config, outcomes)


PLAIN, TUNED = 'C = 1, gamma = "scale"', "C and gamma by cross-validation"


def findings(result: Result) -> dict[str, dict[str, Numbers]]:
    """E4's numbers: with defaults and tuned, with all and with few samples, and on a thin set."""
    config = result.config
    settings = {
        f"{words}, {n} samples": _numbers(result, way, n, ELLIPSE)
        for n in (config.sizes[-1], config.few)
        for way, words in (("plain", PLAIN), ("tuned", TUNED))
    }
    for ratio in config.ratios[-1:]:
        title = f"{TUNED}, {config.swept} samples, axes {ratio:g} to 1"
        settings[title] = _numbers(result, "tuned", config.swept, thin(ratio))
    return {"E4": settings}


def _numbers(result: Result, way: str, n: int, axes: tuple[float, float]) -> Numbers:
    circle, ellipse = result.at(CIRCLE, n), result.at(axes, n)
    rbf, tangent = f"RBF, {way}", f"tangent, {way}"
    cell = (2 * HALF / result.config.grid) ** 2  # below it an area is not resolved
    areas = (ellipse.of("area", name).clamp_min(cell) for name in (rbf, tangent))
    values = (
        circle.of("accuracy", tangent),
        ellipse.of("accuracy", tangent),
        circle.of("accuracy", tangent) - circle.of("accuracy", rbf),
        ellipse.of("accuracy", tangent) - ellipse.of("accuracy", rbf),
        torch.divide(*areas),
    )
    return by_seed("E4", values)
