"""Every training of workloads/, recorded while its own loop or Trainer goes on unchanged."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from integrations.workloads.workload import Workload
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

import pkbook as pk


@dataclass
class Way:
    """How a training is recorded.

    Attributes:
        loss: the number that its loop differentiates, with the same bits.
        lines: those that its author adds for the record.
        kept: whether its batches are given, as its data set draws them at random.
        outputs: what is explained of each query; None for all outputs.
        settings: of the workload: steps as long as those of fine-tuning are.
    """

    loss: Callable[[Workload], Any] = lambda w: w.scalar
    lines: int = 2
    kept: bool = False
    outputs: int | None = None
    settings: dict[str, float] = field(default_factory=dict)


def of_words(model: nn.Module, batch: dict[str, Any]) -> Tensor:
    return model(**batch).loss


def of_sequences(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
    padded, lengths, classes = batch
    return functional.cross_entropy(model(padded, lengths), classes)


WAYS = {
    "resnet18": Way(kept=True, outputs=3),
    "distilbert": Way(settings={"lr": 5e-4}, outputs=1),
    "gpt2": Way(loss=lambda w: of_words, lines=3, outputs=7),
    "lora": Way(settings={"lr": 2e-3}, outputs=1),
    "hf_trainer": Way(lines=1, outputs=7),
    "lightning_trainer": Way(lines=2),
    "accelerate_loop": Way(loss=lambda w: nn.CrossEntropyLoss()),
    "graph": Way(),
    "pinn": Way(loss=lambda w: w.loss),
    "vae": Way(loss=lambda w: w.loss),
    "lstm": Way(loss=lambda w: of_sequences),
}


def make(name: str, **settings: float) -> Workload:
    settings = {**WAYS[name].settings, **settings}
    return import_module(f"integrations.workloads.{name}").make(**settings)


def train(name: str, w: Workload) -> dict[str, Tensor]:
    return import_module(f"integrations.workloads.{name}").train_plain(w)


def recorded(name: str, w: Workload, **options: Any) -> tuple[dict[str, Tensor], pk.Trajectory]:
    """The training of a workload, made by its own code, and its record."""
    if w.trainer is not None:
        return by_recorder(name, w, **options)
    with recording(name, w, **options) as run:
        if name == "accelerate_loop":
            w.batches = run.watch(w.batches)
        else:
            w.loader = lambda: telling(name, w, run)
        return train(name, w), run


def by_recorder(name: str, w: Workload, **options: Any) -> tuple[dict[str, Tensor], pk.Trajectory]:
    if name == "hf_trainer":
        from pkbook.integrations.transformers import Recorder

        recorder = Recorder(w.trainer, **options)
    else:
        from pkbook.integrations.lightning import Recorder

        recorder = Recorder(**options)
        w.trainer.callbacks.append(recorder)
    return train(name, w), recorder.run


def recording(name: str, w: Workload, **options: Any) -> AbstractContextManager[pk.Trajectory]:
    return pk.record(
        w.model, w.optimizer, loss=WAYS[name].loss(w), data=w.dataset,
        collate=w.collate, clip_norm=w.max_norm, **options,
    )  # fmt: skip


def telling(name: str, w: Workload, run: pk.Trajectory) -> Iterator[Any]:
    """The loader of a loop, with the one line in it that the record needs."""
    drawn = iter(DataLoader(w.dataset, batch_sampler=w.batches, collate_fn=w.collate))
    for first in range(0, len(w.batches), w.parts):
        numbers = w.batches[first : first + w.parts]
        step = [next(drawn) for _ in numbers]
        for those, batch in zip(numbers, step, strict=True):
            if name == "gpt2":
                items = int(import_module("integrations.workloads.gpt2").words(step))
                run.saw(those, {**batch, "num_items_in_batch": items}, divided_by=1)
            else:
                run.saw(those, batch if WAYS[name].kept else None)
        yield from step


def explained(name: str, w: Workload, run: pk.Trajectory, **options: Any) -> float:
    """The workload's queries, taken apart: the largest completeness."""
    if name == "graph":  # graphs joined have no rows: one at a time
        return max(complete(run, g, **options) for g in w.queries.to_data_list())

    def of(model: nn.Module, queries: Any) -> Tensor:
        return w.outputs(model, queries)

    return complete(run, w.queries, of=of, outputs=WAYS[name].outputs, **options)


def complete(run: pk.Trajectory, x: Any, **options: Any) -> float:
    return float(pk.explain(run, x, **options).completeness.max())
