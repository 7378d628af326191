"""Steps that are refused or interrupted, and every way of stepping: as the plain loop, resumed."""

import pytest
import torch
from recording_worker import SCHEDULES, TOTAL, begin, go_on, parts, plain, reopen, same, state
from torch import nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim import lr_scheduler as rates

import pkbook as pk

K = 13


class Armed:
    """A loss of which one call, counted from when it is armed, goes wrong."""

    def __init__(self, wrong):
        self.wrong, self.armed = wrong, False

    def __call__(self, outputs, targets):
        value = pk.losses.squared(outputs, targets)
        if self.armed:
            self.armed = False
            return self.wrong(value, outputs)
        return value


def _interrupted(value, outputs):
    raise KeyboardInterrupt


def _interrupted_backward(value, outputs):
    outputs.register_hook(lambda g: _interrupted(value, g))
    return value


WRONG = {
    "loss is nan": lambda value, outputs: value * float("nan"),
    "loss is -inf": lambda value, outputs: value - float("inf"),
    # sqrt has slope inf at 0, times 0
    r"gradient of '.*' at step 13 must be finite, got nan": lambda value, outputs: (
        value + (0 * outputs).sqrt().squeeze(1)
    ),
}


@pytest.fixture(scope="module")
def with_statistics():
    return plain(own=parts(norm=True))


@pytest.mark.parametrize("reopened", [True, False], ids=["reopened", "going on"])
@pytest.mark.parametrize("what", WRONG)
def test_a_step_that_is_not_finite_is_refused(what, reopened, tmp_path, with_statistics):
    """Batch statistics, which the forward pass has already moved, are put back."""
    own = parts(norm=True)
    own["loss"] = Armed(WRONG[what])
    run = go_on(begin(tmp_path / "run", own=own), K)
    own["loss"].armed = True
    with pytest.raises(ValueError, match=what) as held:
        go_on(run)
    assert "at step 13" in str(held.value)
    assert len(run) == K
    assert same(state(run), with_statistics[K])
    if reopened:
        run.close()
        run = reopen(tmp_path / "run", parts(seed=9, norm=True))
        assert len(run) == K
        assert same(state(run), with_statistics[K])
    assert same(state(go_on(run)), with_statistics[-1])
    assert run.verify() == 0


def test_a_gradient_that_is_in_no_group_stops_nothing():
    """Nobody clears it either: what one step left there is there at all later ones."""
    own = parts(schedule=None)
    own["optimizer"] = torch.optim.SGD(own["model"][3].parameters(), lr=0.1)
    own["model"][0].weight.grad = torch.full((8, 2), float("nan"))
    assert len(go_on(begin(None, own=own), 3)) == 3


def _arm_loss(own, wrong):
    own["loss"].wrong, own["loss"].armed = wrong, True


def _arm_step(own, before):
    """The optimizer's next step is interrupted, half-way or after it was made."""
    optimizer, step = own["optimizer"], own["optimizer"].step

    def interrupted(*args, **options):
        optimizer.step = step
        if before:
            with torch.no_grad():
                own["model"][0].weight.mul_(1.5)
                optimizer.state[own["model"][0].weight]["exp_avg"].add_(1)
        else:
            step(*args, **options)
        raise KeyboardInterrupt

    optimizer.step = interrupted


def _arm_schedule(own):
    """The schedule's next step is interrupted when it has counted, and set no rate yet."""
    kind, get = type(own["scheduler"]), type(own["scheduler"]).get_lr

    def interrupted(scheduler):
        kind.get_lr = get
        raise KeyboardInterrupt

    kind.get_lr = interrupted


@pytest.mark.parametrize(
    ("arm", "made"),
    [
        (lambda own: _arm_loss(own, _interrupted), 0),
        (lambda own: _arm_loss(own, _interrupted_backward), 0),
        (lambda own: _arm_step(own, before=True), 1),
        (lambda own: _arm_step(own, before=False), 1),
        (_arm_schedule, 1),
    ],
    ids=["loss", "backward", "half a step", "after a step", "schedule"],
)
@pytest.mark.parametrize("k", [K, 14], ids=["", "before a checkpoint"])
def test_an_interrupt_leaves_the_run_at_a_recorded_step(arm, made, k, tmp_path, partly_frozen):
    own = _partly_frozen()
    own["loss"] = Armed(None)
    run = go_on(begin(tmp_path / "run", own=own), k)
    before = _flags(run.model)
    arm(own)
    with pytest.raises(KeyboardInterrupt):
        go_on(run)
    assert _flags(run.model) == before
    assert len(run) == k + made
    assert same(state(run), partly_frozen[k + made])
    assert same(state(go_on(run)), partly_frozen[-1])
    assert run.verify() == 0
    run.close()
    assert same(state(reopen(tmp_path / "run", _partly_frozen())), partly_frozen[-1])


