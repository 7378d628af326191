"""Loops that are not ours, recorded by watching: bit for bit, and complete."""

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler

import pkbook as pk

G = torch.Generator().manual_seed(2)
X, Y = torch.randn(24, 3, generator=G), torch.randint(4, (24,), generator=G)
Q = torch.randn(2, 3, generator=G)
LOSS = nn.CrossEntropyLoss()


def net(dropout=0.0, norm=False):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        middle = nn.BatchNorm1d(8) if norm else nn.Identity()
        return nn.Sequential(
            nn.Linear(3, 8, bias=not norm), middle, nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 4)
        )


def adamw(model):
    return torch.optim.AdamW(model.parameters(), 1e-2)


ORDER = [[4 * k % 24 + i for i in range(4)] for k in range(12)]


def loop(
    model, optimizer, saw=lambda *a, **k: None, accumulate=1, clip=None, cast=None, scaler=None
):
    """Somebody's loop."""
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 12)
    model.train()
    for k, numbers in enumerate(ORDER):
        saw(numbers)
        with torch.autocast("cpu", cast) if cast else nullcontext():
            value = LOSS(model(X[numbers]), Y[numbers]) / accumulate
        (value if scaler is None else scaler.scale(value)).backward()
        if (k + 1) % accumulate:
            continue
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)
            scaler.update()
        schedule.step()
        optimizer.zero_grad()


def same(one, other):
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


