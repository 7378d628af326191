"""Adapters of low rank on a DistilBERT whose own weights stay as they are."""

import torch
from peft import LoraConfig, TaskType, get_peft_model
from torch import Tensor
from transformers import get_linear_schedule_with_warmup

from . import distilbert
from .texts import Reviews, asked, padded
from .workload import Workload, shuffled


def make(seed: int = 0, lr: float = 1e-2) -> Workload:
    torch.manual_seed(seed)
    config = LoraConfig(
        task_type=TaskType.SEQ_CLS, r=4, lora_alpha=8, lora_dropout=0.1,
        target_modules=["q_lin", "v_lin"], modules_to_save=["pre_classifier", "classifier"],
    )  # fmt: skip
    model, dataset = get_peft_model(distilbert.network(), config), Reviews()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=lr)
    scheduler = get_linear_schedule_with_warmup(optimizer, 3, 20)
    batches = shuffled(len(dataset), 8, 20, seed)
    return Workload(
        model, optimizer, scheduler, dataset, batches, distilbert.loss, distilbert.scalar,
        distilbert.outputs, asked(), collate=padded, max_norm=1.0, seed=seed,
    )  # fmt: skip


def train_plain(w: Workload) -> dict[str, Tensor]:
    return distilbert.train_plain(w)
