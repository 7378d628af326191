r"""C1, C2: is a trained network a kernel machine with its path kernel?  (arXiv 2603.13872, Sec. 6)

Two-layer networks in NTK scaling are trained by SGD on the change :math:`f_t-f_0`, with output
scales from rich to lazy.  A change is a sum of contributions, :math:`\sum_ic_i(x)`, and
:math:`c_i(x)=a_i(x)\int K_{x,x_i}dt`.  Recorded is how far :math:`a_i` depends on :math:`x`, what
is lost where it must not, and how well kernel machines through the network's values at the training
inputs foretell its values elsewhere, with the kernel of the path, of the start and of the end.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from pkbook.function_space import coefficient_spread, fixed_coefficients, interpolating_machine
from pkbook.lab.experiments.machinery.claims import by_seed
from pkbook.lab.experiments.machinery.results import Numbers
from pkbook.lab.experiments.machinery.settings import Settings, increasing, positive, several, whole
from pkbook.lab.trained import Trained, trained
from pkbook.problems.models import ntk_mlp

NODES = 4  # of the average over a step


@dataclass(frozen=True)
class Config(Settings):
    """Settings. `quick()` takes seconds on a CPU; `full()` has more seeds and trains longer."""

    dimensions: int = whole(10)
    samples: int = whole(50)
    queries: int = whole(100)
    width: int = whole(64)
    scales: tuple[float, ...] = increasing((0.125, 0.5, 2.0, 8.0), least=2, low=1e-9)
    rate: float = positive(0.25)
    time: float = positive(100.0)
    batch: int = whole(10)
    seeds: tuple[int, ...] = several(tuple(range(3)))

    FULL: ClassVar = {"seeds": tuple(range(20)), "time": 400.0, "queries": 200}

    def check_together(self) -> None:
        if self.batch > self.samples:
            raise ValueError(f"batch must be at most samples {self.samples}, got {self.batch}")

    @property
    def stops(self) -> list[int]:
        """Steps at which the spread is taken, evenly spread over the logarithm of the time."""
        last = round(self.time / self.rate)
        return sorted(set(np.geomspace(1, last, 16).round().astype(int).tolist()))


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
        batch=config.batch,
        seeds=config.seeds,
        also=f"output scales from {config.scales[0]:g} to {config.scales[-1]:g}",
    )


@dataclass(frozen=True)
class Result:
    """What was measured for A scales, S seeds, E stops, N samples, m queries."""

    config: Config
    contributions: Tensor  # [A, S, N, m] of each sample to each query
    kernel: Tensor  # [A, S, m, N] path kernel
    change: Tensor  # [A, S, m] of the predictions
    before: Tensor  # [A, S, m] predictions of the untrained network
    truth: Tensor  # [A, S, m] target
    machines: dict[str, Tensor]  # [A, S, m] through the values at the training inputs, by kernel
    spread: Tensor  # [A, S, E] of the coefficients, all samples together
    fixed: Tensor  # [A, S, E] share of the change that fixed coefficients miss
    drift: Tensor  # [A, S] of the kernel
    loss: Tensor  # [A, S, 2] before and after

    @property
    def gap(self) -> Tensor:
        """What the sum of contributions misses of the change, relative, ``[A, S]``."""
        return missed(self.contributions.sum(2), self.change)

    def missed_by(self, kernel: str) -> Tensor:
        """Share of the change that the machine with this kernel misses, ``[A, S]``."""
        return missed(self.machines[kernel], self.change)


def missed(prediction: Tensor, truth: Tensor) -> Tensor:
    """Root mean square of the difference by that of the truth, over the last dimension."""
    return (prediction - truth).norm(dim=-1) / truth.norm(dim=-1)


def target(x: Tensor) -> Tensor:
    r""":math:`\tanh(2x_1)`, which varies along one direction; values ``[..., n]``."""
    return torch.tanh(2 * x[..., 0])


def inputs(config: Config) -> Tensor:
    """Normal inputs, each seed its own, samples before queries: ``[S, N + m, d]``."""
    size = config.samples + config.queries, config.dimensions
    apart = 2_000_000  # else the first inputs would be the first weights
    drawn = (torch.Generator().manual_seed(apart + seed) for seed in config.seeds)
    return torch.stack([torch.randn(size, generator=g, dtype=torch.float64) for g in drawn])


class Networks:
    r"""Two-layer tanh networks in NTK scaling, one a seed, with their tangent features.

    The feature of :math:`x` is made of :math:`h_j=\sigma(w_jx/\sqrt d+b_j)` for :math:`a_j`,
    and of :math:`\dot h_ja_j` times :math:`1` for :math:`b_j` and :math:`x/\sqrt d` for
    :math:`w_j`; all with :math:`\alpha/\sqrt m` before them.
    """

    def __init__(self, config: Config, scale: float) -> None:
        nets = [
            ntk_mlp(config.dimensions, config.width, 1, scale=scale, seed=s).double()
            for s in config.seeds
        ]
        names = "fc1.weight", "fc1.bias", "fc2.weight"
        read = (torch.stack([n.get_parameter(k).detach() for n in nets]) for k in names)
        self.w, self.b, self.a = read
        self.w = self.w / config.dimensions**0.5  # as it enters; its rate is divided by d
        self.b, self.factor = self.b.unsqueeze(1), scale / config.width**0.5

    def state(self) -> tuple[Tensor, ...]:
        return self.w, self.b, self.a

    def features(self, x: Tensor, at: Sequence[Tensor] | None = None) -> tuple[Tensor, Tensor]:
        r""":math:`h_j` and :math:`\dot h_ja_j`, ``[S, n, m]`` each."""
        w, b, a = self.state() if at is None else at
        h = torch.tanh(x @ w.mT + b)
        return h, (1 - h * h) * a

    def outputs(self, h: Tensor) -> Tensor:
        return self.factor * (h @ self.a.mT)[..., 0]

    def kernel(self, one: tuple, two: tuple, inner: Tensor) -> Tensor:
        """From features of two sets of inputs and ``inner``, their inner products by d, plus 1."""
        parts = one[0] @ two[0].mT + (one[1] @ two[1].mT) * inner
        return self.factor**2 * parts

    def step(self, x: Tensor, two: tuple, slope: Tensor, rate: float) -> tuple[Tensor, ...]:
        """Move by ``-rate`` times the sum of the loss gradients; returns the state before."""
        before, d = self.state(), x.shape[-1]
        slope = self.factor * rate * slope.unsqueeze(1)  # [S, 1, N]
        pull = slope.mT * two[1]
        self.a = self.a - slope @ two[0]
        self.b = self.b - pull.sum(1, keepdim=True)
        self.w = self.w - pull.mT @ x / d
        return before

    def average(self, x: Tensor, before: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Features averaged over the step from ``before`` to now, by Gauss nodes."""
        places, weights = np.polynomial.legendre.leggauss(NODES)
        means: list[Tensor] = [torch.zeros(()), torch.zeros(())]
        for place, weight in zip((places + 1) / 2, weights / 2, strict=True):
            at = [torch.lerp(p, q, place) for p, q in zip(before, self.state(), strict=True)]
            means = [m + weight * f for m, f in zip(means, self.features(x, at), strict=True)]
        return means[0], means[1]


