r"""Learning-rate schedules: the same path in the flow, walked at another pace.

Under :math:`\dot\theta=-\eta(t)\nabla L` Domingos' formula carries :math:`\eta(t)` inside the
integral, and the formula stays exact step by step.  Three schedules with the same sum of learning
rates are compared.  Source: arXiv 2603.13872, Corollary A.1, eq. (30).
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, StepLR
from tqdm.auto import tqdm

from pkbook.interpolation import Interpolation
from pkbook.interpolation.trajectory import Trajectory, batches
from pkbook.lab.experiments.machinery.claims import by_seed
from pkbook.lab.experiments.machinery.results import Numbers
from pkbook.lab.experiments.machinery.settings import Settings, several
from pkbook.lab.plots import figure, style
from pkbook.lab.trained import Trained, trained
from pkbook.problems import data, losses, models

SCHEDULES = ("constant", "step", "cosine")


@dataclass(frozen=True)
class Config(Settings):
    """A small regression, and the mean learning rate that all schedules share.

    With `full()` the smaller steps bring the three paths closer to the one of the flow.
    """

    mean_rate: float = 0.02
    steps: int = 80
    points: int = 12
    width: int = 16
    queries: tuple[float, ...] = (-0.6, 0.1, 0.4, 0.9)
    seeds: tuple[int, ...] = several((0, 1, 2))

    FULL: ClassVar = {"mean_rate": 0.0025, "steps": 640, "points": 60}

    def trained(self) -> Trained:
        """What is trained, in words."""
        net, descent = _network(self, self.seeds[0])
        how = {"steps": self.steps, "seeds": self.seeds, "data": f"{self.points} points of a sine"}
        also = "one run with this rate, two with schedules of this mean rate"
        return trained(net, descent, losses.squared, also=also, **how)


@dataclass(frozen=True)
class Result:
    """By schedule: the learning rates and the decomposition."""

    rates: dict[str, Tensor]
    """:math:`\\eta_k`, ``[K]``."""
    told: dict[str, Interpolation]
    others: tuple["Result", ...] = ()
    """The same from further seeds."""

    @property
    def completeness(self) -> dict[str, float]:
        """The worst query's relative gap."""
        return {name: told.completeness.max().item() for name, told in self.told.items()}

    def first_half(self, name: str) -> float:
        """Share of all movement, up and down, that the first half of the steps brought."""
        moved = self.told[name].by_time.abs().sum((1, 2))
        return (moved[: len(moved) // 2].sum() / moved.sum()).item()

    def disagreement(self, name: str) -> float:
        """How far the contributions are from those of the constant rate, relative."""
        mine, constant = self.told[name].contributions, self.told["constant"].contributions
        return ((mine - constant).norm() / constant.norm()).item()


def schedule(name: str, optimizer: torch.optim.SGD, config: Config) -> LRScheduler | None:
    """Set the optimizer's first rate and return its schedule; the mean rate is the config's.

    Cosine falls from twice the mean to 0; step takes 1.8 times the mean, then a ninth of that.
    """
    first = {"constant": 1.0, "step": 1.8, "cosine": 2.0}[name] * config.mean_rate
    for group in optimizer.param_groups:
        group["lr"] = first
    if name == "step":
        return StepLR(optimizer, config.steps // 2, gamma=1 / 9)
    if name == "cosine":
        return CosineAnnealingLR(optimizer, config.steps)
    return None


def _network(config: Config, seed: int) -> tuple[torch.nn.Module, torch.optim.SGD]:
    net = models.mlp(1, config.width, 1, activation="tanh", seed=seed).double()
    return net, torch.optim.SGD(net.parameters(), lr=config.mean_rate)


def train(config: Config, name: str, seed: int = 0) -> tuple[Trajectory, Tensor]:
    """Gradient descent under one schedule; returns the run and its learning rates ``[K]``."""
    x, y = data.sine(config.points, interval=(-1, 1), frequency=2.0, dtype=torch.float64)
    net, optimizer = _network(config, seed)
    pace = schedule(name, optimizer, config)
    recorded = Trajectory(net, losses.squared, optimizer, (x, y))
    rates = []
    for batch in batches(len(x), steps=config.steps):
        rates.append(optimizer.param_groups[0]["lr"])
        recorded.step(batch)
        if pace is not None:
            pace.step()
    return recorded, torch.tensor(rates, dtype=torch.float64)


def run(
    config: Config,
    *,
    device: torch.device | str = "cpu",
    folder: Path | None = None,
    progress: bool = False,
) -> Result:
    """Train under each schedule and take the same predictions apart; on the CPU, in seconds."""
    first, *others = (
        _run(config, seed) for seed in tqdm(config.seeds, disable=not progress, desc="seeds")
    )
    return replace(first, others=tuple(others))


def _run(config: Config, seed: int) -> Result:
    queries = torch.tensor(config.queries, dtype=torch.float64)[:, None]
    rates, told = {}, {}
    for name in SCHEDULES:
        recorded, rates[name] = train(config, name, seed)
        told[name] = recorded.interpolate(queries, nodes=2)
    return Result(rates, told)


def findings(result: Result) -> dict[str, dict[str, Numbers]]:
    """T11's numbers, one a seed."""
    every = (result, *result.others)
    gaps = [max(one.completeness.values()) for one in every]
    halves = ([one.first_half(name) for one in every] for name in SCHEDULES)
    return {"T11": {"tanh MLP, float64": by_seed("T11", (gaps, *halves))}}


def figures(result: Result) -> dict[str, Figure]:
    """What the command line writes."""
    return {"schedules": draw(result)}


@style()
def draw(result: Result, query: int = -1) -> Figure:
    """Learning rate; contribution so far against the step; the same against time."""
    fig, (pace, by_step, by_time) = figure(3, 1, width=4.5, height=7.2)
    zero = torch.zeros(1, dtype=torch.float64)
    for name, line in zip(SCHEDULES, ("-", "--", ":"), strict=True):
        rate = result.rates[name]
        so_far = torch.cat([zero, result.told[name].by_time[:, query, 0].cumsum(0)])
        pace.plot(rate, line, label=name)
        by_step.plot(so_far, line)
        by_time.plot(torch.cat([zero, rate.cumsum(0)]), so_far, line)
    pace.set(xlabel="step $k$", ylabel=r"rate $\eta_k$")
    pace.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, columnspacing=1)
    by_step.set(xlabel="step $k$", ylabel="contribution so far")
    by_time.set(xlabel=r"time $t=\eta_0+\dots+\eta_{k-1}$", ylabel="contribution so far")
    return fig