WAYS = {
    "plain": ({}, {}, {}),
    "dropout": ({"dropout": 0.3}, {}, {}),
    "batch norm, clipped": ({"norm": True}, {"clip": 0.3}, {"clip_norm": 0.3}),
    "accumulated with dropout": ({"dropout": 0.3}, {"accumulate": 3}, {}),
    "bfloat16": ({}, {"cast": torch.bfloat16}, {}),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_watched_loop_is_the_same_and_is_replayed_bit_for_bit(way, tmp_path):
    made, options, told = WAYS[way]
    mine, watched = net(**made), net(**made)
    torch.manual_seed(0)
    loop(mine, adamw(mine), **options)
    torch.manual_seed(0)
    optimizer = adamw(watched)
    with pk.record(watched, optimizer, loss=LOSS, data=(X, Y), folder=tmp_path / "run",
                   every=3, **told) as run:  # fmt: skip
        loop(watched, optimizer, run.saw, **options)
    assert same(mine, watched)
    assert run.verify() == 0
    model = net(**made)
    again = pk.Trajectory.open(tmp_path / "run", model, LOSS, adamw(model), (X, Y), **told)
    assert same(mine, model)
    near = 0.02 if way == "bfloat16" else 1e-3  # whose gradients are rounded to 8 bits
    shares = again.interpolate(Q, tolerance=near)
    assert float(shares.completeness.max()) < near
    if way == "plain":
        mine = net()
        own = pk.Trajectory(mine, LOSS, adamw(mine), (X, Y))
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(own.optimizer, 12)
        for numbers in ORDER:
            own.step(numbers)
            schedule.step()
        torch.testing.assert_close(
            shares.contributions, own.interpolate(Q).contributions, rtol=1e-3, atol=1e-6
        )


def test_steps_that_a_scaler_leaves_out_are_not_on_record():
    model = net()
    optimizer, scaler = adamw(model), torch.amp.GradScaler("cpu", init_scale=2.0**8)
    broken = []

    def spoil(grad):
        broken.append(0)
        return grad * float("inf") if len(broken) == 5 else grad

    handle = model[0].weight.register_hook(spoil)
    with pk.record(model, optimizer, loss=LOSS, data=(X, Y), scaler=scaler, check=False) as run:
        loop(model, optimizer, run.saw, scaler=scaler)
    handle.remove()
    assert len(run) == 11
    assert [list(r.batch) for r in run.store.steps] == ORDER[:4] + ORDER[5:]
    assert {p["scale"] for r in run.store.steps for p in r.passes} == {2.0**8, 2.0**7}
    assert run.verify() == 0


class Noisy(Dataset):
    """Augments by the global random numbers of whoever asks."""

    def __len__(self):
        return len(X)

    def __getitem__(self, i):
        return X[i] + 0.1 * torch.randn(3), Y[i], i


@pytest.mark.parametrize("workers", [0, 2])
def test_a_sampler_that_is_watched_tells_the_numbers(workers):
    model = net()
    optimizer = adamw(model)
    with pk.record(model, optimizer, loss=LOSS, data=(X, Y)) as run:
        sampler = run.watch(BatchSampler(RandomSampler(range(24)), 5, drop_last=False))
        assert len(sampler) == 5
        loader = DataLoader(
            torch.utils.data.TensorDataset(X, Y), batch_sampler=sampler, num_workers=workers
        )
        for _ in range(2):
            for x, y in loader:
                optimizer.zero_grad()
                LOSS(model(x), y).backward()
                optimizer.step()
    assert len(run) == 10
    assert sorted(i for r in run.store.steps[:5] for i in r.batch) == list(range(24))
    assert run.verify() == 0


@pytest.mark.parametrize("where", ["memory", "folder"])
def test_batches_that_nobody_can_draw_again_are_kept(where, tmp_path):
    folder = tmp_path / "run" if where == "folder" else None
    model = net()
    optimizer = adamw(model)
    with pk.record(model, optimizer, loss=lambda model, b: LOSS(model(b[0]), b[1]), data=Noisy(),
                   folder=folder, every=4) as run:  # fmt: skip
        for x, y, numbers in DataLoader(Noisy(), batch_size=6, shuffle=True):
            run.saw(numbers, (x, y))
            optimizer.zero_grad()
            LOSS(model(x), y).backward()
            optimizer.step()
    assert run.verify() == 0
    assert float(run.interpolate(Q).completeness.max()) < 1e-3


def one_step(run, model, optimizer, x=X[:4], y=Y[:4], factor=1.0, saw=True):
    if saw:
        run.saw(range(4))
    optimizer.zero_grad()
    (factor * LOSS(model(x), y)).backward()
    optimizer.step()


@pytest.mark.parametrize(("change", "error", "match"), [
    ({"saw": False}, ValueError, r"step 0 is made of samples that nobody has told; call run.saw"),
    ({"factor": 0.5}, pk.ReplayError, r"stepped with 0.5 times the gradient.*clip_norm="),
    ({"x": X[4:8], "y": Y[4:8]}, pk.ReplayError, r"another gradient than that of this loss for"),
])  # fmt: skip
def test_a_loop_that_does_otherwise_is_told_at_its_first_step(change, error, match):
    model = net()
    optimizer = adamw(model)
    with (
        pk.record(model, optimizer, loss=LOSS, data=(X, Y)) as run,
        pytest.raises(error, match=match),
    ):
        one_step(run, model, optimizer, **change)


def test_calls_that_do_not_fit_are_refused_by_name():
    model = net()
    optimizer = adamw(model)
    with pk.record(model, optimizer, loss=LOSS, data=(X, Y)) as run:
        with pytest.raises(ValueError, match=r"sample numbers in 0..23"):
            run.saw([24])
        with pytest.raises(ValueError, match="divided_by must be a positive number"):
            run.saw([1], divided_by=0)
        run.saw([0])
        run.saw([1])
        LOSS(model(X[:2]), Y[:2]).backward()
        with pytest.raises(ValueError, match="got 1 passes and 2 calls"):
            optimizer.step()
        run.loop.told.clear()
        with pytest.raises(ValueError, match="without a closure"):
            optimizer.step(lambda: LOSS(model(X[:2]), Y[:2]))
    assert len(run) == 0
    with pytest.raises(ValueError, match=r"no loop is watched; write 'with pkbook.record"):
        pk.Trajectory(model, LOSS, optimizer, (X, Y)).saw([1])


def test_what_is_around_an_optimizer_is_taken_off():
    class Prepared(torch.optim.Optimizer):
        def __init__(self, optimizer):
            self.optimizer = optimizer

    model = net()
    optimizer = adamw(model)
    with pk.record(model, Prepared(optimizer), loss=LOSS, data=(X, Y)) as run:
        one_step(run, model, optimizer)
    assert run.optimizer is optimizer
    assert not optimizer._optimizer_step_pre_hooks
    assert not model._forward_pre_hooks
    one_step(run, model, optimizer, saw=False)
    assert len(run) == 1


def test_evaluations_between_the_steps_are_no_passes():
    model = net(dropout=0.2)
    optimizer = adamw(model)
    with pk.record(model, optimizer, loss=LOSS, data=(X, Y)) as run:
        for _ in range(3):
            one_step(run, model, optimizer)
            with torch.no_grad():
                model.eval()(X)
            model.train()
    assert run.verify() == 0
    assert F.softmax(model(Q), 1).shape == (2, 4)
