"""Checkpoints written while training goes on: the same files, in order, and no error is lost."""

import errno
import os
import signal
import threading
from pathlib import Path

import pytest
import recording_worker as worker
import torch
from recording_worker import begin, go_on, plain, reopen, same, state

import pkbook as pk
from pkbook.runs import storage


@pytest.fixture(scope="module")
def unbroken():
    return plain(30)


class Gate:
    """Lets a checkpoint be written when it is opened; the numbers of those that came to it."""

    def __init__(self, monkeypatch):
        self.open, self.come = threading.Event(), []
        self.arrived = threading.Event()
        write = storage.write_checked

        def held(folder, stem, tensors):
            if int(stem):
                self.come.append(int(stem))
                self.arrived.set()
                assert self.open.wait(30)
            return write(folder, stem, tensors)

        monkeypatch.setattr(storage, "write_checked", held)


@pytest.fixture
def gate(monkeypatch):
    gate = Gate(monkeypatch)
    yield gate
    gate.open.set()


def files(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("every", [5, "sqrt"])
def test_the_folder_is_that_of_a_run_that_waits(tmp_path, every):
    for background in (True, False):
        go_on(begin(tmp_path / f"{background}", every=every, background=background)).close()
    assert files(tmp_path / "True") == files(tmp_path / "False")


def test_training_goes_on_and_the_checkpoint_is_of_its_own_step(tmp_path, gate, unbroken):
    run = go_on(begin(tmp_path / "run", background=True), 9)
    assert gate.arrived.wait(30)
    assert run.store.saved() == [0]
    assert run.verify() == 0  # from the checkpoints that are there
    with reopen(tmp_path / "run", read_only=True) as looked:
        assert same(state(looked), unbroken[9])
    gate.open.set()
    go_on(run, 14).close()
    assert run.store.saved() == [0, 5, 10]
    there = run.store.load(5)
    for name in run.names:
        assert torch.equal(there[f"parameter/{name}"], unbroken[5][0][name])
    assert same(state(reopen(tmp_path / "run")), unbroken[14])


def test_the_next_one_waits_for_the_one_before(tmp_path, gate):
    run = go_on(begin(tmp_path / "run", background=True), 9)
    threading.Timer(0.3, gate.open.set).start()
    run.step(worker.batches()[9])
    assert gate.open.is_set()
    run.close()
    assert gate.come == [5, 10]


@pytest.mark.parametrize("where", ["step", "close", "next checkpoint"])
def test_an_error_is_raised_once_and_the_run_goes_on(tmp_path, monkeypatch, where, gate, unbroken):
    """Before a step, it is not made; nothing is forgotten that the run rests on."""
    run = go_on(begin(tmp_path / "run", every=2, background=True), 3)
    assert gate.arrived.wait(30)

    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fail)
        batch, what = worker.batches()[3], "checkpoint of step 2 could not be written.*No space"
        if where == "next checkpoint":
            threading.Timer(0.3, gate.open.set).start()
        else:
            gate.open.set()
            run.store._background.wait()
        with pytest.raises(pk.StorageError, match=what):
            run.close() if where == "close" else run.step(batch)
    length = {"step": 3, "close": 3, "next checkpoint": 4}[where]
    assert len(run) == length
    assert same(state(run), unbroken[length])
    run.close()  # and not again
    with reopen(tmp_path / "run", background=True) as run:
        assert same(state(go_on(run)), unbroken[30])
    assert run.verify() == 0
    assert run.store.saved() == [0, *range(4 if length == 3 else 6, 31, 2)]


def test_an_error_that_is_none_of_the_disk_is_raised_as_it_is(tmp_path, monkeypatch):
    run = go_on(begin(tmp_path / "run", background=True), 4)
    monkeypatch.setattr(storage, "write_checked", lambda *_: 1 / 0)
    go_on(run, 5)
    with pytest.raises(ZeroDivisionError):
        run.close()


def test_the_log_is_flushed_before_the_checkpoint_is_seen(tmp_path, monkeypatch):
    run = go_on(begin(tmp_path / "run", background=True), 4)
    log, done, replace = run.store._log.fileno(), [], Path.replace
    monkeypatch.setattr(os, "fsync", lambda handle: done.append(handle == log))
    monkeypatch.setattr(Path, "replace", lambda *a: [done.append("renamed"), replace(*a)][1])
    go_on(run, 5)
    run.store._background.wait()
    assert done == [True, False, "renamed", False]  # log, file, folder
    run.close()


def test_a_run_that_is_let_go_of_finishes_its_checkpoint(tmp_path, gate):
    run = go_on(begin(tmp_path / "run", background=True), 6)
    assert gate.arrived.wait(30)
    threading.Timer(0.2, gate.open.set).start()
    del run  # its folder is let go of at once, without the garbage collector
    assert reopen(tmp_path / "run").store.saved() == [0, 5]


def test_a_run_killed_at_any_call_that_writes_is_resumed(tmp_path, unbroken):
    lengths, ended, threads = [], -signal.SIGKILL, torch.get_num_threads()
    torch.set_num_threads(1)
    with worker.Server() as server:
        while ended == -signal.SIGKILL:
            folder = tmp_path / str(len(lengths))
            server.start(folder, call=len(lengths) + 1, every="sqrt", steps=5, background=True)
            ended = server.ended()
            with worker.opened_or_begun(folder, every="sqrt") as run:
                lengths.append(len(run))
                assert same(state(run), unbroken[len(run)])
                assert same(state(go_on(run, 7)), unbroken[7])
                assert run.verify() == 0
    torch.set_num_threads(threads)
    assert ended == 0
    assert len(lengths) > 20
    assert lengths[-1] == 5


def test_what_cannot_be_is_refused(tmp_path):
    with pytest.raises(ValueError, match="background must be False for a run in memory, got True"):
        begin(None, background=True)
    with pytest.raises(TypeError, match="background must be True or False, got str 'yes'"):
        begin(tmp_path / "run", background="yes")
    assert not (tmp_path / "run").exists()
    go_on(begin(tmp_path / "run"), 2).close()
    with pytest.raises(TypeError, match="background must be True or False, got int 1"):
        reopen(tmp_path / "run", background=1)
