"""A training run as data: recorded step by step, replayed bit for bit.

A :class:`Recording` wraps the reader's own loop: each :meth:`Recording.step` makes one optimizer
step and records what is needed to make it again (batch indices, random seed, hyperparameters), and
every few steps a checkpoint of parameters, buffers and optimizer state.  A replay starts from a
checkpoint, repeats the steps, and must land on the next checkpoint exactly.
"""

import copy
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from pkbook.basics.checks import (
    batch_loss,
    evaluating,
    is_finite_number,
    require_finite,
    require_inputs,
    require_module,
    require_tensor,
    require_whole,
)
from pkbook.basics.fingerprints import fingerprint
from pkbook.basics.parameters import Tree
from pkbook.basics.randomness import seeded
from pkbook.basics.version import __version__
from pkbook.runs.optimizers import (
    StepState,
    apply_settings,
    memory_key,
    require_linear,
    settings_of,
)
from pkbook.runs.schedules import advance, follow, require_schedule
from pkbook.runs.snapshot import ReplayError, difference, put_back, snapshot
from pkbook.runs.steps import (
    Loss,
    Problem,
    buffers_of,
    gradients,
    moving,
    put_buffers,
    repeat,
)
from pkbook.runs.storage import FolderStore, MemoryStore, StepRecord


@dataclass(frozen=True)
class Replayed:
    """A part of a run made again, from one checkpoint to the next."""

    start: int
    states: list[StepState]
    """The states before each step, followed by the state at the end."""
    model: nn.Module
    """A copy of the model."""
    end: dict[str, Tensor]
    """What was recorded for the end."""
    gap: float
    """Largest relative difference between the end recorded and replayed; 0 is bit for bit."""


