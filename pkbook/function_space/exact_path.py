r"""The path kernel of a recorded run in the lifted space of Bell et al. 2023."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from pkbook.basics.checks import require_choice, require_whole
from pkbook.basics.inference import outside_inference
from pkbook.basics.parameters import Tree, sum_of, trainable
from pkbook.kernels.gram import gram
from pkbook.runs.optimizers import StepState
from pkbook.runs.recording import Recording
from pkbook.runs.steps import put_buffers

SIDES = ("step", "start")


@outside_inference()
def exact_path_kernel(
    run: Recording,
    x1: Tensor,
    x2: Tensor | None = None,
    *,
    sides: tuple[str, str] = ("step", "step"),
    nodes: int = 3,
    by_step: bool = False,
    reduce: str = "trace",
) -> Tensor:
    r"""Inner products of tangent features along the whole path of a run, step by step:

    .. math:: \sum_k\eta_k\int_0^1\big\langle\nabla f(x,\theta_k+\tau\Delta_k),\,
        \nabla f(x',\theta_k+\tau'\Delta_k)\big\rangle\,d\tau ,

    where :math:`\tau'=\tau` with ``sides=("step", "step")``: both features are functions on the
    path, and their inner product is symmetric and has no negative eigenvalue.  With
    ``("step", "start")`` the second feature stays where the step begins, :math:`\tau'=0`.  That is
    what gradient descent hands out: with it a run of plain gradient descent has

    .. math:: f(x,\theta_K)-f(x,\theta_0)=-\frac1N\sum_k\sum_i\ell'_i(\theta_k)\,
        K_k(x,x_i)

    exactly, for the terms :math:`K_k` that ``by_step=True`` returns; but it is not symmetric.
    With ``("start", "start")`` it is :func:`pkbook.path_kernel`.

    Parameters
    ----------
    run
        a recorded run, of an optimizer without memory where the formula is to hold.
    x1, x2
        inputs ``[n1, ...]`` and ``[n2, ...]``; ``None`` means ``x1`` again.
    sides
        where the features of ``x1`` and ``x2`` are taken, ``"step"`` or ``"start"``.
    nodes
        Gauss-Legendre nodes for the integral.
    by_step
        keep the steps apart.
    reduce
        as for :func:`pkbook.gradient_kernel`.

    Returns
    -------
    Tensor ``[n1, n2]``, float64; ``[K, n1, n2]`` with ``by_step``; blocks with ``reduce="full"``.

    Raises
    ------
    TypeError, ValueError
        for a run without steps, unknown sides, and models and inputs as
        :func:`pkbook.gradient_kernel`.

    References
    ----------
    Bell, Geyer, Glickenstein, Fernandez and Moore 2023, *An Exact Kernel Equivalence for Finite
    Classification Models*.
    """
    if len(run) == 0:
        raise ValueError("run has no step yet: call run.step(batch) before exact_path_kernel")
    if not isinstance(sides, tuple) or len(sides) != 2:
        raise ValueError(f'sides must be two words, such as ("step", "start"), got {sides!r}')
    for side in sides:
        require_choice(side, "sides", SIDES)
    places, weights = np.polynomial.legendre.leggauss(require_whole(nodes, "nodes"))
    rule = list(zip((places + 1) / 2, weights / 2, strict=True))
    if sides == ("start", "start"):
        rule = [(0.0, 1.0)]
    steps = (
        sum_of(
            weight * gram(model, x1, x2, reduce=reduce, weight=rates, parameters1=a, parameters2=b)
            for weight, a, b in _features(before, after, model, rule, sides)
        ).double()
        for before, after, model, rates in _steps(run)
    )
    return torch.stack(list(steps)).flip(0) if by_step else sum_of(steps)


def _steps(run: Recording) -> Iterator[tuple[StepState, StepState, nn.Module, dict[str, float]]]:
    """Each step with the learning rates of its parameters, the last one first."""
    for part in run.segments_backwards():
        model = part.model.eval()
        for before, after in reversed(list(pairwise(part.states))):
            put_buffers(model, before.buffers)
            yield before, after, model, {n: before.rates.get(n, 0.0) for n in trainable(model)}
        del part  # not held while the next part is replayed


def _features(
    before: StepState,
    after: StepState,
    model: nn.Module,
    rule: list[tuple[float, float]],
    sides: tuple[str, str],
) -> Iterator[tuple[float, Tree, Tree]]:
    """For each node of the rule its weight and the parameters of both sides."""
    start = trainable(model) | before.parameters
    end = trainable(model) | after.parameters
    for place, weight in rule:
        here = {n: torch.lerp(p, end[n], place) for n, p in start.items()}
        at = {"step": here, "start": start}
        yield float(weight), at[sides[0]], at[sides[1]]
