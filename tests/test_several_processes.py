"""Runs of several processes: those of plain torch, one record, replayed and explained in one.

The ranks are processes of their own (tests/several_worker.py) that meet through a file; gloo stays
on the loopback device.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import several_worker as worker
import torch
from safetensors.torch import load_file
from several_worker import WAYS, Q, X, Y

import pkbook as pk

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = os.environ | {
    "OMP_NUM_THREADS": "1",
    "GLOO_SOCKET_IFNAME": "lo",
    "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
}


@pytest.fixture(autouse=True)
def one_thread():
    """As in the workers."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def started(what, world, folder):
    """Run the worker on so many ranks; what each has told."""
    if not Path("/sys/class/net/lo").exists():
        pytest.skip("the loopback device is not called lo here")
    script = [sys.executable, "-W", "error", str(ROOT / "tests/several_worker.py"), what]
    store = folder / f"store {what}"
    ranks = [
        subprocess.Popen(
            [*script, str(rank), str(world), str(store), str(folder)],
            env=ENVIRONMENT,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    ended = [process.communicate(timeout=300)[1] for process in ranks]
    assert [process.returncode for process in ranks] == [0] * world, "\n".join(ended)
    told = [folder / f"{rank}.json" for rank in range(world)]
    return [json.loads(path.read_text()) for path in told if path.exists()]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The folder of two ranks, one of whose runs was killed and gone on with; what they told."""
    folder = tmp_path_factory.mktemp("two")
    started("killed", 2, folder)
    told = started("all", 2, folder)
    return folder, load_file(folder / "0.safetensors"), load_file(folder / "1.safetensors"), told


def here(way, folder=None, **more):
    """The same run in this process, without ``torch.distributed``."""
    return worker.begin(way, folder, ddp=False, **more)


def alone(way, world=2):
    """The run of the same steps, made in one process that accumulates the parts of all."""
    run, cut = here(way), worker.of(way, "cut", "each")
    for k in range(worker.STEPS):
        parts = [worker.own(k, rank, world, **cut) for rank in range(world)]
        run.step([part for own in parts for part in (own if isinstance(own[0], list) else [own])])
    return run


@pytest.mark.parametrize("way", [way for way in WAYS if way not in ("dropout", "drawn")])
def test_the_weights_are_those_of_plain_torch(two, way):
    _, first, second, _ = two
    for name in worker.net().state_dict():
        plain = first[f"{way}/plain/{name}"]
        assert torch.equal(first[f"{way}/recorded/{name}"], plain)
        assert torch.equal(second[f"{way}/recorded/{name}"], plain)


@pytest.mark.parametrize("way", WAYS)
def test_a_run_of_two_processes_is_replayed_and_explained_in_one(two, way):
    folder, first, _, _ = two
    with here(way, folder / way, opened=True, read_only=True) as run:
        for name, t in run.model.state_dict().items():
            assert torch.equal(t, first[f"{way}/recorded/{name}"])
        assert run.verify() == 0
        one = alone(way)
        assert [r.batch for r in run.store.steps] == [r.batch for r in one.store.steps]
        assert [r.parts for r in run.store.steps] == [r.parts for r in one.store.steps]
        told, wanted = run.interpolate(Q), one.interpolate(Q)
        assert float(told.completeness.max()) < 1e-3
        if way == "accumulated":  # one process adds four micro-batches in another order
            torch.testing.assert_close(
                told.contributions, wanted.contributions, rtol=1e-4, atol=1e-6
            )
        else:
            assert torch.equal(told.contributions, wanted.contributions)


def test_three_processes_are_recorded_and_their_rounding_is_measured(tmp_path):
    told = started("three", 3, tmp_path)
    with here("adam, clipped", tmp_path / "three", opened=True, read_only=True) as run:
        assert run.elsewhere == {"processes": (3, 1)}
        with pytest.warns(UserWarning, match=r"replayed differently.*processes 3 there, 1 here"):
            gap = run.verify()
    assert 0 < gap < 1e-4
    for rank in told:
        assert rank["gap"] == gap
        assert "processes 3 there, 1 here" in rank["told"][0]


def test_a_killed_run_goes_on(two):
    folder, first, _, _ = two
    with here("dropout", folder / "killed", opened=True, read_only=True) as run:
        assert len(run) == worker.STEPS
        assert run.verify() == 0
        for name, t in run.model.state_dict().items():
            assert torch.equal(t, first[f"dropout/recorded/{name}"])
        wanted = run.interpolate(Q).contributions
    told = pk.Explanation.open(folder / "explained")
    found = torch.cat([told[i].contributions for i in range(2)], dim=1)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["dropout", "uneven", "accumulated", "kept"])
def test_a_loop_of_several_processes_is_recorded(two, name):
    """Each process draws its own dropout masks, keeps its own batches."""
    folder, first, _, _ = two
    way = "plain" if name == "kept" else name
    model, loss, optimizer, data = worker.parts(way, ddp=False)
    given = folder / f"loop {name}"
    with pk.Trajectory.open(given, model, loss, optimizer, data, read_only=True) as run:
        assert run.verify() == 0
        assert float(run.interpolate(Q).completeness.max()) < 1e-3
        if name in ("uneven", "accumulated"):
            assert run.store.steps[1].parts == ([2, 6] if name == "uneven" else [3, 1, 3, 1])
            for entry, t in model.state_dict().items():
                assert torch.equal(t, first[f"{name}/plain/{entry}"])
        if name == "kept":
            kept = [run.problem.source.fetch(part.numbers, part.drawn_seed)[0]
                    for part in pk.runs.steps.parts_of(run.store.steps[2])]  # fmt: skip
            for rank, (x, y) in enumerate(kept):
                numbers = worker.own(2, rank, 2)
                assert torch.equal(x, X[numbers] + rank + 2)
                assert torch.equal(y, Y[numbers])


SAID = {
    "numbers": (1, "ValueError: batch must hold sample numbers", "rank 1 failed while preparing"),
    "loss": (1, "ValueError: loss is nan at step 1", "rank 1 failed while following step 1"),
    "storage": (0, "StorageError: no room", "rank 0 failed while keeping step 1"),
    "folder": (0, "ValueError: folder .* is not empty", "rank 0 failed while beginning the folder"),
    "arguments": (1, "ValueError: clip_value must be", "rank 1 failed while checking its arg"),
    "rate": (None, "ValueError: the hyperparameters must be the same on all processes", ""),
    "parts": (None, "ValueError: the number of micro-batches must be the same", ""),
    "seed": (None, r"ValueError: seed differs between rank 0 \(0\) and rank 1 \(1\)", ""),
    "another model": (None, "ReplayError: step 0 was made, but made again .* another one", ""),
}


@pytest.mark.parametrize("case", SAID)
def test_what_fails_on_one_process_is_told_on_all(two, case):
    who, own, others = SAID[case]
    for rank, told in enumerate(two[3]):
        wanted = own if who in (None, rank) else f"RankError: {others}"
        assert_match(wanted, told["failed"][case])


def test_a_run_goes_on_after_a_failure(two):
    for told in two[3]:
        assert told["failed"]["interrupted"].startswith("KeyboardInterrupt")
        assert (told["failed"]["steps"], told["failed"]["verified"]) == (3, 0.0)


def test_a_process_that_is_gone_is_missed(two):
    assert "RankError: rank 0 of 2 lost another rank" in (two[0] / "lost.json").read_text()


def test_a_loop_that_tells_too_little_is_refused_on_all(two):
    first, second = (told["refused"] for told in two[3])
    for told in (first, second):
        assert_match("ValueError: batches of several processes are kept in a fol", told["kept"])
    assert_match("RankError: rank 1 failed while keeping step 0", first["untold"])
    assert_match("ValueError: step 0 is made of samples that nobody has told", second["untold"])


REFUSED = {
    "batch": r"ValueError: layer '1' \(BatchNorm1d\) must be in eval mode.*nn\.GroupNorm",
    "sync": r"ValueError: layer '1' \(SyncBatchNorm\) must be in eval mode.*nn\.LayerNorm",
    "frozen": "no error",
    "hook": "ValueError: .*no communication hook, got '_hook'",
    "no_sync": r"ValueError: step must be made outside of no_sync\(\).*run\.step\(\[first, second",
    "nested": "TypeError: .*layer '0' is a DistributedDataParallel; wrap the whole model",
    "parallel": r"TypeError: .*got a DataParallel; give the module it wraps",
    "ignored": "ValueError: .*ignores '0.weight'; leave it out of the optimizer",
    "sharded": r"TypeError: .*got a FSDPModule; write DistributedDataParallel\(model\)",
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_recorded_is_refused_by_name(two, case):
    for told in two[3]:
        assert_match(REFUSED[case], told["refused"][case])


def assert_match(pattern, text):
    assert re.search(pattern, text), text


PROGRAM = """
import os
import torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
import pkbook as pk

dist.init_process_group("gloo")
x = torch.linspace(-1, 1, 8)[:, None]
torch.manual_seed(0)
model = DistributedDataParallel(torch.nn.Linear(1, 1))
sgd = torch.optim.SGD(model.parameters(), lr=0.3)
with pk.Trajectory(model, torch.nn.MSELoss(), sgd, (x, 2 * x), folder="run", every=3) as run:
    for k in range(7):
        half = torch.arange(dist.get_rank(), 8, dist.get_world_size())
        run.step(half)
    assert run.verify() == 0
dist.destroy_process_group()
"""


def test_as_a_user_starts_it(tmp_path):
    """By torchrun, and opened elsewhere; full batches in halves are full batches."""
    (tmp_path / "train.py").write_text(PROGRAM)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "train.py"]
    done = subprocess.run(
        [sys.executable, *launch], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    x = torch.linspace(-1, 1, 8)[:, None]
    lines = [torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)]
    first, second = (torch.optim.SGD(line.parameters(), lr=0.3) for line in lines)
    mse = torch.nn.MSELoss()
    with pk.Trajectory.open(tmp_path / "run", lines[0], mse, first, (x, 2 * x)) as run:
        assert run.verify() == 0
        lines[1].load_state_dict(run.model_at(0).state_dict())
        whole = pk.Trajectory(lines[1], mse, second, (x, 2 * x))
        for _ in range(7):
            whole.step(range(8))
        torch.testing.assert_close(lines[0].weight, lines[1].weight, rtol=1e-6, atol=0)
        found, wanted = (r.interpolate(torch.tensor([[3.0]])) for r in (run, whole))
        torch.testing.assert_close(found.contributions, wanted.contributions, rtol=1e-4, atol=1e-6)
        run.step([0, 1])  # a run of several processes goes on in one
        assert run.verify() == 0