class Recording:
    """A run as data; see :class:`pkbook.Trajectory`, which adds what is computed from it."""

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        optimizer: torch.optim.Optimizer,
        data: tuple[Tensor, Tensor],
        *,
        folder: str | Path | None = None,
        every: int = 50,
        seed: int = 0,
        scheduler: LRScheduler | None = None,
        clip_norm: float | None = None,
        clip_value: float | None = None,
    ) -> None:
        self._bind(model, loss, optimizer, data, scheduler, clip_norm, clip_value)
        self.every = require_whole(every, "every")
        self._seed = require_whole(seed, "seed", least=0)
        self.elsewhere: dict[str, tuple] = {}
        self.store = MemoryStore()
        if folder is not None:
            self.store = FolderStore.create(folder, self._manifest())
        try:
            self.store.save(0, snapshot(self.model, self.optimizer))
        except BaseException:
            with suppress(OSError):
                self.close()
            raise

    @classmethod
    def open(
        cls,
        folder: str | Path,
        model: nn.Module,
        loss: Loss,
        optimizer: torch.optim.Optimizer,
        data: tuple[Tensor, Tensor],
        *,
        scheduler: LRScheduler | None = None,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        read_only: bool = False,
    ) -> Self:
        """Open a run kept in ``folder`` and bring model and optimizer to its last step.

        Model, loss, optimizer, scheduler and data are made by the reader's code as for the first
        time; what the folder says about them is compared, and a difference is a ``ValueError``.
        A scheduler given here is brought to the last step too; hyperparameters that the reader's
        code sets by hand are left as that code made them.

        With ``read_only`` the run can be taken apart but not continued, also while another process
        goes on writing it.  Without it, ``StorageError`` where the folder cannot be written.
        """
        run = cls.__new__(cls)
        run._bind(model, loss, optimizer, data, scheduler, clip_norm, clip_value)
        run.store, manifest = FolderStore.open(folder, read_only=read_only)
        try:
            run.every, run._seed, run.elsewhere = manifest["every"], manifest["seed"], {}
            run._compare(folder, manifest)
            run._compare_steps(folder)
            run._rewind()
            if scheduler is not None:
                follow(scheduler, optimizer, [record.settings for record in run.store.steps])
        except BaseException:
            run.close()
            raise
        return run

    def _bind(self, model, loss, optimizer, data, scheduler, clip_norm, clip_value) -> None:
        """Check the parts of a run and keep them."""
        self.model, self.loss, self.optimizer = require_module(model), loss, optimizer
        self.x, self.y = _checked_data(model, data)
        require_linear(optimizer)
        self.scheduler = require_schedule(scheduler, optimizer)
        _check_clip(clip_norm, clip_value)
        self.problem = Problem(loss, self.x, self.y, clip_norm, clip_value)
        names = {id(p): name for name, p in model.named_parameters()}
        grouped = [p for group in optimizer.param_groups for p in group["params"]]
        if any(id(p) not in names for p in grouped):
            raise ValueError(
                "optimizer holds a parameter that is not the model's; "
                "write torch.optim.SGD(model.parameters(), lr=...) after the model is complete"
            )
        self.names = [names[id(p)] for p in grouped if p.requires_grad]
        if not self.names:
            raise ValueError("optimizer holds no trainable parameter of the model")
        for name, p in model.named_parameters():
            require_finite(p.detach(), f"parameter {name!r}")
        with evaluating(model), torch.no_grad(), seeded(0, self.x.device):
            batch_loss(loss, model(self.x[:2]), self.y[:2])  # a loss that does not fit says so now

    def _compare(self, folder: str | Path, manifest: dict) -> None:
        """Refuse the folder of another run; note where it was recorded."""
        for key, value in self._manifest().items():
            there = manifest.get(key)
            if key not in manifest or there == value:
                continue
            if key == "pkbook":
                warnings.warn(
                    f"folder {str(folder)!r} was recorded with pkbook {there}, this is {value}; "
                    "what is replayed is compared with the checkpoints",
                    stacklevel=4,
                )
            elif key == "environment":
                self._note(there)
            else:
                raise ValueError(
                    f"folder {str(folder)!r} was recorded with another {key}: "
                    f"{there!r} there, {value!r} here"
                )

    def _compare_steps(self, folder: str | Path) -> None:
        """The seed of each step follows from its number: none is missing or moved."""
        for k, record in enumerate(self.store.steps):
            if record.seed != _step_seed(self._seed, k):
                raise ValueError(
                    f"line {k} of {Path(folder) / 'steps.jsonl'} is that of another step, or was "
                    f"recorded with another seed than {self._seed}"
                )
            self._note(record.place)

    def _note(self, place: dict) -> None:
        """Keep what an environment that steps were made in has otherwise than this one."""
        here = _environment(self.x.device) if place else {}
        self.elsewhere |= {k: (place.get(k), v) for k, v in here.items() if place.get(k) != v}

    def __len__(self) -> int:
        """Number of steps made."""
        return len(self.store.steps)

    def close(self) -> None:
        """Let another process write to the folder; the run can still be taken apart."""
        self.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def step(self, batch: Tensor | Sequence[int] | Sequence[Tensor]) -> Tensor:
        """Make and record one optimizer step on the samples ``batch`` (indices into the data).

        A list of batches accumulates: the step follows the mean of their gradients.  Returns the
        batch loss before the step.  ``ValueError`` for indices out of range, and for a loss or
        gradient that is not finite: the step is then not made, the path so far is kept.
        ``StorageError`` where the folder cannot be written.
        """
        parts = [self.checked_batch(b) for b in _parts(batch)]
        k = len(self)
        record = StepRecord(
            batch=[i for part in parts for i in part.tolist()],
            seed=_step_seed(self._seed, k),
            settings=settings_of(self.optimizer),
            training=[name for name, m in self.model.named_modules() if m.training],
            loss=0.0,
            parts=[len(part) for part in parts] if len(parts) > 1 else [],
            place=_environment(self.x.device) if self.elsewhere else {},
        )
        buffers = buffers_of(self.model)
        try:
            value, _ = gradients(self.problem, record, self.model, self.optimizer, k)
            self.store.append(replace(record, loss=value.item()))
            self.optimizer.step()
        except BaseException:
            if len(self) > k:  # Ctrl-C, say: the step is on record, so it is made
                self._rewind()
                advance(self.scheduler)
            else:
                put_buffers(self.model, buffers)
            raise
        advance(self.scheduler)
        if (k + 1) % self.every == 0:
            self.store.save(k + 1, snapshot(self.model, self.optimizer))
        return value

    def parameters(self, k: int) -> Tree:
        r"""The parameters :math:`\theta_k` of the optimizer, ``{name: tensor}``, by replay."""
        model = self.model_at(k)
        return {n: p.detach() for n, p in model.named_parameters() if n in set(self.names)}

    def model_at(self, k: int) -> nn.Module:
        """A copy of the model as it was after ``k`` steps, in eval mode."""
        if isinstance(k, bool) or not isinstance(k, int):
            raise TypeError(f"k must be an int, got {type(k).__name__} {k!r}")
        if not 0 <= k <= len(self):
            raise ValueError(f"k must lie in 0..{len(self)} (the steps made), got {k}")
        model, optimizer = self._copy()
        self._replay_to(k, model, optimizer)
        return model.eval()

    def segments_backwards(self) -> Iterator[Replayed]:
        """Replay the run segment by segment, last first, each checked against its end.

        Raises
        ------
        ReplayError
            if a segment ends elsewhere than recorded.  On another machine, thread count or torch
            than the recording's this is to be expected, and is measured instead: ``gap``, and a
            warning at the end names the largest.
        """
        model, optimizer = self._copy()
        starts = [c for c in self.store.saved() if c < len(self)]
        worst, told = 0.0, ""
        stop, end = len(self), snapshot(self.model, self.optimizer)
        for start in reversed(starts):
            put_back(self.store.load(start), model, optimizer)
            states = []
            for k in range(start, stop):
                state, loss = self._repeat(k, model, optimizer)
                states.append(state)
                self._check_loss(start, stop, k, loss)
            gap, what = self._gap(start, stop, end, snapshot(model, optimizer))
            worst, told = max((worst, told), (gap, what))
            states.append(StepState(moving(model, self.names), buffers_of(model)))
            yield Replayed(start, states, model, end, gap)
            stop, end = start, self.store.load(start)
        if worst:
            there = ", ".join(f"{k} {a} there, {b} here" for k, (a, b) in self.elsewhere.items())
            warnings.warn(f"{told} ({there})", stacklevel=2)

    def verify(self) -> float:
        """Replay the whole run; the largest relative difference from what was recorded.

        0 means bit for bit.  Raises as :meth:`segments_backwards`.
        """
        return max((part.gap for part in self.segments_backwards()), default=0.0)

    def initial_memory(self) -> Tree:
        """The optimizer's memories from before the first step, by parameter name."""
        key = "/" + memory_key(self.optimizer)
        tensors = self.store.load(0)
        return {
            name.removeprefix("optimizer/").removesuffix(key): t
            for name, t in tensors.items()
            if name.startswith("optimizer/") and name.endswith(key)
        }

    def _check_loss(self, start: int, stop: int, k: int, loss: float) -> None:
        """The only witness of the steps after the last checkpoint of a run that was opened."""
        then = self.store.steps[k].loss
        if loss != then and not self.elsewhere:
            what = f"the loss of step {k} is {loss}, and was {then}"
            raise ReplayError(f"{_differently(start, stop, what)}. {_CAUSE}")

    def _gap(self, start: int, stop: int, recorded: dict, replayed: dict) -> tuple[float, str]:
        found = difference(recorded, replayed)
        if found is None:
            return 0.0, ""
        what = f"{found.name} is off by {found.size:.2g} of its size"
        where = _differently(start, stop, what)
        if not self.elsewhere:
            raise ReplayError(f"{where}. {_CAUSE}")
        return found.size, where

    def _rewind(self) -> None:
        """Bring the reader's model and optimizer to the last recorded step."""
        modes = {module: module.training for module in self.model.modules()}
        settings = settings_of(self.optimizer)
        self._replay_to(len(self), self.model, self.optimizer)
        apply_settings(self.optimizer, settings)
        for module, mode in modes.items():
            module.training = mode

    def _replay_to(self, k: int, model: nn.Module, optimizer) -> None:
        start = max(c for c in self.store.saved() if c <= k)
        put_back(self.store.load(start), model, optimizer)
        for step in range(start, k):
            self._repeat(step, model, optimizer)

    def _repeat(self, k: int, model: nn.Module, optimizer) -> tuple[StepState, float]:
        return repeat(self.problem, self.store.steps[k], self.names, model, optimizer, k)

    def checked_batch(self, batch: Tensor | Sequence[int]) -> Tensor:
        """Sample numbers ``[B]``; refused where they are none, or of no sample."""
        batch = torch.as_tensor(batch)
        if batch.is_floating_point() or batch.dtype == torch.bool or batch.ndim != 1:
            raise TypeError(
                f"batch must be a one-dimensional tensor or list of sample numbers, "
                f"got dtype {batch.dtype}, shape {tuple(batch.shape)}"
            )
        n = len(self.x)
        if batch.numel() == 0 or int(batch.min()) < 0 or int(batch.max()) >= n:
            raise ValueError(f"batch must hold sample numbers in 0..{n - 1}, got {batch.tolist()}")
        return batch

    def _copy(self) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Model and optimizer copied together, so that the copy's optimizer moves the copy."""
        return copy.deepcopy((self.model, self.optimizer))

    def facts(self) -> dict:
        """What tells this run from others, wherever and by whichever version it is recorded."""
        place = ("pkbook", "environment")
        return {name: fact for name, fact in self._manifest().items() if name not in place}

    def _manifest(self) -> dict:
        return {
            "pkbook": __version__,
            "environment": _environment(self.x.device),
            "samples": len(self.x),
            "data": fingerprint(self.x, self.y),
            "parameters": {n: list(p.shape) for n, p in self.model.named_parameters()},
            "optimizer": type(self.optimizer).__name__,
            "scheduler": None if self.scheduler is None else type(self.scheduler).__name__,
            "clip_norm": self.problem.clip_norm,
            "clip_value": self.problem.clip_value,
            "trained": self.names,
            "groups": [len(group["params"]) for group in self.optimizer.param_groups],
            "every": self.every,
            "seed": self._seed,
        }


