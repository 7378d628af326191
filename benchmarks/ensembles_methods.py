"""One ensemble, several ways: ours, a plain loop over the paths, and torchsde.

Each method returns the predictions at the query at the end, one a path.
"""

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pkbook import diffusion_limit as dl
from pkbook.problems import losses, models


@dataclass(frozen=True)
class Setting:
    """Sizes of the ensemble, and how many paths the loops are timed on."""

    paths: int = 4096
    few: int = 8
    samples: int = 32
    batch: int = 8
    width: int = 64
    steps: int = 20
    rate: float = 0.1

    def limit(self) -> dl.SGD:
        """SGD on random numbers with a small network, in float32."""
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(self.samples, 2, generator=generator)
        y = torch.randn(self.samples, 1, generator=generator)
        net = models.mlp(2, self.width, 1, activation="tanh", seed=0)
        return dl.SGD(dl.Task(net, losses.squared, (x, y)), self.rate, self.batch)

    @property
    def query(self) -> Tensor:
        return torch.tensor([[1.0, 0.5]])


SUBSTEPS = 2  # of the diffusion in one step of the optimizer, the package's default


def ours_discrete(setting: Setting, paths: int, seed: int = 0) -> Callable[[], Tensor]:
    return _ours(dl.discrete, setting, paths, seed)


def ours_diffusion(setting: Setting, paths: int, seed: int = 0) -> Callable[[], Tensor]:
    """With the theorem's integral along each path."""
    return _ours(dl.diffusion, setting, paths, seed)


def _ours(simulate, setting: Setting, paths: int, seed: int) -> Callable[[], Tensor]:
    limit = setting.limit()

    def run() -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        told = simulate(limit, setting.query, steps=setting.steps, paths=paths, generator=generator)
        return told.outputs[-1, :, 0]

    return run


# ---- plain loops ----------------------------------------------------------------------------


