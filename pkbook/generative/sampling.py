r"""From noise to a sample, and the sample taken apart into training samples."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pkbook.basics.checks import require_finite, require_tensor
from pkbook.generative.denoising import NoisedData, NoisePredictor, by_sample, with_level
from pkbook.generative.noise import NoiseSchedule
from pkbook.interpolation import Interpolation


@dataclass(frozen=True)
class ReversePath:
    r"""From :math:`x_T` (noise) down to :math:`x_0` (a generated sample)."""

    states: Tensor
    r""":math:`x_\tau`, ``[T + 1, n, d]``, index :math:`\tau`."""
    noises: Tensor
    r"""What was added on the way from :math:`\tau` to :math:`\tau-1`, ``[T, n, d]``, index
    :math:`\tau-1`."""
    schedule: NoiseSchedule

    @property
    def generated(self) -> Tensor:
        """``[n, d]``."""
        return self.states[0]

    @property
    def queries(self) -> Tensor:
        r"""All :math:`(x_\tau,\tau)` at which the network was asked, ``[T n, d + 1]``, level by
        level from 1."""
        levels, n = self.schedule.levels, self.states.shape[1]
        level = torch.arange(1, levels + 1).repeat_interleave(n)
        return with_level(self.states[1:].flatten(0, 1), level, self.schedule)

    @property
    def weights(self) -> Tensor:
        r"""How strongly the prediction at each level enters the sample, ``[T]``:

        .. math:: x_0=a_Tx_T-\sum_\tau w_\tau\,\epsilon_\theta(x_\tau,\tau)
           +\sum_\tau a_{\tau-1}\sigma_\tau z_\tau,\qquad
           w_\tau=\frac{a_\tau\beta_\tau}{\sqrt{1-\bar\alpha_\tau}},\quad
           a_\tau=\bar\alpha_\tau^{-1/2} .
        """
        kept = self.schedule.kept
        return self.schedule.betas / (1 - kept).sqrt() / kept.sqrt()


@torch.no_grad()
def reverse(
    model: NoisePredictor,
    schedule: NoiseSchedule,
    start: Tensor,
    *,
    generator: torch.Generator,
) -> ReversePath:
    r"""Sample by the DDPM's steps (Ho, Jain, Abbeel 2020, Algorithm 2):

    .. math:: x_{\tau-1}=\frac1{\sqrt{\alpha_\tau}}\Big(x_\tau-\frac{\beta_\tau}
       {\sqrt{1-\bar\alpha_\tau}}\,\epsilon_\theta(x_\tau,\tau)\Big)+\sigma_\tau z_\tau,\qquad
       \sigma_\tau^2=\beta_\tau\frac{1-\bar\alpha_{\tau-1}}{1-\bar\alpha_\tau} .

    ``start [n, d]`` is :math:`x_T`.  ``ValueError`` for a start that is not finite, and, naming
    the level, where the path leaves all bounds.
    """
    x = require_finite(require_tensor(start, "start"), "start")
    kept = torch.cat([torch.ones(1, dtype=torch.float64), schedule.kept])
    states, noises = [x], []
    for level in range(schedule.levels, 0, -1):
        beta = schedule.betas[level - 1].item()
        predicted = model(with_level(x, level, schedule))
        sigma = (beta * (1 - kept[level - 1]) / (1 - kept[level])).sqrt().item()
        drawn = sigma * torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)
        pulled = beta / (1 - kept[level]).sqrt().item() * predicted
        x = (x - pulled) / (1 - beta) ** 0.5 + drawn
        if not torch.isfinite(x).all():
            raise ValueError(f"the reverse path is not finite at level {level}; train longer")
        states.append(x)
        noises.append(drawn)
    return ReversePath(torch.stack(states[::-1]), torch.stack(noises[::-1]), schedule)


@dataclass(frozen=True)
class Assembly:
    """A generated sample as a sum, all ``[n, d]`` in float64 but ``samples``."""

    start: Tensor
    r"""What comes from :math:`x_T`."""
    noise: Tensor
    """What comes from the noise added on the way."""
    untrained: Tensor
    r"""What the untrained network did, :math:`-\sum_\tau w_\tau\epsilon_{\theta_0}`."""
    samples: Tensor
    r"""What each data sample did through the network at each level, ``[N, T, n, d]``:
    :math:`-w_\tau c_i(x_\tau,\tau)`."""
    rest: Tensor
    """What the quadrature of the interpolation left out, and what belongs to no sample."""

    @property
    def total(self) -> Tensor:
        """Their sum: the generated sample."""
        parts = self.start + self.noise + self.untrained + self.rest
        return parts + self.samples.sum((0, 1))


def assemble(path: ReversePath, told: Interpolation, data: NoisedData) -> Assembly:
    r"""Take generated samples apart into what each training sample put in, at each level.

    ``told`` is the interpolation of ``path.queries``.  The path itself is held fixed: a different
    training set would also have led it elsewhere.

    ``ValueError`` where ``told`` is of other queries or other data.
    """
    levels, n = path.schedule.levels, path.states.shape[1]
    if told.initial.shape[0] != levels * n:
        raise ValueError(
            f"told must be the interpolation of path.queries, {levels * n} queries, got "
            f"{told.initial.shape[0]}"
        )
    samples = by_sample(told, data)
    weights = path.weights.reshape(-1, 1, 1)
    scale = path.schedule.kept.rsqrt()
    before = torch.cat([torch.ones(1, dtype=torch.float64), scale[:-1]]).reshape(-1, 1, 1)
    initial = told.initial.double().reshape(levels, n, -1)
    left = (told.change - told.contributions.sum(0)).reshape(levels, n, -1)
    return Assembly(
        start=scale[-1] * path.states[-1].double(),
        noise=(before * path.noises.double()).sum(0),
        untrained=-(weights * initial).sum(0),
        samples=-weights * samples.reshape(len(samples), levels, n, -1),
        rest=-(weights * left).sum(0),
    )
