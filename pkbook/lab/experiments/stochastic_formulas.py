r"""T3 to T6 on a small convolutional network (arXiv 2603.13872, Theorems 3.4 to 3.7).

The chapters measure the stochastic formulas on models of a few weights.  Here a convolutional
network learns to tell zeros from ones, digits of 7 x 7 pixels, and the remainder

.. math:: r_\eta(x)=\mathbb E f(x,\theta_{T/\eta})-\Big(f(x,\theta_0)
   -\frac1N\sum_i\mathbb E\int_0^T(\dots)\,dt\Big)

is measured at held-out digits and several learning rates.  Its size is the root of its mean square
over the digits, from products of different replicas, so that their chance does not add to it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn
from tqdm.auto import tqdm

from pkbook import diffusion_limit as dl
from pkbook.diffusion_limit.weak import fit_slope, untold
from pkbook.lab import plots
from pkbook.lab.experiments.machinery.results import Numbers, fitted
from pkbook.lab.experiments.machinery.settings import Settings, numbers, positive, whole
from pkbook.lab.experiments.machinery.training import remembered
from pkbook.problems import data, losses
from pkbook.problems.models.building import initialised

EPS = 0.1
MEMORY = 2.0  # what a memory forgets in a step, 1 - beta, over SGD's learning rate
CONFIDENCE = 0.95


class Warm(dl.RMSprop):
    """RMSprop whose squares start at those of the first batch gradient, in the mean."""

    def start(self, paths: int) -> dict[str, Tensor]:
        state = super().start(paths)
        g = self.task.sample_gradients(state["theta"][:1])
        spread = self.factor * (g - g.mean(1, keepdim=True)).square().mean(1)
        return state | {"v": (g.mean(1).square() + spread).repeat(paths, 1)}


class Way(NamedTuple):
    """An optimizer, and how its time is measured."""

    claim: str
    setting: str
    make: Callable[[dl.Task, float, int, float], dl.Limit]
    """From task, learning rate, batch size and what a memory forgets in a step."""
    pace: float = 1.0
    """Its learning rates and time in units of those of SGD: steps have the size of the rate."""
    finer: int = 2
    """Time steps of the diffusion within a learning rate."""


WAYS = {
    "SGD": Way("T3", "small CNN", lambda task, lr, b, _: dl.SGD(task, lr, b)),
    "momentum": Way(
        "T4",
        "small CNN, λ fixed in time",
        lambda task, lr, b, forgets: dl.Momentum(task, lr, b, beta=1 - forgets),
    ),
    "RMSprop from zero": Way(
        "T5",
        "small CNN, squares that start at zero",
        lambda task, lr, b, forgets: dl.RMSprop(task, lr, b, beta=1 - forgets, eps=EPS),
        pace=0.1,
        finer=8,
    ),
    "RMSprop, warm": Way(
        "T5",
        "small CNN, squares that start warm",
        lambda task, lr, b, forgets: Warm(task, lr, b, beta=1 - forgets, eps=EPS),
        pace=0.1,
    ),
    "Adam": Way(
        "T6",
        "small CNN, both fixed in time",
        lambda task, lr, b, forgets: dl.Adam(
            task, lr, b, betas=(1 - forgets, 1 - forgets / 2), eps=EPS
        ),
        pace=0.1,
        finer=8,
    ),
}


@dataclass(frozen=True)
class Config(Settings):
    """Settings. `quick()` takes a minute or two on a CPU, `full()` one hour."""

    per_class: int = whole(8)
    asked: int = whole(4)
    """Held-out digits of each class."""
    batch: int = whole(4)
    rates: tuple[float, ...] = numbers((0.4, 0.2), least=2)
    """Of SGD and momentum; the others have a tenth, for a tenth of the time."""
    time: float = positive(1.6)
    paths: int = whole(30, least=2)
    replicas: int = whole(5, least=3)
    seed: int = whole(0, least=0)

    FULL: ClassVar = {"rates": (0.2, 0.1, 0.05), "paths": 400, "replicas": 8}


@dataclass(frozen=True)
class Result:
    """The remainders: for each way of ``WAYS``, each rate and replica, at the held-out digits."""

    config: Config
    remainders: dict[str, Tensor]  # [rates, replicas, digits], by way

    def rates(self, way: str) -> list[float]:
        """The learning rates of a way."""
        return [rate * WAYS[way].pace for rate in self.config.rates]

    def sizes(self, way: str) -> tuple[Tensor, Tensor]:
        """Size of the remainder at each rate and its standard error, two ``[rates]``."""
        found = [size_of(replicas) for replicas in self.remainders[way]]
        sizes, errors = zip(*found, strict=True)
        return torch.tensor(sizes), torch.tensor(errors)

    def slope(self, way: str) -> dl.Slope:
        """The remainder's order; NaN and a warning where its size is not told from zero."""
        sizes, errors = self.sizes(way)
        if not bool((sizes > 2 * errors).all()):
            return untold(
                f"{way}: the remainder is not told from zero, got sizes {sizes.tolist()} with "
                f"errors {errors.tolist()}; take more paths or larger rates"
            )
        freedom = len(sizes) * (self.config.replicas - 1)
        rates = torch.tensor(self.rates(way), dtype=torch.float64)
        return fit_slope(rates.numpy(), sizes.numpy(), errors.numpy(), freedom, CONFIDENCE)


