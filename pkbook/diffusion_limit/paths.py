"""What a simulation returns, and what it refuses to return."""

from dataclasses import dataclass, field

import torch
from torch import Tensor


class DivergenceError(ArithmeticError):
    """A path left every bound: the learning rate is too large for this problem."""


@dataclass(frozen=True)
class Paths:
    """Many runs of one process: ``R`` paths, ``m`` queries, ``K`` steps of one learning rate."""

    times: Tensor
    r""":math:`t_k=k\eta`, ``[K + 1]``."""
    outputs: Tensor
    r"""Predictions at the queries, ``[K + 1, R, m]``."""
    theta: Tensor
    """Parameters at the end, ``[R, P]``."""
    integral: Tensor | None = None
    r"""For a diffusion: the theorem's integral up to each time along each path,
    :math:`\frac1N\sum_i\int(\dots)dt`, ``[K + 1, R, m]``."""
    by_sample: Tensor | None = None
    """Its parts by training sample at the end, averaged over the paths, ``[N, m]``."""
    snapshots: Tensor | None = None
    """Parameters of the first few paths at every time, ``[K + 1, S, P]``."""
    state: dict[str, Tensor] = field(default_factory=dict)
    """The optimizer's own variables at the end, ``{name: [R, P]}``."""
    control: Tensor | None = None
    """With ``control=True``: a variable of mean zero on each path, ``[R, m]``."""
    bent: Tensor | None = None
    """For :class:`SecondOrderSGD`: what the second-order term of Itô's formula has in
    ``by_sample``, ``[N, m]``."""

    @property
    def mean(self) -> Tensor:
        """Mean prediction, ``[K + 1, m]``."""
        return self.outputs.mean(1)

    @property
    def error(self) -> Tensor:
        """Standard error of that mean, ``[K + 1, m]``."""
        return self.outputs.std(1) / self.outputs.shape[1] ** 0.5

    @property
    def predicted(self) -> Tensor:
        """The theorem's right-hand side on each path, ``[K + 1, R, m]``: start less integral."""
        if self.integral is None:
            raise ValueError("a discrete run has no integral; ask the diffusion: limit.diffusion")
        return self.outputs[:1] - self.integral


BOUND = 1e8


def require_bounded(state: dict[str, Tensor], step: int, what: str, rate: float) -> None:
    """``DivergenceError`` naming the first path beyond every bound."""
    for name, value in state.items():
        size = value.detach().abs().amax(1)
        wrong = ~(size < BOUND)  # NaN is not below anything
        if wrong.any():
            path = int(wrong.nonzero()[0])
            raise DivergenceError(
                f"{what} diverged at step {step}, path {path}: |{name}| reached "
                f"{size[path].item():.3g}; lower the learning rate (it is {rate:g}) or the time"
            )


def empty_like(outputs: Tensor, steps: int) -> Tensor:
    """Room for something recorded at every time, ``[K + 1, *shape]``."""
    return torch.zeros(steps + 1, *outputs.shape, dtype=outputs.dtype, device=outputs.device)
