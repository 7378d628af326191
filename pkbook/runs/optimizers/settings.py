"""An optimizer's hyperparameters as plain numbers: read, and put in force again."""

from torch import Tensor
from torch.optim import Optimizer

IMPLEMENTATION = {"foreach", "fused", "capturable", "differentiable"}  # not what is computed


def settings_of(optimizer: Optimizer) -> list[dict]:
    """The hyperparameters of each parameter group as plain numbers."""
    names = [name for name in optimizer.defaults if name not in IMPLEMENTATION]
    return [{name: _plain(group[name], name) for name in names} for group in optimizer.param_groups]


def apply_settings(optimizer: Optimizer, settings: list[dict]) -> None:
    """Put recorded hyperparameters in force; those that are tensors keep being tensors."""
    for group, values in zip(optimizer.param_groups, settings, strict=True):
        for name, value in values.items():
            if isinstance(group[name], Tensor):
                group[name].fill_(value)
            else:
                group[name] = tuple(value) if isinstance(value, list) else value


def _plain(value: object, name: str) -> float | bool | str | list | None:
    if isinstance(value, list | tuple):
        return [_plain(v, name) for v in value]
    if isinstance(value, Tensor):
        if value.numel() != 1:
            raise TypeError(f"optimizer option {name} must be a number, got {tuple(value.shape)}")
        return value.item()
    if not isinstance(value, int | float | str | None):
        raise TypeError(
            f"optimizer option {name} must be a Python number, got {type(value).__name__} "
            f"{value}; write float({name})"
        )
    return value
