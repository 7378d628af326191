"""A fault of a run is told at its first step, with its cause; the check disturbs nothing."""

import random

import numpy as np
import pytest
import torch
from recording_worker import begin, go_on, parts, same, state
from silent_parts import begun, net, sgd
from torch import nn

import pkbook as pk
from pkbook.runs.replay import Replay


class Wrong(nn.Module):
    """A network with something in its forward pass that is on no record."""

    def __init__(self, what):
        super().__init__()
        self.net, self.what, self.calls = net(), what, 0
        self.mean = torch.zeros(())

    def forward(self, x):
        f = self.net(x)
        if self.what == "numpy":
            return f * float(np.random.rand())  # noqa: NPY002
        if self.what == "random":
            return f * random.random()
        if self.what == "counter":
            self.calls += 1
            return f * (1 + 0.1 * self.calls)
        self.mean = 0.9 * self.mean + f.mean().detach()
        return f - self.mean


def hooked(model):
    model.fc1.weight.register_hook(lambda g: 2 * g)
    return begun(model)


def hooked_optimizer(model):
    optimizer = sgd(model)

    @torch.no_grad()
    def double(optimizer, args, options):
        model.fc1.weight.grad.mul_(2)

    optimizer.register_step_pre_hook(double)
    return begun(model, optimizer=optimizer)


def penalised(model):
    def loss(f, y):
        return pk.losses.squared(f, y).mean() + 0.1 * model.fc1.weight.square().sum()

    return begun(model, loss)


def stateful(model):
    scale = [1.0]

    def loss(f, y):
        scale[0] *= 0.9
        return scale[0] * pk.losses.squared(f, y)

    return begun(model, loss)


def step_with_autocast(run):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        run.step(range(12))


FAULTS = {
    "autocast was on around step": (begun, step_with_autocast),
    "parameter 'fc1.weight' has a gradient hook": (hooked, None),
    "the optimizer has hooks around its step": (hooked_optimizer, None),
    "the loss reads parameters": (penalised, None),
    "the loss gives another value": (stateful, None),
    "random numbers of torch.*not in the loss": (
        lambda model: begun(model, lambda f, y: pk.losses.squared(f, y) * torch.rand(len(f))),
        None,
    ),
    "random numbers of numpy": (lambda model: begun(Wrong("numpy")), None),
    "random numbers of random": (lambda model: begun(Wrong("random")), None),
    "changes the attribute 'calls' of layer 'model'": (lambda model: begun(Wrong("counter")), None),
    "changes the attribute 'mean' of layer 'model'": (lambda model: begun(Wrong("mean")), None),
}


@pytest.mark.parametrize("cause", FAULTS)
def test_a_fault_is_told_at_the_first_step_with_its_cause(cause):
    make, step = FAULTS[cause]
    step = step or (lambda run: run.step(range(12)))
    before = torch.get_rng_state()
    with pytest.raises(pk.ReplayError, match=f"step 0 was made, but .*Cause: .*{cause}.*check=Fal"):
        step(make(net()))
    if "torch" not in cause:
        assert torch.equal(torch.get_rng_state(), before)


def test_a_fault_that_comes_later_is_told_later():
    run = begun(every=5)
    for k in range(12):
        if k == 5:
            with pytest.raises(pk.ReplayError, match="step 5 was made"):
                step_with_autocast(run)
            break
        run.step(range(12))
    assert len(run) == 6


def test_a_change_between_the_first_steps_is_told():
    run = begun()
    with torch.no_grad():
        run.model.fc1.weight.mul_(2)
    with pytest.raises(pk.ReplayError, match=r"parameter/fc1\.weight was changed .*before step 0"):
        run.step([0, 1])
    own = parts(norm=True)
    run = begin(None, own=own)
    go_on(run, 1)
    own["model"](own["data"][0])
    with pytest.raises(pk.ReplayError, match=r"buffer/1\..* was changed .*before step 1.*train"):
        go_on(run, 2)
    assert len(run) == 1


@pytest.mark.parametrize("way", ["adam", "statistics", "accumulated", "kept"])
def test_training_is_the_same_with_and_without_the_check(way, tmp_path, monkeypatch):
    replays = []
    repeat = Replay.repeat
    monkeypatch.setattr(Replay, "repeat", lambda *a: [replays.append(a[1]), repeat(*a)][1])
    ends, numbers = [], []
    for check in (True, False):
        torch.manual_seed(5)
        np.random.seed(5)  # noqa: NPY002
        random.seed(5)
        own = parts(norm=way == "statistics")
        folder = tmp_path / f"{check}" if way == "kept" else None
        cut = (lambda batch: list(batch.split(2))) if way == "accumulated" else (lambda b: b)
        run = go_on(begin(folder, own=own, check=check, every=3), 30, cut)
        ends.append(state(run))
        numbers.append((torch.rand(1).item(), np.random.rand(), random.random()))  # noqa: NPY002
        if folder:
            run.close()
    assert replays == [0, 3]
    assert same(*ends)
    assert numbers[0] == numbers[1]
    if way == "kept":
        for name in ("manifest.json", "steps.jsonl"):
            one, other = ((tmp_path / f"{c}" / name).read_bytes() for c in (True, False))
            assert one == other


def test_without_the_check_a_fault_is_recorded_all_the_same():
    run = begun(Wrong("counter"), check=False)
    for _ in range(3):
        run.step(range(12))
    with pytest.raises(pk.ReplayError, match="replayed differently"):
        run.verify()
