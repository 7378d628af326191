"""The trainings of tests/integrations train, and twice to the same bits."""

from functools import lru_cache
from importlib import import_module

import pytest
import torch
from integrations.workloads.workload import Workload

NEEDS = {
    "resnet18": (),
    "distilbert": ("transformers",),
    "gpt2": ("transformers",),
    "lora": ("transformers", "peft"),
    "hf_trainer": ("transformers", "accelerate"),
    "lightning_trainer": ("lightning",),
    "accelerate_loop": ("accelerate",),
    "graph": ("torch_geometric",),
    "pinn": (),
    "vae": (),
    "lstm": (),
}
WITHOUT_DROPOUT = ["hf_trainer", "lightning_trainer"]


def again(name: str, **settings: float) -> tuple[Workload, dict[str, torch.Tensor]]:
    """A training; the global random state is afterwards as it was."""
    for library in NEEDS[name]:
        pytest.importorskip(library, reason=f"{library}: see requirements-integrations.txt")
    module = import_module(f"integrations.workloads.{name}")
    with torch.random.fork_rng():
        w = module.make(**settings)
        return w, module.train_plain(w)


trained = lru_cache(maxsize=None)(again)  # what several tests look at is trained once


def mean(losses: list[float]) -> float:
    return sum(losses) / len(losses)


@pytest.mark.parametrize("name", NEEDS)
def test_it_trains_and_twice_to_the_same_bits(name: str) -> None:
    w, first = trained(name)
    _, second = again(name)
    assert first.keys() == second.keys()
    for part in first:
        assert torch.equal(first[part], second[part]), part
        assert first[part].isfinite().all(), part
    few = max(1, len(w.losses) // 4)
    assert mean(w.losses[-few:]) < mean(w.losses[:few])


@pytest.mark.parametrize("name", WITHOUT_DROPOUT)
def test_a_trainer_without_dropout_trains_too(name: str) -> None:
    w, first = again(name, dropout=0.0)
    _, second = again(name, dropout=0.0)
    assert all(torch.equal(first[part], second[part]) for part in first)
    _, dropped = trained(name)
    assert any(not torch.equal(first[part], dropped[part]) for part in first)
    assert all(torch.isfinite(torch.tensor(w.losses)))


@pytest.mark.parametrize("name", NEEDS)
def test_both_losses_agree_and_outputs_have_a_row_a_query(name: str) -> None:
    w, _ = trained(name)
    w.model.eval()
    batch = (w.collate or torch.utils.data.default_collate)([w.dataset[k] for k in range(5)])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        losses = w.loss(w.model, batch).detach()
        torch.manual_seed(0)
        scalar = w.scalar(w.model, batch).detach()
    assert losses.shape == (5,)
    counted = 5
    if "gpt2" in w.loss.__module__:  # a mean over words, not over sentences
        counted = int((batch["labels"][:, 1:] != -100).sum())
    torch.testing.assert_close(losses.sum() / counted, scalar)
    outputs = w.outputs(w.model, w.queries).detach()
    assert outputs.ndim == 2
    assert outputs.isfinite().all()


def test_frozen_weights_stay() -> None:
    w, after = trained("lora")
    frozen = {n for n, p in w.model.named_parameters() if not p.requires_grad}
    with torch.random.fork_rng():
        start = import_module("integrations.workloads.lora").make()
    before = start.model.state_dict()
    assert frozen
    assert all(torch.equal(before[n], after[n]) for n in frozen)
    assert any(not torch.equal(before[n], after[n]) for n in after.keys() - frozen)
