"""Training for experiments: the same batches every time, interrupted and taken up at will."""

from collections.abc import Callable, Iterator, Sequence
from glob import escape
from itertools import islice
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from pkbook.basics.checks import batch_loss, require_whole
from pkbook.basics.files import read_checked, write_checked
from pkbook.basics.randomness import seeded
from pkbook.runs.recording import batches
from pkbook.runs.snapshot import put_back, snapshot

Network = TypeVar("Network", bound=nn.Module)


def channels_last(model: Network) -> Network:
    """The convolutional network in the memory format in which a CPU pools several times faster."""
    # torch's overloads of `to` leave this one out.
    return model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def fit(
    model: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    data: tuple[Tensor, Tensor],
    *,
    epochs: Sequence[int],
    batch: int | None,
    seed: int,
    keep: Path | None = None,
    progress: bool = False,
) -> Iterator[int]:
    """Train `model` in place; stop after each of the `epochs` and yield it, 0 for the start.

    Batches and dropout follow from `seed` alone: a whole run and one that was interrupted end
    with the same parameters to the last bit on one machine. An epoch has ``len(x) // batch``
    independent batches (all samples at once for None). The model is in train mode while it
    trains and in eval mode whenever an epoch is yielded.

    `keep` is a folder for the state at each yielded epoch; states found there are loaded instead
    of trained. FloatingPointError names the epoch where the loss is no longer finite; ValueError
    for epochs that do not increase from 0 on, and for states of another network.
    """
    if not epochs or list(epochs) != sorted(set(epochs)) or epochs[0] < 0:
        raise ValueError(
            f"epochs must be increasing whole numbers, got {tuple(epochs)}; write (0, 10, 100)"
        )
    x, y = data
    steps = 1 if batch is None else len(x) // require_whole(batch, "batch")
    if not steps:
        raise ValueError(f"batch must be at most the {len(x)} samples, got {batch}")
    draws = batches(len(x), size=batch, steps=steps * epochs[-1], seed=seed)
    done = 0
    with tqdm(total=epochs[-1], disable=not progress, desc="epochs") as bar:
        for epoch in epochs:
            file = None if keep is None else _kept(keep / f"epoch{epoch}")
            if file is not None:
                _load(file, model, optimizer)
                for _ in islice(draws, steps * (epoch - done)):
                    pass
            else:
                model.train()
                for now in range(done, epoch):
                    with seeded(seed * 1_000_003 + now, x.device):
                        _epoch(model, loss, optimizer, x, y, islice(draws, steps), now + 1)
                    bar.update()
                if keep is not None:
                    _keep(keep / f"epoch{epoch}", snapshot(model, optimizer))
            done = epoch
            bar.n = epoch
            model.eval()
            yield epoch


def remembered(path: Path | None, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """What `make` returns; kept in ``PATH-CHECKSUM.safetensors`` and read from there the next time.

    For parts of an experiment that are short enough to be done again when interrupted. Without a
    path nothing is kept. ValueError for a file that is damaged or of a pkbook that pickled.
    """
    if path is None:
        return make()
    file = _kept(path)
    if file is not None:
        return read_checked(file)
    found = make()
    _keep(path, found)
    return found


def _epoch(model, loss, optimizer, x, y, draws, number: int) -> None:
    total = torch.zeros((), device=x.device)
    for chosen in draws:
        chosen = chosen.to(x.device)
        optimizer.zero_grad()
        value = batch_loss(loss, model(x[chosen]), y[chosen])
        value.backward()
        optimizer.step()
        total += value.detach()
    if not torch.isfinite(total):  # asked once an epoch: each answer waits for the device
        raise FloatingPointError(
            f"the loss is no longer finite in epoch {number}; take a smaller learning rate"
        )


def _kept(path: Path) -> Path | None:
    """The file written for a path, if there is one; ``path.name`` may hold dots."""
    files = sorted(path.parent.glob(f"{escape(path.name)}-????????.safetensors"))
    pickled = path.with_name(f"{path.name}.pt")
    if not files and pickled.exists():
        raise ValueError(
            f"{pickled} must be a safetensors file, got one of an earlier pkbook, which pickled; "
            f"move {path.parent} away, and the run begins anew"
        )
    return files[0] if files else None


def _keep(path: Path, tensors: dict[str, Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    apart = {n: t.detach().clone(memory_format=torch.contiguous_format) for n, t in tensors.items()}
    write_checked(path.parent, path.name, apart)  # safetensors takes no views of one another


def _load(file: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    try:
        put_back(read_checked(file), model, optimizer)
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"{file} cannot be taken up, for it is damaged or of another network: {error}; "
            "give this run a folder of its own"
        ) from error
