r"""The ``Trainer`` of Lightning, recorded: ``Trainer(callbacks=[Recorder()])``.

Each call of ``training_step`` is recorded with its batch, the random numbers and the autocast that
it begins with, and ``accumulate_grad_batches``; at each step the optimizer's hyperparameters, when
its gradients are complete.  Lightning calls ``training_step`` from within ``optimizer.step``, so a
step is seen by the Trainer's own hooks and not by those of the optimizer.
"""

# The library may not be there where types are checked.
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false, reportGeneralTypeIssues=false

import functools
import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from pkbook.basics.checks import require_whole
from pkbook.basics.extras import needs
from pkbook.basics.nested import mapped
from pkbook.integrations.numbered import (
    Numbered,
    Numbering,
    begun,
    first_step,
    require_all_seen,
    require_numbers,
)
from pkbook.interpolation.trajectory import Trajectory

try:
    from lightning.pytorch import Callback as _Callback
except ModuleNotFoundError:  # told when a Recorder is made
    _Callback = object

__all__ = ["Recorder"]

NUMBERS, BATCH = "numbers of pkbook", "batch"
PRECISIONS = ("32-true", "64-true", "bf16-mixed")
PATCHED = ("training_step", "on_before_batch_transfer")
COPIED = (
    "num_workers",
    "pin_memory",
    "timeout",
    "worker_init_fn",
    "multiprocessing_context",
    "generator",
    "prefetch_factor",
    "persistent_workers",
    "pin_memory_device",
)


