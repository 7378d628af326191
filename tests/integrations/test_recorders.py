"""The Recorders against plain autograd, in bfloat16, and what they refuse by name."""

from contextlib import ExitStack
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
from integrations import recording
from integrations.test_workloads import NEEDS
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import pkbook as pk


def needing(name: str) -> None:
    for library in NEEDS[name]:
        pytest.importorskip(library, reason=f"{library}: see requirements-integrations.txt")


def along_the_step(model: nn.Module, start: dict, end: dict, ask, moves: list[dict]) -> Tensor:
    """By 12 Gauss nodes and plain autograd: the integral of the gradient of ``ask`` over a step,
    by each sample's part of the step; [samples, queries]."""
    points, weights = np.polynomial.legendre.leggauss(12)
    found: Tensor | float = 0.0
    named = dict(model.named_parameters())
    for s, weight in zip((points + 1) / 2, weights / 2, strict=True):
        with torch.no_grad():
            for name, p in named.items():
                p.copy_((1 - s) * start[name] + s * end[name])
        rows = []
        for value in ask(model):
            model.zero_grad()
            value.backward(retain_graph=True)
            slopes = {n: p.grad.double().clone() for n, p in named.items() if p.grad is not None}
            rows.append(torch.stack([sum((slopes[n] * m[n]).sum() for n in slopes) for m in moves]))
        found = found + weight * torch.stack(rows, 1)
    return found


def slopes_of(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {n: p.grad.double().clone() for n, p in model.named_parameters()}


def word_slopes(gpt2, model: nn.Module, dataset, collate, numbers: list[int]) -> list[dict]:
    """The gradient of each sentence's loss, summed over its words."""
    return [slopes_of(model, gpt2.loss(model, collate([dataset[k]])).sum()) for k in numbers]


def clip_factor(slopes: list[dict], divisor: float, most: float) -> float:
    total = sum((sum(s[n] for s in slopes) / divisor).square().sum() for n in slopes[0])
    return min(1.0, most / (float(total) ** 0.5 + 1e-6))


def told_of(run: pk.Trajectory, queries, of) -> Tensor:
    return pk.interpolate(run, queries, of=of, outputs=7, tolerance=1e-4).contributions


def check_sentences(gpt2, run, w, first: dict, divisor: float, lr: float) -> None:
    """A step of gradient descent on the words of two batches, against autograd by sentences."""
    record = run.store.steps[0]
    numbers = list(record.batch)
    model = gpt2.network(0.0)
    model.load_state_dict(first)
    slopes = word_slopes(gpt2, model.eval(), w.dataset, w.collate, numbers)
    factor = clip_factor(slopes, divisor, 1.0)
    moves = [{n: -lr * factor / divisor * g for n, g in s.items()} for s in slopes]

    def ask(model: nn.Module) -> Tensor:
        return gpt2.outputs(model, w.queries)[:, 7]

    end = {n: p.detach().clone() for n, p in run.model.named_parameters()}
    wanted = along_the_step(model, first, end, ask, moves)
    got = told_of(run, w.queries, lambda model, q: gpt2.outputs(model, q))[numbers, :, 0]
    torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max()))


def test_a_sentence_of_gpt2_has_the_share_that_autograd_gives_its_words():
    needing("gpt2")
    from integrations.workloads import gpt2

    with torch.random.fork_rng():
        w = recording.make("gpt2")
        w.model = gpt2.network(0.0)
        w.optimizer = torch.optim.SGD(w.model.parameters(), lr=0.5)
        w.scheduler, w.batches = SimpleNamespace(step=lambda: None), w.batches[:2]
        first = {n: p.detach().clone() for n, p in w.model.state_dict().items()}
        _, run = recording.recorded("gpt2", w)
    batches = [w.collate([w.dataset[k] for k in part]) for part in w.batches]
    check_sentences(gpt2, run, w, first, float(gpt2.words(batches)), 0.5)


def hf(folder, dropout: float = 0.0, dataset=None, **settings):
    """A Trainer of the workload's network, with other settings."""
    needing("hf_trainer")
    from integrations.workloads import gpt2, hf_trainer, texts
    from transformers import Trainer, TrainingArguments

    w = hf_trainer.make(dropout=dropout)
    plain = {
        "use_cpu": True, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 2,
        "max_steps": 2, "learning_rate": 3e-3, "save_strategy": "no", "report_to": "none",
        "disable_tqdm": True, "dataloader_pin_memory": False,
    }  # fmt: skip
    args = TrainingArguments(output_dir=str(folder), **{**plain, **settings})
    torch.manual_seed(0)
    model = gpt2.network(dropout)
    w.model, dataset = model, w.dataset if dataset is None else dataset
    w.trainer = Trainer(model, args, data_collator=texts.next_words, train_dataset=dataset)
    return w


