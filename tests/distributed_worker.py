"""One rank of the runs that test_distributed.py starts: rank, world size, store, folder.

The store is a file and gloo is kept on the loopback device, so nothing listens outside.
"""

import json
import os
import sys
from datetime import timedelta

import torch
import torch.distributed as dist
from oracles import Tied
from safetensors.torch import save_file
from torch import nn

import pkbook as pk
from pkbook.basics.parameters import trainable
from pkbook.kernels import distributed
from pkbook.kernels.distributed import distributed_kernel


def _cnn():
    return nn.Sequential(
        nn.Unflatten(1, (1, 1, 5)), nn.Conv2d(1, 3, (1, 3), padding=(0, 1)), nn.BatchNorm2d(3),
        nn.ReLU(), nn.Flatten(), nn.Linear(15, 2),
    )  # fmt: skip


MODELS = {"mlp": lambda: pk.models.mlp(5, 7, 3, activation="tanh"), "cnn": _cnn, "tied": Tied}


def setting(name, n1=13, n2=7):
    """A model, two sets of inputs, a weight and a second point in parameter space."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MODELS[name]().double().eval()
        x1, x2 = torch.randn(n1, 5).double(), torch.randn(n2, 5).double()
        weight = {k: torch.rand(p.shape).double() for k, p in trainable(model).items()}
    return model, x1, x2, weight, {k: p + 0.1 for k, p in trainable(model).items()}


def calls():
    """Every combination that is compared with the one-process kernel: name, arguments, options."""
    # two rows leave a rank of three without any
    for name, n1, n2 in (("cnn", 13, 7), ("tied", 9, 4), ("mlp", 2, 3)):
        model, x1, x2, weight, late = setting(name, n1, n2)
        for reduce in ("trace", "full", "diagonal"):
            key = f"{name}-{n1}-{reduce}"
            yield f"{key}-two", (model, x1, x2), {"reduce": reduce}
            yield f"{key}-own", (model, x1), {"reduce": reduce}
        yield f"{name}-{n1}-weighted", (model, x1), {"weight": weight, "memory": 40_000}
        yield f"{name}-{n1}-later", (model, x1), {"parameters2": late}


def _spoiled(rank):
    """What only the last rank has otherwise, by the name of the case."""
    model, x1, x2, _, late = setting("cnn")
    odd = rank == dist.get_world_size() - 1

    def changed(what):
        other = setting("cnn")[0]
        with torch.no_grad():
            if odd:
                what(other)
        return other

    def nudge(other):
        other[1].weight[0, 0, 0, 0] += 1e-12

    def shift(other):
        other[2].running_mean += 1

    def freeze(other):
        other[5].bias.requires_grad_(False)

    def activate(other):
        other[3] = nn.Tanh()

    yield "parameter", (changed(nudge), x1, x2), {}
    yield "buffer", (changed(shift), x1, x2), {}
    yield "frozen", (changed(freeze), x1, x2), {}
    yield "module", (changed(activate), x1, x2), {}
    yield "x1", (model, x1.flip(0) if odd else x1, x2), {}
    yield "x2", (model, x1, None if odd else x2), {}
    yield "reduce", (model, x1, x2), {"reduce": "full" if odd else "trace"}
    yield "gather", (model, x1, x2), {"gather": not odd}
    yield "parameters1", (model, x1, x2), {"parameters1": late if odd else trainable(model)}
    yield "nan", (model, x1 * float("nan") if odd else x1, x2), {}
    yield "type", (None if odd else model, x1, x2), {}
    yield "nowhere", (None, x1, x2), {}


def _results(rank):
    found = {}
    for key, arguments, options in calls():
        found[f"{key}/all"] = distributed_kernel(*arguments, **options)
        first = distributed_kernel(*arguments, gather="first", **options)
        assert (first is None) == (rank != 0), key
        if first is not None:
            found[f"{key}/first"] = first
        shard = distributed_kernel(*arguments, gather=False, timeout=60, **options)
        found[f"{key}/rows"], found[f"{key}/shard"] = shard
    return found


def _said(*arguments, **options):
    try:
        distributed_kernel(*arguments, **options)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def _messages(rank, part):
    found = {name: _said(*arguments, **options) for name, arguments, options in _spoiled(rank)}
    if rank not in (0, dist.get_world_size() - 1):
        found["group"] = _said(*setting("mlp")[:2], group=part)
    return found


def main(rank, world, store, folder):
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=world,
        timeout=timedelta(seconds=60),
    )  # fmt: skip
    distributed.PACKET_BYTES = 1000  # several packets for each block
    save_file(_results(rank), f"{folder}/{rank}.safetensors")
    part = dist.new_group([0, world - 1])
    said = _messages(rank, part)
    with open(f"{folder}/{rank}.json", "w") as f:
        json.dump(said, f)
    outside = (
        distributed_kernel(*setting("mlp")[:2], group=part) if rank in (0, world - 1) else None
    )
    if outside is not None:
        save_file({"part": outside}, f"{folder}/part-{rank}.safetensors")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
