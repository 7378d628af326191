"""Every training of workloads/ is recorded while its own code runs, replayed and taken apart."""

from functools import cache

import pytest
import torch
from integrations import recording
from integrations.test_workloads import NEEDS
from integrations.workloads.workload import Workload

FEW = {"distilbert": 4, "lora": 4, "resnet18": 2, "gpt2": 6, "graph": 8}
"""Batches, where more take long to take apart."""


def made(name: str, **settings: float) -> Workload:
    for library in NEEDS[name]:
        pytest.importorskip(library, reason=f"{library}: see requirements-integrations.txt")
    w = recording.make(name, **settings)
    if name in FEW:
        w.batches = w.batches[: FEW[name]]
    if name == "hf_trainer":
        w.trainer.args.max_steps = 3
    return w


@cache
def recorded(name: str, **settings: float):
    with torch.random.fork_rng():
        plain = recording.train(name, made(name, **settings))
        w = made(name, **settings)
        return (w, plain, *recording.recorded(name, w))


CASES = [(name, {}) for name in NEEDS]
CASES += [(name, {"dropout": 0.0}) for name in ("hf_trainer", "lightning_trainer")]


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_the_training_is_as_without_a_record_and_replayed_bit_for_bit(name, settings) -> None:
    _, plain, watched, run = recorded(name, **settings)
    assert all(torch.equal(plain[part], watched[part]) for part in plain)
    assert len(run) > 0
    assert run.verify() == 0


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_its_predictions_are_taken_apart(name, settings) -> None:
    w, _, _, run = recorded(name, **settings)
    assert recording.explained(name, w, run) < 1e-3


def test_nothing_is_left_on_a_trainer_or_a_module() -> None:
    w, *_ = recorded("hf_trainer")
    assert not vars(w.trainer).keys() & {"compute_loss", "get_train_dataloader", "log"}
    assert not isinstance(w.trainer.train_dataset[0], tuple)
    w, *_ = recorded("lightning_trainer")
    assert not vars(w.model).keys() & {"training_step", "on_before_batch_transfer", "log"}


def test_the_library_that_is_missing_is_named(monkeypatch) -> None:
    import sys

    from pkbook.integrations import lightning, transformers

    for module, name, call in (
        (lightning, "lightning", lambda: lightning.Recorder()),
        (transformers, "transformers", lambda: transformers.Recorder(None)),
    ):
        monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.setitem(sys.modules, f"{name}.pytorch", None)
        with pytest.raises(ImportError, match=rf"needs {name}; write pip install 'pkbook\[{name}"):
            call()
        monkeypatch.undo()
        assert module.Recorder.__doc__


def test_a_run_that_is_not_recorded_yet_says_so() -> None:
    w = made("hf_trainer")
    from pkbook.integrations.lightning import Recorder
    from pkbook.integrations.transformers import Recorder as OfTransformers

    with pytest.raises(ValueError, match=r"nothing is recorded yet; call trainer.train\(\)"):
        _ = OfTransformers(w.trainer).run
    with pytest.raises(ValueError, match=r"nothing is recorded yet; call trainer.fit"):
        _ = Recorder().run
