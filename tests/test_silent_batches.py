"""What numbers the samples of a step, and what only looks like it."""

import json
import zlib

import numpy as np
import pytest
import torch
from silent_parts import X, Y, begun, net, sgd, trained
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import pkbook as pk


def test_a_pair_from_a_data_loader_is_no_accumulation():
    words = torch.randint(5, (12,), generator=torch.Generator().manual_seed(0))
    model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 2))
    run = begun(model, nn.CrossEntropyLoss(), data=(words, words % 2))
    pair = next(iter(DataLoader(TensorDataset(words, words % 2), batch_size=4)))
    assert isinstance(pair, list)
    with pytest.raises(TypeError, match=r"got a tuple \(Tensor, Tensor\).*DataLoader\(range\(12\)"):
        run.step(tuple(pair))
    with pytest.raises(TypeError, match=r"may be data as well.*first\.tolist\(\)"):
        run.step(pair)
    run.step([t.tolist() for t in pair])
    for numbers in DataLoader(range(12), batch_size=4):
        run.step(numbers)
    assert [len(r.batch) for r in run.store.steps] == [8, 4, 4, 4]
    assert [r.parts for r in run.store.steps] == [[4, 4], [], [], []]
    with pytest.raises(TypeError, match=r"dtype torch.float32, shape \(4, 2\).*over data gives"):
        begun().step([X[:4], Y[:4]])


def test_a_list_of_two_tensors_accumulates_where_it_cannot_be_data():
    run, other = begun(), begun()
    run.step([torch.tensor([0, 1]), torch.tensor([2, 3])])
    other.step([0, 1, 2, 3])
    for p, q in zip(run.model.parameters(), other.model.parameters(), strict=True):
        torch.testing.assert_close(p, q)


@pytest.mark.parametrize(
    ("batch", "numbers"),
    [
        (slice(None), list(range(12))),
        (slice(2, 9, 3), [2, 5, 8]),
        (range(3, 6), [3, 4, 5]),
        ((7, 1), [7, 1]),
        (torch.tensor([3, 1], dtype=torch.uint16), [3, 1]),
        (torch.tensor([3, 1], dtype=torch.uint64), [3, 1]),
        (np.array([3, 1]), [3, 1]),
    ],
)
def test_what_numbers_samples_is_a_batch(batch, numbers):
    run, other = begun(), begun()
    run.step(batch)
    other.step(numbers)
    assert list(run.store.steps[0].batch) == numbers
    assert all(map(torch.equal, run.model.parameters(), other.model.parameters()))


@pytest.mark.parametrize(
    ("batch", "advice"),
    [
        ({3, 1}, r"got set; write sorted\(batch\)"),
        ((i for i in (3, 1)), r"got generator; write list\(batch\)"),
        (iter([3, 1]), r"got list_iterator; write list\(batch\)"),
        (torch.tensor([1j]), "got dtype torch.complex64"),
    ],
)
def test_what_has_no_order_or_no_numbers_is_refused(batch, advice):
    run = begun()
    with pytest.raises(TypeError, match=advice):
        run.step(batch)
    assert len(run) == 0


def test_a_full_batch_is_kept_as_a_range(tmp_path):
    with trained(steps=2, folder=tmp_path / "run") as run:
        for _ in range(3):
            run.step(torch.arange(12))
        run.step([torch.arange(6), torch.arange(6, 12)])
        run.step(torch.arange(12).flip(0))
    lines = (tmp_path / "run" / "steps.jsonl").read_bytes().splitlines()
    told = [json.loads(line.partition(b" ")[2]) for line in lines]
    assert [t.get("range") for t in told[2:]] == [[0, 12]] * 4 + [None]
    assert told[-1]["batch"] == list(range(12))[::-1]
    model = net(seed=5)
    with pk.Trajectory.open(
        tmp_path / "run", model, pk.losses.squared, sgd(model), (X, Y)
    ) as again:
        assert again.verify() == 0
        assert [list(r.batch) for r in again.store.steps] == [
            list(r.batch) for r in run.store.steps
        ]
        told = again.interpolate(X[:2])
    assert told.completeness.max() < 1e-3


def test_a_folder_from_before_ranges_opens(tmp_path):
    """Every number was written out; and the steps come to the same, bit for bit."""
    with begun(folder=tmp_path / "run", every=3) as run:
        for _ in range(5):
            run.step(torch.arange(12))
        end = [p.detach().clone() for p in run.model.parameters()]
    log = tmp_path / "run" / "steps.jsonl"
    old = []
    for line in log.read_bytes().splitlines():
        told = json.loads(line.partition(b" ")[2])
        told["batch"] = list(range(*told.pop("range")))
        body = json.dumps(told, separators=(",", ":")).encode()
        old.append(b"%08x %s\n" % (zlib.crc32(body), body))
    log.write_bytes(b"".join(old))
    model = net(seed=5)
    with pk.Trajectory.open(
        tmp_path / "run", model, pk.losses.squared, sgd(model), (X, Y)
    ) as again:
        assert again.verify() == 0
        assert all(map(torch.equal, end, model.parameters()))