def _environment(device: torch.device) -> dict:
    """What the last bits of a computation depend on."""
    place = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": place,
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }


_CAUSE = "Was the model, the loss or the optimizer changed outside of step()?"


def _differently(start: int, stop: int, what: str) -> str:
    return f"steps {start} to {stop} replayed differently from the recorded run: {what}"


def _parts(batch: object) -> Sequence:
    """The micro-batches of a step: one, unless a list of several batches came."""
    nested = isinstance(batch, list | tuple) and any(
        isinstance(b, list | tuple) or (isinstance(b, Tensor) and b.ndim > 0) for b in batch
    )
    return batch if nested else [batch]


def _check_clip(clip_norm: object, clip_value: object) -> None:
    for name, value in (("clip_norm", clip_norm), ("clip_value", clip_value)):
        if value is not None and (not is_finite_number(value) or value <= 0):
            raise ValueError(f"{name} must be a positive number or None, got {value!r}")
    if clip_norm is not None and clip_value is not None:
        raise ValueError("give clip_norm or clip_value, not both")


def _checked_data(model: nn.Module, data: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
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


def _step_seed(seed: int, k: int) -> int:
    """A seed for step ``k``: a fixed mixing of the run's seed and the step's number."""
    return zlib.crc32(f"{seed}:{k}".encode())


def batches(n: int, *, size: int | None = None, steps: int, seed: int = 0) -> Iterator[Tensor]:
    r"""Mini-batches as in the paper: independent, each uniform among the subsets of ``size``.

    ``size=None`` gives the full batch every time (gradient descent).  The generator is its own:
    the global random state is not touched.

    >>> [b.tolist() for b in batches(3, size=None, steps=2)]
    [[0, 1, 2], [0, 1, 2]]
    """
    require_whole(n, "n")
    require_whole(steps, "steps", least=0)
    if size is not None and require_whole(size, "size") > n:
        raise ValueError(f"size must be at most the number of samples {n}, got {size}")
    generator = torch.Generator().manual_seed(require_whole(seed, "seed", least=0))
    full = torch.arange(n)
    for _ in range(steps):
        yield full if size is None else torch.randperm(n, generator=generator)[:size]