def normals(setting: Setting, paths: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Step by step the normals ``[R, N]`` that ours draws, and their parts ``[substeps, R, N]``."""
    outer = torch.Generator().manual_seed(seed)
    inner = torch.Generator().manual_seed(int(torch.randint(2**62, (), generator=outer)))
    for _ in range(setting.steps):
        total = torch.randn(paths, setting.samples, generator=outer)
        z = torch.randn(SUBSTEPS, paths, setting.samples, generator=inner)
        yield total, z - z.mean(0) + total / math.sqrt(SUBSTEPS)


def loop_discrete(setting: Setting, paths: int, seed: int = 0) -> Callable[[], Tensor]:
    """torch.optim.SGD, path after path."""
    limit = setting.limit()
    x, y = limit.task.data

    def run() -> Tensor:
        drawn = [total for total, _ in normals(setting, paths, seed)]
        ends = []
        for r in range(paths):
            net = copy.deepcopy(limit.task.model)
            optimizer = torch.optim.SGD(net.parameters(), lr=setting.rate)
            for total in drawn:
                batch = total[r].topk(setting.batch).indices
                optimizer.zero_grad()
                losses.squared(net(x[batch]), y[batch]).mean().backward()
                optimizer.step()
            ends.append(net(setting.query).detach()[0, 0])
        return torch.stack(ends)

    return run


def loop_diffusion(setting: Setting, paths: int, seed: int = 0) -> Callable[[], Tensor]:
    """Heun for the drift, Euler for the noise, and the theorem's integral, path after path."""
    limit = setting.limit()
    x, y = limit.task.data
    dt, amplitude = setting.rate / SUBSTEPS, math.sqrt(limit.factor / setting.samples)
    mean = torch.full((setting.samples,), 1 / setting.samples)

    def gradients(net, *rows: Tensor) -> list[list[Tensor]]:
        """One gradient for each row of weights, all from one forward pass."""
        found, parameters = losses.squared(net(x), y), list(net.parameters())
        last = len(rows) - 1
        return [
            list(torch.autograd.grad(found, parameters, row, retain_graph=i < last))
            for i, row in enumerate(rows)
        ]

    def looking(net) -> list[Tensor]:
        return list(torch.autograd.grad(net(setting.query).sum(), list(net.parameters())))

    def one(drawn: list[Tensor], r: int) -> Tensor:
        net = copy.deepcopy(limit.task.model)
        parameters = list(net.parameters())
        kicks = [z for parts in drawn for z in parts[:, r]]
        kicks = [amplitude * math.sqrt(setting.rate * dt) * (z - z.mean()) for z in kicks]
        (left, noise), phi, integral = gradients(net, mean, kicks[0]), looking(net), 0.0
        for after in [*kicks[1:], None]:
            with torch.no_grad():
                start = [p.clone() for p in parameters]
                _put(parameters, start, [-g * dt - e for g, e in zip(left, noise, strict=True)])
            (ahead,) = gradients(net, mean)
            with torch.no_grad():
                steps = zip(left, ahead, noise, strict=True)
                _put(parameters, start, [-(g + h) / 2 * dt - e for g, h, e in steps])
            pull = _dot(phi, left)
            left, *noises = gradients(net, mean, *([] if after is None else [after]))
            noise, phi = noises[0] if noises else None, looking(net)
            integral += (pull + _dot(phi, left)) * dt / 2
        return net(setting.query).detach()[0, 0]

    def run() -> Tensor:
        drawn = [parts for _, parts in normals(setting, paths, seed)]
        return torch.stack([one(drawn, r) for r in range(paths)])

    return run


def _put(parameters, start, moves) -> None:
    for p, old, move in zip(parameters, start, moves, strict=True):
        p.copy_(old + move)


def _dot(a: list[Tensor], b: list[Tensor]) -> float:
    return sum((p * q).sum().item() for p, q in zip(a, b, strict=True))


# ---- torchsde -------------------------------------------------------------------------------


class _Equation(torch.nn.Module):
    """SGD's diffusion for torchsde: Ito, general noise, one Brownian motion a sample."""

    noise_type, sde_type = "general", "ito"

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        limit = setting.limit()
        self.task, n = limit.task, setting.samples
        self.amplitude = math.sqrt(setting.rate * limit.factor / n)
        self.mean = torch.full((n,), 1 / n)

    def f(self, t, theta: Tensor) -> Tensor:
        weights = self.mean.expand(len(theta), 1, -1)
        return -self.task.weighted_gradients(theta, weights)[:, 0]


class _Matrix(_Equation):
    """The noise as a matrix ``[R, P, N]``, as torchsde's documentation writes it."""

    def g(self, t, theta: Tensor) -> Tensor:
        each = self.task.sample_gradients(theta)
        return self.amplitude * (each - each.mean(1, keepdim=True)).transpose(1, 2)


class _Product(_Equation):
    """Only the noise times its increments: one gradient, no matrix."""

    def g_prod(self, t, theta: Tensor, v: Tensor) -> Tensor:
        weights = self.amplitude * (v - v.mean(1, keepdim=True))
        return self.task.weighted_gradients(theta, weights.unsqueeze(1))[:, 0]


def torchsde_matrix(setting: Setting, paths: int, seed: int = 0) -> Callable[[], Tensor]:
    return _torchsde(_Matrix(setting), setting, paths, seed)


def torchsde_product(setting: Setting, paths: int, seed: int = 0) -> Callable[[], Tensor]:
    return _torchsde(_Product(setting), setting, paths, seed)


def _torchsde(equation: _Equation, setting: Setting, paths: int, seed: int):
    """Euler at the step of our diffusion; predictions at every step of the optimizer, as ours."""
    import torchsde

    start = equation.task.theta.expand(paths, -1)
    times = torch.arange(setting.steps + 1) * setting.rate

    @torch.no_grad()
    def run() -> Tensor:
        motion = torchsde.BrownianInterval(
            t0=times[0], t1=times[-1], size=(paths, setting.samples), entropy=seed
        )
        dt = setting.rate / SUBSTEPS
        path = torchsde.sdeint(equation, start, times, bm=motion, method="euler", dt=dt)
        return [equation.task.outputs(theta, setting.query) for theta in path][-1][:, 0]

    return run
