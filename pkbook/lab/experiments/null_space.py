r"""T7: what a network cannot learn (arXiv 2603.13872, Section 3.4, Theorem 3.8).

Two networks are trained by gradient descent on a target with an even and an odd part, on all nodes
of the input distribution, so that the training set *is* the population.  The first gets
:math:`x^2`: its functions are even and its null space is known.  The second gets :math:`x`: its
kernel has no exact null space, only small eigenvalues.  Recorded are the modes of the kernel and
the residual along training.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from tqdm.auto import tqdm

from pkbook import function_space
from pkbook.function_space import Measure, Modes
from pkbook.lab import plots
from pkbook.lab.experiments.machinery.claims import by_seed
from pkbook.lab.experiments.machinery.results import Numbers
from pkbook.lab.experiments.machinery.settings import (
    Settings,
    increasing,
    number,
    positive,
    several,
    whole,
)
from pkbook.lab.experiments.machinery.training import remembered
from pkbook.lab.trained import Trained, trained
from pkbook.problems import models

NETWORKS = ("x²", "x")
COARSE = 1e-2  # a tolerance at which the network of x has a null space too
TOGETHER = 5  # seeds trained at once


class Squared(nn.Module):
    r"""The input layer :math:`x\mapsto x^2/s`, with a scale :math:`s`."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return x.square() / self.scale


@dataclass(frozen=True)
class Config(Settings):
    """Settings. `quick()` takes seconds on a CPU, `full()` some minutes."""

    odd: float = number(0.5, "a share from 0 to 1", lambda v: 0 <= v <= 1)
    """Share of the target's energy in its odd part."""
    width: int = whole(32)
    nodes: int = whole(64, least=2, multiple=2)
    reach: float = positive(3.0)
    """Inputs are spread evenly over ``[-reach, reach]``."""
    rate: float = positive(0.05)
    times: tuple[float, ...] = increasing((0, 1, 2, 5, 10, 20, 50, 100, 200, 500), start=0)
    """Moments to record, in units of time: steps times rate."""
    tolerance: float = number(1e-6, "a number between 0 and 1", lambda v: 0 < v < 1)
    """Modes below it, relative to the largest eigenvalue, count as the null space."""
    seeds: tuple[int, ...] = several(tuple(range(5)))

    FULL: ClassVar = {
        "times": (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000),
        "seeds": tuple(range(20)),
    }

    def check_together(self) -> None:
        for time in self.times:
            if abs(self.step(time) * self.rate - time) > 1e-9 * max(time, 1):
                raise ValueError(
                    f"times must be whole multiples of the rate {self.rate}, got {time}"
                )

    def step(self, time: float) -> int:
        """The step that happens at ``time``."""
        return round(time / self.rate)


