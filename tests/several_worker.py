"""One rank of the runs that test_several_processes.py starts: what, rank, world, store, folder.

The store is a file and gloo is kept on the loopback device, so nothing listens outside.
"""

import json
import os
import sys
import warnings
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from unittest import mock

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import nn
from torch.nn.parallel import DistributedDataParallel as DDP
from torch.utils.data import Dataset

import pkbook as pk
from pkbook.runs.storage import FolderStore

G = torch.Generator().manual_seed(2)
X, Y = torch.randn(24, 3, generator=G), torch.randint(3, (24,), generator=G)
Q = torch.randn(2, 3, generator=G)
LOSS = nn.CrossEntropyLoss()
STEPS, EVERY = 12, 5


class Noisy(Dataset):
    """Samples that are drawn at random."""

    def __len__(self):
        return 24

    def __getitem__(self, i):
        return X[i] + 0.1 * torch.randn(3), Y[i]


def net(dropout=0.0, norm=nn.Identity):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return nn.Sequential(
            nn.Linear(3, 8), norm(), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 3)
        )


def sgd(model):
    return torch.optim.SGD(model.parameters(), 0.3, momentum=0.9)


def adam(model):
    return torch.optim.Adam(model.parameters(), 1e-2)


def of_batch(model, batch):
    return LOSS(model(batch[0]), batch[1])


def each(outputs, targets):
    return nn.functional.cross_entropy(outputs, targets, reduction="none")


def count(batch):
    return len(batch[0])


WAYS = {
    "plain": {},
    "adam, clipped": {"optimizer": adam, "clip_norm": 0.3},
    "dropout": {"dropout": 0.4},
    "uneven": {"cut": 2},
    "accumulated": {"each": 2},
    "sum": {"reduction": "sum", "loss": each, "rate": 0.05},
    "items": {"reduction": count, "loss": each, "cut": 2},
    "a loss of the batch": {"loss": of_batch},
    "static graph": {"ddp": {"static_graph": True, "gradient_as_bucket_view": True}},
    "drawn": {"data": Noisy},
}


def own(k, rank, world, cut=None, each=1):
    """The sample numbers of one process in step ``k``."""
    numbers = [(7 * k + i) % 24 for i in range(4 * world)]
    if cut is not None:
        return numbers[:cut] if rank == 0 else numbers[cut:]
    part = numbers[4 * rank : 4 * rank + 4]
    return part if each == 1 else [part[:3], part[3:]]


def parts(way, ddp=True):
    """Model, loss, optimizer and data of a way, as a reader's code makes them."""
    told = WAYS[way]
    model = net(told.get("dropout", 0.0))
    optimizer = told.get("optimizer", sgd)(model)
    for group in optimizer.param_groups if "rate" in told else ():
        group["lr"] = told["rate"]
    data = told["data"]() if "data" in told else (X, Y)
    wrapped = DDP(model, **told.get("ddp", {})) if ddp else model
    return wrapped, told.get("loss", LOSS), optimizer, data


def of(way, *names):
    return {name: WAYS[way][name] for name in names if name in WAYS[way]}


def begin(way, folder=None, ddp=True, opened=False, **more):
    """A run on this process, new or opened."""
    model, loss, optimizer, data = parts(way, ddp)
    of_run = of(way, "clip_norm", "reduction")
    if opened:
        return pk.Trajectory.open(folder, model, loss, optimizer, data, **of_run, **more)
    more = {"every": EVERY, "seed": 3} | more
    return pk.Trajectory(model, loss, optimizer, data, folder=folder, **of_run, **more)


def go_on(run, way, rank, world, stop=STEPS):
    for k in range(len(run), stop):
        run.step(own(k, rank, world, **of(way, "cut", "each")))


def loop(way, rank, world, model, optimizer, saw=lambda *a: None):
    """Somebody's loop, without us."""
    told = WAYS[way]
    loss = LOSS if told.get("loss") is of_batch else told.get("loss", LOSS)
    for k in range(STEPS):
        optimizer.zero_grad()
        several = own(k, rank, world, **of(way, "cut", "each"))
        several = several if isinstance(several[0], list) else [several]
        for i, numbers in enumerate(several):
            with ExitStack() as stack:
                if i < len(several) - 1 and isinstance(model, DDP):
                    stack.enter_context(model.no_sync())
                saw(numbers)
                value = loss(model(X[numbers]), Y[numbers])
                if "reduction" in told:
                    value = value.sum() / (1 if way == "sum" else 4 * world) * world
                (value / len(several)).backward()
        if "clip_norm" in told:
            nn.utils.clip_grad_norm_(model.parameters(), told["clip_norm"])
        optimizer.step()


def state(model):
    return {name.removeprefix("module."): t.clone() for name, t in model.state_dict().items()}


def _trained(rank, world, folder):
    """The ways, recorded; those that nobody draws in also without us and by watching."""
    found = {}
    for way in WAYS:
        with begin(way, folder / way) as run:
            go_on(run, way, rank, world)
        found |= {f"{way}/recorded/{n}": t for n, t in state(run.model).items()}
        if way in ("dropout", "drawn"):
            continue
        model, _, optimizer, _ = parts(way)
        loop(way, rank, world, model, optimizer)
        found |= {f"{way}/plain/{n}": t for n, t in state(model).items()}
    save_file(found, folder / f"{rank}.safetensors")


