"""The table of optimizers whose steps are known to be linear in the gradients."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch.optim import Optimizer

from pkbook.basics.parameters import Tree
from pkbook.runs.optimizers import momentum, second_moments
from pkbook.runs.optimizers.coefficients import Coefficients, Number

Reads = Callable[[dict, Tree, bool], Coefficients]
"""From the hyperparameters, the state after the step, and whether there was none before it."""


@dataclass(frozen=True)
class Rule:
    """How the coefficients of an optimizer's step are read off it."""

    read: Reads
    memory: str | None
    r"""The name of :math:`m` in the optimizer's state."""
    own: bool = False
    """Whether the reader has registered it."""


def _of_torch(read: Reads, memory: str = "exp_avg") -> Rule:
    """With ``weight_decay`` and ``maximize``, which all of ``torch.optim`` have."""
    return Rule(lambda h, state, fresh: momentum.with_decay(read(h, state, fresh), h), memory)


RULES: dict[type[Optimizer], Rule] = {
    torch.optim.SGD: _of_torch(momentum.sgd, "momentum_buffer"),
    torch.optim.RMSprop: _of_torch(second_moments.rmsprop, "momentum_buffer"),
    torch.optim.Adagrad: _of_torch(second_moments.adagrad),
    torch.optim.Adam: _of_torch(second_moments.adam),
    torch.optim.AdamW: _of_torch(second_moments.adam),
    torch.optim.NAdam: _of_torch(second_moments.nadam),
    torch.optim.RAdam: _of_torch(second_moments.radam),
}

_REASONS = {
    "LBFGS": "its direction divides by differences of gradients, and it evaluates the loss again",
    "Lion": "it moves by the sign of a mean of gradients",
    "Rprop": "it moves by the sign of the gradient",
    "Muon": "it makes the matrix of momenta orthogonal before it moves",
    "Adafactor": "it bounds its step by the root mean square of the step itself",
}


def register(kind: type[Optimizer], rule: Reads, *, memory: str | None = None) -> None:
    r"""Say how the step of an own optimizer is read, so that its runs can be taken apart.

    Parameters
    ----------
    kind
        the optimizer's class; subclasses of it are registered by themselves.
    rule
        a function ``rule(settings, state, fresh)`` giving :class:`Coefficients`, the numbers of

        .. math::
           \theta_{k+1}-\theta_k &= -D_k\,(h_k m_k+d_k G_k)-s_k\theta_k ,\\
           m_k &= \beta_k m_{k-1}+\tau_k E_k G_k ,\qquad G_k=\pm g_k+\lambda_k\theta_k .

        It is called for each parameter after each step.  ``settings`` are the hyperparameters that
        the optimizer's ``defaults`` name, with the values of the parameter's group; ``state`` is
        ``optimizer.state[parameter]``; ``fresh`` says that there was no memory before the step.
        The first steps of a run compare what the rule says with what the optimizer did.
        None of the numbers may depend on the gradient of this step alone in another way than
        through the state: a step that is not linear given its state (a sign, say) has no rule.
    memory
        the name of :math:`m` in ``state``; None for a step that uses no memory.

    Raises
    ------
    TypeError, ValueError
        for what is no class of optimizers, a rule that cannot be called, and an optimizer of
        ``torch.optim`` whose rule is known.  A rule that says something else than the optimizer did
        is a ``ValueError`` at the first or second step of a run.

    Notes
    -----
    Whatever such an optimizer keeps in ``state`` must be a tensor, as it is recorded.

    Examples
    --------
    Lion without its sign: a step along a mean of the new gradient and the memory *before* it.  The
    formula has the memory after the step, so :math:`m_{k-1}=(m_k-(1-\beta)g_k)/\beta` is put in.

    >>> import torch, pkbook as pk
    >>> class Mean(torch.optim.Optimizer):
    ...     def __init__(self, params, lr, mix=0.8, beta=0.9):
    ...         super().__init__(params, {"lr": lr, "mix": mix, "beta": beta})
    ...     @torch.no_grad()
    ...     def step(self, closure=None):
    ...         for group in self.param_groups:
    ...             for p in group["params"]:
    ...                 m = self.state[p].setdefault("mean", torch.zeros_like(p))
    ...                 p -= group["lr"] * (group["mix"] * m + (1 - group["mix"]) * p.grad)
    ...                 m.lerp_(p.grad, 1 - group["beta"])
    >>> def rule(settings, state, fresh):
    ...     ratio = settings["mix"] / settings["beta"]
    ...     return Coefficients(
    ...         keep=settings["beta"], take=1 - settings["beta"],
    ...         held=settings["lr"] * ratio, direct=settings["lr"] * (1 - ratio),
    ...     )
    >>> register(Mean, rule, memory="mean")
    >>> x = torch.linspace(-1, 1, 5)[:, None]
    >>> model = pk.models.mlp(1, 8, 1, activation="tanh", seed=0)
    >>> run = pk.Trajectory(model, pk.losses.squared, Mean(model.parameters(), 0.1), (x, x**2))
    >>> for batch in pk.batches(5, size=2, steps=20):
    ...     _ = run.step(batch)
    >>> bool(run.interpolate(torch.tensor([[0.5]])).completeness.max() < 1e-3)
    True
    """
    if not isinstance(kind, type) or not issubclass(kind, Optimizer):
        raise TypeError(
            f"kind must be a class of optimizers, a subclass of torch.optim.Optimizer, got {kind!r}"
        )
    if not callable(rule):
        raise TypeError(
            f"rule must be a function of settings, state and fresh, got {type(rule).__name__}"
        )
    if kind in RULES and not RULES[kind].own:
        raise ValueError(
            f"kind must be an optimizer of your own, got {kind.__name__}, whose rule is known; "
            "write a subclass and register that"
        )
    RULES[kind] = Rule(rule, memory, own=True)