def size_of(replicas: Tensor) -> tuple[float, float]:
    r"""Root mean square over digits of the mean over ``replicas [r, m]``, and its standard error.

    :math:`\frac1m\sum_x r(x)^2` is estimated without bias by the products of different replicas;
    where chance makes that negative, the size is zero.  The error is the jackknife's.
    """

    def size(kept: Tensor) -> float:
        r, m = kept.shape
        square = (kept.sum(0).square().sum() - kept.square().sum()) / (r * (r - 1) * m)
        return square.clamp_min(0).sqrt().item()

    r = len(replicas)
    others = torch.tensor([size(torch.cat([replicas[:i], replicas[i + 1 :]])) for i in range(r)])
    error = ((r - 1) / r * (others - others.mean()).square().sum()).sqrt().item()
    return size(replicas), error


def network(seed: int) -> nn.Sequential:
    """A smooth convolutional network for 7 x 7 pixels, 147 parameters, one output."""
    with initialised(seed):
        return nn.Sequential(
            nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Conv2d(3, 4, 3), nn.Tanh(),
            nn.AvgPool2d(3), nn.Flatten(), nn.Linear(4, 1),
        )  # fmt: skip


def digits(split: str, per_class: int) -> tuple[Tensor, Tensor]:
    """Zeros and ones of 7 x 7 pixels, and -1 or 1 for each; always the same."""
    draw = torch.Generator().manual_seed(0)
    x, y = data.mnist(split, per_class=per_class, generator=draw)
    kept = y <= 1
    pixels = F.avg_pool2d((x[kept] - 0.13) / 0.28, 4)
    return pixels, 2.0 * y[kept, None] - 1


def task_of(config: Config, device: torch.device | str = "cpu") -> dl.Task:
    """The network before training, its digits and the squared loss."""
    x, y = digits("train", config.per_class)
    return dl.Task(network(config.seed).to(device), losses.squared, (x.to(device), y.to(device)))


def run(
    config: Config,
    *,
    device: torch.device | str = "cpu",
    folder: Path | None = None,
    progress: bool = False,
) -> Result:
    """Measure every optimizer's remainder; finished replicas are kept in ``folder``."""
    task, (x, _) = task_of(config, device), digits("test", config.asked)
    todo = [
        (w, k, r) for w in WAYS for k in range(len(config.rates)) for r in range(config.replicas)
    ]
    found = []
    for way, k, replica in tqdm(todo, disable=not progress, desc="replicas"):
        name = f"{way.replace(' ', '-').replace(',', '')}-{k}-{replica}"
        path = None if folder is None else folder / name
        one = remembered(path, lambda a=(way, k, replica): _remainder(config, task, x, *a))
        found.append(one["remainder"])
    size = len(WAYS), len(config.rates), config.replicas
    each = torch.stack(found).unflatten(0, size)
    return Result(config, dict(zip(WAYS, each, strict=True)))


def _remainder(
    config: Config, task: dl.Task, x: Tensor, way: str, k: int, replica: int
) -> dict[str, Tensor]:
    """One replica of one optimizer at one rate, ``[m]``; replicas share no random number."""
    how = WAYS[way]
    forgets = MEMORY * config.rates[k]
    told = dl.weak_error(
        lambda rate: how.make(task, rate, config.batch, forgets),
        x.to(task.theta.device),
        rates=[config.rates[k] * how.pace],
        time=config.time * how.pace,
        paths=config.paths,
        replicas=2,
        seed=config.seed + 2 * replica,
        dt=lambda rate: rate / how.finer,
    )
    return {"remainder": told.error[0]}


def findings(result: Result) -> dict[str, dict[str, Numbers]]:
    """Numbers of T3 to T6: each order with its interval."""
    found: dict[str, dict[str, Numbers]] = {}
    for name, way in WAYS.items():
        order = fitted(result.slope(name), result.config.replicas)
        found.setdefault(way.claim, {})[way.setting] = {"order of the remainder": order}
    return found


def figures(result: Result) -> dict[str, Figure]:
    """Size of the remainder against learning rate."""
    figure, ax = plots.figure(height=4.2)
    for name, mark in zip(WAYS, "os^vD", strict=True):
        sizes, errors = result.sizes(name)
        ax.errorbar(result.rates(name), sizes, 2 * errors, fmt=f"{mark}-", label=name, capsize=3)
    ax.set(xscale="log", yscale="log", xlabel=r"learning rate $\eta$", ylabel="size of remainder")
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, fontsize=8.5, columnspacing=0.8)
    return {"remainders": figure}
