"""The model and the optimizer of a run, checked before its first step."""

import torch
from torch import nn

from pkbook.basics.checks import require_finite


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


_SHARED = {
    "DistributedDataParallel": "wrap the whole model, DistributedDataParallel(model)",
    "FullyShardedDataParallel": "write DistributedDataParallel(model) instead",
    "FSDPModule": "write DistributedDataParallel(model) instead of fully_shard(model)",
    "DataParallel": "give the module it wraps, model.module, or write DistributedDataParallel",
}
"""What shares the work of a model among processes or devices, and what to write instead."""


def require_alone(model: nn.Module) -> nn.Module:
    """Refuse a network of which this process has a part only, or only in a part.

    ``DistributedDataParallel`` around all of it is not asked here: it has the whole network.
    """
    for name, module in model.named_modules():
        for kind in type(module).__mro__:
            if kind.__name__ in _SHARED:
                where = f"layer {name!r} is" if name else "got"
                raise TypeError(
                    f"model must be the network itself or DistributedDataParallel of it, {where} "
                    f"a {kind.__name__}; {_SHARED[kind.__name__]}"
                )
    for name, p in model.named_parameters():
        if type(p).__name__ == "DTensor" or type(p.data).__name__ == "DTensor":
            raise TypeError(
                f"parameter {name!r} must be whole on each process, got a DTensor, of which each "
                "has a part; write DistributedDataParallel(model) instead of parallelize_module or "
                "fully_shard"
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
