r"""Running an optimizer and its diffusion, many paths in step.

The diffusion's drift is integrated by Heun's rule and its noise by Euler's.  The noise has the
small amplitude :math:`\sqrt\eta`, so with a time step :math:`dt` the weak error of the scheme is
:math:`O(dt^2+\eta\,dt)` (Milstein and Tretyakov 1997): at :math:`dt=\eta/2` one order above the
remainder that is measured.
"""

import math

import torch
from torch import Tensor

from pkbook.checks import is_finite_number, require_inputs, require_whole
from pkbook.diffusion_limit.limits import Limit, Local, State, relax
from pkbook.diffusion_limit.noise import draw_batches, draw_with_replacement, noise_weights
from pkbook.diffusion_limit.paths import Paths, empty_like, require_bounded


def discrete(
    limit: Limit,
    x: Tensor,
    *,
    steps: int,
    paths: int,
    generator: torch.Generator,
    snapshots: int = 0,
    control: bool = False,
) -> Paths:
    """Run the optimizer itself: ``paths`` independent runs from the same start.

    Parameters
    ----------
    limit
        optimizer, learning rate and batch size.
    x
        queries ``[m, ...]``.
    steps, paths
        K and R.
    generator
        of the batches, on the model's device.  Paths and diffusion with equal generators have
        correlated noise (without replacement).
    snapshots
        paths whose parameters are kept at every step.
    control
        also give the noise that each path met, weighted with the query's gradient: a variable of
        mean zero that goes with the prediction (a full gradient more a step).

    Returns
    -------
    Paths

    Raises
    ------
    DivergenceError
        naming step and path, when a parameter grows beyond every bound.
    TypeError, ValueError
        for counts below one and queries that do not fit.
    """
    _check(limit, x, steps, paths, generator)
    state = limit.start(paths)
    record = _Record(limit, x, steps, state, snapshots)
    _inner_generator(generator)  # so that both processes draw the same normals
    for k in range(steps):
        normals = _normals(limit, paths, generator)
        if limit.replace:
            batch = draw_with_replacement(paths, limit.task.samples, limit.batch_size, generator)
        else:
            batch = draw_batches(normals, limit.batch_size)
        g = limit.task.batch_gradients(state["theta"], batch)
        if control:
            met = g - full_gradient(limit, state["theta"])
            record.meet(state["theta"], -limit.lr * met, steps - k)
        state = limit.update(state, g, k)
        require_bounded(state, k + 1, "the discrete run", limit.lr)
        record.keep(k + 1, state)
    return record.paths(state)


def diffusion(
    limit: Limit,
    x: Tensor,
    *,
    steps: int,
    paths: int,
    generator: torch.Generator,
    dt: float | None = None,
    by_sample: bool = False,
    snapshots: int = 0,
    control: bool = False,
) -> Paths:
    r"""Run the optimizer's diffusion, with the theorem's integral along each path.

    Parameters
    ----------
    limit, x, steps, paths, generator, snapshots, control
        as for :func:`discrete`; K steps are the time :math:`K\eta`.
    dt
        time step, :math:`\eta` divided by a whole number; default :math:`\eta/2`.
    by_sample
        also give the integral's parts by training sample (N times the work of the integral).

    Returns
    -------
    Paths

    Raises
    ------
    DivergenceError, TypeError, ValueError
        as for :func:`discrete`, and for a ``dt`` that is larger than the learning rate or does not
        divide it.
    """
    _check(limit, x, steps, paths, generator)
    inner = _substeps(limit, dt)
    state = limit.start(paths)
    record = _Record(limit, x, steps, state, snapshots)
    integral = _Integral(limit, x, state, by_sample)
    inside = _inner_generator(generator)
    for k in range(steps):
        # One normal for each step of the optimizer's noise, split over the substeps.
        for normals in _split(_normals(limit, paths, generator), inner, inside):
            theta, phi = state["theta"], integral.left[0]
            state, noise = _heun(limit, state, normals, integral, limit.lr / inner)
            if control:
                record.meet(theta, -noise, steps - k, phi)
        require_bounded(state, k + 1, "the diffusion", limit.lr)
        record.keep(k + 1, state, integral.total)
    return record.paths(state, integral.parts)


