"""Everything a training step depends on, as one flat dict of tensors: taken, put back, compared."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pkbook.runs.copies import write


class ReplayError(RuntimeError):
    """A replayed segment did not end where the recorded one did."""


def snapshot(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Parameters, buffers and optimizer state by name (views, not copies)."""
    by_id = {id(p): name for name, p in model.named_parameters()}
    tensors = {f"parameter/{n}": p.detach() for n, p in model.named_parameters()}
    tensors |= {f"buffer/{n}": b for n, b in model.named_buffers()}
    for p, state in optimizer.state.items():
        if id(p) not in by_id:
            raise TypeError(
                f"optimizer keeps state of {p!r:.40}, which is no parameter of the model; only "
                "what it keeps of a parameter, optimizer.state[p], can be recorded"
            )
        for key, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{by_id[id(p)]}/{key}"] = value
            elif value is not None:
                raise TypeError(
                    f"optimizer keeps {key!r} of {by_id[id(p)]!r} as a {type(value).__name__}; "
                    "only tensors can be recorded, so write torch.tensor(...) there"
                )
    return tensors


def put_back(
    tensors: dict[str, Tensor], model: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Bring model and optimizer to the state of a snapshot; ``ValueError`` if it is of another."""
    by_name, buffers = dict(model.named_parameters()), dict(model.named_buffers())
    there = {n: _kind(t) for n, t in tensors.items() if not n.startswith("optimizer/")}
    here = {f"parameter/{n}": _kind(p) for n, p in by_name.items()}
    here |= {f"buffer/{n}": _kind(b) for n, b in buffers.items()}
    for name in sorted(there.keys() | here.keys()):
        if there.get(name) != here.get(name):
            raise ValueError(
                f"the checkpoint is of another model: {name} is {there.get(name, 'missing')} "
                f"there, {here.get(name, 'missing')} here"
            )
    optimizer.state.clear()
    # Counters live on the CPU, unless the optimizer runs wholly on the device.
    away = {
        id(p)
        for group in optimizer.param_groups
        for p in group["params"]
        if group.get("capturable") or group.get("fused")
    }
    with torch.no_grad():
        for full, value in tensors.items():
            kind, _, name = full.partition("/")
            if kind == "parameter":
                write(by_name[name], value)
            elif kind == "buffer":
                buffers[name].copy_(value)
            else:
                name, _, key = name.rpartition("/")
                p = by_name[name]
                place = p.device if value.ndim or id(p) in away else torch.device("cpu")
                optimizer.state[p][key] = value.to(place, copy=True)


def _kind(t: Tensor) -> str:
    return f"{t.dtype} {tuple(t.shape)}"


@dataclass(frozen=True)
class Difference:
    """The largest difference between two snapshots, relative to the tensor it is in."""

    name: str
    size: float


def difference(recorded: dict[str, Tensor], replayed: dict[str, Tensor]) -> Difference | None:
    """None where two snapshots are the same bit for bit."""
    worst = None
    for name, value in recorded.items():
        other = replayed.get(name)
        if other is None or other.shape != value.shape:
            return Difference(name, float("inf"))
        other = other.to(value.device)
        if torch.equal(value, other):
            continue
        gap = (value.double() - other.double()).abs().max() / value.double().abs().max()
        size = gap.nan_to_num(nan=float("inf")).item()
        if worst is None or size > worst.size:
            worst = Difference(name, size)
    return worst
