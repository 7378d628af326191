r"""The ``Trainer`` of transformers, recorded: one line before ``trainer.train()``.

What the Trainer differentiates is :math:`c\cdot` ``compute_loss``, with a factor :math:`c` that
depends on the model's head, on accumulation and on the words of all parts of a step.  None of this
is derived from settings: each call of ``compute_loss`` is recorded with its batch, its
``num_items_in_batch``, its divisor, and the random numbers that it begins with.
"""

# The library may not be there where types are checked.
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false, reportGeneralTypeIssues=false

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

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
from pkbook.runs.loops import unwrapped

try:
    from transformers import TrainerCallback as _Callback
except ModuleNotFoundError:  # told when a Recorder is made
    _Callback = object

__all__ = ["Recorder"]

NUMBERS = "sample_numbers"
"""The key under which the numbers travel in a batch."""


class Recorder(_Callback):  # pyright: ignore[reportGeneralTypeIssues]
    r"""Records the next ``trainer.train()`` as a :class:`pkbook.Trajectory`.

    The Trainer goes on drawing, accumulating, clipping and stepping as it would without: the
    weights after the training are the same bit for bit.

    Parameters
    ----------
    trainer
        a ``transformers.Trainer`` in one process, with a data set whose samples have numbers.
    folder, every, check
        as for :class:`pkbook.Trajectory`.
    resume
        go on with the record in ``folder`` where ``trainer.train(resume_from_checkpoint=...)`` goes
        on; the steps after that checkpoint are dropped, as the Trainer makes them again.

    Raises
    ------
    ImportError
        without transformers.
    TypeError, ValueError
        for an ``IterableDataset``, several processes, ``fp16``, ``torch_compile``, DeepSpeed, FSDP,
        ``load_best_model_at_end``, and a ``training_step`` of one's own; as
        :class:`pkbook.Trajectory` for model and optimizer.
    ReplayError
        at a step that cannot be made again, at the end where steps were not seen, and with
        ``resume`` where the Trainer goes on from another state than that on record.

    Notes
    -----
    Each batch is kept as the model met it.  A replay calls ``trainer.compute_loss`` on copies of
    the trainer's model, with ``trainer.log`` silent and ``trainer.state`` as it was.

    Examples
    --------
    ::

        recorder = Recorder(trainer)
        trainer.train()
        told = recorder.run.interpolate(queries, of=lambda model, q: model(**q).logits)
    """

    def __init__(
        self,
        trainer: Any,
        *,
        folder: str | Path | None = None,
        every: int = 50,
        check: bool = True,
        resume: bool = False,
    ) -> None:
        with needs("pkbook.integrations.transformers", "transformers"):
            from transformers import Trainer
        if not isinstance(trainer, Trainer):
            raise TypeError(f"trainer must be a transformers.Trainer, got {type(trainer).__name__}")
        _require_plain(trainer, Trainer)
        self.trainer: Any = trainer
        self.folder, self.check, self.resume = folder, check, resume
        self.every = require_whole(every, "every")
        self._run: Trajectory | None = None
        self._began = 0
        self._data, self._collate = trainer.train_dataset, trainer.data_collator
        self._attach()
        trainer.add_callback(self)

    @classmethod
    def open(cls, trainer: Any, folder: str | Path, *, read_only: bool = False) -> Trajectory:
        """A training that a Recorder kept in ``folder``, to be taken apart later.

        ``trainer`` is made as for the recorded training, and is not trained; its model is brought
        to the end of the record.  Raises as :meth:`pkbook.Trajectory.open`.
        """
        recorder = cls(trainer, folder=folder)
        recorder._detach()
        trainer.remove_callback(recorder)
        recorder._data, recorder._collate = recorder._without_columns(trainer.train_dataset)
        trainer.accelerator.prepare_model(trainer.model)  # as under bf16, whose forward is wrapped
        parts, options = recorder._parts(trainer.create_optimizer(), trainer.state)
        return Trajectory.open(folder, *parts, read_only=read_only, **options)

    @property
    def run(self) -> Trajectory:
        """The recorded training."""
        if self._run is None:
            raise ValueError("nothing is recorded yet; call trainer.train() first")
        return self._run

    def _attach(self) -> None:
        trainer = self.trainer
        loader = trainer.get_train_dataloader
        self._plain_loss: Callable[..., Any] = trainer.compute_loss
        trainer.compute_loss = self._compute_loss

        def get_train_dataloader() -> Any:
            with self._numbered():
                return loader()

        trainer.get_train_dataloader = get_train_dataloader

    def _detach(self) -> None:
        for name in ("compute_loss", "get_train_dataloader"):
            vars(self.trainer).pop(name, None)

    @contextmanager
    def _numbered(self) -> Iterator[None]:
        """While the Trainer makes its loader: the data set with numbers, and their collate."""
        trainer = self.trainer
        plain, collate, sampler = (
            trainer.train_dataset,
            trainer.data_collator,
            trainer._get_train_sampler,
        )
        self._data, self._collate = self._without_columns(plain)
        trainer.train_dataset = Numbered(self._data)
        trainer.data_collator = Numbering(self._collate, _with_numbers)
        trainer._get_train_sampler = lambda *_: sampler(plain)  # may look into the samples
        try:
            yield
        finally:
            trainer.train_dataset, trainer.data_collator = plain, collate
            vars(trainer).pop("_get_train_sampler")

    def _without_columns(self, plain: Any) -> tuple[Any, Callable]:
        """Data set and collate, one of which leaves out what the model does not take."""
        trainer = self.trainer
        if any(kind.__module__.partition(".")[0] == "datasets" for kind in type(plain).__mro__):
            return trainer._remove_unused_columns(plain, "Training"), trainer.data_collator
        return plain, trainer._get_collator_with_removed_columns(trainer.data_collator, "Training")

    def on_train_begin(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        """Begin the record, from where the Trainer begins."""
        if self._run is not None or "compute_loss" not in vars(self.trainer):
            return  # a second training, which is not recorded
        own, options = self._parts(parts["optimizer"], state)
        run = begun(self, state.global_step, own, {**options, "check": self.check}, "all")
        self._began = first_step(run, state.global_step)
        run.follow_loop(self.folder, passes=False)
        self._run = run

    def _parts(self, optimizer: Any, state: Any) -> tuple[tuple, dict[str, Any]]:
        """What a run is made of, and its options."""

        def collate(samples: list) -> dict:
            return self._batch(dict(self._collate(samples)), None, state)

        parts = self.trainer.model, self._loss, unwrapped(optimizer), self._data
        return parts, {"collate": collate, "clip_norm": self.trainer.args.max_grad_norm or None}

    def on_train_end(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        """End the record; ``ReplayError`` where steps of the training are not on it."""
        if self._run is None or "compute_loss" not in vars(self.trainer):
            return
        self._detach()
        self._run.end_loop()
        require_all_seen(
            len(self._run),
            state.global_step - self._began,
            "make the Recorder before trainer.train(), and let no other code step the optimizer",
        )

    def _compute_loss(self, model: nn.Module, inputs: Any, *rest: Any, **more: Any) -> Any:
        """In the place of the Trainer's own: note the batch, then call that one."""
        numbers = inputs.pop(NUMBERS, None)
        if self._run is None or not torch.is_grad_enabled():
            return self._plain_loss(model, inputs, *rest, **more)
        if numbers is None:
            raise ValueError(
                "the Trainer must take its batches from train_dataset and data_collator, got a "
                "batch without sample numbers; leave get_train_dataloader as it is"
            )
        items = more.get("num_items_in_batch")
        batch = self._batch(dict(inputs), items, self.trainer.state)
        self._run.watched_loop.begin(numbers, mapped(batch, torch.clone), self._divided_by(items))
        return self._plain_loss(model, inputs, *rest, **more)

    def _divided_by(self, items: Any) -> float:
        """What the Trainer divides the loss by before its backward pass, as its training_step."""
        trainer = self.trainer
        scaled = getattr(trainer, "loss_is_scaled_for_ga", None)
        if scaled is None:
            counted = trainer.model_accepts_loss_kwargs and items is not None
            scaled = counted or trainer.compute_loss_func is not None
        parts = 1 if scaled else trainer.current_gradient_accumulation_steps
        return float(parts * trainer.accelerator.gradient_accumulation_steps)

    @staticmethod
    def _batch(inputs: dict, items: Any, state: Any) -> dict[str, Any]:
        """What a call of compute_loss depends on; numbers as such, as they belong to no sample."""
        counted = items.item() if isinstance(items, Tensor) else items
        return {
            "inputs": inputs,
            "items": counted,
            "of_tensor": isinstance(items, Tensor),
            "step": int(state.global_step),
            "epoch": float(state.epoch or 0.0),
        }

    def _loss(self, model: nn.Module, batch: dict) -> Tensor:
        """The Trainer's loss of a recorded batch, on a copy of its model."""
        items = batch["items"]
        if batch["of_tensor"]:
            items = torch.tensor(items, device=next(model.parameters()).device)
        with _as_then(self.trainer, batch):
            return self._plain_loss(model, dict(batch["inputs"]), num_items_in_batch=items)


def _with_numbers(batch: Any, numbers: Tensor) -> Any:
    if not isinstance(batch, Mapping):
        raise TypeError(
            f"data_collator must return a dictionary, got {type(batch).__name__}; the Trainer "
            "hands its entries to the model by name"
        )
    batch[NUMBERS] = numbers  # pyright: ignore[reportIndexIssue]
    return batch


@contextmanager
def _as_then(trainer: Any, batch: dict) -> Iterator[None]:
    """The Trainer as it was at a recorded batch: its counters; what is logged goes nowhere."""
    state, own = trainer.state, vars(trainer).get("log")
    trainer.state = copy.copy(state)
    trainer.state.global_step, trainer.state.epoch = batch["step"], batch["epoch"]
    trainer.log = lambda *_, **__: None
    try:
        yield
    finally:
        trainer.state = state
        vars(trainer).pop("log")
        if own is not None:
            trainer.log = own


def _require_plain(trainer: Any, kind: type) -> None:
    """Refuse by name what is not recorded."""
    args, scaler = trainer.args, getattr(trainer.accelerator, "scaler", None)
    require_numbers(trainer.train_dataset, "train_dataset")
    if type(trainer).training_step is not kind.training_step:  # pyright: ignore
        raise TypeError(
            f"trainer must have the training_step of transformers.Trainer, got one of "
            f"{type(trainer).__name__}; put the loss into compute_loss instead"
        )
    for found, told in (
        (trainer.accelerator.num_processes > 1 or args.n_gpu > 1,
         "a single process with a single device, got more; write CUDA_VISIBLE_DEVICES=0"),
        (trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled,
         "the whole model in one process, got DeepSpeed or FSDP; leave them out"),
        (scaler is not None, "fp16=False, got fp16 with a loss scale; write bf16=True"),
        (args.load_best_model_at_end,
         "load_best_model_at_end=False: a record ends with its last step; write "
         "recorder.run.model_at(step) for the best one"),
        (args.torch_compile, "torch_compile=False, whose steps no other code makes bit for bit"),
    ):  # fmt: skip
        if found:
            raise ValueError(f"trainer must have {told}")