class Recorder(_Callback):  # pyright: ignore[reportGeneralTypeIssues]
    r"""Records the next ``trainer.fit(module, ...)`` as a :class:`pkbook.Trajectory`.

    The Trainer goes on drawing, accumulating, clipping and stepping as it would without: the
    weights after the training are the same bit for bit.

    Parameters
    ----------
    folder, every, check
        as for :class:`pkbook.Trajectory`.
    resume
        go on with the record in ``folder`` where ``trainer.fit(..., ckpt_path=...)`` goes on; the
        steps after that checkpoint are dropped, as the Trainer makes them again.

    Raises
    ------
    ImportError
        without lightning.
    TypeError, ValueError
        for manual optimization, ``training_step(dataloader_iter)``, several loaders or optimizers,
        an ``IterableDataset``, several processes, other precisions than ``32-true``, ``64-true``
        and ``bf16-mixed``, and a clipping of one's own.
    ReplayError
        at a step that cannot be made again, at the end where steps were not seen, and with
        ``resume`` where the Trainer goes on from another state than that on record.

    Notes
    -----
    A module's ``training_step`` returns one number, and a sample's share of it is found at what the
    module returns: it must call ``self(x)``.  A replay calls ``training_step`` on copies of the
    module, where ``self.log`` is silent and ``self.trainer`` has the counters of that step.

    Examples
    --------
    ::

        recorder = Recorder()
        Trainer(max_epochs=4, callbacks=[recorder]).fit(module, loader)
        told = recorder.run.interpolate(queries)
    """

    def __init__(
        self,
        *,
        folder: str | Path | None = None,
        every: int = 50,
        check: bool = True,
        resume: bool = False,
    ) -> None:
        with needs("pkbook.integrations.lightning", "lightning"):
            import lightning.pytorch  # noqa: F401
        self.folder, self.check, self.resume = folder, check, resume
        self.every = require_whole(every, "every")
        self._run: Trajectory | None = None
        self._loader: Any = None
        self._numbers: Tensor | None = None
        self._began = 0
        self._watching = False

    @classmethod
    def open(
        cls, trainer: Any, module: Any, loader: Any, folder: str | Path, *, read_only: bool = False
    ) -> Trajectory:
        """A training that a Recorder kept in ``folder``, to be taken apart later.

        ``trainer``, ``module`` and ``loader`` are made as for the recorded training, and nothing is
        trained; the module is brought to the end of the record.  Raises as
        :meth:`pkbook.Trajectory.open`.
        """
        _require_plain(trainer, module)
        module.trainer = trainer
        optimizer = _one_optimizer(module.configure_optimizers())
        parts, options = _parts(trainer, module, optimizer, _require_loader(loader))
        return Trajectory.open(folder, *parts, read_only=read_only, **options)

    @property
    def run(self) -> Trajectory:
        """The recorded training."""
        if self._run is None:
            raise ValueError(
                "nothing is recorded yet; call trainer.fit(...) of a Trainer(callbacks=[recorder])"
            )
        return self._run

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Have the sample numbers come with the batches, before the loader is made."""
        if stage != "fit" or self._run is not None:
            return
        _require_plain(trainer, pl_module)
        source = trainer.fit_loop._data_source
        plain = type(source).dataloader

        def dataloader() -> DataLoader:
            self._loader = _require_loader(plain(source))
            return _numbered(self._loader)

        source.dataloader = dataloader

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin the record, from where the Trainer begins."""
        if self._run is not None:
            return
        if len(trainer.optimizers) != 1:
            raise ValueError(
                f"configure_optimizers must give one optimizer, got {len(trainer.optimizers)}"
            )
        vars(trainer.fit_loop._data_source).pop("dataloader")
        parts, options = _parts(trainer, pl_module, trainer.optimizers[0], self._loader)
        options["check"] = self.check
        run = begun(self, trainer.global_step, parts, options, "groups")
        self._began = first_step(run, trainer.global_step)
        run.follow_loop(self.folder, passes=False, steps=False)
        self._run, self._watching = run, True
        self._attach(trainer, pl_module)

    def _attach(self, trainer: Any, module: Any) -> None:
        step, transfer = module.training_step, module.on_before_batch_transfer

        @functools.wraps(step)
        def training_step(*args: Any, **named: Any) -> Any:
            self._note(trainer, args, named)
            value = step(*args, **named)
            if value is None:
                raise ValueError("training_step must return a loss, got None: a step left out")
            return value

        @functools.wraps(transfer)
        def on_before_batch_transfer(batch: Any, dataloader_idx: int) -> Any:
            if isinstance(batch, dict) and NUMBERS in batch:
                self._numbers, batch = batch[NUMBERS], batch[BATCH]
            return transfer(batch, dataloader_idx)

        module.training_step = training_step
        module.on_before_batch_transfer = on_before_batch_transfer

    def _note(self, trainer: Any, args: tuple, named: dict) -> None:
        """A training_step begins."""
        numbers, self._numbers = self._numbers, None
        if numbers is None:
            raise ValueError(
                "training_step must be called once for each batch of the loader, got a call "
                "without a new batch"
            )
        batch = mapped(_situation(list(args), named, trainer), torch.clone)
        self.run.watched_loop.begin(numbers, batch, float(trainer.accumulate_grad_batches))

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """Record a step: its gradients are complete and not clipped yet."""
        if self._watching:
            self.run.watched_loop.complete()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """End the record; ``ReplayError`` where steps of the training are not on it."""
        if self._watching:
            self._detach(pl_module)
            self.run.end_loop()
            require_all_seen(
                len(self.run),
                trainer.global_step - self._began,
                "let no other code step the optimizer",
            )

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """End the record where the training broke off."""
        if self._watching:
            self._detach(pl_module)
            self.run.end_loop(whole=False)

    def _detach(self, module: Any) -> None:
        for name in PATCHED:
            vars(module).pop(name, None)
        self._watching = False


def _parts(
    trainer: Any, module: Any, optimizer: Any, loader: DataLoader
) -> tuple[tuple, dict[str, Any]]:
    """What a run is made of, and its options."""

    def collate(samples: list) -> dict[str, Any]:
        return _situation([loader.collate_fn(samples), 0], {}, trainer)

    clip = trainer.gradient_clip_val or None
    by_value = trainer.gradient_clip_algorithm == "value"  # an enumeration of strings
    clips = {"clip_norm": None if by_value else clip, "clip_value": clip if by_value else None}
    parts = module, _loss_of(module, trainer), optimizer, loader.dataset
    return parts, {"collate": collate, **clips}


def _one_optimizer(configured: Any) -> Any:
    """The optimizer in what ``configure_optimizers`` returned, beside schedules."""
    if isinstance(configured, Mapping):
        return configured["optimizer"]
    return _one_optimizer(configured[0]) if isinstance(configured, list | tuple) else configured


def _situation(args: list, named: dict, trainer: Any) -> dict[str, Any]:
    """What a call of training_step depends on."""
    counters = {"epoch": int(trainer.current_epoch), "step": int(trainer.global_step)}
    return {"args": args, "named": dict(named), **counters}