@dataclass(frozen=True)
class Result:
    """What was measured for A networks, S seeds, E times and n nodes."""

    config: Config
    measure: Measure  # n nodes, symmetric about zero
    target: Tensor  # [n]
    values: Tensor  # [A, S, E, n] eigenvalues of the kernel's operator, decreasing
    functions: Tensor  # [A, S, E, n, n] its eigenfunctions
    residual: Tensor  # [A, S, E, n]

    def modes(self, network: str, seed: int, time: float) -> Modes:
        """Modes of one network, one of ``config.seeds``, at one of ``config.times``."""
        place = self.place(network, seed, time)
        return Modes(
            self.values[place],
            self.functions[place],
            self.measure.weights,
            "population",
            self.measure.nodes,
            rounding=4 * torch.finfo(torch.float64).eps,
        )

    def place(self, network: str, seed: int, time: float) -> tuple[int, int, int]:
        """Where that run and time stand along A, S, E; ValueError for what was not recorded."""
        places = []
        for name, value, known in (
            ("network", network, NETWORKS),
            ("seed", seed, self.config.seeds),
            ("time", time, self.config.times),
        ):
            if value not in known:
                raise ValueError(f"{name}: expected one of {known}, came {value!r}")
            places.append(known.index(value))
        return tuple(places)

    @property
    def energy(self) -> Tensor:
        """Energy of the residual in each mode of its own time, ``[A, S, E, n]``."""
        return self._energy(self.residual)

    @property
    def target_energy(self) -> Tensor:
        """Energy of the target in each mode of each time, ``[A, S, E, n]``."""
        return self._energy(self.target.expand_as(self.residual))

    def _energy(self, g: Tensor) -> Tensor:
        return torch.einsum("asejn,asen->asej", self.functions, g * self.measure.weights).square()

    def null_share(self, energy: Tensor, tolerance: float | None = None) -> Tensor:
        """Share of an energy in modes at or below the tolerance, ``[A, S, E]``.

        ``tolerance`` is that of the settings unless another is given.
        """
        tolerance = self.config.tolerance if tolerance is None else tolerance
        null = self.values <= tolerance * self.values[..., :1]
        return (energy * null).sum(-1) / energy.sum(-1)

    def dimension(self, tolerance: float | None = None) -> Tensor:
        """Number of modes above the tolerance, ``[A, S, E]``."""
        tolerance = self.config.tolerance if tolerance is None else tolerance
        return (self.values > tolerance * self.values[..., :1]).sum(-1)

    @property
    def odd_gap(self) -> Tensor:
        r"""Odd part of the residual plus that of the target, largest :math:`|\cdot|`,
        ``[A, S, E]``; zero if training never touched the odd part."""
        return (odd_part(self.residual) + odd_part(self.target)).abs().amax(-1)


def odd_part(g: Tensor) -> Tensor:
    """:math:`(g(x)-g(-x))/2` for ``g [..., n]`` on symmetric nodes."""
    return (g - g.flip(-1)) / 2


def target(x: Tensor, odd: float, weights: Tensor) -> Tensor:
    r""":math:`f^*=\sqrt{1-s}\,e+\sqrt s\,o` with an even and an odd wave of energy one, ``[n]``."""
    even, wave = torch.cos(2 * x), torch.sin(2 * x)
    parts = [g / (g.square() @ weights).sqrt() for g in (even, wave)]
    return (1 - odd) ** 0.5 * parts[0] + odd**0.5 * parts[1]


def network(name: str, config: Config, seed: int) -> nn.Sequential:
    """One network before training, float64; ``name`` is one of :data:`NETWORKS`."""
    layers = models.mlp(1, config.width, 1, activation="tanh", seed=seed).double()
    first = Squared(config.reach) if name == "x²" else nn.Identity()
    return nn.Sequential(first, layers)


def what_is_trained(config: Config) -> Trained:
    """One line that names the training of the networks of x, for a page."""
    net = network("x", config, 0)
    optimizer = torch.optim.SGD(net.parameters(), lr=config.rate)
    return trained(
        net,
        optimizer,
        "squared loss",
        data=f"{config.nodes} inputs, all there are",
        steps=config.step(config.times[-1]),
        seeds=config.seeds,
        also="and the same network of x²",
    )


def train(nets: list[nn.Sequential], x: Tensor, y: Tensor, config: Config) -> Iterator[float]:
    """Gradient descent on all samples ``x [N, 1]``, ``y [N, 1]``, for many networks at once.

    It stops at each of ``config.times``, where the networks hold the parameters of that time.
    """
    keys = list(nets[0].state_dict())
    u = torch.stack([net[0](x) for net in nets])
    w, b, v, c = (torch.stack([net.state_dict()[key] for net in nets]) for key in keys)
    b, c, step = b[:, None], c[:, None], config.rate / len(x)
    done = 0
    for time in config.times:
        for _ in range(config.step(time) - done):
            hidden = torch.tanh(b + u * w.mT)
            r = torch.baddbmm(c, hidden, v.mT) - y
            back = (1 - hidden.square()) * (r * v)  # half the square's gradient, layer by layer
            w, b = w - step * back.mT @ u, b - step * back.sum(1, keepdim=True)
            v, c = v - step * r.mT @ hidden, c - step * r.sum(1, keepdim=True)
        done = config.step(time)
        for net, *state in zip(nets, w, b[:, 0], v, c[:, 0], strict=True):
            net.load_state_dict(dict(zip(keys, state, strict=True)))
        yield time


