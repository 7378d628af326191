"""Recording, replay and reopening of a run."""

import copy

import pytest
import torch
from torch import nn

import pkbook as pk
from pkbook.runs.snapshot import ReplayError


def make(seed=0, **options):
    model = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 1))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for p in model.parameters():
            nn.init.normal_(p, std=0.5)
    return model, torch.optim.SGD(model.parameters(), lr=0.1, **options)


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(12, 2, generator=generator)
    return x, x.prod(1, keepdim=True)


def record(data, steps=23, folder=None, schedule=True, every=5, **options):
    model, sgd = make(**options)
    run = pk.Trajectory(model, pk.losses.squared, sgd, data, every=every, folder=folder)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, 40) if schedule else None
    for batch in pk.batches(len(data[0]), size=4, steps=steps, seed=3):
        run.step(batch)
        if scheduler:
            scheduler.step()
    return run


def test_steps_are_those_of_the_plain_loop(data):
    run = record(data, schedule=False, momentum=0.9)
    model, sgd = make(momentum=0.9)
    for k, batch in enumerate(pk.batches(12, size=4, steps=23, seed=3)):
        sgd.zero_grad()
        with torch.random.fork_rng():
            torch.manual_seed(run.store.steps[k].seed)
            pk.losses.squared(model(data[0][batch]), data[1][batch]).mean().backward()
        sgd.step()
    for a, b in zip(run.model.parameters(), model.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("options", [{}, {"momentum": 0.9}, {"momentum": 0.5, "nesterov": True}])
def test_every_moment_is_replayed_bit_for_bit(data, options):
    model, sgd = make(**options)
    run = pk.Trajectory(model, pk.losses.squared, sgd, data, every=4)
    seen = [copy.deepcopy(model.state_dict())]
    for batch in pk.batches(12, size=5, steps=11):
        run.step(batch)
        seen.append(copy.deepcopy(model.state_dict()))
    for k, state in enumerate(seen):
        again = run.model_at(k).state_dict()
        assert all(torch.equal(state[name], again[name]) for name in state), k


def test_the_global_random_state_and_the_model_are_left_alone(data):
    run = record(data)
    state, modes = torch.get_rng_state(), [m.training for m in run.model.modules()]
    before = copy.deepcopy(run.model.state_dict())
    run.step([0, 1])
    assert torch.equal(torch.get_rng_state(), state)
    before = copy.deepcopy(run.model.state_dict())
    run.interpolate(data[0][:2])
    assert torch.equal(torch.get_rng_state(), state)
    assert modes == [m.training for m in run.model.modules()]
    assert all(torch.equal(before[n], v) for n, v in run.model.state_dict().items())


def test_a_change_behind_the_recordings_back_is_reported(data):
    run = record(data)
    with torch.no_grad():
        run.model[0].weight.add_(1e-3)
    with pytest.raises(ReplayError, match=r"steps 20 to 23 replayed differently.*0\.weight"):
        run.interpolate(data[0][:1])


def test_changed_hyperparameters_and_modes_are_part_of_the_record(data):
    model, sgd = make(momentum=0.9)
    run = pk.Trajectory(model, pk.losses.squared, sgd, data, every=6)
    for k, batch in enumerate(pk.batches(12, size=5, steps=20)):
        sgd.param_groups[0]["momentum"] = 0.9 if k % 3 else 0.0
        model.train(k % 2 == 0)
        run.step(batch)
    assert run.interpolate(data[0][:2]).completeness.max() < 1e-4


def test_a_folder_holds_the_whole_run(data, tmp_path):
    run = record(data, folder=tmp_path / "run", momentum=0.9)
    told = run.interpolate(data[0][:3])
    run.close()
    model, sgd = make(seed=9, momentum=0.9)
    again = pk.Trajectory.open(tmp_path / "run", model, pk.losses.squared, sgd, data)
    assert len(again) == 23
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), run.model.parameters(), strict=True)
    )
    assert torch.equal(again.interpolate(data[0][:3]).contributions, told.contributions)
    assert not list(tmp_path.rglob("*.pkl")) + list(tmp_path.rglob("*.pt"))


