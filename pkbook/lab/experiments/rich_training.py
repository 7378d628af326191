r"""What is gained by leaving the lazy regime, beyond Remark 3.9 of arXiv 2603.13872.

One network, one amount of data, two targets.  Both are made of the same wave; one has it along a
single direction of the input space, the other along all of them:

.. math:: y_1(x)=\tanh(2x_1),\qquad y_2(x)=\tfrac1{\sqrt d}\sum_{i=1}^d\tanh(2x_i).

A kernel that treats all directions alike cannot tell them apart.  A network whose kernel moves can.
Recorded is the test error against the output scale :math:`\alpha`, at equal time and at the best
time, beside that of the lazy limit.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from pkbook.function_space import lazy_training
from pkbook.kernels import gradient_kernel
from pkbook.lab import plots
from pkbook.lab.experiments.lazy_training import descend
from pkbook.lab.experiments.machinery.settings import Settings, numbers, positive, several, whole
from pkbook.lab.trained import Trained, trained
from pkbook.problems.models import ntk_mlp

TARGETS = ("one direction", "all directions")


@dataclass(frozen=True)
class Config(Settings):
    """Settings. `quick()` takes seconds on a CPU; `full()` has more seeds and trains longer."""

    dimensions: int = whole(10)
    samples: int = whole(100)
    tests: int = whole(500)
    width: int = whole(64)
    scales: tuple[float, ...] = numbers((0.125, 0.25, 0.5, 1.0, 2.0, 4.0))
    rate: float = positive(0.25)
    time: float = positive(200.0)
    seeds: tuple[int, ...] = several(tuple(range(6)))

    QUICK: ClassVar = {"rate": 0.5, "scales": (0.125, 0.5, 2.0, 4.0)}
    FULL: ClassVar = {"seeds": tuple(range(30)), "time": 1000.0}

    @property
    def stops(self) -> list[int]:
        """Steps at which the test error is taken."""
        return np.linspace(0, self.time / self.rate, 21).round().astype(int).tolist()


def what_is_trained(config: Config) -> Trained:
    """One line that names the training at output scale one, for a page."""
    net = ntk_mlp(config.dimensions, config.width, 1)
    optimizer = torch.optim.SGD(net.parameters(), lr=config.rate)
    return trained(
        net,
        optimizer,
        "squared loss",
        data=f"{config.samples} normal inputs",
        steps=config.stops[-1],
        seeds=config.seeds,
        also=f"output scales from {config.scales[0]:g} to {config.scales[-1]:g}",
    )


@dataclass(frozen=True)
class Result:
    """What was measured for 2 targets, A scales, S seeds, E stops."""

    config: Config
    test: Tensor  # [2, A, S, E] mean squared error by the variance of the target
    train: Tensor  # [2, A, S, E] the same on the training samples
    share: Tensor  # [2, A, S, E] of the first layer's squared weights that belongs to x_1
    lazy: Tensor  # [2, S, E] test error of lazy training with the kernel of the start
    regression: Tensor  # [2, S] the same after infinite time


def target(name: str, x: Tensor) -> Tensor:
    """Values ``[..., n]`` of one of :data:`TARGETS` at ``x [..., n, d]``."""
    if name not in TARGETS:
        raise ValueError(f"target: expected one of {', '.join(TARGETS)}, came {name!r}")
    wave = torch.tanh(2 * x)
    return wave[..., 0] if name == TARGETS[0] else wave.sum(-1) / x.shape[-1] ** 0.5


def inputs(config: Config) -> tuple[Tensor, Tensor]:
    """Normal inputs, each seed its own: ``[S, N, d]`` and ``[S, tests, d]``."""
    size = config.samples + config.tests, config.dimensions
    apart = 1_000_000  # else the first inputs would be the first weights
    drawn = [
        torch.randn(size, generator=torch.Generator().manual_seed(apart + seed))
        for seed in config.seeds
    ]
    x, fresh = torch.stack(drawn).split([config.samples, config.tests], 1)
    return x, fresh


def follow(config: Config, name: str, scale: float) -> Tensor:
    """Errors of all seeds along training: test, train and share of weights, ``[3, S, E]``."""
    x, fresh = inputs(config)
    y, truth = target(name, x), target(name, fresh)
    nets = [ntk_mlp(config.dimensions, config.width, 1, scale=scale, seed=s) for s in config.seeds]

    def predict() -> Tensor:
        return torch.stack([net(z)[:, 0].detach() for net, z in zip(nets, fresh, strict=True)])

    first, rows = predict(), []
    for residual in descend(nets, x, y, config.rate / scale**2, config.stops):
        first_layers = torch.stack([net.get_parameter("fc1.weight").detach() for net in nets])
        weights = first_layers.square().sum(1)
        test = error(predict() - first, truth)
        rows.append(torch.stack([test, error(residual + y, y), weights[:, 0] / weights.sum(1)]))
    return torch.stack(rows, 2)


def error(prediction: Tensor, truth: Tensor) -> Tensor:
    """Mean squared error by the variance of the truth, over the last dimension."""
    return (prediction - truth).square().mean(-1) / truth.var(-1, correction=0)


def follow_lazy(config: Config, name: str) -> Tensor:
    """Test errors of lazy training at the stops and, last, after infinite time, ``[S, E + 1]``."""
    times = [*(config.rate * k for k in config.stops), torch.inf]
    rows = []
    for seed, x, fresh in zip(config.seeds, *(z.double() for z in inputs(config)), strict=True):
        net = ntk_mlp(config.dimensions, config.width, 1, seed=seed).double()
        kernel, asked = gradient_kernel(net, x), gradient_kernel(net, fresh, x)
        y, truth = target(name, x), target(name, fresh)
        told = [lazy_training(kernel, -y, time, query=asked) for time in times]
        rows.append(error(torch.stack(told), truth))
    return torch.stack(rows)


def run(config: Config) -> Result:
    """Train for both targets, with every output scale."""
    found = torch.stack([
        torch.stack([follow(config, name, scale) for scale in config.scales], 1) for name in TARGETS
    ], 1)  # fmt: skip
    lazy = torch.stack([follow_lazy(config, name) for name in TARGETS])
    test, train, share = found
    return Result(config, test, train, share, lazy[..., :-1], lazy[..., -1])


@plots.style()
def draw(result: Result) -> Figure:
    """Test error against the output scale, both targets; mean and range; dotted the lazy limit."""
    fig, ax = plots.figure(height=4)
    scales, looks = result.config.scales, (("o", "-", plots.PLUS), ("s", "--", plots.MINUS))
    for k, (name, (mark, line, colour)) in enumerate(zip(TARGETS, looks, strict=True)):
        values = result.test[k, :, :, -1]
        plots.band(ax, scales, values.T, colour, line, mark, label=name)
        limit = result.lazy[k, :, -1].mean()
        ax.plot(scales[-1] * 2, limit, mark, color=colour, fillstyle="none", markersize=8)
    ax.set(xscale="log", yscale="log", xlabel=r"output scale $\alpha$", ylabel="test error")
    ticks = [*scales[::2], scales[-1] * 2]
    ax.set_xticks(ticks, [*(f"{a:g}" for a in scales[::2]), "lazy\nlimit"])
    ax.minorticks_off()
    ax.legend(title="target varies along", loc="lower right")
    return fig
