"""What a recorded run says of itself in a few lines."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import nn

from pkbook.basics.words import counted
from pkbook.runs.storage import FolderStore

if TYPE_CHECKING:
    from pkbook.runs.recorded import Recorded

MOST_RATES = 3


def of_run(run: "Recorded") -> str:
    """Model and optimizer, parameters, steps, and where they are kept."""
    kept = "in memory"
    if isinstance(run.store, FolderStore):
        kept = f"in folder {str(run.store.folder)!r}"
    kind, model = type(run).__name__, type(run.model).__name__
    lines = [
        f"{kind} of {model} under {type(run.optimizer).__name__}, {_rates(run)}",
        f"parameters: {_parameters(run.model, run.names)}",
        f"samples: {run.samples:,}; steps: {len(run):,}; checkpoints: {_checkpoints(run)}",
        f"kept {kept}",
    ]
    return "\n  ".join(lines)


def _rates(run: "Recorded") -> str:
    """The learning rates now, and those of the first step where they were others."""
    now = _listed(run.optimizer.param_groups)
    first = _listed(run.store.steps[0].settings) if run.store.steps else now
    schedule = "" if run.scheduler is None else f" ({type(run.scheduler).__name__})"
    return f"lr {now if first == now else f'{first} at first, now {now}'}{schedule}"


def _listed(groups: Sequence[Mapping]) -> str:
    """The rates of parameter groups, one where they are the same."""
    rates = [f"{float(group['lr']):.4g}" if "lr" in group else "of its own" for group in groups]
    rates = rates[:1] if len(set(rates)) == 1 else rates
    return ", ".join(rates[:MOST_RATES]) + (", ..." if len(rates) > MOST_RATES else "")


def _parameters(model: nn.Module, names: list[str]) -> str:
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    trained = sum(sizes.get(name, 0) for name in names)
    return f"{trained:,} of {sum(sizes.values()):,} trained, in {counted(len(names), 'tensor')}"


def _checkpoints(run: "Recorded") -> str:
    """How many there are; what is printed must not fail where a folder is damaged."""
    try:
        spaced = f"every {run.every} steps" if isinstance(run.every, int) else f"by {run.every!r}"
        return f"{len(run.store.saved())}, {spaced}"
    except (OSError, ValueError):
        return "cannot be read"
