r"""Distributions whose densities are known: data to imitate, and generators that imitate them.

Both give :math:`\log p(x)` and the score :math:`\nabla_x\log p(x)`, from which the optimal
discriminator and its feedback follow in closed form.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from pkbook.basics.checks import is_finite_number, require_finite, require_tensor, require_whole
from pkbook.basics.randomness import seeded


@dataclass(frozen=True)
class GaussianMixture:
    r""":math:`p(x)=\sum_j\pi_j\,\mathcal N(x;\mu_j,s^2I)` with ``means [J, d]`` and ``scale`` s.

    ``weights [J]`` default to equal ones.

    >>> two = GaussianMixture(torch.tensor([[-1.0], [1.0]]), 0.5)
    >>> two.score(torch.zeros(1, 1))                    # between two equal modes
    tensor([[0.]])
    """

    means: Tensor
    scale: float
    weights: Tensor | None = None

    def __post_init__(self) -> None:
        means = require_finite(require_tensor(self.means, "means"), "means")
        if means.ndim != 2 or not means.numel():
            raise ValueError(f"means must be [J, d], got {list(means.shape)}")
        if not is_finite_number(self.scale) or self.scale <= 0:
            raise ValueError(f"scale must be a positive number, got {self.scale!r}")
        weights = torch.ones(len(means)) if self.weights is None else self.weights
        if weights.shape != (len(means),) or (weights <= 0).any():
            raise ValueError(f"weights must be one positive number a mode, [{len(means)}]")
        object.__setattr__(self, "weights", (weights / weights.sum()).to(means))

    @property
    def _shares(self) -> Tensor:
        """``weights``, which every mixture has once it is made."""
        if self.weights is None:
            raise ValueError("weights must be set by GaussianMixture(means, scale, weights)")
        return self.weights

    def _parts(self, x: Tensor) -> Tensor:
        """Logarithm of each mode's part, ``[n, J]``."""
        squares = (x.unsqueeze(1) - self.means).square().sum(2) / self.scale**2
        size = self.means.shape[1] * math.log(self.scale * math.sqrt(2 * math.pi))
        return self._shares.log() - squares / 2 - size

    def log_prob(self, x: Tensor) -> Tensor:
        r""":math:`\log p(x)` for ``x [n, d]``, ``[n]``."""
        return self._parts(x).logsumexp(1)

    def score(self, x: Tensor) -> Tensor:
        r""":math:`\nabla\log p(x)`, ``[n, d]``."""
        shares = self._parts(x).softmax(1)
        return (shares @ self.means - x) / self.scale**2

    def mode(self, x: Tensor) -> Tensor:
        """The nearest mode of each point, ``[n]``."""
        return torch.cdist(x, self.means).argmin(1)

    def sample(self, n: int, *, generator: torch.Generator) -> Tensor:
        """``[n, d]``."""
        require_whole(n, "n")
        chosen = torch.multinomial(self._shares, n, replacement=True, generator=generator)
        noise = torch.randn(n, self.means.shape[1], generator=generator, dtype=self.means.dtype)
        return self.means[chosen] + self.scale * noise.to(self.means.device)


def ring_of_gaussians(modes: int = 8, *, radius: float = 1.0, scale: float = 0.1):
    """Equal Gaussians on a circle, the usual test of mode collapse.

    >>> ring_of_gaussians(4).means.round().abs()
    tensor([[1., 0.],
            [0., 1.],
            [1., 0.],
            [0., 1.]])
    """
    angle = 2 * math.pi * torch.arange(require_whole(modes, "modes")) / modes
    return GaussianMixture(radius * torch.stack([angle.cos(), angle.sin()], 1), scale)


