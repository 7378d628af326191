"""What a run kept in a folder survives: kills, a full disk, interrupts, a second writer.

What it must end like is a loop written without pkbook (``recording_worker.plain``).
"""

import os
import random
import resource
import signal
import subprocess
import time
import warnings
from pathlib import Path

import pytest
import recording_worker as worker
import torch
from recording_worker import (
    Faults,
    begin,
    full,
    go_on,
    interrupt,
    opened_or_begun,
    plain,
    reopen,
    same,
    state,
)

import pkbook as pk
from pkbook.basics.files import StorageError
from pkbook.runs.storage import FolderStore

LONG = 300


@pytest.fixture(autouse=True)
def no_flush(monkeypatch):
    """No test here cuts the power, and flushing is slow; processes that are killed do flush."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture(scope="module")
def unbroken():
    return plain()


@pytest.fixture(scope="module")
def unbroken_long():
    return plain(LONG)


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def server():
    with worker.Server() as server:
        yield server


def test_a_run_killed_at_any_instant_is_resumed(server, unbroken_long, one_thread, tmp_path):
    """25 kills, each up to 5 ms after one of the first 100 steps or the beginning; seed 0."""
    draw = random.Random(0)
    reached = []
    for number in range(25):
        folder = tmp_path / str(number)
        child = server.start(folder, steps=LONG)
        _wait_for(folder, steps=0 if number < 5 else draw.randrange(1, 100))
        time.sleep(draw.uniform(0, 0.005))
        os.kill(child, signal.SIGKILL)
        assert server.ended() == -signal.SIGKILL
        with opened_or_begun(folder) as run:
            reached.append(len(run))
            assert same(state(run), unbroken_long[len(run)]), number
            stop = len(run) + 7
            assert same(state(go_on(run, stop)), unbroken_long[stop]), number
            assert run.verify() == 0
            assert not list(folder.rglob("*.partial"))
    assert len(set(reached)) > 10
    assert all(length < LONG for length in reached)


def _wait_for(folder, steps):
    """Until a child has recorded so many steps."""
    log = folder / "steps.jsonl"
    while steps and (not log.exists() or log.read_bytes().count(b"\n") < steps):
        time.sleep(0.0005)


def test_a_run_killed_at_any_call_that_writes_is_resumed(server, unbroken, one_thread, tmp_path):
    """Writes are killed after half their bytes."""
    lengths = []
    while True:
        folder = tmp_path / str(len(lengths))
        server.start(folder, call=len(lengths) + 1, every=3, steps=8)
        ended = server.ended()
        with opened_or_begun(folder, every=3) as run:
            lengths.append(len(run))
            assert same(state(run), unbroken[len(run)]), lengths
            assert same(state(go_on(run, 14)), unbroken[14]), lengths
            assert run.verify() == 0
        if ended == 0:
            break
        assert ended == -signal.SIGKILL
    assert lengths == sorted(lengths)
    assert set(lengths) == set(range(9))
    assert len(lengths) > 20


@pytest.mark.parametrize("reopened", [True, False], ids=["reopened", "going on"])
@pytest.mark.parametrize(
    ("fail", "lasting"), [(full, False), (full, True), (interrupt, False)],
    ids=["full once", "full from then on", "interrupted"],
)  # fmt: skip
def test_a_fault_at_any_call_that_writes(tmp_path, unbroken, fail, lasting, reopened):
    at, kept = 1, []
    while True:
        folder, run, why = tmp_path / str(at), None, ""
        faults = Faults(at, fail, lasting)
        try:
            with faults:
                run = begin(folder, every=3)
                go_on(run, 8)
                run.close()
        except (StorageError, KeyboardInterrupt) as error:
            why = str(error)
        if faults.calls < at:
            break
        assert fail is interrupt or f"could not be written to '{folder}'" in why
        kept.append(-1 if run is None else len(run))
        _goes_on(folder, run, unbroken, reopened)
        at += 1
    assert set(kept) == set(range(-1, 9))
    assert len(kept) > 20


def _goes_on(folder, run, unbroken, reopened):
    length = None
    if run is not None:
        length = len(run)
        assert same(state(run), unbroken[length])
        if reopened or run.store._log is None:
            run.close()
            run = None
    if run is None:
        run = begin(folder, every=3) if length is None else reopen(folder)
        assert len(run) == (length or 0)
        assert same(state(run), unbroken[length or 0])
    with run:
        assert same(state(go_on(run, 14)), unbroken[14])
    with reopen(folder) as again:
        assert len(again) == 14
        assert again.verify() == 0


def test_where_even_the_torn_line_cannot_be_taken_back(tmp_path, unbroken, monkeypatch):
    run, truncate = go_on(begin(tmp_path / "run"), 7), os.ftruncate
    with Faults(1, full) as faults:
        run.store._log = worker._File(run.store._log, faults)
        monkeypatch.setattr(os, "ftruncate", lambda *_: full())
        with pytest.raises(StorageError, match="step 7 could not be written"):
            go_on(run)
    monkeypatch.setattr(os, "ftruncate", truncate)
    assert same(state(run), unbroken[7])
    with pytest.raises(ValueError, match="opened read-only or closed"):
        go_on(run)
    with pytest.warns(UserWarning, match="last line is not whole.* 7 steps"):
        run = reopen(tmp_path / "run")
    assert same(state(go_on(run)), unbroken[-1])


def test_a_real_file_that_may_not_grow(tmp_path, unbroken):
    """The system cuts the write of a line short."""
    run = begin(tmp_path / "run")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, before[1]))
    try:
        with pytest.raises(StorageError, match=r"step \d+ could not be written"):
            go_on(run)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert 5 < len(run) < 30
    _goes_on_to_the_end(tmp_path / "run", run, unbroken)


def test_a_real_full_disk(tmp_path, unbroken):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=48k", "tmpfs", str(disk)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True)
    except OSError as error:
        pytest.skip(f"no mount: {error}")
    if done.returncode != 0:
        pytest.skip(f"a small disk may not be mounted here: {done.stderr.strip()}")
    try:
        run = begin(disk / "run", every=2)
        with pytest.raises(StorageError, match=r"could not be written.*No space left"):
            go_on(run)
        assert 2 <= len(run) < 30
        subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
        _goes_on_to_the_end(disk / "run", run, unbroken)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def _goes_on_to_the_end(folder, run, unbroken):
    assert same(state(run), unbroken[len(run)])
    run.close()
    with reopen(folder) as again:
        assert len(again) == len(run)
        assert same(state(go_on(again)), unbroken[-1])
        assert again.verify() == 0


def test_a_run_that_cannot_begin_lets_go_of_its_folder(tmp_path, unbroken):
    held = []
    for at in range(1, 11):  # up to the checkpoint of step 0
        with Faults(at, full, lasting=True), pytest.raises(StorageError) as error:
            begin(tmp_path / "run")
        held.append(error.value)
    assert all("nothing was recorded: make room and begin again" in str(e) for e in held)
    assert "the checkpoint of step 0" in str(held[-1])
    assert same(state(go_on(begin(tmp_path / "run"))), unbroken[-1])


def test_an_interrupt_after_the_line_was_written_takes_it_back(tmp_path, unbroken):
    class Interrupted(list):
        def append(self, record):
            super().append(record)
            raise KeyboardInterrupt

    run = go_on(begin(tmp_path / "run"), 7)
    run.store.steps = Interrupted(run.store.steps)
    with pytest.raises(KeyboardInterrupt):
        go_on(run)
    run.store.steps = list(run.store.steps)
    assert len(run) == 7
    assert same(state(go_on(run)), unbroken[-1])
    run.close()
    assert same(state(reopen(tmp_path / "run")), unbroken[-1])


def test_the_log_reaches_the_disk_before_a_checkpoint_that_rests_on_it(tmp_path, monkeypatch):
    """A power cut may take what was not flushed, in any order."""
    run = go_on(begin(tmp_path / "run"), 4)
    log, done = run.store._log.fileno(), []
    replace = Path.replace
    monkeypatch.setattr(os, "fsync", lambda handle: done.append((handle == log, len(run))))
    monkeypatch.setattr(Path, "replace", lambda *a: [done.append("renamed"), replace(*a)][1])
    go_on(run, 5)
    assert done == [(True, 5), (False, 5), "renamed", (False, 5)]  # log, file, folder


def test_one_writer_at_a_time(server, tmp_path, one_thread):
    """Another process writes; it may be looked at, not joined."""
    go_on(begin(tmp_path / "warm"), 2).close()
    _look(tmp_path / "warm")  # what only a first look costs would let a slow machine come too late
    folder = tmp_path / "run"
    child = server.start(folder, every=1, steps=LONG)
    try:
        seen = [_look(folder) for _ in range(5)]
        with pytest.raises(ValueError, match="is being written by another run; close that one"):
            reopen(folder)
        with pytest.raises(ValueError, match="not empty"):
            begin(folder)
    finally:
        os.kill(child, signal.SIGKILL)
        assert server.ended() == -signal.SIGKILL
    assert seen == sorted(seen)
    with opened_or_begun(folder) as run:
        assert len(run) >= seen[-1]


def _look(folder):
    while not list(folder.glob("checkpoints/*.safetensors")):
        time.sleep(0.005)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*the last line is not whole")
        run = reopen(folder, read_only=True)
    before = state(run)
    with pytest.raises(ValueError, match="opened read-only or closed, so no step can be added"):
        go_on(run, len(run) + 1)
    assert same(state(run), before)
    assert run.verify() == 0
    return len(run)


def test_one_writer_at_a_time_in_one_process(tmp_path, unbroken):
    folder = tmp_path / "run"
    first = go_on(begin(folder), 7)
    with pytest.raises(ValueError, match="is being written by another run"):
        reopen(folder)
    assert len(reopen(folder, read_only=True)) == 7
    first.close()
    second = go_on(reopen(folder), 9)
    with pytest.raises(ValueError, match="opened read-only or closed"):
        go_on(first)
    second.close()
    assert same(state(go_on(reopen(folder))), unbroken[-1])


def test_a_reader_is_not_disturbed_by_steps_made_while_it_opens(tmp_path, monkeypatch):
    run = go_on(begin(tmp_path / "run", every=1), 4)
    read = FolderStore._read_steps

    def slowly(store, mend):
        read(store, mend)
        go_on(run, 6)

    monkeypatch.setattr(FolderStore, "_read_steps", slowly)
    looked = reopen(tmp_path / "run", read_only=True)
    assert len(looked) == 4
    assert looked.verify() == 0


def test_two_begin_at_the_same_time(tmp_path, monkeypatch):
    """Both find the folder empty; one of them gets it."""
    folder, acquire, first = tmp_path / "run", FolderStore._acquire, []

    def overtaken(store):
        monkeypatch.setattr(FolderStore, "_acquire", acquire)
        with go_on(begin(folder), 3) as run:
            first.append(run)
        acquire(store)

    monkeypatch.setattr(FolderStore, "_acquire", overtaken)
    with pytest.raises(ValueError, match="not empty"):
        begin(folder)
    assert len(first[0]) == len(reopen(folder)) == 3


def test_a_folder_name_that_is_none():
    with pytest.raises(TypeError):
        pk.Trajectory(**worker.parts(), folder=3)