def rule_of(optimizer: Optimizer) -> Rule:
    """The rule of an optimizer that :func:`require_linear` has let pass."""
    return RULES[type(optimizer)]


def coefficients(
    optimizer: Optimizer, settings: dict, state: Tree, fresh: bool, clip: Number = 1.0
) -> Coefficients:
    """The coefficients of a step just made, from the state that the optimizer has after it.

    ``fresh``: the parameter had no memory before the step.
    """
    read = rule_of(optimizer).read(settings, state, fresh)
    if not isinstance(read, Coefficients):
        raise TypeError(
            f"the rule registered for {type(optimizer).__name__} must return "
            f"pkbook.runs.Coefficients, got {type(read).__name__}"
        )
    return replace(read, clip=clip)


def memory_key(optimizer: Optimizer) -> str | None:
    """The name of the memory :math:`m` in the optimizer's state."""
    return rule_of(optimizer).memory


def require_linear(optimizer: object) -> Optimizer:
    """Refuse, with the reason, an optimizer whose steps are not known to be linear.

    >>> require_linear(torch.optim.LBFGS([torch.zeros(1, requires_grad=True)]))
    Traceback (most recent call last):
        ...
    TypeError: optimizer LBFGS cannot be taken apart: its direction divides by differences of ...
    """
    if not isinstance(optimizer, Optimizer):
        raise TypeError(
            f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}; "
            "write torch.optim.SGD(model.parameters(), lr=...)"
        )
    if type(optimizer) not in RULES:
        kind = type(optimizer).__name__
        reason = _REASONS.get(kind, "how its step depends on the gradients is not known here")
        known = ", ".join(k.__name__ for k, rule in RULES.items() if not rule.own)
        raise TypeError(
            f"optimizer {kind} cannot be taken apart: {reason}, so its step is not a sum over "
            f"samples; use one of torch.optim's {known}, or, where its step is linear in the "
            "gradients, tell how with pkbook.runs.register"
        )
    for group in optimizer.param_groups:
        if group.get("differentiable"):
            raise ValueError(
                "optimizer has differentiable=True, which keeps its whole history; leave it out"
            )
    return optimizer