def batches(config: Config) -> list[Tensor]:
    """For each step which samples each seed's batch holds, ``[S, N]``, each 1 / B or 0."""
    steps, n = config.stops[-1], config.samples
    drawn = [torch.Generator().manual_seed(3_000_000 + seed) for seed in config.seeds]
    made = []
    for _ in range(steps):
        chosen = torch.stack([torch.randperm(n, generator=g)[: config.batch] for g in drawn])
        made.append(torch.zeros(len(drawn), n).double().scatter_(1, chosen, 1 / config.batch))
    return made


def measure(config: Config, scale: float) -> dict[str, Tensor]:
    """All numbers of one output scale, by field of `Result`, with the seeds in front."""
    every, n = inputs(config), config.samples
    x, y, rate = every[:, :n], target(every[:, :n]), config.rate / scale**2
    nets, inner = Networks(config, scale), every @ x.mT / config.dimensions + 1
    first = nets.features(every)
    f0 = nets.outputs(first[0])
    start = nets.kernel(first, (first[0][:, :n], first[1][:, :n]), inner)
    path, parts = torch.zeros_like(start), torch.zeros_like(start[:, n:])
    spread, fixed = [], []
    for k, shares in enumerate(batches(config), start=1):
        here = nets.features(every)
        two = here[0][:, :n], here[1][:, :n]
        slope = shares * (nets.outputs(here[0])[:, :n] - f0[:, :n] - y)
        path += rate * nets.kernel(here, two, inner)
        before = nets.step(x, two, slope, rate)
        average = nets.average(every[:, n:], before)
        parts -= rate * slope.unsqueeze(1) * nets.kernel(average, two, inner[:, n:])
        if k in config.stops:
            moved = nets.outputs(nets.features(every[:, n:])[0]) - f0[:, n:]
            for found, value in zip(
                (spread, fixed), judge(parts.mT, path[:, n:], moved), strict=True
            ):
                found.append(value)
    last = nets.features(every)
    end = nets.kernel(last, (last[0][:, :n], last[1][:, :n]), inner)
    change = nets.outputs(last[0]) - f0
    kernels = {"path": path, "start": start, "end": end}
    left = torch.stack([-y, change[:, :n] - y], -1).square().mean(1) / 2
    drift = (end - start)[:, :n].norm(dim=(1, 2)) / start[:, :n].norm(dim=(1, 2))
    told = {f"machine {name}": through(k, change[:, :n]) for name, k in kernels.items()}
    return told | {
        "contributions": parts.mT,
        "kernel": path[:, n:],
        "change": change[:, n:],
        "before": f0[:, n:],
        "truth": target(every[:, n:]),
        "spread": torch.stack(spread, 1),
        "fixed": torch.stack(fixed, 1),
        "drift": drift,
        "loss": left,
    }