def _flags(model):
    return [m.training for m in model.modules()], [p.requires_grad for p in model.parameters()]


def _partly_frozen():
    """Modes and requires_grad are not the same everywhere."""
    own = parts(norm=True)
    own["model"][2].eval()
    own["model"][1].bias.requires_grad_(False)
    return own


@pytest.fixture(scope="module")
def partly_frozen():
    return plain(own=_partly_frozen())


WAYS = {
    **{name: {"schedule": name} for name in SCHEDULES},
    "one cycle, momentum": {"schedule": "one cycle", "kind": "SGD", "momentum": 0.9},
    "no schedule": {"schedule": None, "kind": "SGD", "momentum": 0.9, "nesterov": True},
    "accumulated": {"cut": lambda batch: list(batch.split([2, 1, 1]))},
    "clipped by norm": {"clip_norm": 0.4},
    "clipped by value": {"clip_value": 0.05, "kind": "RMSprop", "momentum": 0.5},
    "all": {  # statistics of three samples: those of two leave nothing but signs
        "cut": lambda batch: [batch, batch[1:]], "clip_norm": 0.4, "schedule": "sequential",
        "kind": "NAdam", "norm": True,
    },
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_stepping_is_that_of_the_plain_loop(way, tmp_path):
    options = dict(WAYS[way])
    cut = options.pop("cut", lambda batch: batch)
    clip = {name: options.pop(name) for name in ("clip_norm", "clip_value") if name in options}
    seen = plain(own=parts(**options), cut=cut, clip=_clipping(**clip))
    assert not clip or not same(seen[-1], plain(own=parts(**options), cut=cut)[-1])
    with begin(tmp_path / "run", own=parts(**options), **clip) as run:
        for k in range(K + 1):
            assert same(state(go_on(run, k, cut)), seen[k]), k
    with reopen(tmp_path / "run", parts(seed=9, **options), **clip) as run:
        assert same(state(run), seen[K])
        assert same(state(go_on(run, TOTAL, cut)), seen[-1])
        assert run.verify() == 0
        x = torch.randn(2, 2, generator=torch.Generator().manual_seed(5))
        assert run.interpolate(x).reached.all()


def _clipping(clip_norm=None, clip_value=None):
    if clip_norm:
        return lambda own: clip_grad_norm_(own, clip_norm)
    return clip_value and (lambda own: clip_grad_value_(own, clip_value))


def _made(make):
    own = parts(schedule=None)
    own["scheduler"] = make(own["optimizer"])
    return own


@pytest.mark.parametrize(
    ("there", "here", "step"),
    [
        (SCHEDULES["cosine"], lambda optimizer: rates.CosineAnnealingLR(optimizer, 41), 1),
        (SCHEDULES["steps"], lambda optimizer: rates.MultiStepLR(optimizer, [5, 11]), 9),
        (SCHEDULES["steps"], lambda optimizer: rates.MultiStepLR(optimizer, [5, 9, 12]), 12),
        (SCHEDULES["one cycle"],
         lambda optimizer: rates.OneCycleLR(optimizer, 0.1, total_steps=40, base_momentum=0.84), 1),
    ],
    ids=["cosine", "steps", "steps late", "momentum"],
)  # fmt: skip
def test_a_schedule_that_says_otherwise_is_refused(there, here, step, tmp_path):
    go_on(begin(tmp_path / "run", own=_made(there)), K).close()
    with pytest.raises(ValueError, match=f"other hyperparameters at step {step} than were rec"):
        reopen(tmp_path / "run", _made(here))
    reopen(tmp_path / "run", _made(there)).close()


def test_schedules_that_cannot_be_followed_are_refused():
    with pytest.raises(TypeError, match="ReduceLROnPlateau needs a metric that the run does not"):
        begin(None, own=_made(rates.ReduceLROnPlateau))
    other = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)
    with pytest.raises(ValueError, match="scheduler belongs to another optimizer"):
        begin(None, own=_made(lambda optimizer: rates.ConstantLR(other)))
    with pytest.raises(TypeError, match=r"LRScheduler, got function.*recorded all the same"):
        begin(None, own=_made(lambda optimizer: lambda: None))


def test_a_schedule_that_has_ended_says_so_and_the_step_is_made():
    """OneCycleLR refuses to go on; the step before it is on record all the same."""
    own = _made(lambda optimizer: rates.OneCycleLR(optimizer, 0.1, total_steps=4))
    run = go_on(begin(None, own=own), 4)
    with pytest.raises(ValueError, match="Tried to step 5 times"):
        go_on(run, 5)
    assert len(run) == 5
    assert run.verify() == 0
