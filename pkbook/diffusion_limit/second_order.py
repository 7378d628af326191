r"""SGD's modified equation of second order, and what goes with it into the theorem's integral.

Gradient descent turns while it steps, and the flow turns all the time.  A penalty on steepness
makes up for it: the diffusion then descends :math:`L+\frac\eta4|\nabla L|^2`, with the drift
:math:`-A\nabla L`, :math:`A=I+\frac\eta2\nabla^2L` (Li, Tai, E 2019).  In the account of a
prediction this is the weighted kernel of arXiv 2603.13872, Definition 3.3, and the second-order
term of Itô's formula is counted and no longer neglected.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from pkbook.basics.checks import require_choice
from pkbook.diffusion_limit.limits import SGD

SHARES = ("account", "kernel")


@dataclass(frozen=True)
class SecondOrderSGD(SGD):
    r"""SGD with the diffusion that approximates it to second order.

    .. math:: d\Theta=-\nabla\big(L+\tfrac\eta4|\nabla L|^2\big)(\Theta)\,dt
       +\sqrt\eta\,\Sigma^{1/2}(\Theta)\,dW .

    With :math:`a_i=\nabla\ell_i-\nabla L` the prediction is
    :math:`f(x,\theta_0)-\frac1N\sum_i\mathbb E\int(\dots)\,dt+O(\eta^2)`, where the sample's term
    is, for ``shares="kernel"``,

    .. math:: \ell'_iK^{s,A_t}_{x,x_i}(t)-\tfrac{\eta\kappa}2\,a_i^\top\nabla^2f(x)\,a_i,\qquad
       A_t=I+\tfrac\eta2\nabla^2L(\Theta_t),

    and for ``shares="account"``, the default, with the same sum over the samples,

    .. math:: \ell'_iK^s_{x,x_i}(t)+\tfrac\eta2\nabla f(x)^\top\nabla^2\ell_i\nabla L
       -\tfrac{\eta\kappa}2\nabla\ell_i^\top\nabla^2f(x)\,a_i .

    The second is, sample by sample, the mean of the exact contributions up to :math:`O(\eta^2)`;
    the first only up to :math:`O(\eta)`.  A step needs N (m + 1) products with second derivatives.
    The default time step of :func:`diffusion` has an error of order :math:`\eta^2` of its own; give
    a smaller ``dt`` where the constant matters.

    Raises ``ValueError`` for another word in ``shares``, and as :class:`SGD`.

    References
    ----------
    Li, Tai, E 2019 (the diffusion); arXiv 2603.13872, Definition 3.3 and Theorem 3.4.

    >>> import torch
    >>> from pkbook.losses import squared
    >>> from pkbook.diffusion_limit import Task
    >>> task = Task(torch.nn.Linear(1, 1), squared, (torch.ones(2, 1), torch.zeros(2, 1)))
    >>> SecondOrderSGD(task, 0.1, 1).weak_order
    2.0
    """

    shares: str = "account"
    weak_order: ClassVar[float] = 2.0
    equation: ClassVar[str] = "dTheta = -grad (L + eta/4 |grad L|^2) dt + sqrt(eta) Sigma^(1/2) dW"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice(self.shares, "shares", SHARES)

    def steeper(self, theta: Tensor, vectors: Tensor) -> Tensor:
        r""":math:`Av` for ``vectors [R, k, P]`` at ``theta [R, P]``."""
        return vectors + self.lr / 2 * self.task.hessian_products(theta, vectors)

    def bending(
        self, theta: Tensor, x: Tensor, each: Tensor, query: Tensor
    ) -> tuple[Tensor, Tensor]:
        r"""What each sample's term holds beside :math:`\ell'_iK`, two ``[R, N, m]``.

        From gradients ``each [R, N, P]`` of the losses and ``query [R, m, P]`` of the predictions:
        the term of the turning gradient, and that of Itô's second derivative.
        """
        mean = each.mean(1)
        a = each - mean.unsqueeze(1)
        if self.shares == "kernel":
            turned = self.task.hessian_products(theta, query)
            drift = (each @ turned.mT) * (self.lr / 2)
            left = a
        else:
            drift = self.task.loss_curvatures(theta, query, mean) * (self.lr / 2)
            left = each
        noise = self.task.query_curvatures(theta, x, left, a)
        return drift, noise * (-self.lr * self.factor / 2)
