"""A record gone on with by a training that was interrupted, and has checkpoints of its own."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from pkbook.runs.problem import Loss
from pkbook.runs.recording import Recording
from pkbook.runs.snapshot import put_back, snapshot

R = TypeVar("R", bound=Recording)


def resumed(
    kind: type[R],
    made: int | Callable[[R], int],
    folder: str | Path | None,
    model: nn.Module,
    loss: Loss,
    optimizer: Any,
    data: Any,
    **options: Any,
) -> R:
    """The run in ``folder``, to be gone on with where ``made`` of its steps are made.

    Model and optimizer are as the training's own checkpoint has them.  The run must have been in
    the same state, bit for bit, after so many steps; the steps that it has beyond them are dropped,
    as the training makes them again.  ``made`` may be a function of the run.

    ``ValueError`` without a folder or where it has fewer steps; ``ReplayError`` for another state.
    Model and optimizer are then as they were, and so is the folder.
    """
    if folder is None:
        raise ValueError("folder must be that of the record to go on with, got None")
    plain = model.module if isinstance(model, DistributedDataParallel) else model
    there = {name: t.clone() for name, t in snapshot(plain, optimizer).items()}
    run = None
    try:
        run = kind.open(folder, model, loss, optimizer, data, **options)
        run.take_back(made(run) if callable(made) else made, there)
    except BaseException:
        put_back(there, plain, optimizer)
        if run is not None:
            run.close()
        raise
    finally:
        plain.zero_grad()  # of the replay: a loop may accumulate on what it finds
    return run
