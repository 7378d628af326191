r"""What a diffusion needs to know at one point of every path, and the theorem's integral.

One time step looks twice: at its start, where drift, noise and the query's gradients come from one
pass over the data, and at the point that Heun's rule guesses ahead, where only the drift is asked.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pkbook.basics.parameters import sum_of
from pkbook.diffusion_limit.limits import Limit, Local, State, relax
from pkbook.diffusion_limit.second_order import SecondOrderSGD


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
    more: tuple[Tensor, Tensor] | None = None
    """Terms of second order beside :math:`\\ell'_iK/N`, as ``pulls`` two ``[R, N or 1, m]``."""

    @property
    def push(self) -> Tensor:
        """``noise``; ``ValueError`` where no step follows."""
        if self.noise is None:
            raise ValueError("noise must be there before a step; give look the weights of it")
        return self.noise


def look_ahead(limit: Limit, theta: Tensor) -> Local:
    """The drift only."""
    pulled = limit.task.pull(theta, _weights(limit, theta, None), variance=limit.squares)
    if isinstance(limit, SecondOrderSGD):
        return Local(limit.steeper(theta, pulled.rows)[:, 0], None)
    return _local(limit, pulled.rows[:, 0], pulled.variance)


def mean_gradient(limit: Limit, theta: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    r""":math:`\nabla L` ``[R, P]`` and the query's gradients ``[R, m, P]``, whatever the drift."""
    pulled = limit.task.pull(theta, _weights(limit, theta, None), x)
    return pulled.rows[:, 0], pulled.asked


def look(
    limit: Limit, theta: Tensor, x: Tensor, weights: Tensor | None = None, by_sample: bool = False
) -> Look:
    """Everything at ``theta [R, P]``; ``weights [R, N]`` of the losses give the noise."""
    task, both = limit.task, _weights(limit, theta, weights)
    if isinstance(limit, SecondOrderSGD):
        return _look_twice(limit, theta, x, both, by_sample)
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


def _look_twice(
    limit: SecondOrderSGD, theta: Tensor, x: Tensor, weights: Tensor, by_sample: bool
) -> Look:
    """The same with second derivatives; the rows of ``weights [R, k, N]`` are mean and noise."""
    task = limit.task
    each, query = task.sample_gradients(theta), task.query_gradients(theta, x)
    rows = weights @ each
    local = Local(limit.steeper(theta, rows[:, :1])[:, 0], None)
    noise = rows[:, 1] if weights.shape[1] > 1 else None
    pulls, more = each / task.samples, limit.bending(theta, x, each, query)
    more = tuple(part / task.samples for part in more)
    if not by_sample:
        pulls, *more = (part.sum(1, keepdim=True) for part in (pulls, *more))
    return Look(local, noise, query, pulls, (more[0], more[1]))


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
        self.bent = self.parts if here.more is not None else None
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
        if here.more is not None and there.more is not None:
            turned, bent = (
                sum_of(pair) * (dt / 2) for pair in zip(here.more, there.more, strict=True)
            )
            part = part + turned + bent
            if self.bent is not None:
                self.bent = self.bent + bent.mean(0)
        self.total = self.total + part.sum(1)
        if self.parts is not None:
            self.parts = self.parts + part.mean(0)
        self.t += dt
