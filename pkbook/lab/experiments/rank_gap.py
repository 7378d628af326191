r"""E8: a unit that no training input switches on (arXiv 2603.13872, Section 5.4, Figures 7 and 8).

Networks of :mod:`pkbook.experiments.relu_line` are trained twice on the same samples in [-1, 1].
Once the thresholds of all units start inside that interval, once the last one starts outside, at
1.2; nothing else is changed.  Test inputs reach to 1.5.  The paper's settings are not
known to us; these are ours, and :func:`sweep` shows what hangs on them.
"""

import math
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor
from tqdm.auto import tqdm

from pkbook.lab.experiments.machinery.claims import by_seed
from pkbook.lab.experiments.machinery.results import Numbers
from pkbook.lab.experiments.machinery.settings import (
    Settings,
    choice,
    number,
    positive,
    several,
    whole,
)
from pkbook.lab.experiments.machinery.training import remembered
from pkbook.lab.experiments.parts import relu_line
from pkbook.lab.experiments.parts.relu_line import TRAINED
from pkbook.lab.trained import Trained, trained
from pkbook.problems import losses

PLACES = ("inside", "outside")
TARGETS = ("teacher", "parabola", "sine")
LEFT, EDGE = -1.0, 1.0  # of the training interval
NEAR, FAR = 0.85, 0.6
"""How far the thresholds are spread at the start: close to the teacher's, or bunched together."""
SHARE = "a positive number of at most 1"


@dataclass(frozen=True)
class Config(Settings):
    """Settings. `quick()` takes a second on a CPU; `full()` runs longer, with a hundred seeds."""

    units: int = whole(8, least=2)
    samples: int = whole(80, least=2)
    tests: int = whole(125, least=2)
    """Test inputs from the left end to `reach`."""
    reach: float = 1.5
    outside: float = 1.2
    """Where the last threshold starts in the second placement."""
    target: str = choice("teacher", TARGETS)
    """A network of the same kind with its thresholds inside, (x + 1)^2 / 2, or sin 3x."""
    spread: float = number(NEAR, SHARE, lambda v: 0 < v <= 1)
    """Share of the training interval over which the thresholds are spread at the start."""
    trained: str = choice("biases", TRAINED)
    """What moves: the biases alone, or both biases and output weights."""
    rate: float = positive(0.8)
    """The learning rate is this over `units`: the curvature grows with their number."""
    steps: int = whole(3000)
    looks: int = whole(16, least=2)
    """At about so many moments a run is looked at."""
    tolerance: float = number(1e-6, SHARE, lambda v: 0 < v <= 1)
    seeds: tuple[int, ...] = several(tuple(range(20)))

    FULL: ClassVar = {"steps": 30_000, "looks": 24, "seeds": tuple(range(100))}

    def check_together(self) -> None:
        if not EDGE <= self.outside < self.reach:
            raise ValueError(
                f"outside must lie between {EDGE:g}, where the training inputs end, and "
                f"reach={self.reach:g}, where the test inputs end, got {self.outside:g}"
            )

    @property
    def moments(self) -> list[int]:
        """Steps at which a run is looked at: the start, then evenly on a logarithmic scale."""
        spread = torch.logspace(0, math.log10(self.steps), self.looks - 1, dtype=torch.float64)
        return sorted({0, self.steps} | {int(k) for k in spread})

    @property
    def aim(self) -> str:
        """The target, in words; a teacher with the distance of the start from it."""
        if self.target != "teacher":
            return {"parabola": "target (x+1)²/2", "sine": "target sin 3x"}[self.target]
        return "teacher near the start" if self.spread >= NEAR else "teacher far from the start"

    @property
    def setting(self) -> str:
        """In words, for the table of results."""
        moving = "biases" if self.trained == "biases" else "biases and output weights"
        return f"{self.aim}, {self.units} units, {moving} trained"

    def trained_line(self) -> Trained:
        """One line that names what is trained from either placement."""
        begun = start(self)
        net = relu_line.network(begun.thresholds[0, 0], begun.weights[0], self.trained)
        moving = [p for p in net.parameters() if p.requires_grad]
        return trained(
            net,
            torch.optim.SGD(moving, lr=self.rate / self.units),
            losses.squared,
            data=f"{self.samples} points of the {self.aim}",
            steps=self.steps,
            seeds=self.seeds,
            also=f"{self.trained} trained" if self.trained == "biases" else "",
        )


@dataclass(frozen=True)
class Result:
    """Two placements P, S seeds, E moments, H units."""

    config: Config
    thresholds: Tensor  # [P, S, E, H]
    weights: Tensor  # [P, S, E, H]
    train_loss: Tensor  # [P, S, E]
    test_loss: Tensor  # [P, S, E]
    ranks: Tensor  # [P, S, E, 2] of the empirical and of the mixture tangent matrix
    pull: Tensor  # [P, S, H] largest entry that a unit's gradient ever had, without sign

    @property
    def gap(self) -> Tensor:
        """Rank gaps ``[P, S, E]``."""
        return self.ranks[..., 1] - self.ranks[..., 0]

    @property
    def cost(self) -> Tensor:
        """Test loss at the end, outside minus inside, ``[S]``."""
        inside, outside = self.test_loss[..., -1]
        return outside - inside


