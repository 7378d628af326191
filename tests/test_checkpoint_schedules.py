"""``every="sqrt"`` and ``"log"``: how many checkpoints, what a replay holds, how exact."""

import math
import os
import signal
import weakref
from contextlib import suppress
from pathlib import Path

import pytest
import recording_worker as worker
import torch
from recording_worker import begin, full, go_on, interrupt, plain, reopen, same, state

import pkbook as pk
from pkbook.runs import replay, spacing
from pkbook.runs.optimizers import StepState
from pkbook.runs.storage import FolderStore

LONG = 1000


@pytest.fixture(autouse=True)
def no_flush(monkeypatch):
    """No test here cuts the power, and flushing is slow."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def line(folder=None, **options):
    """The shortest run there is."""
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(model.weight, 0.5)
    sgd = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.5)
    x = torch.tensor([[1.0], [2.0]])
    options = {"check": False} | options
    return pk.Trajectory(model, pk.losses.squared, sgd, (x, 3 * x), folder=folder, **options)


def long(every, folder=None, steps=LONG):
    """For each step of a long run: the checkpoints that there were after it."""
    run, saved = line(folder, every=every), [[0]]
    for k in range(steps):
        run.step([k % 2])
        saved.append(run.store.saved())
    return run, saved


@pytest.mark.parametrize("kept", [True, False], ids=["folder", "memory"])
def test_sqrt_keeps_about_the_root_of_the_steps(tmp_path, kept):
    """At every moment of 1000 steps: how many, and how far apart."""
    run, saved = long("sqrt", tmp_path / "run" if kept else None)
    for k, steps in enumerate(saved):
        assert steps[0] == 0
        assert len(steps) <= 2 * math.sqrt(k) + 2, k
        assert max(b - a for a, b in zip(steps, [*steps[1:], k], strict=True)) <= math.sqrt(k) + 1
    assert [len(saved[k]) for k in (10, 100, LONG)] == [6, 13, 63]
    if kept:
        assert len(list(run.store.folder.glob("checkpoints/*"))) == 63


@pytest.mark.parametrize("kept", [True, False], ids=["folder", "memory"])
def test_log_keeps_about_the_logarithm_of_the_steps(tmp_path, kept):
    run, saved = long("log", tmp_path / "run" if kept else None)
    for k, steps in enumerate(saved):
        assert steps[0] == 0
        assert len(steps) <= 2 + math.log2(max(k, 50) / 50), k
        assert k - steps[-1] < 50, k
    assert [saved[k] for k in (10, 100, LONG)] == [[0], [0, 100], [0, 800, 1000]]
    assert max(map(len, saved)) == 5
    if kept:
        assert len(list(run.store.folder.glob("checkpoints/*"))) == 3


class Alive:
    """Counts the states that exist at a time."""

    def __init__(self, monkeypatch):
        self.now = self.most = 0
        kept, really = self, StepState.__init__

        def counted(state, *args, **options):
            really(state, *args, **options)
            kept.now += 1
            kept.most = max(kept.most, kept.now)
            weakref.finalize(state, kept.gone)

        monkeypatch.setattr(StepState, "__init__", counted)

    def gone(self):
        self.now -= 1


@pytest.mark.parametrize("every", ["sqrt", "log"])
def test_a_replay_holds_about_the_root_of_the_steps(every, monkeypatch):
    """States in all, and inner checkpoints; 250 steps are segments of 200 and 50 for log."""
    run, _ = long(every, steps=250)
    alive, inner = Alive(monkeypatch), []
    copies = replay.copies_of_moved
    monkeypatch.setattr(replay, "copies_of_moved", lambda *a: [inner.append(1), copies(*a)][1])
    assert run.verify() == 0
    assert alive.most <= 2 * (math.sqrt(250) + 2)  # a loop holds the part before the next
    assert len(inner) <= (math.sqrt(200) + math.sqrt(50) + 2 if every == "log" else 0)
    alive.most = 0
    run.interpolate(run.x[:1], tolerance=None)
    run.path_kernel(run.x[:1])
    assert alive.most <= math.sqrt(250) + 5  # these do not
    assert alive.now == 0


def test_a_number_of_steps_holds_as_many(monkeypatch):
    run = line(every=40)
    for k in range(200):
        run.step([k % 2])
    assert {len(part.states) for part in run.segments_backwards()} == {41}


@pytest.fixture(scope="module")
def unbroken():
    return plain(90)


@pytest.fixture
def short(monkeypatch):
    """Log schedules make a checkpoint every 4 steps, so that there are many in few."""
    monkeypatch.setattr(spacing, "UNIT", 4)


@pytest.mark.parametrize("kept", [True, False], ids=["folder", "memory"])
@pytest.mark.parametrize("every", ["sqrt", "log"])
def test_every_state_of_a_replay_is_that_of_the_plain_loop(tmp_path, every, kept, short, unbroken):
    run = go_on(begin(tmp_path / "run" if kept else None, every=every), 90)
    names = run.names
    for k in (0, 1, 37, 64, 90):
        there = run.model_at(k).state_dict()
        assert all(torch.equal(there[n], unbroken[k][0][n]) for n in names), k
    stop, pieces = 90, 0
    for part in run.segments_backwards():
        assert part.start + len(part.states) - 1 == stop
        assert part.gap == 0
        for offset, at in enumerate(part.states):
            there = unbroken[part.start + offset][0]
            assert all(torch.equal(at.parameters[n], there[n]) for n in names)
        stop, pieces = part.start, pieces + 1
    assert stop == 0
    assert pieces > len(run.store.saved()) - 1 or every == "sqrt"


def test_contributions_are_the_same_whatever_the_schedule(short):
    runs = [go_on(begin(None, every=every), 20) for every in (5, "sqrt", "log")]
    usual, *others = [run.interpolate(run.x[:3]).contributions for run in runs]
    assert all(torch.equal(usual, other) for other in others)
    usual, *others = [run.path_kernel(run.x[:3]) for run in runs]
    for other in others:
        torch.testing.assert_close(usual, other)


@pytest.mark.parametrize("every", ["sqrt", "log"])
def test_a_run_reopened_again_and_again_ends_like_an_unbroken_one(tmp_path, every, short, unbroken):
    begin(tmp_path / "run", every=every).close()
    for stop in (3, 4, 5, 16, 17, 33, 64, 65, 90):
        with reopen(tmp_path / "run") as run:
            assert run.every == every
            assert same(state(go_on(run, stop)), unbroken[stop]), stop
            assert run.verify() == 0
    whole = go_on(begin(None, every=every), 90)
    assert run.store.saved() == whole.store.saved()


@pytest.mark.parametrize("fail", [full, interrupt], ids=["full", "interrupted"])
@pytest.mark.parametrize("every", ["sqrt", "log"])
def test_a_fault_at_any_drop(tmp_path, every, fail, short, unbroken, monkeypatch):
    """Whatever is left, the run is whole; what should have gone goes later."""
    unlink, at, length = Path.unlink, 0, 0
    while length < 40:
        at, drops = at + 1, []

        def drop(path, missing_ok=False, at=at, drops=drops):
            if path.suffix == ".safetensors":
                drops.append(path.name)
                there = [int(other.name[:9]) for other in path.parent.glob("*.safetensors")]
                assert max(there) > int(path.name[:9])  # the next one is there, and whole
                if len(drops) == at:
                    fail()
            unlink(path, missing_ok)

        monkeypatch.setattr(Path, "unlink", drop)
        run = begin(tmp_path / str(at), every=every)
        with suppress(pk.StorageError, KeyboardInterrupt):
            go_on(run, 40)
        length = len(run)
        assert same(state(run), unbroken[length])
        run.close()
        with reopen(tmp_path / str(at)) as run:
            assert same(state(go_on(run, 64)), unbroken[64])
            assert run.verify() == 0
            assert run.store.saved() == [c for c in range(65) if spacing.is_kept(every, c, 64)]
    assert at > 6


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_a_run_killed_at_any_call_that_writes_or_drops(tmp_path, one_thread, unbroken):
    lengths, ended = [], -signal.SIGKILL
    with worker.Server() as server:
        while ended == -signal.SIGKILL:
            folder = tmp_path / str(len(lengths))
            server.start(folder, call=len(lengths) + 1, every="sqrt", steps=6)
            ended = server.ended()
            with worker.opened_or_begun(folder, every="sqrt") as run:
                lengths.append(len(run))
                assert same(state(run), unbroken[len(run)])
                assert same(state(go_on(run, 8)), unbroken[8])
                assert run.verify() == 0
                # One whose step was the last before the kill may not have been made.
                assert {0, 8} <= set(run.store.saved()) <= {0, 2, 4, 6, 8}
    assert ended == 0
    assert set(lengths) == set(range(7))


def test_a_reader_is_not_disturbed_by_checkpoints_that_are_dropped(tmp_path, monkeypatch):
    """Dropped between two segments, and between the look at the folder and the file."""
    run = go_on(begin(tmp_path / "run", every="sqrt"), 15)
    looked = reopen(tmp_path / "run", read_only=True)
    parts = looked.segments_backwards()
    assert next(parts).start == 14
    go_on(run, 30)
    assert 12 not in run.store.saved() or 14 not in run.store.saved()
    assert {part.start: part.gap for part in parts}.items() >= {0: 0, 8: 0}.items()
    load = FolderStore.load

    def late(store, k):
        monkeypatch.setattr(FolderStore, "load", load)
        go_on(run, 72)
        return load(store, k)

    monkeypatch.setattr(FolderStore, "load", late)
    assert looked.model_at(12) is not None
    assert 12 not in run.store.saved()
    assert looked.verify() == 0


@pytest.mark.parametrize(
    ("every", "error", "what"),
    [
        ("root", ValueError, "every must be a number of steps, 'sqrt' or 'log', got 'root'; write"),
        (2.5, TypeError, "every must be an int, got float 2.5"),
        (True, TypeError, "every must be an int, got bool True"),
        (None, TypeError, "every must be an int, got NoneType None"),
        (0, ValueError, "every must be at least 1, got 0"),
    ],
)
def test_another_every_is_refused_before_anything_is_written(tmp_path, every, error, what):
    with pytest.raises(error, match=what):
        begin(tmp_path / "run", every=every)
    assert not (tmp_path / "run").exists()
