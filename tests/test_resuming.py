"""Records of loops that were interrupted, and go on from a checkpoint of their own."""

import copy
from contextlib import suppress

import pytest
import torch
from test_loops import LOSS, ORDER, Q, X, Y, adamw, net, same

import pkbook as pk


def part_of_loop(model, optimizer, order, saw) -> None:
    for numbers in order:
        saw(numbers)
        optimizer.zero_grad()
        LOSS(model(X[numbers]), Y[numbers]).backward()
        optimizer.step()


def test_a_loop_that_was_interrupted_goes_on_in_its_record(tmp_path):
    mine, folder = net(), tmp_path / "run"
    optimizer = adamw(mine)
    half = len(ORDER) // 2
    told = {"loss": LOSS, "data": (X, Y), "folder": folder}
    with suppress(KeyboardInterrupt), pk.record(mine, optimizer, every=2, **told) as run:
        part_of_loop(mine, optimizer, ORDER[:half], run.saw)
        own = copy.deepcopy((mine.state_dict(), optimizer.state_dict()))  # the loop's checkpoint
        part_of_loop(mine, optimizer, ORDER[: half + 2], run.saw)  # lost, and other batches
        raise KeyboardInterrupt
    assert len(run) == 2 * half + 2
    again = net()
    optimizer = adamw(again)
    again.load_state_dict(own[0])
    optimizer.load_state_dict(own[1])
    with pk.record(again, optimizer, resume=half, **told) as run:
        assert same(again, net_of(own[0]))
        part_of_loop(again, optimizer, ORDER[half:], run.saw)
    whole = net()
    with pk.record(whole, adamw(whole), **{**told, "folder": None}) as wanted:
        part_of_loop(whole, wanted.optimizer, ORDER, wanted.saw)
    assert same(again, whole)
    assert run.verify() == 0
    assert len(run) == len(ORDER)
    assert torch.equal(run.interpolate(Q).contributions, wanted.interpolate(Q).contributions)


def net_of(state: dict):
    model = net()
    model.load_state_dict(state)
    return model


def test_a_loop_that_goes_on_elsewhere_is_told_and_nothing_is_dropped(tmp_path):
    model, folder = net(), tmp_path / "run"
    optimizer = adamw(model)
    told = {"loss": LOSS, "data": (X, Y), "folder": folder}
    with pk.record(model, optimizer, **told) as run:
        part_of_loop(model, optimizer, ORDER, run.saw)
    before = (folder / "steps.jsonl").read_bytes()
    for made, match in (
        (len(ORDER) - 1, f"than the one on record after {len(ORDER) - 1} steps"),
        (
            len(ORDER) + 1,
            f"holds {len(ORDER)} steps, got a training that has made {len(ORDER) + 1}",
        ),
        (-1, "the number of steps made must be"),
        (0, "holds 12 steps, got a training that begins anew"),
    ):
        kept = copy.deepcopy(model.state_dict())
        with (
            pytest.raises((pk.ReplayError, ValueError), match=match),
            pk.record(model, optimizer, resume=made, **told),
        ):
            pass
        assert same(model, net_of(kept))
        assert (folder / "steps.jsonl").read_bytes() == before
    with (
        pytest.raises(ValueError, match="folder must be that of the record to go on with"),
        pk.record(model, optimizer, resume=1, loss=LOSS, data=(X, Y)),
    ):
        pass


def test_who_is_clipped_together_is_one_of_three():
    model = net()
    with pytest.raises(ValueError, match="clipped must be"):
        pk.Trajectory(model, LOSS, adamw(model), (X, Y), clip_norm=1.0, clipped="some")


def test_a_model_that_is_changed_after_its_last_step_does_not_spoil_the_record(tmp_path):
    model = net()
    optimizer = adamw(model)
    with pk.record(model, optimizer, loss=LOSS, data=(X, Y), folder=tmp_path / "run") as run:
        part_of_loop(model, optimizer, ORDER, run.saw)
        last = copy.deepcopy(model.state_dict())
        with torch.no_grad():
            model[0].weight.mul_(0.5)
    again = net()
    run = pk.Trajectory.open(tmp_path / "run", again, LOSS, adamw(again), (X, Y))
    assert same(again, net_of(last))
    assert run.verify() == 0


def test_another_loss_than_the_loops_is_told_by_where_it_ends(tmp_path):
    model = net()
    optimizer = adamw(model)
    with pk.record(model, optimizer, loss=LOSS, data=(X, Y), folder=tmp_path / "run") as run:
        part_of_loop(model, optimizer, ORDER, run.saw)
    model = net()
    with pytest.raises(pk.ReplayError, match="replayed differently"):
        pk.Trajectory.open(
            tmp_path / "run", model, lambda f, y: 2 * LOSS(f, y), adamw(model), (X, Y)
        )
