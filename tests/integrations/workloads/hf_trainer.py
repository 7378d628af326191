"""The Trainer of transformers: it draws the batches, clips, accumulates, and makes the optimizer.

``make(dropout=0.0)`` is the same training without random numbers in the network.
"""

import tempfile

import torch
from torch import Tensor
from transformers import Trainer, TrainerCallback, TrainingArguments

from . import gpt2
from .texts import Reviews, asked, next_words
from .workload import Workload, final


class Losses(TrainerCallback):
    """Keeps what the Trainer logs."""

    def __init__(self, kept: list[float]) -> None:
        self.kept = kept

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        if "loss" in logs:
            self.kept.append(logs["loss"])


def arguments(folder: str, seed: int) -> TrainingArguments:
    return TrainingArguments(
        output_dir=folder, seed=seed, use_cpu=True, max_steps=8, learning_rate=3e-3,
        per_device_train_batch_size=8, gradient_accumulation_steps=2, warmup_steps=2,
        weight_decay=0.01, max_grad_norm=1.0, logging_steps=1, save_strategy="no",
        report_to="none", disable_tqdm=True, dataloader_pin_memory=False,
    )  # fmt: skip


def make(seed: int = 0, dropout: float = 0.1) -> Workload:
    torch.manual_seed(seed)
    model, dataset = gpt2.network(dropout), Reviews(classes=False)
    losses: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        args = arguments(folder, seed)
        trainer = Trainer(
            model, args, data_collator=next_words, train_dataset=dataset,
            callbacks=[Losses(losses)],
        )  # fmt: skip
    return Workload(
        model, None, None, dataset, None, gpt2.loss, gpt2.scalar, gpt2.outputs, asked(),
        collate=next_words, parts=2, max_norm=1.0, trainer=trainer, seed=seed, losses=losses,
    )  # fmt: skip


def train_plain(w: Workload) -> dict[str, Tensor]:
    torch.manual_seed(w.seed)
    w.trainer.train()
    return final(w.model)