@dataclass(frozen=True)
class Start:
    """Where the runs of all seeds start, and the target "teacher"."""

    thresholds: Tensor  # [P, S, H]
    weights: Tensor  # [S, H], plus or minus one
    teacher: Tensor  # [S, H], thresholds of the teacher; its weights are the same


def start(config: Config) -> Start:
    """The training interval is cut into H cells, each with one threshold of the teacher.

    It lies at least a tenth away from the ends of its cell.  The units start in the middles of
    their cells, all drawn together by ``config.spread``; outside, the last one starts at
    ``config.outside`` instead.
    """
    signs, places = [], []
    for seed in config.seeds:
        generator = torch.Generator().manual_seed(seed)
        signs.append(2 * torch.randint(2, (config.units,), generator=generator).double() - 1)
        places.append(0.1 + 0.8 * torch.rand(config.units, generator=generator).double())
    cells, width = torch.arange(config.units).double(), (EDGE - LEFT) / config.units
    middles = config.spread * (LEFT + width * (cells + 0.5))
    thresholds = middles.repeat(2, len(config.seeds), 1)
    thresholds[1, :, -1] = config.outside
    return Start(thresholds, torch.stack(signs), LEFT + width * (cells + torch.stack(places)))


def inputs(config: Config) -> tuple[Tensor, Tensor]:
    """Training and test inputs ``[N]`` and ``[M]``: midpoints of equal parts."""
    parts = ((config.samples, EDGE), (config.tests, config.reach))
    x, other = (
        LEFT + (end - LEFT) * (torch.arange(n, dtype=torch.float64) + 0.5) / n for n, end in parts
    )
    return x, other


def wanted(config: Config, x: Tensor) -> Tensor:
    """What the networks of each seed are to learn, ``[S, n]``."""
    if config.target == "teacher":
        begun = start(config)
        return relu_line.outputs(begun.teacher, begun.weights, x)
    y = (x - LEFT).square() / 2 if config.target == "parabola" else torch.sin(3 * x)
    return y.repeat(len(config.seeds), 1)


def run(
    config: Config,
    *,
    device: torch.device | str = "cpu",
    folder: Path | None = None,
    progress: bool = False,
) -> Result:
    """Both placements for every seed."""
    path = None if folder is None else folder / "run"
    found = remembered(path, lambda: _trained(config, torch.device(device), progress))
    return Result(config, **found)


def _trained(config: Config, device: torch.device, progress: bool) -> dict[str, Tensor]:
    both = torch.cat(inputs(config))
    begun, y = start(config), wanted(config, both).to(device)
    both, n = both.to(device), config.samples
    steps = relu_line.descend(
        begun.thresholds.to(device),
        begun.weights.repeat(2, 1, 1).to(device),
        both[:n],
        y[:, :n],
        rate=config.rate / config.units,
        steps=config.steps,
        trained=config.trained,
    )
    rows, pull, moments = [], torch.zeros_like(begun.thresholds, device=device), config.moments
    for k, t, a, gradient in tqdm(steps, total=config.steps + 1, disable=not progress):
        pull = torch.maximum(pull, gradient)
        if k in moments:
            miss = (relu_line.outputs(t, a, both) - y).square() / 2
            losses = miss[..., :n].mean(-1), miss[..., n:].mean(-1)
            phi = relu_line.features(t, a, both, config.trained)
            rows.append((t, a, *losses, relu_line.ranks(phi, n, config.tolerance)))
    names = "thresholds", "weights", "train_loss", "test_loss", "ranks"
    columns = (torch.stack(column, 2).cpu() for column in zip(*rows, strict=True))
    return dict(zip(names, columns, strict=True)) | {"pull": pull.cpu()}


def sweep(config: Config, units: tuple[int, ...] = (4, 8, 16)) -> list[Result]:
    """Other targets and starts, other trained parameters, other numbers of units; all seeds each.

    The order: biases first, within them the teacher near and far, the parabola, the sine.
    """
    aims = (("teacher", NEAR), ("teacher", FAR), ("parabola", NEAR), ("sine", NEAR))
    return [
        run(replace(config, units=count, target=target, spread=spread, trained=trained))
        for trained, (target, spread), count in product(TRAINED, aims, units)
    ]


def findings(result: Result) -> dict[str, dict[str, Numbers]]:
    """E8's numbers, one a seed; for the last one 1 where the loss is higher outside, else 0.

    A ratio of losses would say nothing: with all thresholds inside, the loss falls until rounding
    stops it.
    """
    numbers = (
        result.gap[0].max(1).values,
        result.gap[1].min(1).values,
        result.pull[1, :, -1],
        result.cost,
        result.cost > 0,
    )
    return {"E8": {result.config.setting: by_seed("E8", numbers)}}
