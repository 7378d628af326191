"""`out=`: kernels in a tensor of the caller's and in files, equal to those in memory."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import CASES

import pkbook as pk
from pkbook.kernels.kind import Kind

CASE = {case.name: case for case in CASES}
NAMES = ("mlp, several outputs", "cnn", "gru")


def ways(model, x1, x2):
    """Calls that take ``out=``, symmetric and not."""
    ones = {name: 2.0 for name, p in model.named_parameters()}
    point = {name: p.detach() * 1.1 for name, p in model.named_parameters()}
    for reduce in ("trace", "diagonal", "full"):
        yield pk.gradient_kernel, (model, x1), {"reduce": reduce}
        yield pk.gradient_kernel, (model, x1, x2), {"reduce": reduce}
    yield pk.weighted_kernel, (model, x1), {"weight": ones, "reduce": "full"}
    two = {"parameters1": point, "parameters2": dict(model.named_parameters())}
    yield pk.two_time_kernel, (model, x1, x2), two
    yield pk.two_time_kernel, (model, x1), two | {"reduce": "full"}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("memory", [None, 100_000])
def test_a_tensor_and_a_file_hold_what_memory_would(name, memory, tmp_path):
    n1, n2 = (4, 3) if name == "gru" else (7, 5)
    model, x1, x2 = CASE[name].model(), CASE[name].data(n1), CASE[name].data(n2, seed=1)
    for k, (call, args, options) in enumerate(ways(model, x1, x2)):
        want = call(*args, **options)
        path = tmp_path / f"{k}.npy"
        mapped = call(*args, **options, memory=memory, out=path)
        torch.testing.assert_close(mapped, want, rtol=1e-12, atol=1e-12)
        assert np.array_equal(np.load(path), mapped.numpy())
        own = torch.full_like(want, torch.nan).transpose(0, 1).contiguous().transpose(0, 1)
        assert call(*args, **options, memory=memory, out=own) is own
        torch.testing.assert_close(own, want, rtol=1e-12, atol=1e-12)
    assert not list(tmp_path.glob("*.partial"))


def small():
    x = torch.randn(300, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return pk.models.mlp(2, 4, 1, seed=0).double(), x


@pytest.mark.parametrize("symmetric", [True, False])
def test_blocks_of_a_file_fit_in_the_memory_where_gradients_are_small(
    symmetric, tmp_path, monkeypatch
):
    model, x = small()
    largest, products = [], Kind.products

    def watched(self, *args, **options):
        blocks = products(self, *args, **options)
        largest.append(max(b.numel() * b.element_size() for b in blocks))
        return blocks

    monkeypatch.setattr(Kind, "products", watched)
    args = (model, x) if symmetric else (model, x, x[:200])
    got = pk.gradient_kernel(*args, memory=100_000, out=str(tmp_path / "k.npy"))
    assert max(largest) <= 100_000 / 8 < got.numel() * 8 / 10
    monkeypatch.undo()
    torch.testing.assert_close(got, pk.gradient_kernel(*args), rtol=1e-12, atol=0)
    if symmetric:
        assert torch.equal(got, got.T)


def test_what_is_written_to_the_map_is_in_the_file(tmp_path):
    model, x = small()
    got = pk.gradient_kernel(model, x, out=tmp_path / "k.npy")
    got[0, 0] = 7.0
    del got
    assert np.load(tmp_path / "k.npy")[0, 0] == 7.0


def test_half_precision_is_written_as_float32(tmp_path):
    model, x = small()
    got = pk.gradient_kernel(model.bfloat16(), x[:4].bfloat16(), out=tmp_path / "k.npy")
    assert got.dtype == torch.float32
    assert np.load(tmp_path / "k.npy").dtype == np.float32


def test_a_tensor_made_in_inference_mode_is_filled():
    model, x = small()
    with torch.inference_mode():
        own = torch.empty(300, 300, dtype=torch.float64)
        pk.gradient_kernel(model, x, out=own)
    assert torch.equal(own.clone(), pk.gradient_kernel(model, x, out=torch.empty_like(own).clone()))


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interrupted_kernel_leaves_no_file(error, tmp_path, monkeypatch):
    model, x = small()
    calls, products = [], Kind.products

    def failing(self, *args, **options):
        calls.append(1)
        if len(calls) == 3:
            raise error
        return products(self, *args, **options)

    monkeypatch.setattr(Kind, "products", failing)
    with pytest.raises(error):
        pk.gradient_kernel(model, x, memory=100_000, out=tmp_path / "k.npy")
    assert not list(tmp_path.iterdir())


KILLED = """
import os, sys, torch, pkbook as pk
from pkbook.kernels.kind import Kind
products = Kind.products
def killed(self, *args, **options):
    killed.calls += 1
    return os._exit(9) if killed.calls == 3 else products(self, *args, **options)
killed.calls, Kind.products = 0, killed
x = torch.ones(300, 2)
pk.gradient_kernel(pk.models.mlp(2, 4, 1, seed=0), x, memory=50_000, out=sys.argv[1])
"""


def test_a_killed_process_leaves_a_partial_file_that_the_next_one_replaces(tmp_path):
    path = tmp_path / "k.npy"
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], cwd=root)
    assert done.returncode == 9
    assert [p.name for p in tmp_path.iterdir()] == ["k.npy.partial"]
    model, x = small()
    want = pk.gradient_kernel(model, x)
    assert torch.equal(pk.gradient_kernel(model, x, out=path), want)
    assert [p.name for p in tmp_path.iterdir()] == ["k.npy"]


def test_a_kernel_that_is_not_finite_leaves_no_file(tmp_path):
    model = torch.nn.Linear(1, 1)
    with pytest.raises(ValueError, match="not finite"):
        pk.gradient_kernel(model, torch.tensor([[1e30]]), out=tmp_path / "k.npy")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="asks for the room beforehand")
def test_a_full_disk_is_told_before_anything_is_computed(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    model, x = small()
    monkeypatch.setattr(os, "posix_fallocate", full)
    monkeypatch.setattr(Kind, "products", lambda *args, **options: pytest.fail("computed"))
    with pytest.raises(pk.StorageError, match=r"k\.npy needs 720000 bytes.*No space left"):
        pk.gradient_kernel(model, x, out=tmp_path / "k.npy")
    assert not list(tmp_path.iterdir())


def test_what_does_not_fit_is_refused(tmp_path):
    model, x = small()
    (tmp_path / "there.npy").touch()
    wrong = [
        (3, TypeError, "out must be a torch.Tensor or a path"),
        ("k.pt", ValueError, r"end in \.npy"),
        (tmp_path / "there.npy", ValueError, "exists already"),
        (tmp_path / "none" / "k.npy", ValueError, "folder does not exist"),
        (torch.empty(300, 2, dtype=torch.float64), ValueError, r"out must be \[300, 300\]"),
        (torch.empty(300, 300), ValueError, "dtype=torch.float64"),
        (torch.empty(300, 1, dtype=torch.float64).expand(300, 300), ValueError, "expanded"),
        (torch.empty(300, 300, dtype=torch.float64, requires_grad=True), ValueError, "gradient"),
        (torch.empty(300, 300, dtype=torch.float64, device="meta"), ValueError, "device"),
    ]
    for out, error, words in wrong:
        with pytest.raises(error, match=words):
            pk.gradient_kernel(model, x, out=out)