class AffineGenerator(nn.Module):
    r""":math:`G(z)=Az+b` with :math:`z\sim\mathcal N(0,I)`: its density is a Gaussian.

    Starts at :math:`A=` ``scale`` :math:`I`, :math:`b=0`.
    """

    def __init__(self, dimension: int = 1, *, scale: float = 1.0) -> None:
        super().__init__()
        require_whole(dimension, "dimension")
        self.linear = nn.Linear(dimension, dimension, device="meta").to_empty(device="cpu")
        with torch.no_grad():
            self.linear.weight.copy_(scale * torch.eye(dimension))
            self.linear.bias.zero_()

    def forward(self, z: Tensor) -> Tensor:
        return self.linear(z)

    @torch.no_grad()
    def density_at(self, z: Tensor) -> tuple[Tensor, Tensor]:
        r""":math:`\log p_g` and its score at :math:`x=G(z)`, ``[n]`` and ``[n, d]``."""
        a = self.linear.weight
        size = z.shape[1] * math.log(2 * math.pi) / 2
        log_prob = -z.square().sum(1) / 2 - size - torch.linalg.slogdet(a).logabsdet
        return log_prob, torch.linalg.solve(a.T, -z.T).T

    @torch.no_grad()
    def density(self, x: Tensor) -> tuple[Tensor, Tensor]:
        r"""The same at points ``x [n, d]``."""
        z = torch.linalg.solve(self.linear.weight, (x - self.linear.bias).T).T
        return self.density_at(z)


class MonotoneGenerator(nn.Module):
    r"""A rising function of one latent, so that its push-forward density is known:

    .. math:: G(z)=e^{a}z+b+\sum_je^{w_j}\tanh(e^{v_j}z+c_j),\qquad
       p_g(G(z))=\frac{p_z(z)}{G'(z)},\quad z\sim\mathcal N(0,1).

    ``units`` is the number of steps :math:`j`.
    """

    def __init__(self, units: int = 8, *, seed: int | None = None) -> None:
        super().__init__()
        require_whole(units, "units")
        with seeded(0 if seed is None else seed, torch.device("cpu")):
            self.slope = nn.Parameter(torch.tensor(-1.0))
            self.shift = nn.Parameter(torch.tensor(0.0))
            self.heights = nn.Parameter(torch.randn(units) * 0.3 - 2)
            self.rates = nn.Parameter(torch.randn(units) * 0.3)
            self.centres = nn.Parameter(torch.randn(units))

    def forward(self, z: Tensor) -> Tensor:
        bent = torch.tanh(self.rates.exp() * z + self.centres)
        return self.slope.exp() * z + self.shift + (self.heights.exp() * bent).sum(1, keepdim=True)

    @torch.no_grad()
    def density_at(self, z: Tensor) -> tuple[Tensor, Tensor]:
        r""":math:`\log p_g` and its score at :math:`x=G(z)`, ``[n]`` and ``[n, 1]``."""
        rates, bent = self.rates.exp(), torch.tanh(self.rates.exp() * z + self.centres)
        steep = 1 - bent.square()
        first = self.slope.exp() + (self.heights.exp() * rates * steep).sum(1)
        second = (self.heights.exp() * rates.square() * -2 * bent * steep).sum(1)
        z = z[:, 0]
        log_prob = -z.square() / 2 - math.log(2 * math.pi) / 2 - first.log()
        return log_prob, ((-z - second / first) / first).unsqueeze(1)

    @torch.no_grad()
    def density(self, x: Tensor) -> tuple[Tensor, Tensor]:
        r"""The same at points ``x [n, 1]``, whose latents are found by bisection."""
        low, high = torch.full_like(x, -12.0), torch.full_like(x, 12.0)
        for _ in range(60):
            middle = (low + high) / 2
            below = self(middle) < x
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return self.density_at((low + high) / 2)


def log_discriminator(log_data: Tensor, log_generator: Tensor) -> Tensor:
    r""":math:`\log D^*=\log\frac{p_{data}}{p_{data}+p_g}`, computed from logarithms, ``[n]``."""
    return functional.logsigmoid(log_data - log_generator)
