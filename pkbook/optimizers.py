r"""Optimizers as linear memories of the gradients they have seen.

Every optimizer treated here moves by

.. math:: \theta_{k+1}-\theta_k=-\sum_{s\le k} w_{k,s}\,D_k\,g_s ,

with a step size :math:`D_k` and memory weights :math:`w_{k,s}`.  A change of the prediction,
:math:`\langle\bar\varphi_k,\theta_{k+1}-\theta_k\rangle` per step, is therefore linear in the
gradients :math:`g_s`, and the factor of :math:`g_s`,

.. math:: u_s=\sum_{k\ge s} w_{k,s}\,D_k\,\bar\varphi_k ,

obeys a backward recursion.  A memory object runs that recursion: it is handed the average query
gradients from the last step to the first and answers with :math:`u_s`.

Beyond the paper; for gradient descent see Bell et al. 2023, *An Exact Kernel Equivalence for
Finite Classification Models*.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from pkbook.tangent import Tree


@dataclass(frozen=True)
class StepState:
    """What the recursion needs to know about one step of a run, per parameter name."""

    parameters: Tree
    """The parameters before the step."""
    settings: dict[str, dict]
    """The hyperparameters (``lr``, ``momentum``, ...) in force."""
    first: frozenset[str]
    """Parameters whose optimizer state did not exist before this step."""
    still: frozenset[str]
    """Parameters without a gradient at this step: the optimizer left them alone."""


@dataclass
class SGDMemory:
    r"""``torch.optim.SGD``: momentum :math:`\beta`, dampening, Nesterov, weight decay, maximize.

    :math:`D_k=\eta_k` and :math:`w_{k,s}=\beta^{k-s}` (plain SGD: :math:`\beta=0`).
    """

    carried: Tree = field(default_factory=dict)
    """The factor of the momentum buffer: what later steps still take from it."""

    def pull(self, state: StepState, average: Tree) -> Tree:
        """From the average query gradients ``{name: [m, C, *shape]}`` of step k to ``u_k``."""
        u = {}
        for name, phi in average.items():
            if name in state.still:
                u[name] = torch.zeros_like(phi)
                continue
            h = state.settings[name]
            a = h["lr"] * phi
            if h["momentum"] == 0:
                u[name] = a
                continue
            buffer = self.carried.get(name, 0) + (h["momentum"] * a if h["nesterov"] else a)
            direct = a if h["nesterov"] else 0
            if name in state.first:
                u[name] = direct + buffer
                self.carried[name] = torch.zeros_like(phi)
            else:
                u[name] = direct + (1 - h["dampening"]) * buffer
                self.carried[name] = h["momentum"] * buffer
        return u

    @staticmethod
    def sign(state: StepState, name: str) -> float:
        """-1 where the step descends the loss, +1 under ``maximize``."""
        return 1.0 if state.settings[name]["maximize"] else -1.0

    @staticmethod
    def own_terms(state: StepState, u: Tree) -> dict[str, Tensor]:
        r"""What belongs to no sample: weight decay, :math:`-\lambda\langle u,\theta\rangle`."""
        total = 0.0
        for name, v in u.items():
            decay = state.settings[name]["weight_decay"]
            if decay and name not in state.still:
                theta = state.parameters[name]
                total = total - decay * (v.flatten(2) @ theta.flatten())
        return {"weight decay": total} if isinstance(total, Tensor) else {}

    def initial_terms(self, buffers: Tree) -> dict[str, Tensor]:
        """The part owed to momentum that was there before the first recorded step."""
        total = 0.0
        for name, buffer in buffers.items():
            if name in self.carried:
                total = total - self.carried[name].flatten(2) @ buffer.flatten()
        return {"initial momentum": total} if isinstance(total, Tensor) else {}


_MEMORIES = {torch.optim.SGD: SGDMemory}
_SETTINGS = {
    torch.optim.SGD: ("lr", "momentum", "dampening", "weight_decay", "nesterov", "maximize")
}


def memory_of(optimizer: torch.optim.Optimizer) -> SGDMemory:
    """A fresh memory for this optimizer; ``TypeError`` for one whose memory is not known.

    >>> memory_of(torch.optim.LBFGS([torch.zeros(1, requires_grad=True)]))
    Traceback (most recent call last):
        ...
    TypeError: optimizer must be one of torch.optim.SGD, got LBFGS; ...
    """
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(
            f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}; "
            "write torch.optim.SGD(model.parameters(), lr=...)"
        )
    if type(optimizer) not in _MEMORIES:
        known = ", ".join(f"torch.optim.{kind.__name__}" for kind in _MEMORIES)
        raise TypeError(
            f"optimizer must be one of {known}, got {type(optimizer).__name__}; how another one "
            "weights its past gradients is not known here, so its run cannot be taken apart"
        )
    return _MEMORIES[type(optimizer)]()


def settings_of(optimizer: torch.optim.Optimizer) -> list[dict]:
    """The hyperparameters of each parameter group as plain numbers."""
    names = _SETTINGS[type(optimizer)]
    return [{name: _plain(group[name], name) for name in names} for group in optimizer.param_groups]


def _plain(value: object, name: str) -> float | bool:
    if isinstance(value, Tensor):
        if value.numel() != 1:
            raise TypeError(f"optimizer option {name} must be a number, got {tuple(value.shape)}")
        return value.item()
    return value
