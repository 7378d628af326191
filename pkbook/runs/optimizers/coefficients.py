r"""What a ``torch.optim`` optimizer did in one step, as a linear function of the gradients.

Every optimizer treated here moves each parameter by

.. math::
   \theta_{k+1}-\theta_k &= -D_k\,(h_k m_k+d_k G_k)-s_k\theta_k ,\\
   m_k &= \beta_k m_{k-1}+\tau_k E_k G_k ,\qquad G_k=\pm r_k g_k+\lambda_k\theta_k ,

with the batch gradient :math:`g_k`, a clipping factor :math:`r_k`, one memory :math:`m`, and
diagonal scales :math:`D_k,E_k` that hold the step size, the bias corrections and the second
moments.  Given those numbers, which a rule of :mod:`pkbook.runs.optimizers.rules` reads off the
optimizer after its step, the step is linear in the gradients of the samples.  Sources: the update
rules in the documentation of ``torch.optim``; arXiv 2603.13872, eq. (6), (16), (20) and (24).
"""

from dataclasses import dataclass, field

from torch import Tensor

from pkbook.basics.parameters import Tree

Number = float | Tensor
"""One number for a whole parameter, or one for each of its entries."""


@dataclass(frozen=True)
class Coefficients:
    """One step of one parameter, as in the formula at the top of this module."""

    keep: float = 1.0
    r""":math:`\beta_k`, what the memory keeps of itself (1: this step leaves it alone)."""
    take: float = 0.0
    r""":math:`\tau_k`, what it takes of the new gradient."""
    inner: Number = 1.0
    """:math:`E_k`, the scale of a gradient that enters the memory."""
    held: float = 0.0
    """:math:`h_k`, how much of the memory the step uses."""
    direct: float = 0.0
    """:math:`d_k`, how much of the gradient the step uses directly."""
    outer: Number = 1.0
    """:math:`D_k`, the scale of the step."""
    shrink: float = 0.0
    """:math:`s_k`, weight decay that does not pass through the gradient."""
    decay: float = 0.0
    r""":math:`\lambda_k`, weight decay added to the gradient."""
    sign: float = 1.0
    """-1 under ``maximize``."""
    clip: Number = 1.0
    """:math:`r_k`, clipped over unclipped gradient."""

    @property
    def own(self) -> Number:
        r""":math:`D_k(h_k\tau_kE_k+d_k)\,r_k`: what the step multiplies its own gradient with."""
        return self.outer * (self.held * self.take * self.inner + self.direct) * self.clip

    def entering(self, gradient: Tensor, theta: Tensor) -> Tensor:
        """:math:`G_k` of a gradient that is clipped already."""
        return self.sign * gradient + self.decay * theta

    def remembered(self, before: Tensor, entering: Tensor) -> Tensor:
        """The memory :math:`m_k` after the step, from the one before it."""
        return self.keep * before + self.take * self.inner * entering

    def move(self, memory: Tensor, entering: Tensor, theta: Tensor) -> Tensor:
        r"""The step :math:`\theta_{k+1}-\theta_k`, with the memory after it."""
        return -self.outer * (self.held * memory + self.direct * entering) - self.shrink * theta


@dataclass(frozen=True)
class StepState:
    """What taking a run apart needs to know about one of its steps, by parameter name."""

    parameters: Tree
    """The parameters before the step."""
    buffers: Tree = field(default_factory=dict)
    """The model's buffers before the step (running statistics)."""
    coefficients: dict[str, Coefficients] = field(default_factory=dict)
    """Parameters without a gradient are missing: the optimizer left them alone."""
    rates: dict[str, float] = field(default_factory=dict)
    """The learning rates in force."""
    kept: dict[str, Tree] = field(default_factory=dict)
    """What the optimizer kept of each parameter before the step, where that was asked for."""
