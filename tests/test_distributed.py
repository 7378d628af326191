"""Kernels on several processes: the same numbers, and never a part of them.

The ranks are processes of their own (tests/distributed_worker.py) that meet through a file; gloo
stays on the loopback device.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import distributed_worker as worker
import pytest
import torch
from safetensors.torch import load_file

from pkbook.kernels.blocks import ROW_COST, tiles
from pkbook.kernels.distributed import distributed_kernel
from pkbook.kernels.gram import gram

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}


@pytest.fixture(scope="module", params=[2, 3])
def run(request, tmp_path_factory):
    """One run of the worker on so many ranks: results and messages of each."""
    if not Path("/sys/class/net/lo").exists():
        pytest.skip("the loopback device is not called lo here")
    world, folder = request.param, tmp_path_factory.mktemp("ranks")
    script = [sys.executable, "-W", "error", str(ROOT / "tests/distributed_worker.py")]
    started = [
        subprocess.Popen(
            [*script, str(rank), str(world), str(folder / "store"), str(folder)],
            env=ENVIRONMENT | {"PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    ended = [process.communicate(timeout=600)[1] for process in started]
    assert [process.returncode for process in started] == [0] * world, "\n".join(ended)
    results = [load_file(folder / f"{rank}.safetensors") for rank in range(world)]
    messages = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(world)]
    parts = [load_file(p)["part"] for p in sorted(folder.glob("part-*.safetensors"))]
    return results, messages, parts


def _close(got, wanted):
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12 * float(wanted.abs().max()))


def test_every_kernel_is_that_of_one_process(run):
    results, _, _ = run
    for key, arguments, options in worker.calls():
        wanted = gram(*arguments, **options)
        _close(results[0][f"{key}/first"], wanted)
        for result in results:
            _close(result[f"{key}/all"], wanted)
            assert torch.equal(result[f"{key}/all"], results[0][f"{key}/first"])


def test_own_kernels_are_symmetric(run):
    results, _, _ = run
    own = [key for key in results[0] if key.endswith(("-own/all", "-weighted/all"))]
    assert len(own) == 12
    for key in own:
        kernel = results[0][key]
        turned = kernel.transpose(0, 1)
        _close(turned.transpose(2, 3) if "-full-" in key else turned, kernel)


def test_shards_are_the_rows_of_the_kernel_and_together_all_of_them(run):
    results, _, _ = run
    for key, _, _ in worker.calls():
        rows = torch.cat([result[f"{key}/rows"] for result in results])
        assert torch.equal(rows.sort().values, torch.arange(len(results[0][f"{key}/all"])))
        for result in results:
            whole = result[f"{key}/all"]
            assert torch.equal(result[f"{key}/shard"], whole[result[f"{key}/rows"]])


def test_a_group_of_some_of_the_processes(run):
    _, messages, parts = run
    for said in messages[1:-1]:
        assert said["group"].startswith("ValueError: group does not contain this process")
    wanted = gram(*worker.setting("mlp")[:2])
    assert len(parts) == 2
    for part in parts:
        _close(part, wanted)


DIFFERENCES = {
    "parameter": "parameter '1.weight' of the model differs between rank 0",
    "buffer": "buffer '2.running_mean' of the model differs between rank 0",
    "frozen": "parameter '5.bias' of the model differs between rank 0",
    "module": "the list of the model's modules differs between rank 0",
    "x1": "x1 differs between rank 0",
    "x2": "x2 is there on rank 0 but not on rank",
    "reduce": "reduce differs between rank 0 (trace) and rank",
    "gather": "gather differs between rank 0 (True) and rank",
    "parameters1": "parameters1['1.weight'] differs between rank 0",
}


@pytest.mark.parametrize("name", DIFFERENCES)
def test_what_differs_between_ranks_is_refused_by_name_on_all(run, name):
    for said in run[1]:
        assert said[name].startswith(f"ValueError: {DIFFERENCES[name]}")


def test_an_error_of_one_rank_is_raised_by_all(run):
    *others, last = run[1]
    assert last["nan"].startswith("ValueError: x1 must be finite")
    assert last["type"].startswith("TypeError: model must be a torch.nn.Module")
    for said in others:
        rank = len(others)
        assert said["nan"].startswith(f"RankError: rank {rank} failed while checking its arguments")
        assert "x1 must be finite" in said["nan"]
        assert said["type"].startswith(f"RankError: rank {rank} failed")
    assert all(said["nowhere"].startswith("TypeError: model must be") for said in run[1])


@pytest.mark.parametrize(("n1", "n2"), [(1, 1), (2, 9), (13, 13), (90, 84)])
@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 7, 16])
def test_tiles_cover_every_pair_once(n1, n2, ranks):
    for symmetric in (False, True):
        n2 = n1 if symmetric else n2
        times = torch.zeros(n1, n2)
        owned = tiles(n1, n2, ranks, symmetric)
        assert len(owned) == ranks
        for tile in (tile for mine in owned for tile in mine):
            times[slice(*tile.rows), slice(*tile.columns)] += 1
            if tile.symmetric and not tile.diagonal:
                times[slice(*tile.columns), slice(*tile.rows)] += 1
        assert bool((times == 1).all())


@pytest.mark.parametrize("ranks", [2, 3, 4, 5, 8])
def test_tiles_share_the_work(ranks):
    """Counted work: balanced, and never more for one rank than a share in strips of rows."""
    n = 840
    for symmetric in (False, True):
        loads = [sum(tile.cost() for tile in own) for own in tiles(n, n, ranks, symmetric)]
        pairs = n * n / ranks / (2 if symmetric else 1)
        assert max(loads) <= pairs + ROW_COST * n * (1 if symmetric else 1 + 1 / ranks) + n
        if ranks in (2, 3, 8) or not symmetric:
            assert max(loads) <= 1.001 * min(loads)
    few = [tile for own in tiles(10, 6000, ranks, False) for tile in own]
    assert [tile.rows for tile in few] == [(0, 10)] * ranks  # the long side is cut


def test_one_process_without_a_group_is_the_plain_kernel():
    for _, arguments, options in worker.calls():
        wanted = gram(*arguments, **options)
        assert torch.equal(distributed_kernel(*arguments, **options), wanted)
        rows, kernel = distributed_kernel(*arguments, gather=False, **options)
        assert torch.equal(rows, torch.arange(len(wanted)))
        assert torch.equal(kernel, wanted)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"gather": "last"}, ValueError, "gather must be True, False or 'first', got 'last'"),
        ({"gather": 1}, ValueError, "gather must be True, False or 'first', got 1"),
        ({"timeout": 0}, ValueError, "timeout must be a positive number of seconds"),
        ({"timeout": "1"}, ValueError, "timeout must be a positive number of seconds"),
        ({"group": object()}, ValueError, "torch.distributed is not initialised"),
        ({"reduce": "sum"}, ValueError, "reduce must be one of"),
        ({"memory": 10}, ValueError, "memory must hold"),
        ({"weight": {}}, ValueError, "weight must be a dict with one entry"),
    ],
)
def test_bad_arguments_are_named(options, error, message):
    model, x1 = worker.setting("mlp")[:2]
    with pytest.raises(error, match=message):
        distributed_kernel(model, x1, **options)
