"""A recorded run: what it is made of, and its steps made again."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from pkbook.basics.inference import outside_inference
from pkbook.basics.parameters import Tree
from pkbook.basics.version import __version__
from pkbook.runs import environment, spacing
from pkbook.runs.batches import sample_numbers
from pkbook.runs.copies import copied, frozen
from pkbook.runs.kept_batches import plain_source
from pkbook.runs.optimizers import (
    apply_settings,
    memory_key,
    settings_of,
    weight_of,
)
from pkbook.runs.problem import Loss, Problem, is_pair
from pkbook.runs.records import Store
from pkbook.runs.replay import Replay, Replayed
from pkbook.runs.several import Several
from pkbook.runs.snapshot import put_back, snapshot
from pkbook.runs.sources import Tensors
from pkbook.runs.summary import of_run


class Recorded:
    """What is known of a run, and its replay; :class:`pkbook.runs.recording.Recording` makes it."""

    problem: Problem
    """What each step descends."""
    every: int | str
    """Steps from one checkpoint to the next, or how they are spaced."""
    seed: int
    """From it each step draws its own."""
    several: Several | None = None
    """The processes that train the model, where it is ``DistributedDataParallel``."""
    names: list[str]
    """The parameters that the optimizer moves."""
    store: Store
    """Where steps and checkpoints are."""
    elsewhere: dict[str, tuple]
    """What the places that steps were made in have otherwise than this one."""
    scheduler: LRScheduler | None
    _model: nn.Module
    _optimizer: torch.optim.Optimizer

    @property
    def model(self) -> nn.Module:
        """The reader's model; a run is that of one model, so it cannot be exchanged.

        Of ``DistributedDataParallel`` it is the network within, ``ddp.module``.
        """
        return self._model

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The reader's optimizer, which cannot be exchanged either."""
        return self._optimizer

    @property
    def loss(self) -> Loss:
        """The reader's loss."""
        return self.problem.loss

    @property
    def samples(self) -> int:
        """The number of training samples ``N``."""
        return len(self.problem.source)

    @property
    def device(self) -> torch.device:
        """Where the model and its batches are."""
        return self.problem.source.device

    @property
    def x(self) -> Any:
        """The inputs of all samples, for data that are a pair ``(x, y)`` of tensors."""
        return self._pair()[0]

    @property
    def y(self) -> Any:
        """The targets of all samples, for data that are a pair ``(x, y)`` of tensors."""
        return self._pair()[1]

    def _pair(self) -> Any:
        source = plain_source(self.problem.source)
        if not isinstance(source, Tensors) or not is_pair(source.value):
            raise ValueError(
                "the data of this run are no pair (x, y) of tensors; run.batch(numbers) gives "
                "samples by their numbers"
            )
        return source.value

    def batch(self, numbers: Tensor | Sequence[int], seed: int = 0) -> Any:
        """The samples with these numbers, as a step meets them; random ones drawn by ``seed``."""
        return self.problem.source.fetch(self.checked_batch(numbers).tolist(), seed)[0]

    def _places(self, manifest: dict) -> dict[str, tuple]:
        """What the environments that steps were made in have otherwise than this one."""
        found = environment.differing(manifest.get("environment", {}), self.device)
        for record in self.store.steps:
            found |= environment.differing(record.place, self.device)
        return found

    def __len__(self) -> int:
        """Number of steps made."""
        return len(self.store.steps)

    def __repr__(self) -> str:
        return of_run(self)

    def close(self) -> None:
        """Let another process write to the folder; the run can still be taken apart."""
        self.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def parameters(self, k: int) -> Tree:
        r"""The parameters :math:`\theta_k` of the optimizer, ``{name: tensor}``, by replay."""
        model = self.model_at(k)
        return {n: p.detach() for n, p in model.named_parameters() if n in set(self.names)}

    @outside_inference()
    def model_at(self, k: int) -> nn.Module:
        """A copy of the model as it was after ``k`` steps, in eval mode."""
        if isinstance(k, bool) or not isinstance(k, int):
            raise TypeError(f"k must be an int, got {type(k).__name__} {k!r}")
        if not 0 <= k <= len(self):
            raise ValueError(f"k must lie in 0..{len(self)} (the steps made), got {k}")
        model, optimizer = copied(self.model, self.optimizer)
        self.replay.bring_to(k, model, optimizer)
        return model.eval()

    @outside_inference()
    def weight(self, k: int) -> Tree:
        r"""The diagonal :math:`D_k` that step ``k`` multiplies its gradient with, by replay.

        .. math:: \theta_{k+1}-\theta_k=-D_k\,g_k-(\text{what memory and weight decay add})

        The ``weight`` of a kernel in the geometry of that step (Definition 3.3), with clipping;
        ``k`` counts from 0, and -1 is the last step.  See :func:`pkbook.runs.step_weight`.
        """
        if isinstance(k, bool) or not isinstance(k, int):
            raise TypeError(f"k must be an int, got {type(k).__name__} {k!r}")
        if not -len(self) <= k < len(self):
            raise ValueError(
                f"k must be one of the {len(self)} steps made, 0 for the first and -1 for the "
                f"last, got {k}"
            )
        k %= len(self)
        model, optimizer = copied(self.model, self.optimizer)
        self.replay.bring_to(k, model, optimizer)
        state, _ = self.replay.repeat(k, model, optimizer)
        return weight_of(model, state.coefficients)

    @property
    def replay(self) -> Replay:
        """Makes recorded steps again."""
        return Replay(self.problem, self.names, self.store, self.elsewhere)

    def segments_backwards(self, keep: bool = False) -> Iterator[Replayed]:
        """Replay the run segment by segment, last first, each checked against its end.

        ``keep``: the states hold what the optimizer keeps, too.

        Raises
        ------
        ReplayError
            if a segment ends elsewhere than recorded.  On another machine, thread count or torch
            than the recording's this is to be expected, and is measured instead: ``gap``, and a
            warning at the end names the largest.
        """
        end = snapshot(self.model, self.optimizer)
        still = frozen(self.model, self.optimizer)
        model, optimizer = copied(self.model, self.optimizer, shared=still)
        most = spacing.most_held(self.every, len(self))
        return replace(self.replay, keep=keep).backwards(model, optimizer, end, most)

    @outside_inference()
    def verify(self) -> float:
        """Replay the whole run; the largest relative difference from what was recorded.

        0 means bit for bit.  Raises as :meth:`segments_backwards`.
        """
        return max((part.gap for part in self.segments_backwards()), default=0.0)

    def initial_memory(self) -> Tree:
        """The optimizer's memories from before the first step, by parameter name."""
        memory = memory_key(self.optimizer)
        if memory is None:
            return {}
        key, tensors = "/" + memory, self.store.load(0)
        return {
            name.removeprefix("optimizer/").removesuffix(key): t
            for name, t in tensors.items()
            if name.startswith("optimizer/") and name.endswith(key)
        }

    def _rewind(self, opened: bool = False, k: int | None = None) -> None:
        """Bring the reader's model and optimizer to the last recorded step, or to step ``k``."""
        modes = {module: module.training for module in self.model.modules()}
        settings = settings_of(self.optimizer)
        # A backward pass of what other processes share may wait for them: a copy has none.
        shared = self.several is not None
        own = self.model, self.optimizer
        model, optimizer = copied(*own) if shared else own
        if opened:
            self.replay.bring_to_end(model, optimizer)
        else:
            self.replay.bring_to(len(self) if k is None else k, model, optimizer)
        if shared:
            put_back(snapshot(model, optimizer), self.model, self.optimizer)
        apply_settings(self.optimizer, settings)
        for module, mode in modes.items():
            module.training = mode

    def checked_batch(self, batch: Tensor | Sequence[int]) -> Tensor:
        """Sample numbers ``[B]``; refused where they are none, or of no sample."""
        return sample_numbers(batch, self.samples)

    def facts(self) -> dict:
        """What tells this run from others, wherever and by whichever version it is recorded."""
        place = ("pkbook", "environment")
        return {name: fact for name, fact in self._manifest().items() if name not in place}

    def _manifest(self) -> dict:
        clipped = self.problem.clipped  # came later: left out where it is as in older folders
        return {
            **({} if clipped == "trained" else {"clipped": clipped}),
            "pkbook": __version__,
            "environment": environment.environment(self.device),
            "samples": self.samples,
            "data": self.problem.source.fingerprint(),
            "parameters": {n: list(p.shape) for n, p in self.model.named_parameters()},
            "optimizer": type(self.optimizer).__name__,
            "scheduler": None if self.scheduler is None else type(self.scheduler).__name__,
            "clip_norm": self.problem.clip_norm,
            "clip_value": self.problem.clip_value,
            "trained": self.names,
            "groups": [len(group["params"]) for group in self.optimizer.param_groups],
            "every": self.every,
            "seed": self.seed,
        }
