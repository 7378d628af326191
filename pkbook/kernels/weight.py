"""The diagonal weight of a kernel, parameter by parameter."""

import torch
from torch import Tensor

from pkbook.basics.parameters import Tree

Weight = dict[str, Tensor] | dict[str, float]
"""A diagonal weight: a number for each parameter, or one for each of its entries."""


def diagonal(weight: Weight | None, parameters: Tree) -> dict[str, Tensor | float | None]:
    """The diagonal weight by name; a number where it is the same for a whole parameter."""
    if weight is None:
        return dict.fromkeys(parameters)
    if not isinstance(weight, dict) or set(weight) != set(parameters):
        raise ValueError(
            "weight must be a dict with one entry per trainable parameter "
            f"({', '.join(parameters)}), got "
            f"{list(weight) if isinstance(weight, dict) else weight!r}"
        )
    found: dict[str, Tensor | float | None] = {}
    for name, p in parameters.items():
        w = torch.as_tensor(weight[name], dtype=p.dtype, device=p.device)
        if w.shape not in ((), p.shape):
            raise ValueError(
                f"weight[{name!r}] must be a scalar or have shape {tuple(p.shape)}, "
                f"got {tuple(w.shape)}"
            )
        if not torch.isfinite(w).all() or (w < 0).any():
            raise ValueError(f"weight[{name!r}] must be finite and not negative")
        found[name] = float(w) if w.ndim == 0 else w
    return found


def row(weight: Weight, parameters: Tree) -> Tensor:
    """The diagonal as one row ``[P]``, in the order of the parameters."""
    found = diagonal(weight, parameters)
    return torch.cat(
        [torch.as_tensor(found[n]).to(p).expand_as(p).flatten() for n, p in parameters.items()]
    )
