r"""A generator's training as a recorded run, with the discriminator's feedback as its data.

Whatever the discriminator is, the generator only ever sees one vector for each generated point:
:math:`s_i=\nabla_x\ell_G(x)` at :math:`x=G(z_i,\theta_k)`.  Its step is that of the loss
:math:`\langle s_i,G(z_i,\theta)\rangle` with :math:`s_i` held fixed.  Rows of the recorded data are
therefore pairs (step, latent) with :math:`s_i` as the target, and
:meth:`~pkbook.Trajectory.interpolate` gives Corollary 4.2 of arXiv 2603.13872 as it stands.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional

from pkbook.basics.checks import require_choice, require_finite, require_tensor, require_whole
from pkbook.generative.densities import GaussianMixture, log_discriminator
from pkbook.interpolation import Interpolation
from pkbook.interpolation.trajectory import Trajectory, batches

LOSSES = ("minimax", "non-saturating")
SATURATED = 1e-6  # a discriminator this near to 0 or 1 on all generated points says nothing more


class SaturationWarning(UserWarning):
    """A discriminator is 0 or 1 on everything that the generator makes."""


def linear(outputs: Tensor, feedback: Tensor) -> Tensor:
    r""":math:`\langle s_i,G(z_i)\rangle`, ``[n]``: its gradient is that of the generator's loss.

    >>> linear(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 0.5]]))
    tensor([4.])
    """
    return (outputs * feedback).sum(1)


class Adversary(Protocol):
    """What answers the generator."""

    parts: tuple[str, ...]
    """Names of the parts of the feedback."""

    def __call__(self, generator: nn.Module, z: Tensor, x: Tensor, step: int) -> Tensor:
        r"""The feedback :math:`\nabla_x\ell_G` at ``x = G(z)`` by parts, ``[parts, n, d]``."""
        ...


@runtime_checkable
class KnownDensity(Protocol):
    """A generator whose density is known."""

    def density_at(self, z: Tensor) -> tuple[Tensor, Tensor]:
        r""":math:`\log p_g` and its score at :math:`x=G(z)`, ``[n]`` and ``[n, d]``."""
        ...


@dataclass
class Optimal:
    r"""The optimal discriminator :math:`D^*=p_{data}/(p_{data}+p_g)` of known densities.

    With the minimax loss :math:`\log(1-D^*)`, and :math:`D^*` held fixed in :math:`\theta`,

    .. math:: \nabla_x\log(1-D^*)=-D^*\,(\nabla\log p_{data}-\nabla\log p_g),

    an *attraction* to the data and a *repulsion* from where the generator already is.  The
    non-saturating loss :math:`-\log D^*` has :math:`1-D^*` in place of :math:`D^*`.

    ``data`` gives ``log_prob(x)`` and ``score(x)``; the generator gives ``density_at(z)``.
    """

    data: GaussianMixture
    loss: str = "minimax"
    parts: tuple[str, ...] = field(default=("attraction", "repulsion"), init=False)

    def __post_init__(self) -> None:
        require_choice(self.loss, "loss", LOSSES)

    def __call__(self, generator: nn.Module, z: Tensor, x: Tensor, step: int) -> Tensor:
        """``[2, n, d]``; ``ValueError`` naming the step where a density vanishes."""
        if not isinstance(generator, KnownDensity):
            raise TypeError(
                f"the optimal discriminator needs a generator with density_at(z), got "
                f"{type(generator).__name__}; use AffineGenerator, MonotoneGenerator or Learned"
            )
        log_generator, repulsion = generator.density_at(z)
        log_data, attraction = self.data.log_prob(x), self.data.score(x)
        for name, value in (("data", log_data), ("generator", log_generator)):
            if not torch.isfinite(value).all():
                place = int((~torch.isfinite(value)).nonzero()[0])
                raise ValueError(
                    f"the density of the {name} vanishes at step {step}, at the generated point "
                    f"{x[place].tolist()}; its logarithm and score do not exist there"
                )
        log_d = log_discriminator(log_data, log_generator)
        weight = log_d.exp() if self.loss == "minimax" else -torch.expm1(log_d)
        weight = weight.unsqueeze(1)
        return torch.stack([-weight * attraction, weight * repulsion])


@dataclass
class Learned:
    """A discriminator trained beside the generator.

    ``network`` returns one logit a point.  Before each step of the generator it makes ``steps``
    of its own on ``batch`` fresh samples of ``sample(n)`` and as many generated points.
    """

    network: nn.Module
    optimizer: torch.optim.Optimizer
    sample: Callable[[int], Tensor]
    loss: str = "non-saturating"
    steps: int = 1
    parts: tuple[str, ...] = field(default=("feedback",), init=False)
    losses: list[float] = field(default_factory=list, init=False)
    """Of the discriminator, before each of its steps."""
    saturated: int | None = field(default=None, init=False)
    """The first step at which it was 0 or 1 on all generated points."""

    def __post_init__(self) -> None:
        require_choice(self.loss, "loss", LOSSES)
        require_whole(self.steps, "steps")

    def __call__(self, generator: nn.Module, z: Tensor, x: Tensor, step: int) -> Tensor:
        """``[1, n, d]``."""
        for _ in range(self.steps):
            self._learn(self.sample(len(x)), x)
        x = x.detach().requires_grad_()
        logit = self.network(x)[:, 0]
        self._watch(logit.detach(), step)
        value = self.generator_loss(logit).sum()
        return torch.autograd.grad(value, x)[0].unsqueeze(0)

    def generator_loss(self, logit: Tensor) -> Tensor:
        r""":math:`\log(1-D)` or :math:`-\log D`, with :math:`D=\sigma(\text{logit})`."""
        if self.loss == "minimax":
            return -functional.softplus(logit)
        return functional.softplus(-logit)

    def _learn(self, real: Tensor, made: Tensor) -> None:
        self.optimizer.zero_grad()
        right = functional.softplus(-self.network(real)).mean()
        value = right + functional.softplus(self.network(made.detach())).mean()
        if not torch.isfinite(value):
            raise FloatingPointError("the discriminator's loss is not finite; lower its rate")
        value.backward()
        self.optimizer.step()
        self.losses.append(value.item())

    def _watch(self, logit: Tensor, step: int) -> None:
        d = logit.sigmoid()
        if self.saturated is None and ((d < SATURATED) | (d > 1 - SATURATED)).all():
            self.saturated = step
            side = 0 if d[0] < 0.5 else 1
            warnings.warn(
                f"the discriminator is {side} on all generated points at step {step}: its feedback "
                "says no more where to go; lower its learning rate or its steps",
                SaturationWarning,
                stacklevel=4,
            )


@dataclass(frozen=True)
class AdversarialRun:
    """A generator's recorded run; rows of its data are (step, part, latent)."""

    run: Trajectory
    chosen: Tensor
    """The latents of each step, ``[K, B]``."""
    latents: Tensor
    """``[N, dz]``."""
    feedback: Tensor
    """:math:`s_i` of each step by parts, ``[K, parts, B, d]``; their sum is the whole."""
    parts: tuple[str, ...]

    def _by_row(self, told: Interpolation) -> Tensor:
        rows = told.contributions.cpu()
        shape = (*self.feedback.shape[:3], *rows.shape[1:])
        if rows.shape[0] != self.feedback[..., 0].numel():
            raise ValueError("told must be an interpolation of this run")
        return rows.reshape(shape)

    def by_part(self, told: Interpolation) -> dict[str, Tensor]:
        """What each part of the feedback did to each query, ``{part: [m, d]}``."""
        return dict(zip(self.parts, self._by_row(told).sum((0, 2)).unbind(0), strict=True))

    def by_latent(self, told: Interpolation) -> Tensor:
        """What each training latent did to each query, ``[N, m, d]``."""
        rows = self._by_row(told).sum(1).flatten(0, 1)
        found = rows.new_zeros(len(self.latents), *rows.shape[1:])
        return found.index_add_(0, self.chosen.flatten().cpu(), rows)

    def by_step(self, told: Interpolation) -> Tensor:
        """What moved each query in each step, ``[K, m, d]``."""
        return self._by_row(told).sum((1, 2))