def _check(limit: Limit, x: Tensor, steps: int, paths: int, generator: torch.Generator) -> None:
    if not isinstance(limit, Limit):
        raise TypeError(
            f"limit must be one of SGD, Momentum, RMSprop, Adam, got {type(limit).__name__}"
        )
    require_inputs(limit.task.model, x, "x")
    require_whole(steps, "steps")
    require_whole(paths, "paths")
    if not isinstance(generator, torch.Generator):
        raise TypeError(
            f"generator must be a torch.Generator, got {type(generator).__name__}; "
            "write torch.Generator().manual_seed(0)"
        )


def _substeps(limit: Limit, dt: float | None) -> int:
    if dt is None:
        return 2
    if not is_finite_number(dt) or dt <= 0:
        raise ValueError(f"dt must be a positive number, got {dt!r}")
    if dt > limit.lr * (1 + 1e-9):
        raise ValueError(f"dt must be at most the learning rate {limit.lr:g}, got {dt:g}")
    inner = round(limit.lr / dt)
    if not math.isclose(inner * dt, limit.lr, rel_tol=1e-6):
        raise ValueError(
            f"dt must divide the learning rate {limit.lr:g}, got {dt:g}; "
            f"write dt={limit.lr:g} / {inner}"
        )
    return inner


def _normals(limit: Limit, paths: int, generator: torch.Generator) -> Tensor:
    like = limit.task.theta
    size = (paths, limit.task.samples)
    return torch.randn(size, generator=generator, dtype=like.dtype, device=like.device)


def _inner_generator(generator: torch.Generator) -> torch.Generator:
    """Another stream, for what happens inside a step of the optimizer."""
    seed = torch.randint(2**62, (), generator=generator, device=generator.device)
    return torch.Generator(generator.device).manual_seed(int(seed))


def _split(total: Tensor, parts: int, generator: torch.Generator) -> list[Tensor]:
    """Independent standard normals whose sum is ``sqrt(parts) * total``."""
    if parts == 1:
        return [total]
    z = torch.randn(
        (parts, *total.shape), generator=generator, dtype=total.dtype, device=total.device
    )
    return list(z - z.mean(0) + total / math.sqrt(parts))


