r"""The four optimizers, each as a discrete process and as its diffusion.

A limit object holds one learning rate.  ``discrete`` runs the optimizer itself, ``diffusion`` its
stochastic differential equation (arXiv 2603.13872, eq. (7), (18), (22) and (32)), both for many
paths at once.  With the diffusion goes the theorem's integral along each path, so that both sides
of

.. math:: \mathbb E f(x,\theta_k)=f(x,\theta_0)-\frac1N\sum_i\mathbb E\int_0^{k\eta}(\dots)\,dt+
   \text{remainder}

are averages over what is returned.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pkbook.basics.checks import is_finite_number
from pkbook.basics.parameters import sum_of
from pkbook.diffusion_limit.noise import covariance_factor
from pkbook.diffusion_limit.task import Task

State = dict[str, Tensor]
"""``theta`` and the optimizer's own variables, each ``[R, P]``."""


@dataclass(frozen=True)
class Local:
    r"""What the loss says at one point of each path, all ``[R, P]``."""

    gradient: Tensor
    r""":math:`\nabla L(\theta)`."""
    square: Tensor | None
    r""":math:`(\nabla L)^2+\operatorname{diag}\Sigma`, where the optimizer asks for it."""


@dataclass(frozen=True)
class Limit:
    """What the four have in common."""

    task: Task
    lr: float
    r""":math:`\eta`; it is also the unit of time of one step."""
    batch_size: int
    replace: bool = False
    """Whether batches are drawn with replacement."""

    variables: ClassVar[tuple[str, ...]] = ()
    """Names of the optimizer's own variables."""
    squares: ClassVar[bool] = False
    weak_order: ClassVar[float] = 1.0
    r"""The paper's claim: the remainder is :math:`O(\eta^{\text{order}})`."""
    equation: ClassVar[str] = ""
    assumptions: ClassVar[tuple[str, ...]] = (
        "the loss and the network are smooth in the parameters, with derivatives of at most "
        "polynomial growth",
        "the gradients of single samples are Lipschitz in the parameters",
        "batches are independent of each other",
    )

    def __post_init__(self) -> None:
        if not is_finite_number(self.lr) or self.lr <= 0:
            raise ValueError(f"lr must be a positive number, got {self.lr!r}")
        covariance_factor(self.task.samples, self.batch_size, self.replace)

    @property
    def factor(self) -> float:
        r""":math:`\kappa`, from one sample's covariance to that of the batch gradient."""
        return covariance_factor(self.task.samples, self.batch_size, self.replace)

    def start(self, paths: int) -> State:
        r"""All paths at :math:`\theta_0`."""
        theta = self.task.theta.expand(paths, -1).clone()
        return {"theta": theta} | {name: torch.zeros_like(theta) for name in self.variables}

    def update(self, state: State, g: Tensor, k: int) -> State:
        """One step of the optimizer with the batch gradients ``g [R, P]``; ``k`` counts from 0."""
        raise NotImplementedError

    def own(self, state: State, here: Local, there: Local, dt: float, noise: Tensor) -> State:
        """The optimizer's own variables after ``dt``; none for SGD."""
        return {}

    def move(self, old: State, new: State, g: Tensor, noise: Tensor, t: float, dt: float) -> Tensor:
        r"""The change of ``theta`` over ``[t, t + dt]``; ``noise`` is
        :math:`\sqrt\eta\,\Sigma^{1/2}dW`."""
        raise NotImplementedError

    def scale(self, old: State, new: State, t: float) -> Tensor | float:
        """The diagonal weight of the theorem's kernel in the middle of a step."""
        return 1.0

    def reach(self, steps: int) -> float:
        """How much of a gradient has arrived in ``theta`` after so many steps."""
        return 1.0 if self.memory_rate is None else 1 - (1 - self.memory_rate * self.lr) ** steps

    @property
    def memory_rate(self) -> float | None:
        """The rate of the exponential memory in the theorem's integral; None without memory."""
        return None


@dataclass(frozen=True)
class SGD(Limit):
    r"""Stochastic gradient descent, eq. (6) and (7).

    .. math:: \theta_{k+1}=\theta_k-\eta g_k,\qquad
       d\Theta=-\nabla L(\Theta)\,dt+\sqrt\eta\,\Sigma^{1/2}(\Theta)\,dW .

    Theorem 3.4, eq. (11): :math:`(\dots)=\ell'_i(\Theta_t)\,K^s_{x,x_i}(t)`.
    """

    equation: ClassVar[str] = "dTheta = -grad L dt + sqrt(eta) Sigma^(1/2) dW"

    def update(self, state: State, g: Tensor, k: int) -> State:
        return {"theta": state["theta"] - self.lr * g}

    def move(self, old, new, g, noise, t, dt) -> Tensor:
        return -g * dt - noise


def _require_beta(name: str, value: float) -> None:
    if not is_finite_number(value) or not 0 <= value < 1:
        raise ValueError(f"{name} must lie in [0, 1), got {value!r}")