def test_a_sentence_in_the_trainer_of_transformers_has_that_share_too(tmp_path):
    with torch.random.fork_rng():
        w = hf(tmp_path, optim="sgd", learning_rate=0.5, max_steps=1, lr_scheduler_type="constant")
        first = {n: p.detach().clone() for n, p in w.model.state_dict().items()}
        _, run = recording.recorded("hf_trainer", w)
    from integrations.workloads import gpt2

    counted = [len(w.dataset[k]["input_ids"]) for k in run.store.steps[0].batch]
    check_sentences(gpt2, run, w, first, float(sum(counted)), 0.5)  # first words count there


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_point_in_the_trainer_of_lightning_has_the_share_of_adams_first_step():
    needing("lightning_trainer")
    import lightning
    from integrations.workloads import lightning_trainer as spirals

    from pkbook.integrations.lightning import Recorder

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, (x, y) = spirals.Spirals([], 0.0), spirals.spirals(24)
        first = {n: p.detach().clone() for n, p in model.state_dict().items()}
        recorder = Recorder()
        trainer = lightning.Trainer(
            accelerator="cpu", max_steps=1, accumulate_grad_batches=2, gradient_clip_val=0.05,
            logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, callbacks=[recorder],
        )  # fmt: skip
        trainer.fit(model, DataLoader(TensorDataset(x, y), batch_size=4, shuffle=True))
    run = recorder.run
    numbers = list(run.store.steps[0].batch)
    other = spirals.Spirals([], 0.0)
    other.load_state_dict(first)
    slopes = [slopes_of(other, spirals.loss(other, [x[[k]], y[[k]]]).sum() / 8) for k in numbers]
    factor = clip_factor(slopes, 1.0, 0.05)
    size = {n: (factor * sum(s[n] for s in slopes)).abs() + 1e-8 for n in slopes[0]}
    moves = [{n: -1e-2 * factor * s[n] / size[n] for n in s} for s in slopes]
    queries = torch.tensor([[0.5, 0.5], [-1.0, 0.2]])
    end = {n: p.detach().clone() for n, p in run.model.named_parameters()}
    wanted = along_the_step(other, first, end, lambda model: model(queries)[:, 1], moves)
    got = run.interpolate(queries, outputs=1, tolerance=1e-4).contributions[numbers, :, 0]
    assert factor < 0.5
    torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max()))


BFLOAT = 0.05
"""What of the change the rounding of bfloat16 to 8 bits may leave open in two steps of gradient
descent, queries together: what one query's answer changes can be small by luck, its rounding is
not.  Adam's first steps without a warm-up divide gradients by their own size, those that are
nothing but rounding too: there the sum may be off by many times the change, and a warning says so.
"""


@pytest.mark.filterwarnings("ignore:the tolerance")
def test_bfloat16_of_accelerate_is_replayed_on_the_weights_of_copies(tmp_path):
    found = []
    for record in (False, True):
        with torch.random.fork_rng():
            w = hf(tmp_path, 0.1, bf16=True, optim="sgd", learning_rate=0.5)
            way = recording.recorded if record else recording.train
            found.append(way("hf_trainer", w))
    plain, (watched, run) = found
    assert all(torch.equal(plain[part], watched[part]) for part in plain)
    assert "forward" in vars(run.model)
    assert run.verify() == 0
    told = pk.interpolate(
        run, w.queries, of=lambda m, q: w.outputs(m, q), outputs=7, tolerance=BFLOAT
    )
    gap = told.change - told.explained
    assert float(gap.norm()) < BFLOAT * float(told.change.norm())


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_bfloat16_of_lightning_is_replayed_with_its_loss():
    needing("lightning_trainer")
    import lightning
    from integrations.workloads import lightning_trainer as spirals

    from pkbook.integrations.lightning import Recorder

    class Logs(spirals.Spirals):
        epochs: ClassVar[set] = set()

        def training_step(self, batch: list[Tensor], batch_idx: int) -> dict:
            value = super().training_step(batch, batch_idx)
            self.log("loss", value)
            self.log_dict({"epoch": float(self.current_epoch)})
            weight = 1.0 + self.current_epoch  # a replay must know the epoch
            self.epochs.add((self.current_epoch, self.trainer.max_epochs, self.training))
            return {"loss": weight * value, "more": batch_idx}

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, recorder = Logs([], 0.1), Recorder()
        trainer = lightning.Trainer(
            accelerator="cpu", max_epochs=2, precision="bf16-mixed", logger=False,
            gradient_clip_val=0.5, gradient_clip_algorithm="value", enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, callbacks=[recorder],
        )  # fmt: skip
        data = TensorDataset(*spirals.spirals(24))
        trainer.fit(model, DataLoader(data, batch_size=8, shuffle=True))
    run = recorder.run
    assert len(model.losses) == len(run) == 6
    assert {p["autocast"] for r in run.store.steps for p in r.passes} == {"bfloat16"}
    assert not any(p["cache"] for r in run.store.steps for p in r.passes)
    assert run.verify() == 0
    told = run.interpolate(torch.tensor([[0.5, 0.5]]), tolerance=0.02)
    assert float(told.completeness.max()) < 0.02


