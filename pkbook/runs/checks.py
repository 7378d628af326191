"""What a run is made of, checked before its first step."""

import torch
from torch import Tensor, nn

from pkbook.basics.checks import (
    batch_loss,
    evaluating,
    is_finite_number,
    require_deterministic,
    require_finite,
    require_inputs,
    require_tensor,
)
from pkbook.basics.randomness import seeded
from pkbook.runs.steps import Problem, buffers_of, put_buffers


def require_data(model: nn.Module, data: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Inputs and targets, one row per sample each, on the model's device."""
    if not isinstance(data, tuple | list) or len(data) != 2:
        raise TypeError("data must be a pair (x, y) of tensors with one row per sample")
    x = require_inputs(model, data[0], "x")
    y = require_tensor(data[1], "y")
    if y.ndim == 0 or len(y) != len(x):
        raise ValueError(
            f"x and y must have one row per sample each, got {len(x)} rows in x and "
            f"shape {tuple(y.shape)} for y"
        )
    if y.device != x.device:
        raise ValueError(
            f"y must be on the device of x, {x.device}, got {y.device}; "
            f"write y.to({str(x.device)!r})"
        )
    return x, require_finite(y, "y")


def require_clip(clip_norm: object, clip_value: object) -> None:
    """A positive bound, or none."""
    for name, value in (("clip_norm", clip_norm), ("clip_value", clip_value)):
        if value is not None and (not is_finite_number(value) or value <= 0):
            raise ValueError(f"{name} must be a positive number or None, got {value!r}")
    if clip_norm is not None and clip_value is not None:
        raise ValueError("give clip_norm or clip_value, not both")


def trained_names(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[str]:
    """The names of the parameters that the optimizer moves, in its order."""
    names = {id(p): name for name, p in model.named_parameters()}
    grouped = [p for group in optimizer.param_groups for p in group["params"]]
    if any(id(p) not in names for p in grouped):
        raise ValueError(
            "optimizer holds a parameter that is not the model's; "
            "write torch.optim.SGD(model.parameters(), lr=...) after the model is complete"
        )
    found = [names[id(p)] for p in grouped if p.requires_grad]
    if not found:
        raise ValueError("optimizer holds no trainable parameter of the model")
    for name, p in model.named_parameters():
        require_finite(p.detach(), f"parameter {name!r}")
        if p.is_inference():
            raise ValueError(
                f"parameter {name!r} must be made outside of torch.inference_mode(), in which "
                "nothing can be trained; make the model before it"
            )
    return found


def require_fitting_loss(model: nn.Module, problem: Problem) -> None:
    """A loss that does not fit the outputs says so now.

    In train mode a model may have other outputs, two views of each sample, say: it is asked there
    where the loss does not fit the outputs of eval mode.
    """
    with evaluating(model):
        require_deterministic(model)
    try:
        with evaluating(model):
            _tried(model, problem)
    except (IndexError, RuntimeError, ValueError) as error:
        buffers = buffers_of(model)
        try:
            _tried(model, problem)
        except (IndexError, RuntimeError, ValueError):
            raise error from None
        finally:
            put_buffers(model, buffers)


def _tried(model: nn.Module, problem: Problem) -> None:
    with torch.no_grad(), seeded(0, problem.x.device):
        x, y = problem.x[:2].clone(), problem.y[:2].clone()  # which the model may change
        batch_loss(problem.loss, model(x), y)


def require_alone(model: nn.Module) -> nn.Module:
    """Refuse a model that shares its gradients with other processes."""
    for name, module in model.named_modules():
        kinds = {kind.__name__ for kind in type(module).__mro__}
        if kinds & {"DistributedDataParallel", "FullyShardedDataParallel"}:
            where = f"layer {name!r} is" if name else "got"
            raise TypeError(
                f"model must be the network itself, {where} a {type(module).__name__}, whose "
                "gradients come from other processes as well; give the module it wraps, "
                "ddp.module, and record full batches in one process"
            )
    return model


def require_moved_by_steps(model: nn.Module) -> nn.Module:
    """Refuse a model whose forward pass moves parameters: only optimizer steps may."""
    for name, module in model.named_modules():
        if getattr(module, "max_norm", None) is not None:
            raise ValueError(
                f"layer {name or 'model'!r} ({type(module).__name__}) must have max_norm=None, got "
                f"{module.max_norm}: it shortens its vectors in the forward pass, outside of the "
                "optimizer's steps, and no sample did that; use weight_decay instead, or divide "
                "by the norm in forward"
            )
    return model


def layout(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, list]:
    """Which parameters there are, by identity: what may not change during a run."""
    groups = [group["params"] for group in optimizer.param_groups]
    return {
        "parameters": [(n, id(p), p.dtype) for n, p in model.named_parameters()],
        "groups": [[id(p) for p in group] for group in groups],
        "trained": [p.requires_grad for group in groups for p in group],
    }


_CHANGED = {
    "parameters": "the model has other parameters",
    "groups": "the optimizer has other parameter groups",
    "trained": "other parameters of the optimizer require a gradient",
}


def require_same_layout(then: dict[str, list], now: dict[str, list], k: int) -> None:
    """``ValueError`` where a parameter was added, exchanged, frozen or freed since the start."""
    if now != then:
        what = next(text for key, text in _CHANGED.items() if now[key] != then[key])
        raise ValueError(
            f"the model and the optimizer must stay those that the run began with, got a change "
            f"before step {k}: {what} than at the beginning; the run up to step {k} is kept, "
            "record what follows as a new Trajectory"
        )