def _watched(rank, world, folder):
    """Loops that are not ours: every process's own random numbers, and batches that are kept."""
    for way in ("dropout", "uneven", "accumulated"):
        model, loss, optimizer, data = parts(way)
        torch.manual_seed(100 + rank)
        with pk.record(model, optimizer, loss=loss, data=data, folder=folder / f"loop {way}") as r:
            loop(way, rank, world, model, optimizer, r.saw)
    model, loss, optimizer, data = parts("plain")
    with pk.record(model, optimizer, loss=loss, data=data, folder=folder / "loop kept") as run:
        for k in range(6):
            numbers = own(k, rank, world)
            x, y = X[numbers] + rank + k, Y[numbers]
            run.saw(numbers, (x, y))
            optimizer.zero_grad()
            loss(model(x), y).backward()
            optimizer.step()


def said(function):
    try:
        function()
    except (Exception, KeyboardInterrupt) as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def _failing(rank, folder):
    """One rank fails, all hear of it, and the run goes on."""
    found, odd = {}, rank == 1
    with begin("plain", folder / "failed") as run:
        run.step([0, 1 + rank])
        found["numbers"] = said(lambda: run.step([99] if odd else [1]))
        with torch.no_grad():
            X[5] *= float("nan") if odd else 1.0
        found["loss"] = said(lambda: run.step([5]))
        X[5] = 1.0
        with mock.patch.object(FolderStore, "append", side_effect=pk.StorageError("no room")):
            found["storage"] = said(lambda: run.step([3, 4]))
        run.optimizer.param_groups[0]["lr"] = 0.1 * (1 + rank)
        found["rate"] = said(lambda: run.step([3, 4]))
        run.optimizer.param_groups[0]["lr"] = 0.1
        found["parts"] = said(lambda: run.step([[3], [4]] if odd else [3, 4]))
        with mock.patch.object(torch.optim.SGD, "step", _interrupted(torch.optim.SGD.step)):
            found["interrupted"] = said(lambda: run.step([5 + rank, 1]))
        run.step([2 + rank, 4])
        found["steps"] = len(run)
        found["verified"] = run.verify()
    found["folder"] = said(lambda: begin("plain", folder / "failed"))
    found["arguments"] = said(lambda: begin("plain", clip_value=-1 if odd else 1))
    found["seed"] = said(lambda: begin("plain", seed=rank))
    run = begin("plain")
    run.model.register_forward_hook(lambda m, i, o: 2 * o if odd else o)
    found["another model"] = said(lambda: run.step([rank]))
    return found


def _interrupted(step):
    """Ctrl-C at the first call."""
    calls = []

    def interrupted(self, *arguments, **options):
        calls.append(self)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return step(self, *arguments, **options)

    return interrupted


def _untold(rank):
    """Loops that nobody tells enough."""
    model, loss, optimizer, data = parts("plain")
    found = {}
    for name in ("kept", "untold"):
        with pk.record(model, optimizer, loss=loss, data=data) as run:
            if name == "kept":
                run.saw([rank], (X[[rank]], Y[[rank]]))
            elif rank == 0:
                run.saw([rank])
            loss(model(X[[rank]]), Y[[rank]]).backward()
            found[name] = said(optimizer.step)
    return found


def _refused(rank):
    """What is refused by name."""
    found = {}
    ddp = DDP(net(norm=lambda: nn.BatchNorm1d(8)))
    found["batch"] = said(lambda: _begun(ddp))
    ddp.module[1].eval()
    found["frozen"] = said(lambda: _begun(ddp).step([rank, 2]))
    ddp.module[1] = nn.SyncBatchNorm(8)  # which DDP itself takes on a GPU only
    found["sync"] = said(lambda: _begun(ddp))
    hooked = DDP(net())
    hooked.register_comm_hook(None, _hook)
    found["hook"] = said(lambda: _begun(hooked))
    run = _begun(DDP(net()))
    with run.several.ddp.no_sync():
        found["no_sync"] = said(lambda: run.step([rank]))
    found["nested"] = said(lambda: _begun(nn.Sequential(DDP(net()))))
    found["parallel"] = said(lambda: _begun(nn.DataParallel(net())))
    ignored = net()
    ignored._ddp_params_and_buffers_to_ignore = ["0.weight"]
    found["ignored"] = said(lambda: _begun(DDP(ignored)))
    from torch.distributed.fsdp import fully_shard

    sharded = net()
    fully_shard(sharded, mesh=dist.init_device_mesh("cpu", (dist.get_world_size(),)))
    found["sharded"] = said(lambda: _begun(sharded))
    return found


def _hook(state, bucket):
    future = torch.futures.Future()
    future.set_result(bucket.buffer())
    return future


def _begun(model):
    return pk.Trajectory(model, LOSS, sgd(model), (X, Y))


def main(what, rank, world, store, folder):
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=world,
        timeout=timedelta(seconds=60),
    )  # fmt: skip
    if what == "killed":
        run = begin("dropout", folder / "killed")
        go_on(run, "dropout", rank, world, stop=8)
        if rank == 0:  # the other is gone without a word
            (folder / "lost.json").write_text(json.dumps(said(lambda: run.step([0]))))
        os._exit(0)
    if what == "three":
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            with begin("adam, clipped", folder / "three") as run:
                go_on(run, "adam, clipped", rank, world)
                found = {"gap": run.verify(), "told": [str(w.message) for w in told]}
    else:
        with begin("dropout", folder / "killed", opened=True) as run:
            go_on(run, "dropout", rank, world)
            told = run.interpolate(Q)  # on each process alone
            shared = pk.explain(run, Q, folder=folder / "explained", chunk=1)
            assert torch.equal(shared[0].contributions, run.interpolate(Q[:1]).contributions)
            assert float(told.completeness.max()) < 1e-3
        _trained(rank, world, folder)
        _watched(rank, world, folder)
        found = {"failed": _failing(rank, folder), "refused": _refused(rank) | _untold(rank)}
    (folder / f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], Path(sys.argv[5]))
