r"""What a diffusion needs to know at one point of every path, and the theorem's integral.

One time step looks twice: at its start, where drift, noise and the query's gradients come from one
pass over the data, and at the point that Heun's rule guesses ahead, where only the drift is asked.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pkbook.basics.parameters import sum_of
from pkbook.diffusion_limit.limits import Limit, Local, State, relax


@dataclass(frozen=True)
class Look:
    """The gradients at one point of every path."""

    local: Local
    noise: Tensor | None
    """The push of the noise that leaves from here, ``[R, P]``; None where no step follows."""
    query: Tensor
    r""":math:`\nabla f(x,\theta)`, ``[R, m, P]``."""
    pulls: Tensor
    r""":math:`\frac1N\nabla\ell_i` of every sample ``[R, N, P]``, or their sum ``[R, 1, P]``."""

    @property
    def push(self) -> Tensor:
        """``noise``; ``ValueError`` where no step follows."""
        if self.noise is None:
            raise ValueError("noise must be there before a step; give look the weights of it")
        return self.noise


def look_ahead(limit: Limit, theta: Tensor) -> Local:
    """The drift only."""
    pulled = limit.task.pull(theta, _weights(limit, theta, None), variance=limit.squares)
    return _local(limit, pulled.rows[:, 0], pulled.variance)


def look(
    limit: Limit, theta: Tensor, x: Tensor, weights: Tensor | None = None, by_sample: bool = False
) -> Look:
    """Everything at ``theta [R, P]``; ``weights [R, N]`` of the losses give the noise."""
    task, both = limit.task, _weights(limit, theta, weights)
    if by_sample:
        each, query = task.sample_gradients(theta), task.query_gradients(theta, x)
        rows, pulls = both @ each, each / task.samples
        variance = each.var(1, correction=0) if limit.squares else None
    else:
        pulled = task.pull(theta, both, x, limit.squares)
        rows, query, variance = pulled.rows, pulled.asked, pulled.variance
        pulls = rows[:, :1]
    noise = None if weights is None else rows[:, 1]
    return Look(_local(limit, rows[:, 0], variance), noise, query, pulls)


def _weights(limit: Limit, theta: Tensor, noise: Tensor | None) -> Tensor:
    """Of the mean loss, and of the noise where there is one, ``[R, k, N]``."""
    n = limit.task.samples
    mean = theta.new_full((len(theta), 1, n), 1 / n)
    return mean if noise is None else torch.cat([mean, noise.unsqueeze(1)], 1)


def _local(limit: Limit, gradient: Tensor, variance: Tensor | None) -> Local:
    if variance is None:
        return Local(gradient, None)
    return Local(gradient, gradient.square() + limit.factor * variance)


class Integral:
    """The theorem's integral along every path, by the trapezoidal rule."""

    def __init__(self, limit: Limit, here: Look, by_sample: bool) -> None:
        self.limit = limit
        paths, queries, _ = here.query.shape
        self.total = here.query.new_zeros(paths, queries)
        self.parts = here.query.new_zeros(limit.task.samples, queries) if by_sample else None
        self.t = 0.0
        remembers = limit.memory_rate is not None
        self.memory = torch.zeros_like(here.pulls) if remembers else None

    def advance(self, old: State, new: State, here: Look, there: Look, dt: float) -> None:
        """Add the part of one time step, from ``here`` to ``there``."""
        ends = (here.pulls, there.pulls)
        rate = self.limit.memory_rate
        if (
            self.memory is not None and rate is not None
        ):  # the memory of gradients, without their noise
            before = self.memory
            self.memory = relax(before, sum_of(ends) / 2, rate, dt)
            ends = (before, self.memory)
        scale = self.limit.scale(old, new, self.t + dt / 2)
        scale = scale.unsqueeze(1) if isinstance(scale, Tensor) else scale
        part = sum_of(
            torch.einsum("rmp,rnp->rnm", phi * scale, end) * (dt / 2)
            for phi, end in zip((here.query, there.query), ends, strict=True)
        )
        self.total = self.total + part.sum(1)
        if self.parts is not None:
            self.parts = self.parts + part.mean(0)
        self.t += dt
