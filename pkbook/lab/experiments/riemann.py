r"""From the flow to steps: what the sum of Theorem 2.2 leaves out at a finite learning rate.

The theorem's integral, written as a sum over gradient-descent steps, takes the query's gradient
where each step begins.  That leaves a remainder of order :math:`\eta`.  Averaged over the step with
:math:`q` Gauss nodes the order is :math:`\eta^{2q}`.  Here both are fitted, and the sum is closed
on three networks.  Source: arXiv 2603.13872, Theorem 2.2, eq. (4).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from tqdm.auto import tqdm

from pkbook.interpolation import Interpolation
from pkbook.interpolation.options import Rule
from pkbook.interpolation.trajectory import Trajectory, batches
from pkbook.lab.experiments.machinery.claims import by_seed
from pkbook.lab.experiments.machinery.results import Numbers
from pkbook.lab.experiments.machinery.settings import Settings, several
from pkbook.lab.plots import figure, style
from pkbook.lab.trained import Trained, trained
from pkbook.problems import data, losses, models

RULES: dict[str, tuple[Rule, int]] = {
    "Riemann": ("riemann", 1),
    "Gauss 1": ("gauss", 1),
    "Gauss 2": ("gauss", 2),
}
ORDERS = {"Riemann": 1, "Gauss 1": 2, "Gauss 2": 4}
ROUNDING = 1e-14
"""A relative gap below this is float64's, not the rule's."""
NETWORKS = ("tanh MLP", "tanh CNN", "ReLU CNN")
"""Smooth on a line; smooth on digits (average pooling); kinks and dropout (max pooling)."""


@dataclass(frozen=True)
class Config(Settings):
    """What is trained, how long, and at which learning rates; `quick()` takes a few seconds."""

    horizon: float = 1.5  # T = rate x steps of the MLP, the same for every rate
    rates: tuple[float, ...] = (0.15, 0.075, 0.0375, 0.01875)
    cnn_horizon: float = 0.24
    cnn_rates: tuple[float, ...] = (0.08, 0.04, 0.02)
    points: int = 12  # of the MLP's sine
    width: int = 16
    digits: int = 20  # of the CNN, a multiple of ten
    cnn_rate: float = 0.2  # where the sum is closed, for this many steps
    cnn_steps: int = 6
    relu_steps: int = 4  # at half that rate
    seeds: tuple[int, ...] = several((0, 1, 2))  # of the tanh MLP whose spread is reported

    FULL: ClassVar = {
        "horizon": 6.0,
        "rates": tuple(0.15 / 2**k for k in range(7)),
        "cnn_horizon": 0.8,
        "cnn_rates": (0.08, 0.04, 0.02, 0.01),
        "points": 60,
        "digits": 100,
        "cnn_steps": 60,
        "relu_steps": 40,
    }

    def trained(self, network: str) -> Trained:
        """What is trained where the sum is closed, in words."""
        rate, steps = pace(self, network)
        net, loss, size = _network(self, network, self.seeds[0])
        line = network == "tanh MLP"
        samples = f"{self.points} points of a sine" if line else f"{self.digits} digits of MNIST"
        descent = torch.optim.SGD(net.parameters(), lr=rate)
        return trained(net, descent, loss, data=samples, steps=steps, batch=size, seeds=0)


@dataclass(frozen=True)
class Result:
    """Completeness of every network, and the remainder of every rule at every rate."""

    told: dict[tuple[str, str], Interpolation]
    """Exact decomposition by network and dtype."""
    rates: dict[str, tuple[float, ...]]
    gaps: dict[tuple[str, str], list[float]]
    """By network and rule: relative gap of the sum for each rate, root mean square over queries."""
    by_seed: tuple[tuple[float, float, float], ...] = ()
    """Of the tanh MLP: relative gap in float64 and in float32, order of the Riemann sum."""

    @property
    def completeness(self) -> dict[tuple[str, str], float]:
        """The worst query's relative gap, by network and dtype."""
        return {key: told.completeness.max().item() for key, told in self.told.items()}

    def slope(self, network: str, rule: str) -> float:
        """Order of the remainder: slope of a line through its log-log points above rounding."""
        pairs = zip(self.rates[network], self.gaps[network, rule], strict=True)
        return slope(*zip(*(pair for pair in pairs if pair[1] > ROUNDING), strict=True))


