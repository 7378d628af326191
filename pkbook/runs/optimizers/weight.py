"""The diagonal that a step multiplies its gradient with, as the weight of a kernel."""

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pkbook.basics.parameters import trainable
from pkbook.runs.optimizers.coefficients import Coefficients
from pkbook.runs.optimizers.rules import coefficients, require_linear


def weight_of(model: nn.Module, made: dict[str, Coefficients]) -> dict[str, Tensor]:
    """The diagonal of a step by parameter name; 0 for parameters that the step left alone."""
    return {
        name: _own(made[name], p) if name in made else torch.zeros_like(p, requires_grad=False)
        for name, p in trainable(model).items()
    }


def step_weight(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    r"""The diagonal :math:`D` of the last step that ``optimizer`` made.

    .. math:: \theta_{k+1}-\theta_k=-D_k\,g_k-(\text{what its memory and weight decay add})

    :math:`g_k` is the gradient of the step.  SGD has the learning rate, RMSprop
    :math:`\eta P^{-1}` with :math:`P=\operatorname{diag}(v_{k+1})^{1/2}+\epsilon I`, Adam that
    with its bias corrections and :math:`1-\beta_1` (arXiv 2603.13872, eq. (6), (20), (24)).  It is
    the ``weight`` of :func:`pkbook.weighted_kernel`, :func:`pkbook.normalised_kernel`,
    :func:`pkbook.diagnostics.outside_span` and :func:`pkbook.diagnostics.rank_gap` in the
    geometry of that step (Definition 3.3).  Of a recorded run ``run.weight(k)`` gives that of any
    step, clipping included.

    Parameters
    ----------
    model
        whose parameters the optimizer moves.
    optimizer
        after its step, with the settings of that step.

    Returns
    -------
    ``{name: tensor}``
        one for each trainable parameter, in its shape; 0 where no gradient has ever come.

    Raises
    ------
    TypeError, ValueError
        for an optimizer whose steps are not known to be linear in the gradients, for one that
        moves none of the model's parameters, and before its first step.

    >>> line = torch.nn.Linear(1, 1, bias=False)
    >>> step_weight(line, torch.optim.SGD(line.parameters(), lr=0.5))
    {'weight': tensor([[0.5000]])}
    """
    require_linear(optimizer)
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    moved = {name: p for name, p in model.named_parameters() if id(p) in groups}
    if not moved:
        raise ValueError(
            "optimizer must move parameters of the model, got one that moves none of them; write "
            "torch.optim.Adam(model.parameters())"
        )
    plain = type(optimizer) is torch.optim.SGD
    made = {}
    for name, p in moved.items():
        state, h = optimizer.state.get(p, {}), groups[id(p)]
        if state or (plain and (h["momentum"] == 0)):
            made[name] = coefficients(optimizer, h, state, False)
    if not made:
        raise ValueError(
            f"optimizer must have made a step, got a fresh {type(optimizer).__name__} without "
            "memory; call optimizer.step() first"
        )
    return weight_of(model, made)


def _own(made: Coefficients, p: Tensor) -> Tensor:
    value = torch.as_tensor(made.own, dtype=p.dtype, device=p.device)
    return value.detach().expand_as(p).clone()
