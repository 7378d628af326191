"""Everything a training step depends on, as one flat dict of tensors: taken, put back, compared."""

import zlib

import torch
from torch import Tensor, nn


class ReplayError(RuntimeError):
    """A replayed segment did not end where the recorded one did."""


def snapshot(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Parameters, buffers and optimizer state by name (views, not copies)."""
    by_id = {id(p): name for name, p in model.named_parameters()}
    tensors = {f"parameter/{n}": p.detach() for n, p in model.named_parameters()}
    tensors |= {f"buffer/{n}": b for n, b in model.named_buffers()}
    for p, state in optimizer.state.items():
        for key, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{by_id[id(p)]}/{key}"] = value
    return tensors


def put_back(
    tensors: dict[str, Tensor], model: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Bring model and optimizer to the state of a snapshot."""
    by_name, buffers = dict(model.named_parameters()), dict(model.named_buffers())
    optimizer.state.clear()
    with torch.no_grad():
        for full, value in tensors.items():
            kind, _, name = full.partition("/")
            if kind == "parameter":
                by_name[name].copy_(value)
            elif kind == "buffer":
                buffers[name].copy_(value)
            else:
                name, _, key = name.rpartition("/")
                p = by_name[name]
                optimizer.state[p][key] = value.to(p.device, copy=True)


def require_same(
    start: int, stop: int, recorded: dict[str, Tensor], replayed: dict[str, Tensor]
) -> None:
    """The integrity check: a replayed segment must end on the recorded bits."""
    for name, value in recorded.items():
        other = replayed[name].to(value.device)
        if not torch.equal(value, other):
            gap = (value.double() - other.double()).abs().max().item()
            raise ReplayError(
                f"steps {start} to {stop} replayed differently from the recorded run: {name} is "
                f"off by {gap:.3g}. Was the model changed outside of step(), or is this another "
                "machine, thread count or library version?"
            )


def fingerprint(*tensors: Tensor) -> str:
    """CRC-32 over types, shapes and bytes."""
    crc = 0
    for t in tensors:
        t = t.detach().cpu().contiguous()
        crc = zlib.crc32(f"{t.dtype} {tuple(t.shape)}".encode(), crc)
        crc = zlib.crc32(t.flatten().view(torch.uint8).numpy(), crc)
    return f"{crc:08x}"
