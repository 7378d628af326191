r"""Running an optimizer and its diffusion, many paths in step.

The diffusion's drift is integrated by Heun's rule and its noise by Euler's.  The noise has the
small amplitude :math:`\sqrt\eta`, so with a time step :math:`dt` the weak error of the scheme is
:math:`O(dt^2+\eta\,dt)` (Milstein and Tretyakov 1997): at :math:`dt=\eta/2` one order above the
remainder that is measured.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from pkbook.basics.checks import is_finite_number, require_inputs, require_whole
from pkbook.diffusion_limit.limits import Limit, State
from pkbook.diffusion_limit.look import Integral, Look, look, look_ahead, mean_gradient
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
            mean, query = mean_gradient(limit, state["theta"], x)
            record.meet(-limit.lr * (g - mean), steps - k, query)
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
        also give the integral's parts by training sample (N times the work of the integral); how
        those of second order are shared out says :class:`SecondOrderSGD`.

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
    inner = substeps(limit.lr, dt)
    dt = limit.lr / inner
    state = limit.start(paths)
    record = _Record(limit, x, steps, state, snapshots)
    kicks = _kicks(limit, paths, steps, inner, generator)
    here = look(limit, state["theta"], x, next(kicks), by_sample)
    integral = Integral(limit, here, by_sample)
    for k in range(steps):
        for _ in range(inner):
            old, state = state, _heun(limit, state, here, integral.t, dt)
            there = look(limit, state["theta"], x, next(kicks, None), by_sample)
            integral.advance(old, state, here, there, dt)
            if control:
                record.meet(-here.push, steps - k, here.query)
            here = there
        require_bounded(state, k + 1, "the diffusion", limit.lr)
        record.keep(k + 1, state, integral.total)
    return record.paths(state, integral.parts, integral.bent)


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


def substeps(rate: float, dt: float | None) -> int:
    """Time steps in one step of the optimizer; ``ValueError`` unless ``dt`` divides the rate."""
    if dt is None:
        return 2
    if not is_finite_number(dt) or dt <= 0:
        raise ValueError(f"dt must be a positive number, got {dt!r}")
    if dt > rate * (1 + 1e-9):
        raise ValueError(f"dt must be at most the learning rate {rate:g}, got {dt:g}")
    inner = round(rate / dt)
    if not math.isclose(inner * dt, rate, rel_tol=1e-6):
        raise ValueError(
            f"dt must divide the learning rate {rate:g}, got {dt:g}; write dt={rate:g} / {inner}"
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


def _kicks(
    limit: Limit, paths: int, steps: int, inner: int, generator: torch.Generator
) -> Iterator[Tensor]:
    """The weights ``[R, N]`` of the losses whose gradient is the noise, substep after substep."""
    inside = _inner_generator(generator)
    size = limit.lr / math.sqrt(inner)  # the root of the rate times dt
    for _ in range(steps):
        # One normal for each step of the optimizer's noise, split over the substeps.
        for normals in _split(_normals(limit, paths, generator), inner, inside):
            yield size * noise_weights(normals, limit.factor)


def _heun(limit: Limit, state: State, here: Look, t: float, dt: float) -> State:
    """One time step of the diffusion from ``t``."""
    theta, at, noise = state["theta"], here.local, here.push
    guess = {"theta": theta} | limit.own(state, at, at, dt, noise)
    ahead = look_ahead(limit, theta + limit.move(state, guess, at.gradient, noise, t, dt))
    new = {"theta": theta} | limit.own(state, at, ahead, dt, noise)
    mean = (at.gradient + ahead.gradient) / 2
    new["theta"] = theta + limit.move(state, new, mean, noise, t, dt)
    return new


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

    def meet(self, push: Tensor, left: int, phi: Tensor) -> None:
        """Add what a push of the noise does to the predictions, to first order."""
        part = self.limit.reach(left) * torch.einsum("rmp,rp->rm", phi, push)
        self.control = part if self.control is None else self.control + part

    def paths(self, state: State, parts: Tensor | None = None, bent: Tensor | None = None) -> Paths:
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
            bent,
        )
