"""A small DistilBERT learns to tell praise from blame: dropout, warm-up, clipping, two groups."""

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    DistilBertConfig,
    DistilBertForSequenceClassification,
    get_linear_schedule_with_warmup,
)

from .texts import LONGEST, PAD, VOCABULARY, Reviews, asked, padded
from .workload import Workload, final, shuffled


def network(dropout: float = 0.1) -> DistilBertForSequenceClassification:
    config = DistilBertConfig(
        vocab_size=VOCABULARY, max_position_embeddings=LONGEST, n_layers=2, n_heads=4, dim=64,
        hidden_dim=128, dropout=dropout, attention_dropout=dropout, seq_classif_dropout=dropout,
        pad_token_id=PAD, num_labels=2,
    )  # fmt: skip
    return DistilBertForSequenceClassification(config)


def grouped(model: nn.Module, decay: float = 0.01) -> list[dict]:
    """Weight decay for matrices alone, not for biases and norms."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    plain = [p for name, p in named if name.endswith("bias") or "norm" in name.lower()]
    rest = [p for name, p in named if not (name.endswith("bias") or "norm" in name.lower())]
    groups = [{"params": rest, "weight_decay": decay}, {"params": plain, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def outputs(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return functional.cross_entropy(outputs(model, batch), batch["labels"], reduction="none")


def scalar(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return model(**batch).loss


def make(seed: int = 0, lr: float = 5e-3) -> Workload:
    torch.manual_seed(seed)
    model, dataset = network(), Reviews()
    optimizer = torch.optim.AdamW(grouped(model), lr=lr)
    scheduler = get_linear_schedule_with_warmup(optimizer, 3, 20)
    batches = shuffled(len(dataset), 8, 20, seed)
    return Workload(
        model, optimizer, scheduler, dataset, batches, loss, scalar, outputs, asked(),
        collate=padded, max_norm=1.0, seed=seed,
    )  # fmt: skip


def train_plain(w: Workload) -> dict[str, Tensor]:
    torch.manual_seed(w.seed)
    w.model.train()
    for batch in w.loader():
        value = w.model(**batch).loss
        value.backward()
        nn.utils.clip_grad_norm_(w.model.parameters(), w.max_norm)
        w.optimizer.step()
        w.scheduler.step()
        w.optimizer.zero_grad()
        w.losses.append(value.item())
    return final(w.model)
