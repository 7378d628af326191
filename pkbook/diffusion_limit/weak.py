r"""The weak error, its confidence interval, and the order at which it falls.

.. math:: e(\eta)=\mathbb E f(x,\theta_{T/\eta})-\Big(f(x,\theta_0)
   -\frac1N\sum_i\mathbb E\int_0^T(\dots)\,dt\Big)

Both expectations are means over paths.  Two things make them known better than by plain counting.
The discrete run and the diffusion are driven by the same normals, and each path carries a
*control*: a sum of the gradient noise it met, weighted with the query's gradient, whose mean is
exactly zero.  What the control explains is taken off.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import stdtrit
from torch import Tensor
from tqdm.auto import tqdm

from pkbook.basics.checks import is_finite_number, require_choice, require_whole
from pkbook.diffusion_limit.limits import Limit
from pkbook.diffusion_limit.simulate import diffusion, discrete, substeps

AGAINST = ("theorem", "diffusion")


@dataclass(frozen=True)
class Slope:
    r"""The order fitted to errors at several learning rates, with its interval.

    All three are NaN where an error was not told from zero.
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        if math.isnan(self.value):
            return "unknown (an error is not told from zero)"
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


@dataclass(frozen=True)
class WeakError:
    """Errors ``[L, m]`` at L learning rates and m queries, from independent replicas."""

    rates: Tensor
    replicas: Tensor
    """The error found by each replica, ``[L, r, m]``."""
    confidence: float

    @property
    def error(self) -> Tensor:
        """Mean over the replicas, signed, ``[L, m]``."""
        return self.replicas.mean(1)

    @property
    def spread(self) -> Tensor:
        """Standard error of that mean, ``[L, m]``."""
        return self.replicas.std(1) / self.replicas.shape[1] ** 0.5

    @property
    def interval(self) -> tuple[Tensor, Tensor]:
        """Student's confidence interval of the error, two ``[L, m]``."""
        t = stdtrit(self.replicas.shape[1] - 1, (1 + self.confidence) / 2)
        return self.error - t * self.spread, self.error + t * self.spread

    def slope(self, query: int = 0) -> Slope:
        r"""Least squares of :math:`\log|e|` against :math:`\log\eta`, weighted by precision.

        NaN, with a ``RuntimeWarning``, where an error's interval contains zero: its logarithm means
        nothing then.
        """
        e, s = self.error[:, query].numpy(), self.spread[:, query].numpy()
        low, high = (bound[:, query] for bound in self.interval)
        lost = ((low < 0) & (high > 0)).nonzero().flatten().tolist()
        if lost:
            return untold(
                f"the error at learning rate {self.rates[lost[0]]:g} is not told from zero "
                f"({e[lost[0]]:.2g} with standard error {s[lost[0]]:.2g}); take more paths or "
                "larger learning rates"
            )
        freedom = len(e) * (self.replicas.shape[1] - 1)
        return fit_slope(self.rates.numpy(), e, s, freedom, self.confidence)


def untold(why: str) -> Slope:
    """No order, and a warning that says why."""
    warnings.warn(why, RuntimeWarning, stacklevel=3)
    return Slope(math.nan, math.nan, math.nan)


def fit_slope(
    rates: np.ndarray, errors: np.ndarray, spread: np.ndarray, freedom: int, confidence: float
) -> Slope:
    """A weighted straight line through logarithms; the spreads are taken as known up to Student."""
    size = np.abs(errors)
    (value, _), covariance = np.polyfit(
        np.log(rates), np.log(size), 1, w=size / spread, cov="unscaled"
    )
    reach = float(stdtrit(freedom, (1 + confidence) / 2) * np.sqrt(covariance[0, 0]))
    return Slope(float(value), float(value) - reach, float(value) + reach)