def _require_not_negative(name: str, value: float) -> None:
    if not is_finite_number(value) or value < 0:
        raise ValueError(f"{name} must be a number of at least 0, got {value!r}")


def relax(value: Tensor, target: Tensor, rate: float, dt: float) -> Tensor:
    """Exactly what a linear relaxation towards a fixed target does in ``dt``."""
    return value + (target - value) * -math.expm1(-rate * dt)


def _damped(noise: Tensor, rate: float, dt: float) -> Tensor:
    """White noise that a relaxation has already damped by the end of ``dt``, exactly."""
    return noise * (rate * math.sqrt(-math.expm1(-2 * rate * dt) / (2 * rate * dt)))


@dataclass(frozen=True)
class Momentum(Limit):
    r"""Momentum in its averaging form, eq. (18) and (19), with :math:`\lambda=(1-\beta)/\eta`.

    .. math:: m_{k+1}&=\beta m_k+(1-\beta)g_k,\qquad\theta_{k+1}=\theta_k-\eta m_{k+1},\\
       dM&=\lambda(\nabla L(\Theta)-M)\,dt+\lambda\sqrt\eta\,\Sigma^{1/2}dW,\qquad d\Theta=-M\,dt .

    Theorem 3.5, eq. (16): :math:`(\dots)=\int_0^t\lambda e^{-\lambda(t-s)}\,\ell'_i(\Theta_s)\,
    K^s_{x,x_i}(t,s)\,ds`.  ``torch.optim.SGD(lr=a, momentum=beta)`` is this with
    :math:`\eta=a/(1-\beta)`.
    """

    beta: float = 0.9
    variables: ClassVar[tuple[str, ...]] = ("m",)
    equation: ClassVar[str] = (
        "dM = lambda (grad L - M) dt + lambda sqrt(eta) Sigma^(1/2) dW;  dTheta = -M dt"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_beta("beta", self.beta)

    @property
    def memory_rate(self) -> float:
        r""":math:`\lambda`."""
        return (1 - self.beta) / self.lr

    def update(self, state: State, g: Tensor, k: int) -> State:
        m = self.beta * state["m"] + (1 - self.beta) * g
        return {"theta": state["theta"] - self.lr * m, "m": m}

    def own(self, state, here, there, dt, noise) -> State:
        rate = self.memory_rate
        target = (here.gradient + there.gradient) / 2
        return {"m": relax(state["m"], target, rate, dt) + _damped(noise, rate, dt)}

    def move(self, old, new, g, noise, t, dt) -> Tensor:
        return -(old["m"] + new["m"]) / 2 * dt


_GAUSS_3 = [(0.5 - 0.15**0.5, 5 / 18), (0.5, 8 / 18), (0.5 + 0.15**0.5, 5 / 18)]


def _mean_inverse(old: Tensor, new: Tensor, eps: float) -> Tensor:
    r"""The mean of :math:`1/(\sqrt v+\epsilon)` while v goes straight from ``old`` to ``new``.

    From :math:`v=0` the midpoint would miss a part of order :math:`\sqrt{dt}`: as much as the
    remainder that is to be measured.  In :math:`\sqrt v` the integrand is smooth.
    """
    left, right = old.sqrt(), new.sqrt()
    total = left + right

    def part(place: float, weight: float) -> Tensor:
        root = left + place * (right - left)
        share = torch.where(total > 0, 2 * root / total, 1.0)
        return weight * share / (root + eps)

    return sum_of(part(place, weight) for place, weight in _GAUSS_3)


def _mean_square(here: Local, there: Local) -> Tensor:
    """The mean of ``square``; ``ValueError`` where it was not asked for."""
    if here.square is None or there.square is None:
        raise ValueError("square must be there at both ends; write Local(gradient, square)")
    return (here.square + there.square) / 2


@dataclass(frozen=True)
class RMSprop(Limit):
    r"""RMSprop, eq. (22), (23) and (35), with :math:`\rho=(1-\beta)/\eta`,
    :math:`P_t=\operatorname{diag}(V_t)^{1/2}+\epsilon`.

    .. math:: v_{k+1}&=\beta v_k+(1-\beta)g_k^2,\qquad
       \theta_{k+1}=\theta_k-\eta\,g_k/(\sqrt{v_{k+1}}+\epsilon),\\
       d\Theta&=-P_t^{-1}(\nabla L\,dt+\sqrt\eta\,\Sigma^{1/2}dW),\qquad
       dV=\rho\big((\nabla L)^2+\operatorname{diag}\Sigma-V\big)dt .

    Theorem 3.6, eq. (20): :math:`(\dots)=\ell'_i(\Theta_t)\,K^{s,P_t^{-1}}_{x,x_i}(t)`.
    """

    beta: float = 0.9
    eps: float = 1e-2
    v0: float = 0.0
    """The second moment at the start, for every parameter (torch: 0)."""
    variables: ClassVar[tuple[str, ...]] = ("v",)
    squares: ClassVar[bool] = True
    equation: ClassVar[str] = (
        "dTheta = -P^-1 (grad L dt + sqrt(eta) Sigma^(1/2) dW);  "
        "dV = rho ((grad L)^2 + diag Sigma - V) dt"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_beta("beta", self.beta)
        _require_not_negative("eps", self.eps)
        _require_not_negative("v0", self.v0)

    @property
    def rate(self) -> float:
        r""":math:`\rho`."""
        return (1 - self.beta) / self.lr

    def start(self, paths: int) -> State:
        state = super().start(paths)
        state["v"].fill_(self.v0)
        return state

    def update(self, state: State, g: Tensor, k: int) -> State:
        v = self.beta * state["v"] + (1 - self.beta) * g.square()
        return {"theta": state["theta"] - self.lr * g / (v.sqrt() + self.eps), "v": v}

    def own(self, state, here, there, dt, noise) -> State:
        target = _mean_square(here, there)
        return {"v": relax(state["v"], target, self.rate, dt)}

    def scale(self, old: State, new: State, t: float) -> Tensor:
        return _mean_inverse(old["v"], new["v"], self.eps)

    def move(self, old, new, g, noise, t, dt) -> Tensor:
        return -self.scale(old, new, t) * (g * dt + noise)


@dataclass(frozen=True)
class Adam(Limit):
    r"""Adam with bias correction, eq. (32) to (34), :math:`\rho_j=(1-\beta_j)/\eta`,
    :math:`\gamma_j(t)=1-e^{-\rho_jt}`.

    .. math:: \theta_{k+1}&=\theta_k-\eta\,\frac{\sqrt{1-\beta_2^{k+1}}}{1-\beta_1^{k+1}}\,
       \frac{m_{k+1}}{\sqrt{v_{k+1}}+\epsilon},\\
       dM&=\rho_1(\nabla L-M)\,dt+\rho_1\sqrt\eta\,\Sigma^{1/2}dW,\qquad
       dV=\rho_2\big((\nabla L)^2+\operatorname{diag}\Sigma-V\big)dt,\\
       d\Theta&=-\frac{\sqrt{\gamma_2(t)}}{\gamma_1(t)}\,P_t^{-1}M\,dt .

    Theorem 3.7, eq. (24): :math:`(\dots)=\frac{\sqrt{\gamma_2(t)}}{\gamma_1(t)}\int_0^t\rho_1
    e^{-\rho_1(t-s)}\,\ell'_i(\Theta_s)\,K^{s,P_t^{-1}}_{x,x_i}(t,s)\,ds`.  ``torch.optim.Adam``
    adds :math:`\epsilon` after the correction of the second moment; the paper, before it.
    """

    betas: tuple[float, float] = (0.9, 0.99)
    eps: float = 1e-2
    variables: ClassVar[tuple[str, ...]] = ("m", "v")
    squares: ClassVar[bool] = True
    weak_order: ClassVar[float] = 0.5
    equation: ClassVar[str] = (
        "dM = rho1 (grad L - M) dt + rho1 sqrt(eta) Sigma^(1/2) dW;  "
        "dV = rho2 ((grad L)^2 + diag Sigma - V) dt;  "
        "dTheta = -sqrt(gamma2)/gamma1 P^-1 M dt"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, beta in zip(("betas[0]", "betas[1]"), self.betas, strict=True):
            _require_beta(name, beta)
        _require_not_negative("eps", self.eps)

    @property
    def rates(self) -> tuple[float, float]:
        r""":math:`\rho_1,\rho_2`."""
        b1, b2 = self.betas
        return (1 - b1) / self.lr, (1 - b2) / self.lr

    @property
    def memory_rate(self) -> float:
        return self.rates[0]

    def update(self, state: State, g: Tensor, k: int) -> State:
        b1, b2 = self.betas
        m = b1 * state["m"] + (1 - b1) * g
        v = b2 * state["v"] + (1 - b2) * g.square()
        size = self.lr * math.sqrt(1 - b2 ** (k + 1)) / (1 - b1 ** (k + 1))
        return {"theta": state["theta"] - size * m / (v.sqrt() + self.eps), "m": m, "v": v}

    def own(self, state, here, there, dt, noise) -> State:
        r1, r2 = self.rates
        gradient = (here.gradient + there.gradient) / 2
        square = _mean_square(here, there)
        return {
            "m": relax(state["m"], gradient, r1, dt) + _damped(noise, r1, dt),
            "v": relax(state["v"], square, r2, dt),
        }

    def scale(self, old: State, new: State, t: float) -> Tensor:
        g1, g2 = (-math.expm1(-rate * t) for rate in self.rates)
        return math.sqrt(g2) / g1 / (((old["v"] + new["v"]) / 2).sqrt() + self.eps)

    def move(self, old, new, g, noise, t, dt) -> Tensor:
        return -self.scale(old, new, t + dt / 2) * (old["m"] + new["m"]) / 2 * dt
