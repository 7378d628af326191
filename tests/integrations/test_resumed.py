"""Trainings of transformers and Lightning that were interrupted, and records opened later."""

from pathlib import Path

import pytest
import torch
from integrations.test_recorders import hf, needing
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import pkbook as pk

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

STEPS = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3, "dropout": 0.1}


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: t.detach().clone() for name, t in model.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def told_by(run: pk.Trajectory, w) -> Tensor:
    of = lambda model, q: w.outputs(model, q)  # noqa: E731
    return pk.interpolate(run, w.queries, of=of, outputs=7).contributions


def hf_recorded(folder: Path, stop_at: int = 0, resume: str = "", **settings):
    """A Trainer's training in ``folder``, its record in ``folder/run``; it may break off."""
    needing("hf_trainer")
    from transformers import TrainerCallback

    from pkbook.integrations.transformers import Recorder

    class Stops(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            if state.global_step == stop_at:
                raise KeyboardInterrupt

    with torch.random.fork_rng():
        w = hf(folder, **{**STEPS, **settings})
        recorder = Recorder(w.trainer, folder=folder / "run", resume=bool(resume))
        w.trainer.add_callback(Stops())
        if stop_at:
            with pytest.raises(KeyboardInterrupt):
                w.trainer.train()
            recorder.run.close()
        else:
            w.trainer.train(resume_from_checkpoint=resume or None)
    return w, recorder.run


def test_a_trainer_of_transformers_goes_on_in_its_record(tmp_path):
    whole, run = hf_recorded(tmp_path / "whole")
    hf_recorded(tmp_path / "broken", stop_at=5)
    checkpoint = str(tmp_path / "broken" / "checkpoint-3")
    w, again = hf_recorded(tmp_path / "broken", resume=checkpoint)
    assert same(weights(whole.trainer.model), weights(w.trainer.model))
    assert len(again) == len(run) == 6
    assert [r.batch for r in again.store.steps] == [r.batch for r in run.store.steps]
    assert again.verify() == 0
    assert torch.equal(told_by(again, w), told_by(run, whole))


@pytest.mark.parametrize("bf16", [False, True])
def test_a_record_of_transformers_is_opened_later(tmp_path, bf16):
    from pkbook.integrations.transformers import Recorder

    w, run = hf_recorded(tmp_path, bf16=bf16)
    run.close()
    with torch.random.fork_rng():
        other = hf(tmp_path, bf16=bf16, **STEPS)
        opened = Recorder.open(other.trainer, tmp_path / "run", read_only=True)
    assert same(weights(w.trainer.model), weights(other.trainer.model))
    assert opened.verify() == 0
    if not bf16:
        assert torch.equal(told_by(opened, other), told_by(run, w))


def test_a_record_of_another_loss_or_state_is_told(tmp_path):
    from pkbook.integrations.transformers import Recorder

    hf_recorded(tmp_path)
    with torch.random.fork_rng():
        other = hf(tmp_path, **STEPS)
        plain = other.trainer.compute_loss
        other.trainer.compute_loss = lambda *a, **k: 2 * plain(*a, **k)
        with pytest.raises(pk.ReplayError, match="steps 0 to 6 replayed differently"):
            Recorder.open(other.trainer, tmp_path / "run")
        hf_recorded(tmp_path / "other", learning_rate=1e-3)
        before = sorted(path.name for path in (tmp_path / "run").rglob("*"))
        for checkpoint, error, match in (
            (
                str(tmp_path / "other" / "checkpoint-3"),
                pk.ReplayError,
                "goes on from another state",
            ),
            (None, ValueError, "holds 6 steps, got a training that begins anew"),
        ):
            w = hf(tmp_path, **STEPS)
            Recorder(w.trainer, folder=tmp_path / "run", resume=True)
            with pytest.raises(error, match=match):
                w.trainer.train(resume_from_checkpoint=checkpoint)
    assert sorted(path.name for path in (tmp_path / "run").rglob("*")) == before
    w = hf(tmp_path, **STEPS)
    w.trainer.args.load_best_model_at_end = True
    with pytest.raises(ValueError, match="load_best_model_at_end=False: a record ends with its"):
        Recorder(w.trainer)


def spirals(recorder, folder: Path, epochs: int, checkpoint: Path | None = None):
    needing("lightning_trainer")
    import lightning
    from integrations.workloads import lightning_trainer as workload

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = workload.Spirals([], 0.1)
        loader = DataLoader(TensorDataset(*workload.spirals(24)), batch_size=8)
        trainer = lightning.Trainer(
            accelerator="cpu", max_epochs=epochs, logger=False, gradient_clip_val=0.5,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            callbacks=[] if recorder is None else [recorder],
        )  # fmt: skip
        if recorder is not None:
            trainer.fit(model, loader, ckpt_path=checkpoint)
            trainer.save_checkpoint(folder / f"after-{epochs}.ckpt")
    return trainer, model, loader


def test_a_trainer_of_lightning_goes_on_in_its_record_and_it_is_opened_later(tmp_path):
    needing("lightning_trainer")
    from pkbook.integrations.lightning import Recorder

    spirals(Recorder(folder=tmp_path / "run"), tmp_path, 2)
    first = Recorder(folder=tmp_path / "run", resume=True)
    _, model, _ = spirals(first, tmp_path, 4, tmp_path / "after-2.ckpt")
    assert len(first.run) == 12
    assert first.run.verify() == 0
    trainer, other, loader = spirals(None, tmp_path, 4)
    opened = Recorder.open(trainer, other, loader, tmp_path / "run", read_only=True)
    assert same(weights(model), weights(other))
    query = torch.tensor([[0.5, 0.5]])
    told = first.run.interpolate(query)
    assert float(told.completeness.max()) < 1e-3
    assert torch.equal(opened.interpolate(query).contributions, told.contributions)
    spirals(Recorder(folder=tmp_path / "other"), tmp_path, 1)
    short = Recorder(folder=tmp_path / "other", resume=True)
    with pytest.raises(ValueError, match="record holds 3 steps, got a training that has made 6"):
        spirals(short, tmp_path, 4, tmp_path / "after-2.ckpt")
