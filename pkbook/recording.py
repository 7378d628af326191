"""A training run as data: recorded step by step, replayed bit for bit.

A :class:`Recording` wraps the reader's own loop: each :meth:`Recording.step` makes one optimizer
step and records what is needed to make it again (batch indices, random seed, hyperparameters), and
every few steps a checkpoint of parameters, buffers and optimizer state.  A replay starts from a
checkpoint, repeats the steps, and must land on the next checkpoint exactly.
"""

import copy
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from pkbook.checks import (
    batch_loss,
    evaluating,
    require_finite,
    require_inputs,
    require_module,
    require_tensor,
    require_whole,
)
from pkbook.optimizers import StepState, memory_of, settings_of
from pkbook.snapshot import fingerprint, put_back, require_same, snapshot
from pkbook.storage import FolderStore, MemoryStore, StepRecord
from pkbook.tangent import Tree
from pkbook.version import __version__

Loss = Callable[[Tensor, Tensor], Tensor]


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Random numbers of one step from its own seed; the global generators are left as they were."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def set_modes(model: nn.Module, record: StepRecord) -> None:
    """Put every module in the mode, train or eval, that it had at a recorded step."""
    training = set(record.training)
    for name, module in model.named_modules():
        module.training = name in training


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
    ) -> None:
        self._bind(model, loss, optimizer, data)
        self.every = require_whole(every, "every")
        self._seed = require_whole(seed, "seed", least=0)
        self.store = MemoryStore()
        if folder is not None:
            self.store = FolderStore.create(folder, self._manifest())
        self.store.save(0, snapshot(self.model, self.optimizer))

    @classmethod
    def open(
        cls,
        folder: str | Path,
        model: nn.Module,
        loss: Loss,
        optimizer: torch.optim.Optimizer,
        data: tuple[Tensor, Tensor],
    ) -> Self:
        """Open a run kept in ``folder`` and bring model and optimizer to its last step.

        Model, loss, optimizer and data are made by the reader's code as for the first time; what
        the folder says about them is compared, and a difference is a ``ValueError``.
        """
        run = cls.__new__(cls)
        run._bind(model, loss, optimizer, data)
        run.store, manifest = FolderStore.open(folder)
        run.every, run._seed = manifest["every"], manifest["seed"]
        for key, value in run._manifest().items():
            if key != "pkbook" and manifest.get(key) != value:
                raise ValueError(
                    f"folder {str(folder)!r} was recorded with another {key}: "
                    f"{manifest.get(key)!r} there, {value!r} here"
                )
        last = max((k for k in run.store.saved() if k <= len(run)), default=None)
        if last is None:
            raise ValueError(f"folder {str(folder)!r} has no checkpoint to start from")
        put_back(run.store.load(last), run.model, run.optimizer)
        for k in range(last, len(run)):
            run._repeat(run.store.steps[k], run.model, run.optimizer)
        return run

    def _bind(self, model, loss, optimizer, data) -> None:
        """Check the four parts of a run and keep them."""
        self.model, self.loss, self.optimizer = require_module(model), loss, optimizer
        self.x, self.y = _checked_data(model, data)
        memory_of(optimizer)
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
        _refuse_batch_statistics(model)
        with evaluating(model), torch.no_grad(), seeded(0, self.x.device):
            batch_loss(loss, model(self.x[:2]), self.y[:2])  # a loss that does not fit says so now

    def __len__(self) -> int:
        """Number of steps made."""
        return len(self.store.steps)

    def step(self, batch: Tensor | Sequence[int]) -> Tensor:
        """Make and record one optimizer step on the samples ``batch`` (indices into the data).

        Returns the batch loss before the step.  ``ValueError`` for indices out of range, and for
        a loss or gradient that is not finite: the step is then not made, the path so far is kept.
        """
        batch = self._checked_batch(batch)
        k = len(self)
        record = StepRecord(
            batch=batch.tolist(),
            seed=_step_seed(self._seed, k),
            settings=settings_of(self.optimizer),
            training=[name for name, m in self.model.named_modules() if m.training],
            loss=0.0,
        )
        _refuse_batch_statistics(self.model)
        value = self._descend(record, self.model, self.optimizer, k)
        record = StepRecord(**{**record.__dict__, "loss": value.item()})
        self.store.append(record)
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
        start = max(c for c in self.store.saved() if c <= k)
        model, optimizer = self._copy()
        put_back(self.store.load(start), model, optimizer)
        for step in range(start, k):
            self._repeat(self.store.steps[step], model, optimizer)
        return model.eval()

    def segments_backwards(self) -> Iterator[tuple[int, list[StepState], nn.Module]]:
        """Replay the run segment by segment, last first, each checked against its end.

        Yields the first step's number, the states before each step of the segment followed by
        the state at its end, and the model (a copy) that was used.
        """
        model, optimizer = self._copy()
        starts = [c for c in self.store.saved() if c < len(self)]
        stop, end = len(self), snapshot(self.model, self.optimizer)
        for start in reversed(starts):
            put_back(self.store.load(start), model, optimizer)
            states = [
                self._repeat(self.store.steps[k], model, optimizer) for k in range(start, stop)
            ]
            require_same(start, stop, end, snapshot(model, optimizer))
            states.append(StepState(self._moving(model), {}, frozenset(), frozenset()))
            yield start, states, model
            stop, end = start, self.store.load(start)

    def initial_buffers(self) -> Tree:
        """Momentum buffers that existed before the first step, by parameter name."""
        key = "/momentum_buffer"
        tensors = self.store.load(0)
        return {
            name.removeprefix("optimizer/").removesuffix(key): t
            for name, t in tensors.items()
            if name.startswith("optimizer/") and name.endswith(key)
        }

    def _checked_batch(self, batch: Tensor | Sequence[int]) -> Tensor:
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

    def forward(
        self, record: StepRecord, call: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Outputs and targets of a step's batch, with the step's own random numbers."""
        batch = torch.tensor(record.batch, device=self.x.device)
        with seeded(record.seed, self.x.device):
            return call(self.x[batch]), self.y[batch]

    def _descend(self, record: StepRecord, model, optimizer, k: int) -> Tensor:
        """One optimizer step; refuses to make it if the loss or a gradient is not finite."""
        optimizer.zero_grad()
        with torch.enable_grad():  # also where the reader's code has switched gradients off
            outputs, targets = self.forward(record, model)
            value = batch_loss(self.loss, outputs, targets)
        if not torch.isfinite(value):
            raise ValueError(
                f"loss is {value.item()} at step {k}; the step was not made and the path up to "
                f"step {k} is kept: lower the learning rate or look at samples {record.batch[:8]}"
            )
        value.backward()
        for name, p in model.named_parameters():
            if p.grad is not None:
                require_finite(p.grad, f"the gradient of {name!r} at step {k}")
        optimizer.step()
        return value.detach()

    def _repeat(self, record: StepRecord, model, optimizer) -> StepState:
        """Make a recorded step again on a copy; returns the state before it."""
        set_modes(model, record)
        before = self._moving(model)
        by_name = dict(model.named_parameters())
        names = {id(p): name for name, p in by_name.items()}
        settings = {}
        for group, values in zip(optimizer.param_groups, record.settings, strict=True):
            group.update(values)
            settings |= {names[id(p)]: values for p in group["params"]}
        first = frozenset(
            n for n in self.names if optimizer.state[by_name[n]].get("momentum_buffer") is None
        )
        self._descend(record, model, optimizer, -1)
        still = frozenset(n for n in self.names if by_name[n].grad is None)
        return StepState(before, settings, first, still)

    def _moving(self, model: nn.Module) -> Tree:
        by_name = dict(model.named_parameters())
        return {name: by_name[name].detach().clone() for name in self.names}

    def _copy(self) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Model and optimizer copied together, so that the copy's optimizer moves the copy."""
        return copy.deepcopy((self.model, self.optimizer))

    def _manifest(self) -> dict:
        return {
            "pkbook": __version__,
            "samples": len(self.x),
            "data": fingerprint(self.x, self.y),
            "parameters": {n: list(p.shape) for n, p in self.model.named_parameters()},
            "optimizer": type(self.optimizer).__name__,
            "trained": self.names,
            "every": self.every,
            "seed": self._seed,
        }


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


def _refuse_batch_statistics(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if module.training and isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise ValueError(
                f"layer {name!r} ({type(module).__name__}) is in train mode: its running "
                "statistics change outside of the optimizer's step, and no sample's gradient "
                "accounts for that; put it in eval mode or use GroupNorm or LayerNorm"
            )


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