def run(
    config: Config,
    *,
    device: torch.device | str = "cpu",
    folder: Path | None = None,
    progress: bool = False,
) -> Result:
    """Train both networks from every seed, and take residual and modes at every time.

    On the CPU, whatever the device.  Groups of seeds that are finished are kept in ``folder``.
    """
    groups = [config.seeds[i : i + TOGETHER] for i in range(0, len(config.seeds), TOGETHER)]
    found = []
    for seeds in tqdm(groups, disable=not progress, desc="groups of seeds"):
        path = None if folder is None else folder / f"seeds-{'-'.join(map(str, seeds))}"
        found.append(remembered(path, lambda seeds=seeds: _train_and_take(config, seeds)))
    measure = nodes(config)
    y = target(measure.nodes[:, 0], config.odd, measure.weights)
    parts = {name: torch.cat([group[name] for group in found], 1) for name in found[0]}
    return Result(config, measure, y, **parts)


def nodes(config: Config) -> Measure:
    """The inputs: as many midpoints as asked for, all of one weight."""
    return function_space.interval(
        -config.reach, config.reach, config.nodes, rule="midpoint", dtype=torch.float64
    )


def _train_and_take(config: Config, seeds: tuple[int, ...]) -> dict[str, Tensor]:
    measure = nodes(config)
    y = target(measure.nodes[:, 0], config.odd, measure.weights)
    nets = [network(name, config, seed) for name in NETWORKS for seed in seeds]
    rows = []
    for _ in train(nets, measure.nodes, y[:, None], config):
        for net in nets:
            modes = function_space.population(net, measure).modes()
            with torch.no_grad():
                residual = net(measure.nodes)[:, 0] - y
            rows.append((modes.values, modes.functions, residual))
    size = len(config.times), len(NETWORKS), len(seeds)
    parts = (torch.stack(column).unflatten(0, size) for column in zip(*rows, strict=True))
    names = "values", "functions", "residual"
    return {name: part.movedim(0, 2) for name, part in zip(names, parts, strict=True)}


def findings(result: Result) -> dict[str, dict[str, Numbers]]:
    """T7's number, one a seed: the known null space, then a network without one."""
    settings = {}
    for kind, tolerance in (("x²", None), ("x", None), ("x", COARSE)):
        share = result.null_share(result.energy, tolerance)[NETWORKS.index(kind), :, -1]
        at = result.config.tolerance if tolerance is None else tolerance
        settings[f"a network of {kind}, tolerance {at:g}"] = by_seed("T7", [share])
    return {"T7": settings}


def figures(result: Result) -> dict[str, Figure]:
    """What the command line writes."""
    return {"null_space": draw(result)}


# ---- pictures -------------------------------------------------------------------------------


@plots.style()
def draw(result: Result) -> Figure:
    """Share of the residual below the tolerance, against time; a thin line for every seed."""
    fig, ax = plots.figure(height=3.8)
    shares = result.null_share(result.energy)
    for a, (name, line) in enumerate(zip(NETWORKS, ("-", "--"), strict=True)):
        colour = plots.PALETTE[a]
        ax.plot(result.config.times, shares[a].T, line, color=colour, linewidth=0.8, alpha=0.5)
        ax.plot(result.config.times, shares[a].mean(0), line, color=colour, linewidth=2.4,
                label=f"network of {name}")  # fmt: skip
    ax.set_xscale("symlog", linthresh=1, linscale=0.4)
    ax.set(xlim=(0, result.config.times[-1]), ylim=(-0.03, 1.03))
    ax.set(xlabel="time", ylabel="share of the residual\nin the null space")
    ax.legend(loc="center right")
    return fig