def test_a_resumed_run_ends_like_an_unbroken_one(data, tmp_path):
    record(data, steps=13, folder=tmp_path / "run", momentum=0.9, schedule=False)
    model, sgd = make(momentum=0.9)
    run = pk.Trajectory.open(tmp_path / "run", model, pk.losses.squared, sgd, data)
    for k, batch in enumerate(pk.batches(12, size=4, steps=23, seed=3)):
        if k >= 13:
            run.step(batch)
    whole = record(data, momentum=0.9, schedule=False)
    for a, b in zip(model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert run.interpolate(data[0][:2]).completeness.max() < 1e-4


def test_a_torn_last_line_is_cut_off(data, tmp_path):
    record(data, folder=tmp_path / "run")
    log = tmp_path / "run" / "steps.jsonl"
    log.write_bytes(log.read_bytes()[:-9])
    model, sgd = make()
    with pytest.warns(UserWarning, match=r"steps\.jsonl: the last line is not whole.* 22 steps"):
        run = pk.Trajectory.open(tmp_path / "run", model, pk.losses.squared, sgd, data)
    assert len(run) == 22


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("name", ["steps.jsonl", "checkpoints/000000020-*.safetensors"])
def test_a_flipped_byte_is_reported_by_name(data, tmp_path, name, place):
    record(data, folder=tmp_path / "run")
    (path,) = (tmp_path / "run").glob(name)
    raw = bytearray(path.read_bytes())
    raw[int(place * len(raw))] ^= 0x04
    path.write_bytes(raw)
    model, sgd = make()
    with pytest.raises(ValueError, match=path.name):
        pk.Trajectory.open(tmp_path / "run", model, pk.losses.squared, sgd, data)


def test_another_run_is_refused(data, tmp_path):
    record(data, folder=tmp_path / "run")
    model, sgd = make()
    with pytest.raises(ValueError, match="not empty"):
        pk.Trajectory(model, pk.losses.squared, sgd, data, folder=tmp_path / "run")
    other = data[0] + 1, data[1]
    with pytest.raises(ValueError, match="another data"):
        pk.Trajectory.open(tmp_path / "run", model, pk.losses.squared, sgd, other)
    wide = pk.models.mlp(2, 9, 1)
    with pytest.raises(ValueError, match="another parameters"):
        pk.Trajectory.open(
            tmp_path / "run", wide, pk.losses.squared,
            torch.optim.SGD(wide.parameters(), lr=0.1), data,
        )  # fmt: skip
    with pytest.raises(ValueError, match="no trajectory"):
        pk.Trajectory.open(tmp_path, model, pk.losses.squared, sgd, data)


def test_a_loss_that_is_not_finite_stops_with_the_step_named(data):
    model, sgd = make()
    calls = []

    def loss(outputs, targets):
        calls.append(1)
        value = pk.losses.squared(outputs, targets)
        return value * float("nan") if len(calls) == 5 else value

    run = pk.Trajectory(model, loss, sgd, data, check=False)  # which would call the loss as well
    for _ in range(3):
        run.step([0, 5, 7])
    with pytest.raises(ValueError, match="loss is nan at step 3"):
        run.step([0, 5, 7])
    assert len(run) == 3


def test_batches_are_uniform_subsets():
    """Every sample and every pair equally often: N=6, B=3, 40,000 batches, seed 0, bound z = 5."""
    seen = torch.zeros(40_000, 6)
    for row, batch in zip(seen, pk.batches(6, size=3, steps=40_000, seed=0), strict=True):
        row[batch] = 1
    assert torch.equal(seen.sum(1), torch.full((40_000,), 3.0))
    assert _largest_z(seen) < 5
    lazy = torch.arange(40_000) % 20 == 0  # one draw in twenty favours sample 0: 5 % too often
    biased = seen.clone()
    biased[lazy, 0] = 1
    assert _largest_z(biased) > 5


def _largest_z(seen):
    """Largest deviation of the single and pair frequencies from B/N and B(B-1)/(N(N-1))."""
    steps, n = seen.shape
    pairs = (seen.T @ seen)[~torch.eye(n, dtype=torch.bool)]
    z = [
        (count - steps * p).abs().max() / (steps * p * (1 - p)) ** 0.5
        for count, p in ((seen.sum(0), 3 / 6), (pairs, 3 * 2 / (6 * 5)))
    ]
    return max(z)


def test_parameters_at_a_step_are_named(data):
    run = record(data)
    assert list(run.parameters(7)) == ["0.weight", "0.bias", "3.weight", "3.bias"]
    with pytest.raises(ValueError, match=r"0\.\.23"):
        run.model_at(24)


def test_gradients_switched_off_by_the_reader_do_not_matter(data):
    run = record(data)
    told = run.interpolate(data[0][:2])
    with torch.no_grad():
        again = run.interpolate(data[0][:2])
        run.path_kernel(data[0][:2])
    assert torch.equal(again.contributions, told.contributions)
