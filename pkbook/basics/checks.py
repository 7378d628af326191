"""Front-door checks shared by the package: each names the argument, what came and what to write."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeGuard

import torch
from torch import Tensor, nn


def require_tensor(value: object, name: str) -> Tensor:
    """Return ``value`` if it is a tensor; raise ``TypeError`` naming it otherwise."""
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{name} must be a torch.Tensor, got {type(value).__name__}; "
            f"write torch.as_tensor({name})"
        )
    return value


def require_finite(value: Tensor, name: str) -> Tensor:
    """Raise ``ValueError`` with the place of the first NaN or infinity in ``value``."""
    if not (value.is_floating_point() or value.is_complex()):
        return value
    # A sum passes over the values once, and shows every NaN and infinity.
    if not torch.isfinite(value.sum()) and not torch.isfinite(value).all():
        where = tuple((~torch.isfinite(value)).nonzero()[0].tolist())
        raise ValueError(
            f"{name} must be finite, got {value[where].item()} at index {list(where)}; "
            "remove or repair that entry"
        )
    return value


def require_whole(value: object, name: str, least: int = 1) -> int:
    """An ``int`` of at least ``least`` (``bool`` is refused)."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, got {type(value).__name__} {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return value


def require_choice(value: object, name: str, choices: tuple[str, ...]) -> str:
    """One of a few words."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")
    return str(value)


def require_module(model: object) -> nn.Module:
    """Return ``model`` if it is an ``nn.Module`` with at least one trainable parameter."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if not any(p.requires_grad for p in model.parameters()):
        raise ValueError(
            "model has no trainable parameter, so it has no gradient kernel; "
            "set requires_grad=True on the parameters that training may move"
        )
    first = None
    for name, p in model.named_parameters():
        if not p.requires_grad:
            continue
        if p.is_complex():
            raise TypeError(
                f"model must have real trainable parameters, got {name!r} in {p.dtype}; keep its "
                "real and imaginary parts as one real parameter and write "
                "torch.view_as_complex(parameter) in forward"
            )
        first = first or (name, p)
        if p.dtype != first[1].dtype:
            raise TypeError(
                f"model must have trainable parameters of one dtype, got {first[0]!r} in "
                f"{first[1].dtype} and {name!r} in {p.dtype}; write model.to({first[1].dtype})"
            )
        if p.device != first[1].device:
            raise ValueError(
                f"model must lie on one device, got {first[0]!r} on {first[1].device} and "
                f"{name!r} on {p.device}; write model.to({str(first[1].device)!r})"
            )
    return model


def require_inputs(model: nn.Module, x: object, name: str) -> Tensor:
    """A non-empty, finite batch of inputs on the model's device and in its dtype."""
    x = require_tensor(x, name)
    if x.ndim < 1 or x.shape[0] == 0:
        raise ValueError(
            f"{name} must hold at least one sample, got shape {tuple(x.shape)}; "
            "the first dimension counts the samples"
        )
    parameter = next(p for p in model.parameters() if p.requires_grad)
    if x.device != parameter.device:
        raise ValueError(
            f"{name} must be on the model's device {parameter.device}, got {x.device}; "
            f"write {name}.to({str(parameter.device)!r})"
        )
    if x.is_floating_point() and x.dtype != parameter.dtype:
        raise TypeError(
            f"{name} must have the model's dtype {parameter.dtype}, got {x.dtype}; "
            f"write {name}.to({parameter.dtype})"
        )
    return require_finite(x, name)


def _random_in_training(module: nn.Module) -> bool:
    """Whether this module, in train mode, draws random numbers or mixes the samples of a batch."""
    if isinstance(module, nn.modules.batchnorm._BatchNorm | nn.modules.instancenorm._InstanceNorm):
        return True
    if isinstance(module, nn.modules.dropout._DropoutNd | nn.RReLU):
        return getattr(module, "p", 1.0) != 0.0
    own = getattr(module, "dropout", 0.0)  # MultiheadAttention and the recurrent layers
    return isinstance(own, float) and own > 0.0


def require_deterministic(model: nn.Module) -> nn.Module:
    """Refuse a model whose output for one input is random or depends on the other inputs."""
    for name, module in model.named_modules():
        batch_norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
        if batch_norm and module.running_mean is None:
            raise ValueError(
                f"layer {name or 'model'!r} ({type(module).__name__}) keeps no running statistics, "
                "so it mixes the samples of a batch in eval mode, too, and the kernel between two "
                "inputs is not defined; write track_running_stats=True, or use LayerNorm or "
                "GroupNorm"
            )
        if module.training and _random_in_training(module):
            raise ValueError(
                f"layer {name or 'model'!r} ({type(module).__name__}) is in train mode, where its "
                "output is random or depends on the rest of the batch, so the kernel between two "
                "inputs is not defined; write model.eval() first"
            )
    return model


def as_matrix(outputs: object, n: int, what: str = "model") -> Tensor:
    """View model outputs as ``[n, C]``; refuse anything that is not one tensor with n rows."""
    if not isinstance(outputs, Tensor):
        raise TypeError(
            f"{what} must return one tensor [n, C], got {type(outputs).__name__}; "
            "wrap the model in a module that returns the tensor to be explained"
        )
    if outputs.ndim == 0 or outputs.shape[0] != n:
        raise ValueError(
            f"{what} must return one row per sample ([{n}, C]), got shape {tuple(outputs.shape)}"
        )
    if not outputs.is_floating_point():
        raise TypeError(f"{what} must return floating-point outputs, got {outputs.dtype}")
    return outputs.reshape(n, -1)


def batch_loss(
    loss: Callable[[Tensor, Tensor], Tensor], outputs: Tensor, targets: Tensor
) -> Tensor:
    """The scalar that a step descends: a scalar loss as it is, ``[n]`` losses averaged."""
    value = require_tensor(loss(outputs, targets), "the value of loss")
    if value.ndim == 0:
        return value
    if value.shape == outputs.shape[:1]:
        return value.mean()
    raise ValueError(
        f"loss must return a scalar or one value per sample [{outputs.shape[0]}], "
        f"got shape {tuple(value.shape)}; sum over the outputs of a sample inside the loss"
    )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Put ``model`` in eval mode for a while; every module gets its own mode back."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield model.eval()
    finally:
        for module, mode in modes:
            module.training = mode


def is_finite_number(value: object) -> TypeGuard[float]:
    """Whether ``value`` is a finite real number (not a bool)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
