r"""T8: how lazy training is, against width and output scale (arXiv 2603.13872, Remark 3.9).

Two-layer networks in NTK scaling are trained by gradient descent, all samples in each step, on the
change :math:`f_t-f_0` of their outputs; the data are a step.  Recorded are the drift of the kernel
:math:`\|K_T-K_0\|/\|K_0\|`, the residual mode by mode, and the distance from the prediction that
the kernel of the start makes.

Two kinds of networks have the same limit of infinite width.  In the ordinary kind :math:`a_j` and
:math:`b_j` have both signs.  In the other, all are made positive.

Beyond the widths that are trained, the drift is that of neurons that do not meet, see
:mod:`pkbook.lab.experiments.parts.separate_neurons`.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from scipy.special import stdtrit
from torch import Tensor, nn
from torch.func import stack_module_state
from tqdm.auto import tqdm

from pkbook.function_space import kernel_drift, lazy_training
from pkbook.kernels import gradient_kernel
from pkbook.lab.experiments.machinery import results
from pkbook.lab.experiments.machinery.claims import claim
from pkbook.lab.experiments.machinery.results import Measured, Numbers
from pkbook.lab.experiments.machinery.settings import Settings, increasing, positive, several, whole
from pkbook.lab.experiments.machinery.training import remembered
from pkbook.lab.experiments.parts.separate_neurons import (
    drift_of_separate_neurons,
    two_layer_kernels,
)
from pkbook.lab.trained import Trained, trained
from pkbook.problems.models import Scale, ntk_mlp

SIGNS = ("both", "one")
LEVEL = 0.95  # of every interval
DRAWS = 3  # samples of neurons that do not meet
CACHE = 4096  # neurons trained together; more leave the processor's cache and take longer


@dataclass(frozen=True)
class Config(Settings):
    """Settings. `quick()` takes seconds on a CPU; `full()` trains longer, with more seeds."""

    widths: tuple[int, ...] = increasing(tuple(2**k for k in range(4, 13)), least=2, low=1)
    seeds: tuple[int, ...] = several(tuple(range(6)))
    samples: int = whole(16)
    rate: float = positive(0.125)
    time: float = positive(40.0)
    scales: tuple[float, ...] = increasing(tuple(2.0**k for k in range(-3, 6)), least=2, low=1e-9)
    scale_width: int = whole(64)
    wide: tuple[int, ...] = increasing(tuple(4**k for k in range(3, 8)), least=2, low=1)
    """Widths at which the drift is counted with neurons that do not meet."""
    neurons: int = whole(1000, least=2)

    QUICK: ClassVar = {
        "widths": tuple(4**k for k in range(2, 7)),
        "scales": (0.125, 0.5, 2.0, 8.0, 32.0),
    }
    FULL: ClassVar = {"seeds": tuple(range(30)), "time": 200.0, "neurons": 4000}

    def check_together(self) -> None:
        if self.steps < 1 or abs(self.steps * self.rate - self.time) > 1e-9 * self.time:
            raise ValueError(
                f"time must be a whole number of steps of {self.rate}, got {self.time}; "
                f"write {max(1, self.steps) * self.rate:g}"
            )

    @property
    def steps(self) -> int:
        return round(self.time / self.rate)

    @property
    def stops(self) -> list[int]:
        """Steps at which the residual is kept, evenly spread over the logarithm of the time."""
        wanted = np.geomspace(1, self.steps, 50).round().astype(int)
        return sorted({0, *wanted.tolist()})

    @property
    def times(self) -> Tensor:
        """Times of the stops, ``[E]``."""
        return self.rate * torch.tensor(self.stops).double()

    @property
    def ends(self) -> list[int]:
        """Steps at an eighth, a quarter, a half and the whole of the time."""
        return [max(1, self.steps // part) for part in (8, 4, 2, 1)]

    @property
    def x(self) -> Tensor:
        """Inputs ``[N, 1]``: midpoints of equal parts of [-3, 3]."""
        return 6 * ((torch.arange(self.samples).double() + 0.5) / self.samples)[:, None] - 3

    @property
    def y(self) -> Tensor:
        """A step at one: -1 left of it, 1 right of it; ``[N]``."""
        return torch.where(self.x[:, 0] < 1, -1.0, 1.0).double()

    @property
    def queries(self) -> Tensor:
        """Where predictions are compared, ``[61, 1]``."""
        return torch.linspace(-3, 3, 61).double()[:, None]


def what_is_trained(config: Config) -> Trained:
    """One line that names the training of the widest networks, for a page."""
    net = ntk_mlp(1, config.widths[-1], 1)
    optimizer = torch.optim.SGD(net.parameters(), lr=config.rate)
    return trained(
        net,
        optimizer,
        "squared loss",
        data=f"{config.samples} points of a step",
        steps=config.steps,
        seeds=config.seeds,
        also=f"and widths from {config.widths[0]} on, of both kinds",
    )


@dataclass(frozen=True)
class Result:
    """What was measured for 2 kinds of signs, W widths, S seeds, E stops, N samples, Q queries."""

    config: Config
    drift: Tensor  # [2, W, S] of the kernel, start to end
    path: Tensor  # [2, W, S, E] the same at every stop
    moved: Tensor  # [2, W, S] root mean square of what the parameters moved
    start: Tensor  # [2, W, S] distance of the first kernel from its limit
    rates: Tensor  # [2, W, S, N] eigenvalues of K_0 / N, decreasing
    residual: Tensor  # [2, W, S, E, N] its coefficients in the modes of K_0 / N
    trained: Tensor  # [2, W, S, Q] what training added to the predictions
    lazy: Tensor  # [2, W, S, Q] what the first kernel would have added in the same time
    regression: Tensor  # [2, W, S, Q] what it would have added in infinite time
    scales: dict[str, Tensor]  # the same fields for one width, A output scales in place of 2, W
    separate: Tensor  # [2, DRAWS, V, 4] drift of neurons that do not meet, at V widths and 4 ends

    @property
    def gap(self) -> Tensor:
        """Root mean square distance of trained network and lazy prediction, ``[2, W, S]``."""
        return rms(self.trained - self.lazy)

    @property
    def regression_gap(self) -> Tensor:
        """The same for kernel regression, that is lazy training without end, ``[2, W, S]``."""
        return rms(self.trained - self.regression)

    @property
    def loss(self) -> Tensor:
        """Of the training samples, ``[2, W, S, E]``."""
        return self.residual.square().mean(-1) / 2

    def drift_at_loss(self, level: float) -> Tensor:
        """Drift at the first stop at which the loss is at most ``level``, ``[2, W, S]``.

        ValueError where a network does not get there.
        """
        there = self.loss <= level
        if not there.any(-1).all():
            raise ValueError(f"level must be reached by every network, got {level}; write a larger")
        first = there.double().argmax(-1, keepdim=True)
        return self.path.gather(-1, first).squeeze(-1)

    def local_exponents(self) -> Tensor:
        """Slopes of `separate` between neighbouring widths, ``[2, DRAWS, V - 1, 4]``."""
        octaves = torch.tensor(self.config.wide).double().log().diff()
        return self.separate.log().diff(dim=2) / octaves[:, None]

    def exponent(self, values: Tensor, least: int = 0) -> Measured:
        """Slope of ``values [W, S]`` against the widths from ``least`` on, with its interval."""
        keep = [w for w, width in enumerate(self.config.widths) if width >= least]
        return exponent([self.config.widths[w] for w in keep], values[keep])


def rms(values: Tensor) -> Tensor:
    """Root mean square over the last dimension."""
    return values.square().mean(-1).sqrt()


def exponent(sizes: Sequence[float], values: Tensor) -> Measured:
    """Slope of log(values ``[sizes, S]``) against log(sizes): mean over seeds, 95 % interval.

    One line is fitted for each seed; the interval is Student's for the mean of their slopes.
    ValueError for one seed, which has no spread.

    >>> seeds = torch.tensor([1.0, 2.0, 3.0])
    >>> print(exponent([1, 10, 100], torch.tensor([1.0, 0.1, 0.01])[:, None] * seeds))
    -1.000
    """
    if values.shape[1] < 2:
        raise ValueError("values: expected at least two seeds, for an interval, came one")
    slopes = np.polyfit(np.log(sizes), values.double().log().numpy(), 1)[0].round(12)
    error = np.std(slopes, ddof=1) / np.sqrt(len(slopes))
    half = stdtrit(len(slopes) - 1, (1 + LEVEL) / 2) * error
    mean = slopes.mean()
    return results.with_interval(mean, mean - half, mean + half, len(slopes))


def network(width: int, signs: str, seed: int, scale: float = 1.0) -> nn.Sequential:
    """A two-layer tanh network in NTK scaling, float64; with "one", a and b are made positive."""
    if signs not in SIGNS:
        raise ValueError(f"signs: expected one of {', '.join(SIGNS)}, came {signs!r}")
    net = ntk_mlp(1, width, 1, scale=scale, seed=seed).double()
    if signs == "one":
        with torch.no_grad():
            net.get_parameter("fc1.bias").abs_()
            net.get_parameter("fc2.weight").abs_()
    return net


def limit_kernel(x: Tensor, nodes: int = 100) -> Tensor:
    r"""The kernel of :func:`network` as the width grows without bound, ``[n, n]`` for ``x [n, 1]``.

    .. math:: K_\infty(x,x')=\mathbb E\big[\sigma(z)\sigma(z')+\sigma'(z)\sigma'(z')(xx'+1)\big],

    with :math:`z=wx+b`, :math:`z'=wx'+b` and normal :math:`w,b`, by Gauss-Hermite quadrature.
    """
    places, weights = (torch.from_numpy(v) for v in np.polynomial.hermite_e.hermegauss(nodes))
    w, b = torch.cartesian_prod(places, places).T
    share = torch.cartesian_prod(weights, weights).prod(1)
    value = torch.tanh(x * w + b)
    slope = 1 - value.square()
    kernel = (value * share) @ value.T + (slope * share) @ slope.T * (x * x.T + 1)
    return kernel / share.sum()


def descend(
    nets: list[nn.Sequential], x: Tensor, y: Tensor, rate: float, stops: Sequence[int]
) -> Iterator[Tensor]:
    r"""Gradient descent on :math:`\frac1{2N}\sum_i(f(x_i)-f_0(x_i)-y_i)^2`, for alike networks.

    ``x [S, N, d]`` and ``y [S, N]`` hold the samples of each network.  Yields the residuals
    ``[S, N]`` at each stop (a number of steps), where the networks hold the parameters of that
    step.  ValueError where the squared residual has become a hundred times what it was.
    """
    stacked, _ = stack_module_state(nets)
    aim = _outputs(nets[0], stacked, x).detach() + y
    done = 0
    for stop in stops:
        for _ in range(stop - done):
            loss = (_outputs(nets[0], stacked, x) - aim).square().mean(1).sum() / 2
            slopes = torch.autograd.grad(loss, list(stacked.values()))
            with torch.no_grad():
                for p, slope in zip(stacked.values(), slopes, strict=True):
                    p.sub_(slope, alpha=rate)
        done = stop
        residual = (_outputs(nets[0], stacked, x) - aim).detach()
        if not (residual.square().sum(1) < 100 * y.square().sum(1)).all():  # also for NaN
            raise ValueError(f"rate: training diverged within {stop} steps; write less than {rate}")
        for s, net in enumerate(nets):
            net.load_state_dict({name: p.detach()[s] for name, p in stacked.items()})
        yield residual


def _outputs(net: nn.Sequential, stacked: dict[str, Tensor], x: Tensor) -> Tensor:
    """First output of networks built like ``net``, with their parameters stacked, ``[S, N]``."""
    factor = 1.0
    for name, layer in net.named_children():
        if isinstance(layer, Scale):
            factor = layer.factor  # of the weights, which are fewer than what they multiply
        elif isinstance(layer, nn.Linear):
            weight = factor * stacked[f"{name}.weight"].mT
            bias = stacked[f"{name}.bias"].unsqueeze(1) if layer.bias is not None else None
            x = x @ weight if bias is None else torch.baddbmm(bias, x, weight)
        else:
            x = layer(x)
    return x[..., 0]


def measure(
    config: Config, width: int, signs: str, scale: float, device: torch.device | str
) -> dict[str, Tensor]:
    """All numbers of one width and scale, by field of `Result`, with the seeds in front."""
    few = max(1, CACHE // width)
    parts = [
        _measure(config, width, signs, scale, config.seeds[i : i + few], device)
        for i in range(0, len(config.seeds), few)
    ]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _measure(config, width, signs, scale, seeds, device) -> dict[str, Tensor]:
    """For seeds that are trained together."""
    x, y, queries = (t.to(device) for t in (config.x, config.y, config.queries))
    nets = [network(width, signs, seed, scale).to(device) for seed in seeds]
    start = [_state(net, x, queries, scale) for net in nets]
    asked = [(gradient_kernel(net, queries, x) / scale**2).cpu() for net in nets]
    together = x.expand(len(nets), -1, -1), y.expand(len(nets), -1)
    kernels, residual = [], []
    for here in descend(nets, *together, config.rate / scale**2, config.stops):
        residual.append(here.cpu())
        kernels.append(two_layer_kernels(nets, x).cpu())
    residual, moved = torch.stack(residual, 1), torch.stack(kernels, 1) - kernels[0][:, None]
    path = moved.flatten(2).norm(dim=2) / kernels[0].flatten(1).norm(dim=1, keepdim=True)
    end = [_state(net, x, queries, scale) for net in nets]
    kernel, f, theta = (torch.stack(part) for part in zip(*start, strict=True))
    kernel_now, f_now, theta_now = (torch.stack(part) for part in zip(*end, strict=True))
    values, vectors = torch.linalg.eigh(kernel / config.samples)
    limit = limit_kernel(config.x)
    pairs = zip(kernel, asked, strict=True)
    predict = [partial(lazy_training, k, -config.y, query=q) for k, q in pairs]
    return {
        "drift": torch.tensor(list(map(kernel_drift, kernel, kernel_now))),
        "path": path,
        "moved": rms(theta_now - theta),
        "start": torch.tensor([kernel_drift(limit, k) for k in kernel]),
        "rates": values.flip(1),
        "residual": (residual @ vectors).flip(2),
        "trained": f_now - f,
        "lazy": torch.stack([p(time=config.time) for p in predict]),
        "regression": torch.stack([p(time=math.inf) for p in predict]),
    }


def _state(net: nn.Module, x: Tensor, queries: Tensor, scale: float) -> tuple[Tensor, ...]:
    r"""Kernel by :math:`\alpha^2`, predictions at the queries, parameters."""
    theta = torch.cat([p.detach().flatten() for p in net.parameters()])
    found = gradient_kernel(net, x) / scale**2, net(queries)[:, 0].detach(), theta
    return tuple(t.cpu() for t in found)


def run(
    config: Config,
    *,
    device: torch.device | str = "cpu",
    folder: Path | None = None,
    progress: bool = False,
) -> Result:
    """Train every width with both kinds of signs, then one width with every output scale."""
    by_width = list(product(config.widths, SIGNS, [1.0]))
    by_scale = [(config.scale_width, "both", scale) for scale in config.scales]
    found = []
    for width, signs, scale in tqdm([*by_width, *by_scale], disable=not progress, desc="networks"):
        path = None if folder is None else folder / f"{width}-{signs}-{scale:g}"
        found.append(remembered(path, partial(measure, config, width, signs, scale, device)))

    def stack(rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}

    count = len(by_width)
    signs = [stack(found[s : count : len(SIGNS)]) for s in range(len(SIGNS))]
    return Result(config, **stack(signs), scales=stack(found[count:]), separate=separate(config))


def separate(config: Config) -> Tensor:
    """Drift of neurons that do not meet, ``[2, DRAWS, V, 4]``."""
    problem = config.x, config.y, limit_kernel(config.x)
    how = {"rate": config.rate, "stops": config.ends, "neurons": config.neurons}
    rows = [
        drift_of_separate_neurons(width, signs, problem, seed=draw, **how)
        for signs, draw, width in product(SIGNS, range(DRAWS), config.wide)
    ]
    return torch.stack(rows).unflatten(0, (len(SIGNS), DRAWS, len(config.wide)))


def findings(result: Result) -> dict[str, dict[str, Numbers]]:
    """T8's numbers: exponents at the largest width, then over the widths that were trained."""
    local = result.local_exponents()[:, :, -1, -1]
    values = [results.over_seeds(draws) for draws in local]
    values += [result.exponent(drift) for drift in result.drift]
    names = (criterion.name for criterion in claim("T8").criteria)
    return {"T8": {"NTK scaling": dict(zip(names, values, strict=True))}}
