"""A small GPT-2 with tied weights, sentences of unequal length, two batches a step.

The step's loss is the mean over the words of both batches, not the mean of two means.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import GPT2Config, GPT2LMHeadModel, get_linear_schedule_with_warmup

from .texts import LONGEST, VOCABULARY, Reviews, asked, next_words
from .workload import Workload, final, shuffled

PARTS = 2


def network(dropout: float = 0.1) -> GPT2LMHeadModel:
    config = GPT2Config(
        vocab_size=VOCABULARY, n_positions=LONGEST, n_embd=64, n_layer=2, n_head=4,
        resid_pdrop=dropout, embd_pdrop=dropout, attn_pdrop=dropout,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    return GPT2LMHeadModel(config)


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """The sum over the words of a sentence, for each sentence."""
    asked_of = {name: batch[name] for name in ("input_ids", "attention_mask")}
    logits, labels = model(**asked_of).logits[:, :-1], batch["labels"][:, 1:]
    return functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none").sum(dim=1)


def scalar(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """The mean over the words of one batch, as the library computes it."""
    return model(**batch).loss


def outputs(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """The scores of the word after the last one."""
    ids, mask = batch["input_ids"], batch["attention_mask"]
    logits = model(input_ids=ids, attention_mask=mask).logits
    return logits[torch.arange(len(ids)), mask.sum(dim=1) - 1]


def words(batches: list[dict[str, Tensor]]) -> Tensor:
    """How many words are predicted in a step; the first of a sentence never is."""
    return sum((batch["labels"][:, 1:] != -100).sum() for batch in batches)


def make(seed: int = 0) -> Workload:
    torch.manual_seed(seed)
    model, dataset = network(), Reviews(classes=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    scheduler = get_linear_schedule_with_warmup(optimizer, 2, 10)
    batches = shuffled(len(dataset), 4, 10 * PARTS, seed)
    return Workload(
        model, optimizer, scheduler, dataset, batches, loss, scalar, outputs, asked(),
        collate=next_words, parts=PARTS, max_norm=1.0, seed=seed,
    )  # fmt: skip


def train_plain(w: Workload) -> dict[str, Tensor]:
    torch.manual_seed(w.seed)
    w.model.train()
    drawn = iter(w.loader())
    for _ in range(len(w.batches) // w.parts):
        step = [next(drawn) for _ in range(w.parts)]
        num_items_in_batch = words(step)
        total = 0.0
        for batch in step:
            value = w.model(**batch, num_items_in_batch=num_items_in_batch).loss
            value.backward()
            total += value.item()
        nn.utils.clip_grad_norm_(w.model.parameters(), w.max_norm)
        w.optimizer.step()
        w.scheduler.step()
        w.optimizer.zero_grad()
        w.losses.append(total)
    return final(w.model)