def weak_error(
    make: Callable[[float], Limit],
    x: Tensor,
    *,
    rates: list[float],
    time: float = 1.0,
    paths: int = 1000,
    replicas: int = 8,
    seed: int = 0,
    against: str = "theorem",
    confidence: float = 0.95,
    dt: float | Callable[[float], float] | None = None,
    progress: bool = False,
) -> WeakError:
    r"""Measure the weak error of an optimizer's diffusion at several learning rates.

    Parameters
    ----------
    make
        from a learning rate to a :class:`Limit`; it says how betas go with the rate.
    x
        queries ``[m, ...]``.
    rates
        learning rates :math:`\eta`; each must divide ``time``.
    time
        :math:`T=K\eta`.
    paths, replicas
        paths of each replica; independent replicas, at least 2.
    seed
        of the first replica.
    against
        ``"theorem"`` compares with the theorem's right-hand side, ``"diffusion"`` with
        :math:`\mathbb E f(x,\Theta_T)` (Lemma 3.1).
    dt
        time step of the diffusion, a divisor of each rate, or a function from a rate to it; by
        default half of each rate.  A smaller one shows that the scheme's own error is small.
        Where squares start at zero (:class:`RMSprop`) it is not: write ``lambda lr: lr / 16``.

    Returns
    -------
    WeakError

    Raises
    ------
    DivergenceError
        where a learning rate is too large.
    TypeError, ValueError
        for rates that do not divide the time, a ``dt`` that is larger than a rate or does not
        divide it, fewer than 2 replicas, and as
        :func:`~pkbook.diffusion_limit.discrete`.

    References
    ----------
    arXiv 2603.13872, Definition 3.1 and Theorems 3.4 to 3.7.
    """
    require_choice(against, "against", AGAINST)
    require_whole(replicas, "replicas", least=2)
    require_whole(seed, "seed", least=0)
    steps = [_steps(time, rate) for rate in rates]
    step_of = {rate: dt(rate) if callable(dt) else dt for rate in rates}
    for rate, step in step_of.items():
        substeps(rate, step)
    found = []
    for rate, count in zip(tqdm(rates, disable=not progress, desc="rates"), steps, strict=True):
        limit = make(rate)
        step = step_of[rate]
        rows = [_replica(limit, x, count, paths, seed + r, against, step) for r in range(replicas)]
        found.append(torch.stack(rows))
    return WeakError(torch.tensor(rates, dtype=torch.float64), torch.stack(found), confidence)


def _steps(time: float, rate: float) -> int:
    if not is_finite_number(rate) or rate <= 0:
        raise ValueError(f"rates must be positive numbers, got {rate!r}")
    count = round(time / rate)
    if count < 1 or abs(count * rate - time) > 1e-6 * time:
        raise ValueError(f"rates must divide the time {time:g}, got {rate:g}")
    return count


def _replica(
    limit: Limit, x: Tensor, steps: int, paths: int, seed: int, against: str, dt: float | None
) -> Tensor:
    """One estimate of the error, ``[m]``."""
    one, two = (torch.Generator(limit.task.theta.device).manual_seed(seed) for _ in range(2))
    theirs = discrete(limit, x, steps=steps, paths=paths, generator=one, control=True)
    ours = diffusion(limit, x, steps=steps, paths=paths, generator=two, dt=dt, control=True)
    right = ours.predicted[-1] if against == "theorem" else ours.outputs[-1]
    if theirs.control is None or ours.control is None:
        raise ValueError("both runs must have a control; write control=True")
    return controlled(theirs.outputs[-1] - right, [theirs.control, ours.control]).cpu()


def controlled(values: Tensor, controls: list[Tensor]) -> Tensor:
    """Mean of ``values [R, m]`` after regression on controls ``[R, m]`` whose mean is zero.

    The coefficients come from the same paths, which biases the mean by :math:`O(1/R)` of its
    standard error squared.
    """
    found = []
    for m in range(values.shape[1]):
        z = torch.stack([c[:, m] for c in controls], 1)
        z = z[:, z.std(0) > 0]
        centred = z - z.mean(0)
        beta = torch.linalg.lstsq(centred, (values[:, m] - values[:, m].mean()).unsqueeze(1))
        found.append(values[:, m].mean() - (z.mean(0) @ beta.solution)[0] if z.shape[1] else
                     values[:, m].mean())  # fmt: skip
    return torch.stack(found)
