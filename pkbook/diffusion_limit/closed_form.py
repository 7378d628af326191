r"""Mean and covariance without simulation, where the model is linear in its parameters.

For :math:`f(x,\theta)=a(x)\cdot\theta+c(x)` and the squared loss, gradients are linear in
:math:`\theta` and the noise covariance is quadratic, so that the first two moments of SGD, of
momentum and of their diffusions obey closed linear equations.  They are the oracle of the
simulations, and the way to the weak order without Monte-Carlo noise (arXiv 2603.13872, Lemma 3.1).
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pkbook.basics.checks import require_whole
from pkbook.diffusion_limit.limits import SGD, Limit, Momentum
from pkbook.diffusion_limit.second_order import SecondOrderSGD
from pkbook.diffusion_limit.task import Task


@dataclass(frozen=True)
class Moments:
    r"""Mean ``[K + 1, P]`` and covariance ``[K + 1, P, P]`` of :math:`\theta_k`, float64."""

    mean: Tensor
    covariance: Tensor

    def prediction(self, a: Tensor) -> tuple[Tensor, Tensor]:
        r"""Mean and variance ``[K + 1, m]`` of :math:`a\cdot\theta` for gradients ``a [m, P]``."""
        a = a.double()
        return self.mean @ a.T, torch.einsum("mp,kpq,mq->km", a, self.covariance, a)


@dataclass(frozen=True)
class _Linear:
    """The quadratic problem: designs ``a [N, P]``, targets ``y [N]``."""

    a: np.ndarray
    y: np.ndarray

    @property
    def hessian(self) -> np.ndarray:
        return self.a.T @ self.a / len(self.a)

    @property
    def pull(self) -> np.ndarray:
        return self.a.T @ self.y / len(self.a)

    def noise(self, mean: np.ndarray, second: np.ndarray, factor: float) -> np.ndarray:
        """The expected covariance of the batch gradient, from the moments of theta."""
        squares = np.einsum("np,pq,nq->n", self.a, second, self.a)
        squares += self.y * (self.y - 2 * self.a @ mean)
        h, b = self.hessian, self.pull
        cross = np.outer(h @ mean, b)
        full = h @ second @ h - cross - cross.T + np.outer(b, b)
        return factor * ((self.a.T * squares) @ self.a / len(self.a) - full)


def linear_problem(task: Task) -> tuple[Tensor, Tensor]:
    """Designs ``[N, P]`` and targets ``[N]``; ``ValueError`` where the model or loss is another.

    >>> import torch
    >>> from pkbook.losses import squared
    >>> line = torch.nn.Linear(1, 1)
    >>> linear_problem(Task(line, squared, (torch.ones(2, 1), torch.zeros(2, 1))))[0]
    tensor([[1., 1.],
            [1., 1.]], dtype=torch.float64)
    """
    x, _ = task.data
    generator = torch.Generator().manual_seed(0)
    theta = task.theta + torch.randn(
        (3, task.theta.numel()), generator=generator, dtype=task.theta.dtype
    ).to(task.theta.device)
    a = task.query_gradients(theta, x)
    g = task.sample_gradients(theta)
    r = torch.einsum("rnp,rnp->rn", g, a) / a.square().sum(2).clamp_min(1e-300)
    y = task.outputs(theta, x) - r
    scale = g.abs().max()
    same = (a - a[:1]).abs().max() < 1e-5 * a.abs().max()
    quadratic = (g - r.unsqueeze(2) * a).abs().max() < 1e-5 * scale
    if not (same and quadratic and (y - y[:1]).abs().max() < 1e-4 * y.abs().max().clamp_min(1)):
        raise ValueError(
            "closed forms need a model that is linear in its parameters, one output, and the "
            "squared loss; write torch.nn.Linear(d, 1) with pkbook.losses.squared"
        )
    offset = task.outputs(theta, x)[0].double() - a[0].double() @ theta[0].double()
    return a[0].double(), y[0].double() - offset


def discrete_moments(limit: Limit, steps: int) -> Moments:
    r"""Mean and covariance of the optimizer's :math:`\theta_k`, exactly.

    ``TypeError`` for optimizers other than :class:`SGD` and :class:`Momentum`, ``ValueError`` for
    problems that are not linear.
    """
    limit, problem, p = _problem(limit, steps)
    eta, h, b, eye = limit.lr, problem.hessian, problem.pull, np.eye(p)
    if isinstance(limit, SGD):
        f, c, g = eye - eta * h, eta * b, -eta * eye
    else:
        keep = limit.beta
        f = np.block(
            [[eye - eta * (1 - keep) * h, -eta * keep * eye], [(1 - keep) * h, keep * eye]]
        )
        c = (1 - keep) * np.concatenate([eta * b, -b])
        g = (1 - keep) * np.vstack([-eta * eye, eye])
    mean, second = _start(limit, len(f))
    found = [(mean, second)]
    for _ in range(steps):
        noise = problem.noise(mean[:p], second[:p, :p], limit.factor)
        moved = np.outer(f @ mean, c)
        second = f @ second @ f.T + moved + moved.T + np.outer(c, c) + g @ noise @ g.T
        mean = f @ mean + c
        found.append((mean, second))
    return _moments(found, p)


def diffusion_moments(limit: Limit, steps: int) -> Moments:
    r"""Mean and covariance of the diffusion at the times :math:`k\eta`, to twelve digits.

    Errors as for :func:`discrete_moments`.
    """
    from scipy.integrate import solve_ivp  # takes a second to import

    limit, problem, p = _problem(limit, steps)
    h, b, eye, zero = problem.hessian, problem.pull, np.eye(p), np.zeros((p, p))
    if isinstance(limit, SGD):
        # the modified equation's drift is A(h theta - b) with A = 1 + eta h / 2
        steep = eye + limit.lr / 2 * h if isinstance(limit, SecondOrderSGD) else eye
        a, c, g = -steep @ h, steep @ b, eye
    else:
        rate = limit.memory_rate
        a = np.block([[zero, -eye], [rate * h, -rate * eye]])
        c, g = np.concatenate([np.zeros(p), -rate * b]), rate * np.vstack([zero, eye])
    d = len(a)

    def slope(_: float, packed: np.ndarray) -> np.ndarray:
        mean, second = packed[:d], packed[d:].reshape(d, d)
        noise = limit.lr * problem.noise(mean[:p], second[:p, :p], limit.factor)
        drift = a @ second + np.outer(mean, c)
        return np.concatenate([a @ mean + c, (drift + drift.T + g @ noise @ g.T).ravel()])

    times = limit.lr * np.arange(steps + 1)
    start = np.concatenate([part.ravel() for part in _start(limit, d)])
    solved = solve_ivp(slope, (0, times[-1]), start, "DOP853", times, rtol=1e-12, atol=1e-14)
    return _moments([(z[:d], z[d:].reshape(d, d)) for z in solved.y.T], p)


def _problem(limit: Limit, steps: int) -> tuple[SGD | Momentum, _Linear, int]:
    if not isinstance(limit, SGD | Momentum):
        raise TypeError(
            f"closed forms exist for SGD and Momentum, not for {type(limit).__name__}: its step "
            "is not linear in the gradient"
        )
    require_whole(steps, "steps")
    a, y = linear_problem(limit.task)
    return limit, _Linear(a.cpu().numpy(), y.cpu().numpy()), a.shape[1]


def _start(limit: Limit, width: int) -> tuple[np.ndarray, np.ndarray]:
    mean = np.zeros(width)
    theta = limit.task.theta.double().cpu().numpy()
    mean[: len(theta)] = theta
    return mean, np.outer(mean, mean)


def _moments(found: list[tuple[np.ndarray, np.ndarray]], p: int) -> Moments:
    mean = torch.tensor(np.stack([m[:p] for m, _ in found]))
    second = torch.tensor(np.stack([s[:p, :p] for _, s in found]))
    return Moments(mean, second - mean.unsqueeze(2) * mean.unsqueeze(1))
