"""What a recorded run says of itself in a few lines."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import nn
from torch.optim import Optimizer

from pkbook.basics.words import counted
from pkbook.runs.storage import FolderStore

if TYPE_CHECKING:
    from pkbook.runs.recording import Recording

MOST_RATES = 3


def of_run(run: "Recording") -> str:
    """Model and optimizer, parameters, steps, and where they are kept."""
    kept = "in memory"
    if isinstance(run.store, FolderStore):
        kept = f"in folder {str(run.store.folder)!r}"
    kind, model = type(run).__name__, type(run.model).__name__
    lines = [
        f"{kind} of {model} under {optimizer_words(run.optimizer)}",
        f"parameters: {_parameters(run.model, run.names)}",
        f"samples: {len(run.x):,}; steps: {len(run):,}; checkpoints: {_checkpoints(run)}",
        f"kept {kept}",
    ]
    return "\n  ".join(lines)


def optimizer_words(optimizer: Optimizer) -> str:
    """Its class and the learning rate of each group.

    >>> import torch
    >>> optimizer_words(torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1))
    'SGD, lr 0.1'
    """
    rates = [_rate(group) for group in optimizer.param_groups]
    if len(set(rates)) == 1:
        rates = rates[:1]
    more = ", ..." if len(rates) > MOST_RATES else ""
    return f"{type(optimizer).__name__}, lr {', '.join(rates[:MOST_RATES])}{more}"


def _rate(group: Mapping) -> str:
    return f"{float(group['lr']):.4g}" if "lr" in group else "of its own"


def _parameters(model: nn.Module, names: list[str]) -> str:
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    trained = sum(sizes.get(name, 0) for name in names)
    return f"{trained:,} of {sum(sizes.values()):,} trained, in {counted(len(names), 'tensor')}"


def _checkpoints(run: "Recording") -> str:
    """How many there are; what is printed must not fail where a folder is damaged."""
    try:
        return f"{len(run.store.saved())}, every {run.every} steps"
    except (OSError, ValueError):
        return "cannot be read"