def judge(contributions: Tensor, kernel: Tensor, change: Tensor) -> tuple[Tensor, Tensor]:
    """Spread of all coefficients together, and what fixed ones miss of the change, ``[S]``."""
    spread, fixed = [], []
    for c, k, moved in zip(contributions, kernel, change, strict=True):
        shares = coefficient_spread(c, k).square()
        weights = c.square().sum(1)
        spread.append(((shares * weights).sum() / weights.sum()).sqrt())
        fixed.append(missed(k @ fixed_coefficients(c, k), moved))
    return torch.stack(spread), torch.stack(fixed)


def through(kernel: Tensor, values: Tensor) -> Tensor:
    """Kernel machines through ``values [S, N]``, at the queries; kernel ``[S, N + m, N]``."""
    n = values.shape[1]
    pairs = zip(kernel, values, strict=True)
    return torch.stack([k[n:] @ interpolating_machine(k[:n], v) for k, v in pairs])


def run(
    config: Config,
    *,
    device: torch.device | str = "cpu",
    folder: Path | None = None,
    progress: bool = False,
) -> Result:
    """Train with every output scale; on the CPU, whatever ``device`` is, where it is fast."""
    del device, folder
    rows = [
        measure(config, scale) for scale in tqdm(config.scales, disable=not progress, desc="scales")
    ]
    found = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
    names = [name for name in found if name.startswith("machine ")]
    machines = {name.removeprefix("machine "): found.pop(name) for name in names}
    return Result(config, machines=machines, **found)


def findings(result: Result) -> dict[str, dict[str, Numbers]]:
    """C1 and C2: the richest networks first, then the others from rich to lazy."""
    one, two = {}, {}
    for a, scale in enumerate(result.config.scales):
        name = f"two-layer networks, output scale {scale:g}"
        one[name] = by_seed("C1", [result.gap[a], result.spread[a, :, -1], result.fixed[a, :, -1]])
        path, start, end = (result.missed_by(k)[a] for k in ("path", "start", "end"))
        two[name] = by_seed("C2", [path / start, path / end, path])
    return {"C1": one, "C2": two}