class Stream(IterableDataset):
    def __iter__(self):
        return iter(())


def test_what_the_trainer_of_transformers_may_not_be_is_told(tmp_path):
    needing("hf_trainer")
    from transformers import Trainer

    from pkbook.integrations.transformers import Recorder

    class Own(Trainer):
        def training_step(self, *args, **more):
            return super().training_step(*args, **more)

    with pytest.raises(TypeError, match=r"trainer must be a transformers.Trainer, got int"):
        Recorder(3)
    with pytest.raises(TypeError, match="train_dataset must be a Dataset whose samples have"):
        Recorder(hf(tmp_path, dataset=Stream()).trainer)
    trainer = hf(tmp_path).trainer
    trainer.__class__ = Own
    with pytest.raises(TypeError, match="put the loss into compute_loss instead"):
        Recorder(trainer)
    trainer = hf(tmp_path).trainer
    trainer.args.torch_compile = True
    with pytest.raises(ValueError, match="torch_compile=False"):
        Recorder(trainer)


def test_batches_of_another_loader_and_unseen_steps_are_told(tmp_path):
    from pkbook.integrations.transformers import Recorder

    with torch.random.fork_rng():
        w = hf(tmp_path)
        loader = w.trainer.get_train_dataloader()
        Recorder(w.trainer)
        w.trainer.get_train_dataloader = lambda: loader
        with pytest.raises(ValueError, match="a batch without sample numbers; leave get_train"):
            w.trainer.train()
        w = hf(tmp_path, max_steps=2)
        recorder = Recorder(w.trainer)
        plain = recorder.on_train_end
        recorder.on_train_end = lambda args, state, *a, **k: plain(
            args, SimpleNamespace(global_step=state.global_step + 1), *a, **k
        )
        with pytest.raises(pk.ReplayError, match="made 3 steps, of which 2 were seen"):
            w.trainer.train()


def test_lengths_are_looked_up_in_the_samples_themselves(tmp_path):
    with torch.random.fork_rng():
        w = hf(tmp_path, train_sampling_strategy="group_by_length")
        _, run = recording.recorded("hf_trainer", w)
    assert len(run) == 2
    assert run.verify() == 0


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_a_module_and_a_trainer_of_lightning_may_not_be_is_told():
    needing("lightning_trainer")
    import lightning
    from integrations.workloads import lightning_trainer as spirals

    from pkbook.integrations.lightning import Recorder

    class Manual(spirals.Spirals):
        def __init__(self) -> None:
            super().__init__([], 0.0)
            self.automatic_optimization = False

    class Takes(spirals.Spirals):
        def training_step(self, dataloader_iter):
            return None

    class Clips(spirals.Spirals):
        def configure_gradient_clipping(self, *_, **__):
            return None

    data = TensorDataset(*spirals.spirals(8))
    plain, loader = spirals.Spirals([], 0.0), DataLoader(data, batch_size=4)
    for module, given, match, more in (
        (Manual(), loader, "automatic_optimization = True, got manual", {}),
        (Takes([]), loader, r"training_step\(batch, batch_idx\), got one that takes", {}),
        (Clips([]), loader, "no configure_gradient_clipping", {}),
        (plain, [loader, loader], "training data must be one DataLoader, got list", {}),
        (plain, DataLoader(Stream()), "data set of the DataLoader must be a Dataset whose", {}),
        (plain, DataLoader(data, batch_size=None), "got batch_size=None", {}),
        (plain, loader, "precision 32-true, 64-true, bf16-mixed, got 'bf16-true'",
         {"precision": "bf16-true"}),
    ):  # fmt: skip
        trainer = lightning.Trainer(
            accelerator="cpu", max_steps=1, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, callbacks=[Recorder()], **more,
        )  # fmt: skip
        with ExitStack() as stack:
            stack.enter_context(pytest.raises((ValueError, TypeError), match=match))
            trainer.fit(module, given)


def test_a_short_last_step_of_accelerate_is_divided_as_the_others():
    needing("accelerate_loop")
    from accelerate import Accelerator

    torch.manual_seed(0)
    x, y = torch.randn(20, 3), torch.randint(2, (20,))
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    model, optimizer = nn.Linear(3, 2), None
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    model, optimizer = accelerator.prepare(model, optimizer)
    criterion = nn.CrossEntropyLoss()
    with pk.record(model, optimizer, loss=criterion, data=(x, y)) as run:
        batches = run.watch([list(range(k, k + 4)) for k in range(0, 20, 4)])
        loader = accelerator.prepare(DataLoader(TensorDataset(x, y), batch_sampler=batches))
        for inputs, targets in loader:
            with accelerator.accumulate(model):
                accelerator.backward(criterion(model(inputs), targets))
                optimizer.step()
                optimizer.zero_grad()
    assert [len(r.parts or [1]) for r in run.store.steps] == [2, 2, 1]
    assert run.verify() == 0