def train_generator(
    generator: nn.Module,
    adversary: Adversary,
    latents: Tensor,
    optimizer: torch.optim.Optimizer,
    *,
    steps: int,
    batch: int | None = None,
    seed: int = 0,
    every: int | None = None,
) -> AdversarialRun:
    r"""Train a generator against an adversary, and record the run.

    Parameters
    ----------
    generator
        :math:`G(z,\theta)`, ``[n, dz]`` to ``[n, d]``.
    adversary
        :class:`Optimal`, :class:`Learned`, or any callable with ``parts`` that returns the
        feedback.
    latents
        :math:`z_i`, ``[N, dz]``.
    optimizer
        of the generator; any that :class:`~pkbook.Trajectory` takes.
    steps, batch, seed
        number of steps; latents of each (None for all), drawn by :func:`~pkbook.batches`.
    every
        steps between checkpoints; default about the root of ``steps``.

    Raises
    ------
    TypeError, ValueError
        for latents that are not finite, and as the adversary does; a feedback that is not finite
        is named with its step.

    References
    ----------
    arXiv 2603.13872, Corollary 4.2 and eq. (29).
    """
    latents = require_finite(require_tensor(latents, "latents"), "latents")
    require_whole(steps, "steps")
    size = len(latents) if batch is None else batch
    chosen = torch.stack(list(batches(len(latents), size=batch, steps=steps, seed=seed)))
    with torch.no_grad():
        width = generator(latents[:1]).shape[1]
    parts = len(adversary.parts)
    # One part a row: the mean over parts times size rows is the loss if each part counts for all.
    feedback = latents.new_zeros(steps, parts, size, width)
    rows = latents[chosen].unsqueeze(1).expand(-1, parts, -1, -1).flatten(0, 2)
    run = Trajectory(
        generator,
        linear,
        optimizer,
        (rows, feedback.reshape(-1, width)),  # a view: each step's rows are filled in before it
        every=max(1, round(steps**0.5)) if every is None else every,
        seed=seed,
    )
    for k in range(steps):
        z = latents[chosen[k]]
        with torch.no_grad():
            x = generator(z)
        answer = adversary(generator, z, x, k).detach()
        require_finite(answer, f"the feedback at step {k}")
        feedback[k] = parts * answer
        first = k * parts * size
        run.step(torch.arange(first, first + parts * size))
    return AdversarialRun(run, chosen, latents, feedback / parts, adversary.parts)


def coherence(updates: Tensor) -> Tensor:
    r"""How much queries move together: :math:`\|\overline{\delta}\|^2/\overline{\|\delta\|^2}`.

    ``updates [..., m, d]`` are the moves of m queries; 1 if all are equal, about 1/m if they have
    nothing to do with each other, 0 if they cancel.  ``[...]``; NaN where nothing moves.

    >>> coherence(torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    tensor(1.)
    >>> coherence(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    tensor(0.)
    """
    return updates.mean(-2).square().sum(-1) / updates.square().sum(-1).mean(-1)