def _loss_of(module: Any, trainer: Any) -> Callable[[nn.Module, dict], Tensor]:
    """The loss of a recorded call of training_step, on a copy of the module."""
    step = module.training_step.__func__
    takes = len(inspect.signature(module.training_step).parameters)

    def loss(model: nn.Module, batch: dict) -> Tensor:
        with _as_then(model, trainer, batch):
            value = step(model, *batch["args"][:takes], **batch["named"])
        return value["loss"] if isinstance(value, Mapping) else value

    return loss


class _Then:
    """A Trainer as it was at a recorded call: its counters; what is logged goes nowhere."""

    training, validating, sanity_checking, barebones = True, False, False, False

    def __init__(self, trainer: Any, batch: dict) -> None:
        from lightning.pytorch.loggers.logger import DummyLogger

        self._now, self.logger = trainer, DummyLogger()
        self.loggers = [self.logger]
        self.current_epoch, self.global_step = batch["epoch"], batch["step"]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._now, name)


@contextmanager
def _as_then(model: Any, trainer: Any, batch: dict) -> Iterator[None]:
    """The module and those within it as if that Trainer called them."""
    from lightning.pytorch import LightningModule

    then = _Then(trainer, batch)
    modules = [m for m in model.modules() if isinstance(m, LightningModule)]
    kept = [(m, m._trainer) for m in modules]
    for m in modules:
        m._trainer = then  # pyright: ignore[reportAttributeAccessIssue]
        m.log = m.log_dict = _nothing  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        for m, old in kept:
            m._trainer = old
            vars(m).pop("log")
            vars(m).pop("log_dict")


def _nothing(*_: Any, **__: Any) -> None:
    """What a module logs in a replay."""


def _numbered(loader: DataLoader) -> DataLoader:
    """The same loader, whose batches bring their numbers."""
    options = {name: getattr(loader, name) for name in COPIED if hasattr(loader, name)}
    with warnings.catch_warnings():  # said already of the loader that it is made of
        warnings.simplefilter("ignore")
        return DataLoader(
            Numbered(loader.dataset),
            batch_sampler=loader.batch_sampler,
            collate_fn=Numbering(loader.collate_fn, _with_numbers),
            **options,
        )


def _with_numbers(batch: Any, numbers: Tensor) -> dict[str, Any]:
    return {NUMBERS: numbers, BATCH: batch}


def _require_loader(loader: Any) -> DataLoader:
    """One loader of batches of numbered samples."""
    if not isinstance(loader, DataLoader):
        raise TypeError(
            f"the training data must be one DataLoader, got {type(loader).__name__}; a recorded "
            "step is made of the samples of one data set"
        )
    require_numbers(loader.dataset, "the data set of the DataLoader")
    if loader.batch_sampler is None:
        raise ValueError("DataLoader must put batches together, got batch_size=None; give one")
    if type(loader).__iter__ is not DataLoader.__iter__:
        raise TypeError(
            f"the training data must be a plain DataLoader, got a {type(loader).__name__} with an "
            "__iter__ of its own"
        )
    return loader


def _require_plain(trainer: Any, module: Any) -> None:
    """Refuse by name what is not recorded."""
    from lightning.pytorch import LightningModule

    step = module.training_step
    if getattr(step, "__self__", None) is not module:
        raise TypeError("training_step must be a method of the module, got another function on it")
    for found, told in (
        (not module.automatic_optimization,
         "automatic_optimization = True, got manual optimization; record such a loop with "
         "pkbook.record(module, optimizer, ...)"),
        ("dataloader_iter" in inspect.signature(step).parameters,
         "training_step(batch, batch_idx), got one that takes the iterator of the loader"),
        (type(module).configure_gradient_clipping
         is not LightningModule.configure_gradient_clipping,
         "no configure_gradient_clipping; write Trainer(gradient_clip_val=...)"),
    ):  # fmt: skip
        if found:
            raise ValueError(f"module must have {told}")
    if trainer.world_size > 1:
        raise ValueError(
            f"trainer must have a single process and device, got {trainer.world_size}; write "
            "Trainer(devices=1)"
        )
    if trainer.precision not in PRECISIONS:
        raise ValueError(
            f"trainer must have precision {', '.join(PRECISIONS)}, got {trainer.precision!r}"
        )
