"""The engine's front door: a model, inputs and a point in parameter space that fit together."""

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from pkbook.basics.checks import (
    as_matrix,
    require_deterministic,
    require_finite,
    require_inputs,
    require_module,
)
from pkbook.basics.parameters import Tree, trainable
from pkbook.basics.randomness import kept
from pkbook.kernels.asked import Asked, Inputs
from pkbook.kernels.passes import calling

Which = Mapping[str, Tensor] | str | Sequence[str] | None
"""A point in parameter space, or the names of parameters; None for all, as they are."""


def checked(model: nn.Module, x: Inputs, parameters: Which, name: str) -> Tree:
    """Front-door checks of one (model, inputs, parameters) triple; returns the parameters used."""
    require_deterministic(require_module(model))
    require_queries(model, x, name)
    own = trainable(model)
    parameters = own if parameters is None else _checked_parameters(parameters, own)
    for key, value in parameters.items():
        require_finite(value, f"parameter {key!r}")
    return parameters


def require_queries(model: nn.Module, x: Inputs, name: str) -> Inputs:
    """As :func:`require_inputs`, for tensors and for queries of any structure."""
    if not isinstance(x, Asked):
        return require_inputs(model, x, name)
    if len(x) == 0:
        raise ValueError(f"{name} must hold at least one query, got none")
    parameter = next(p for p in model.parameters() if p.requires_grad)
    for t in x.tensors:
        if t.device != parameter.device:
            raise ValueError(
                f"{name} must be on the model's device {parameter.device}, got a tensor on "
                f"{t.device}; move all of its tensors there"
            )
        require_finite(t, name)
    return x


def named(patterns: str | Sequence[str], own: Tree) -> Tree:
    """The parameters with these names, or with names that fit these patterns.

    >>> own = trainable(nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1)))
    >>> list(named("1.*", own)), list(named(["0.bias", "*.weight"], own))
    (['1.weight', '1.bias'], ['0.weight', '0.bias', '1.weight'])
    """
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    for pattern in patterns:
        if not isinstance(pattern, str) or not any(fnmatchcase(n, pattern) for n in own):
            raise ValueError(
                f"parameters must be names of trainable parameters ({', '.join(own)}) or patterns "
                f"as 'head.*', got {pattern!r}"
            )
    return {n: p for n, p in own.items() if any(fnmatchcase(n, pattern) for pattern in patterns)}


def _checked_parameters(parameters: Which, own: Tree) -> Tree:
    if isinstance(parameters, str | list | tuple) and parameters:
        return named(parameters, own)
    if not isinstance(parameters, dict) or not all(
        isinstance(p, Tensor) for p in parameters.values()
    ):
        raise TypeError(
            f"parameters must be a dict {{name: tensor}}, got {type(parameters).__name__}; "
            "write run.parameters(k) or dict(model.named_parameters()), or names as 'head.*'"
        )
    if {k: v.shape for k, v in parameters.items()} != {k: v.shape for k, v in own.items()}:
        raise ValueError(
            "parameters must have the names and shapes of the model's trainable parameters "
            f"({', '.join(own)}), got {', '.join(parameters)}"
        )
    for name, p in parameters.items():
        if p.dtype != own[name].dtype or p.device != own[name].device:
            raise TypeError(
                f"parameters must have the model's dtype and device ({own[name].dtype} on "
                f"{own[name].device}), got {p.dtype} on {p.device} for {name!r}"
            )
    return {name: parameters[name].detach() for name in own}


def selection(outputs: int | Tensor | None, n: int, device: torch.device) -> Tensor | None:
    """One output index per sample ``[n]``, or None for all outputs."""
    if outputs is None:
        return None
    chosen = torch.as_tensor(outputs, device=device)
    if chosen.is_floating_point() or chosen.dtype == torch.bool:
        raise TypeError(f"outputs must hold integers, got dtype {chosen.dtype}")
    if chosen.ndim == 0:
        chosen = chosen.expand(n)
    if chosen.shape != (n,):
        raise ValueError(
            f"outputs must be None, one int, or one int per query [{n}], "
            f"got shape {tuple(chosen.shape)}"
        )
    return chosen


def evaluate(model: nn.Module, x: Inputs, parameters: Tree, chosen: Tensor | None) -> Tensor:
    """Outputs ``[n, C]`` at ``parameters``, or the chosen ones ``[n, 1]``; nothing is changed."""
    with torch.no_grad(), kept(x.device), calling(model, x)(parameters) as out:
        f = as_matrix(out, len(x))
    if chosen is None:
        return f
    if int(chosen.min()) < -f.shape[1] or int(chosen.max()) >= f.shape[1]:
        raise ValueError(
            f"outputs must lie in 0..{f.shape[1] - 1} for this model, got "
            f"{chosen.tolist() if chosen.numel() < 9 else [int(chosen.min()), int(chosen.max())]}"
        )
    return f.gather(1, (chosen % f.shape[1])[:, None])


def require_fit(model: nn.Module, x: Inputs, parameters: Tree, name: str) -> None:
    """The model can be applied to one input and returns finite outputs ``[1, C]`` for it."""
    try:
        f = evaluate(model, x[:1], parameters, None)
    except (RuntimeError, TypeError) as error:
        if isinstance(error, TypeError) and "argument" not in str(error):
            raise
        raise ValueError(
            f"model cannot be applied to {name} of shape {tuple(x.shape)}: {error}"
        ) from error
    if not torch.isfinite(f).all():
        require_finite_layers(model, x[:1], parameters, name)


def require_finite_layers(model: nn.Module, x: Inputs, parameters: Tree, name: str) -> None:
    """``ValueError`` naming the first layer whose output is not finite."""

    def look(layer: str) -> Callable:
        def hook(module: nn.Module, _, out: object) -> None:
            if isinstance(out, Tensor) and not torch.isfinite(out).all():
                raise ValueError(
                    f"layer {layer or 'model'!r} ({type(module).__name__}) returns values that are "
                    f"not finite for {name}; look at its weights and at the scale of its inputs"
                )

        return hook

    handles = [m.register_forward_hook(look(layer)) for layer, m in model.named_modules()]
    try:
        evaluate(model, x, parameters, None)
    finally:
        for handle in handles:
            handle.remove()