def slope(rates, gaps) -> float:
    """Least-squares slope of log gap against log rate.

    >>> round(slope([0.1, 0.2, 0.4], [3e-3, 12e-3, 48e-3]), 6)
    2.0
    """
    return float(np.polyfit(np.log(rates), np.log(gaps), 1)[0])


def standardised_digits(per_class: int, split: str = "train", dtype=torch.float32) -> data.Samples:
    """MNIST digits with mean 0 and deviation 1 of the training digits: training starts sooner."""
    like = data.mnist("train", per_class=60).x
    x, y = data.mnist(split, per_class=per_class, dtype=dtype)
    return data.Samples((x - like.mean()) / like.std(), y)


def _network(
    config: Config, network: str, seed: int
) -> tuple[torch.nn.Module, Callable[[Tensor, Tensor], Tensor], int | None]:
    """Network, loss, and samples in a batch (None for all)."""
    if network == "tanh MLP":
        return models.mlp(1, config.width, 1, activation="tanh", seed=seed), losses.squared, None
    if network == "ReLU CNN":
        return models.mnist_cnn(seed=0), losses.cross_entropy, config.digits // 2
    smooth = models.mnist_cnn("tanh", "average", dropout=0.0, seed=0)
    return smooth, losses.cross_entropy, None


def train(
    config: Config, network: str, rate: float, steps: int, dtype: torch.dtype, seed: int = 0
) -> Trajectory:
    """Full-batch gradient descent (the ReLU network: batches, with dropout), recorded."""
    if network == "tanh MLP":
        samples = data.sine(config.points, interval=(-1, 1), frequency=2.0, dtype=dtype)
    else:
        samples = standardised_digits(config.digits // 10, dtype=dtype)
    net, loss, size = _network(config, network, seed)
    net = net.to(dtype)
    descent = torch.optim.SGD(net.parameters(), lr=rate)
    recorded = Trajectory(net, loss, descent, (samples.x, samples.y), every=20)
    for batch in batches(len(samples.x), size=size, steps=steps):
        recorded.step(batch)
    return recorded


def queries(network: str, dtype: torch.dtype) -> Tensor:
    """Inputs that were not trained on."""
    if network == "tanh MLP":
        return torch.tensor([[-0.6], [0.1], [0.4], [0.9]], dtype=dtype)
    return standardised_digits(1, "test", dtype).x[[3, 7]]


def run(
    config: Config,
    *,
    device: torch.device | str = "cpu",
    folder: Path | None = None,
    progress: bool = False,
) -> Result:
    """Close the sum on three networks in two precisions; fit the orders on the smooth ones.

    On the CPU, in seconds; nothing is kept in a folder.
    """
    told = {}
    for network, dtype in product(NETWORKS, (torch.float32, torch.float64)):
        if network == "ReLU CNN" and dtype == torch.float64:
            continue  # its gap is made by kinks, not by rounding
        rate, steps = pace(config, network)
        recorded = train(config, network, rate, steps, dtype)
        told[network, str(dtype)[6:]] = take_apart(recorded, network, dtype)
    rates, gaps = _orders(config)
    measured, seeds = Result(told, rates, gaps), tqdm(config.seeds, disable=not progress)
    numbers = (_numbers(config, seed) if seed else _of_seed_0(measured) for seed in seeds)
    return replace(measured, by_seed=tuple(numbers))


def take_apart(recorded: Trajectory, network: str, dtype: torch.dtype) -> Interpolation:
    """The first output of `queries`; around kinks in as many pieces as the tolerance asks for."""
    x = queries(network, dtype)
    if network == "ReLU CNN":
        return recorded.interpolate(x, outputs=0, nodes=1, most_pieces=2048)
    return recorded.interpolate(x, outputs=0, nodes=3)


def pace(config: Config, network: str) -> tuple[float, int]:
    """Learning rate and number of steps of the runs whose sum is closed."""
    return {
        "tanh MLP": (config.rates[0], round(config.horizon / config.rates[0])),
        "tanh CNN": (config.cnn_rate, config.cnn_steps),
        "ReLU CNN": (config.cnn_rate / 2, config.relu_steps),
    }[network]


def _time(config: Config, network: str) -> float:
    return config.horizon if network == "tanh MLP" else config.cnn_horizon


def _orders(config: Config) -> tuple[dict, dict]:
    """Learning rates by network; gaps by network and rule."""
    rates, gaps = {"tanh MLP": config.rates, "tanh CNN": config.cnn_rates}, {}
    for network in rates:
        for rate in rates[network]:
            recorded = _to_the_horizon(config, network, rate)
            for rule in RULES:
                if (network, rule) != ("tanh CNN", "Gauss 2"):  # it reaches rounding at once
                    gap = _left_out(recorded, network, rule)
                    gaps.setdefault((network, rule), []).append(gap)
    return rates, gaps


def _of_seed_0(measured: Result) -> tuple[float, float, float]:
    """T1's numbers from the start that all of ``measured`` has."""
    network, gaps = NETWORKS[0], measured.completeness
    return (
        gaps[network, "float64"],
        gaps[network, "float32"],
        measured.slope(network, "Riemann"),
    )


def _numbers(config: Config, seed: int) -> tuple[float, float, float]:
    """T1's numbers from one start of the tanh MLP."""
    network = NETWORKS[0]
    rate, steps = pace(config, network)

    def gap(dtype: torch.dtype) -> float:
        recorded = train(config, network, rate, steps, dtype, seed)
        return take_apart(recorded, network, dtype).completeness.max().item()

    left = [relative_gap(config, network, "Riemann", r, seed) for r in config.rates]
    return gap(torch.float64), gap(torch.float32), slope(config.rates, left)


def findings(result: Result) -> dict[str, dict[str, Numbers]]:
    """T1's numbers, one a seed."""
    return {"T1": {"tanh MLP": by_seed("T1", zip(*result.by_seed, strict=True))}}


def figures(result: Result) -> dict[str, Figure]:
    """What the command line writes."""
    return {"orders": draw(result)}


def relative_gap(config: Config, network: str, rule: str, rate: float, seed: int = 0) -> float:
    """What the sum misses after time T at this learning rate, relative to the change (float64)."""
    return _left_out(_to_the_horizon(config, network, rate, seed), network, rule)


def _to_the_horizon(config: Config, network: str, rate: float, seed: int = 0) -> Trajectory:
    steps = round(_time(config, network) / rate)
    return train(config, network, rate, steps, torch.float64, seed)


def _left_out(recorded: Trajectory, network: str, rule: str) -> float:
    kind, nodes = RULES[rule]
    told = recorded.interpolate(
        queries(network, torch.float64), outputs=0, rule=kind, nodes=nodes, tolerance=None
    )
    return ((told.change - told.explained).norm() / told.change.norm()).item()


@style()
def draw(result: Result) -> Figure:
    """Remainder against learning rate, log-log, with the order fitted to each rule."""
    fig, axes = figure(len(result.rates), 1, height=6.6)
    for ax, (network, rates) in zip(axes, result.rates.items(), strict=True):
        for place, rule in enumerate(RULES):
            if (network, rule) not in result.gaps:
                continue
            values = result.gaps[network, rule]
            ax.loglog(rates, values, marker="os^"[place])
            text = f"{rule}: slope {result.slope(network, rule):.2f}"
            ax.annotate(text, (rates[0], values[0]), (0, 9), textcoords="offset points", ha="right")
        ax.set_xticks(rates, [f"{rate:.2g}" for rate in rates])
        ax.minorticks_off()
        ax.set(title=network, ylabel="share left out", ylim=(1e-16, 1))
    axes[-1].set_xlabel(r"learning rate $\eta$")
    return fig