class _Integral:
    """The theorem's integral along every path, by the trapezoidal rule."""

    def __init__(self, limit: Limit, x: Tensor, state: State, by_sample: bool) -> None:
        self.limit, self.x, self.by_sample = limit, x, by_sample
        theta = state["theta"]
        self.total = theta.new_zeros(len(theta), len(x))
        self.parts = theta.new_zeros(limit.task.samples, len(x)) if by_sample else None
        self.t = 0.0
        self.memory: Tensor | None = None
        self.left = self._look(theta)
        if limit.memory_rate is not None:
            self.memory = torch.zeros_like(self.left[1])

    def _look(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """The query's gradients ``[R, m, P]`` and the loss gradients ``[R, n, P]``, n = 1 or N."""
        task = self.limit.task
        if self.by_sample:
            g = task.sample_gradients(theta) / task.samples
        else:
            g = full_gradient(self.limit, theta).unsqueeze(1)
        return task.query_gradients(theta, self.x), g

    def advance(self, old: State, new: State, dt: float) -> None:
        """Add the part of one time step."""
        phi, g = self.left
        right = self._look(new["theta"])
        ends = (g, right[1])
        if self.memory is not None:  # the memory of gradients, without their noise
            before = self.memory
            self.memory = relax(before, (g + right[1]) / 2, self.limit.memory_rate, dt)
            ends = (before, self.memory)
        scale = self.limit.scale(old, new, self.t + dt / 2)
        scale = scale.unsqueeze(1) if isinstance(scale, Tensor) else scale
        part = sum(
            torch.einsum("rmp,rnp->rnm", f * scale, e) * (dt / 2)
            for f, e in zip((phi, right[0]), ends, strict=True)
        )
        self.total = self.total + part.sum(1)
        if self.parts is not None:
            self.parts = self.parts + part.mean(0)
        self.left, self.t = right, self.t + dt


def full_gradient(limit: Limit, theta: Tensor) -> Tensor:
    r""":math:`\nabla L(\theta)`, ``[R, P]``."""
    n = limit.task.samples
    ones = theta.new_full((len(theta), 1, n), 1 / n)
    return limit.task.weighted_gradients(theta, ones)[:, 0]


def _local(limit: Limit, theta: Tensor, gradient: Tensor | None = None) -> Local:
    if not limit.squares:
        return Local(full_gradient(limit, theta) if gradient is None else gradient, None)
    samples = limit.task.sample_gradients(theta)
    gradient = samples.mean(1)
    variance = (samples - gradient.unsqueeze(1)).square().mean(1)
    return Local(gradient, gradient.square() + limit.factor * variance)


def _heun(
    limit: Limit, state: State, normals: Tensor, integral: _Integral, dt: float
) -> tuple[State, Tensor]:
    """One time step of the diffusion, and the noise that drove it."""
    theta = state["theta"]
    weights = math.sqrt(limit.lr * dt) * noise_weights(normals, limit.factor)
    noise = limit.task.weighted_gradients(theta, weights.unsqueeze(1))[:, 0]
    # The drift at the left end is known from the integral's last look.
    known = integral.left[1].sum(1)
    here = _local(limit, theta, known)
    guess = {"theta": theta} | limit.own(state, here, here, dt, noise)
    ahead = theta + limit.move(state, guess, here.gradient, noise, integral.t, dt)
    there = _local(limit, ahead)
    new = {"theta": theta} | limit.own(state, here, there, dt, noise)
    mean = (here.gradient + there.gradient) / 2
    new["theta"] = theta + limit.move(state, new, mean, noise, integral.t, dt)
    integral.advance(state, new, dt)
    return new, noise


class _Record:
    """Keeps the predictions at every step."""

    def __init__(self, limit: Limit, x: Tensor, steps: int, state: State, snapshots: int) -> None:
        self.limit, self.x = limit, x
        first = limit.task.outputs(state["theta"], x)
        self.outputs = empty_like(first, steps)
        self.integral: Tensor | None = None
        few = state["theta"][:snapshots]
        self.snapshots = empty_like(few, steps) if snapshots else None
        self.control: Tensor | None = None
        self.keep(0, state)

    def keep(self, k: int, state: State, integral: Tensor | None = None) -> None:
        self.outputs[k] = self.limit.task.outputs(state["theta"], self.x)
        if self.snapshots is not None:
            self.snapshots[k] = state["theta"][: self.snapshots.shape[1]]
        if integral is not None:
            if self.integral is None:
                self.integral = torch.zeros_like(self.outputs)
            self.integral[k] = integral

    def meet(self, theta: Tensor, push: Tensor, left: int, phi: Tensor | None = None) -> None:
        """Add what a push of the noise does to the predictions, to first order."""
        phi = self.limit.task.query_gradients(theta, self.x) if phi is None else phi
        part = self.limit.reach(left) * torch.einsum("rmp,rp->rm", phi, push)
        self.control = part if self.control is None else self.control + part

    def paths(self, state: State, parts: Tensor | None = None) -> Paths:
        times = torch.arange(len(self.outputs), dtype=torch.float64) * self.limit.lr
        own = {name: value for name, value in state.items() if name != "theta"}
        return Paths(
            times,
            self.outputs,
            state["theta"],
            self.integral,
            parts,
            self.snapshots,
            own,
            self.control,
        )
