"""`kernel_operator` against kernels that are written out."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import odd_models as odd
import pytest
import torch
from cases import CASES
from scipy.sparse.linalg import eigsh, svds
from torch import nn

import pkbook as pk
from pkbook.kernels import operator

F64 = torch.float64
CASE = {case.name: case for case in CASES}
NAMES = (
    "mlp, several outputs", "outputs [n]", "cnn", "gru", "tied embedding", "encoder",
    "frozen layer", "own autograd function", "spectral norm", "recomputed activations",
)  # fmt: skip


def numbers(*shape, seed=0):
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def matrix(kernel):
    """``[n1, n2, C, C]`` as ``[n1 C, n2 C]``."""
    if kernel.ndim == 2:
        return kernel
    n1, n2, c, _ = kernel.shape
    return kernel.permute(0, 2, 1, 3).reshape(n1 * c, n2 * c)


def near(a, b, rtol=1e-10):
    torch.testing.assert_close(a, b, rtol=rtol, atol=rtol * float(b.abs().max()))


@pytest.mark.parametrize("reduce", ["trace", "full"])
@pytest.mark.parametrize("name", NAMES)
def test_products_are_those_of_the_matrix(name, reduce):
    model, x1, x2 = CASE[name].model(), CASE[name].data(5), CASE[name].data(4, seed=1)
    want = matrix(pk.gradient_kernel(model, x1, x2, reduce=reduce))
    k = pk.kernel_operator(model, x1, x2, reduce=reduce)
    assert k.shape == tuple(want.shape)
    v, u = numbers(want.shape[1], 3), numbers(want.shape[0])
    near(k @ v, want @ v)
    near(k @ v[:, 0], want @ v[:, 0])
    near(k.T @ u, want.T @ u)
    own = pk.kernel_operator(model, x1, reduce=reduce)
    near(own @ torch.eye(len(u), dtype=F64), matrix(pk.gradient_kernel(model, x1, reduce=reduce)))


@pytest.mark.parametrize("reduce", ["trace", "full"])
def test_small_batches_and_few_directions_change_nothing(reduce, monkeypatch):
    model, x = CASE["cnn"].model(), CASE["cnn"].data(9)
    want = matrix(pk.gradient_kernel(model, x, reduce=reduce))
    v = numbers(len(want), 4)
    with pytest.raises(ValueError, match="memory must hold") as refusal:
        pk.kernel_operator(model, x, reduce=reduce, memory=1)
    least = int(str(refusal.value).split("at least ")[1].split()[0])
    for memory in (least, 2 * least):
        k = pk.kernel_operator(model, x, reduce=reduce, memory=memory)
        assert memory > least or k.size.rows == 1 or k.size.directions == 1
        near(k @ v, want @ v)
    with pytest.raises(ValueError, match="memory must hold"):
        pk.kernel_operator(model, x, reduce=reduce, memory=least - 1)
    monkeypatch.setattr(operator, "CHUNK", 2)
    near(pk.kernel_operator(model, x, reduce=reduce) @ v, want @ v)


def test_weights_and_another_point():
    model, x1, x2 = CASE["cnn"].model(), CASE["cnn"].data(5), CASE["cnn"].data(4, seed=1)
    weight = {name: p.detach().abs() for name, p in model.named_parameters()}
    weight[next(iter(weight))] = 3.0
    point = {name: p.detach() * 1.1 for name, p in model.named_parameters()}
    options = {"weight": weight, "parameters": point, "reduce": "full"}
    k = pk.kernel_operator(model, x1, x2, **options)
    want = matrix(pk.weighted_kernel(model, x1, x2, **options))
    near(k @ numbers(want.shape[1]), want @ numbers(want.shape[1]))
    near(k.T @ numbers(want.shape[0]), want.T @ numbers(want.shape[0]))


def test_the_operator_is_its_own_adjoint_and_keeps_its_point():
    model, x = CASE["mlp, several outputs"].model(), CASE["mlp, several outputs"].data(8)
    for reduce in ("trace", "full"):
        k = pk.kernel_operator(model, x, reduce=reduce)
        u, v = numbers(k.shape[0], seed=1), numbers(k.shape[0], seed=2)
        near(u @ (k @ v), (k @ u) @ v)
        assert v @ (k @ v) > 0
    before = k @ v
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(2)
    assert torch.equal(k @ v, before)


def test_scipy_finds_the_eigenvalues_and_singular_values_of_the_matrix():
    model, x, z = CASE["cnn"].model(), CASE["cnn"].data(12), CASE["cnn"].data(9, seed=1)
    for reduce in ("trace", "full"):
        dense = torch.linalg.eigvalsh(matrix(pk.gradient_kernel(model, x, reduce=reduce)))
        found = eigsh(pk.kernel_operator(model, x, reduce=reduce).aslinearoperator(), k=3)[0]
        np.testing.assert_allclose(np.sort(found), dense[-3:], rtol=1e-9)
    across = pk.kernel_operator(model, x, z).aslinearoperator()
    assert across.dtype == np.float64
    values = torch.linalg.svdvals(pk.gradient_kernel(model, x, z))[:3]
    np.testing.assert_allclose(np.sort(svds(across, k=3)[1]), values.flip(0), rtol=1e-9)
    block = np.asfortranarray(numbers(9, 2).numpy())[::-1]  # no torch tensor can view it
    np.testing.assert_allclose(
        across @ block, pk.gradient_kernel(model, x, z).numpy() @ block, rtol=1e-9
    )


LARGE = """
import json, sys, time, torch, pkbook as pk
sys.path[:0] = ["."]
from benchmarks.memory import baseline, peak
torch.set_num_threads(1)
layers = [torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(400, 2)]
model, x = torch.nn.Sequential(*layers), torch.randn(6_000, 1, 12, 12)
v = torch.randn(6_000)
pk.kernel_operator(model, x[:3]) @ v[:3]
held = baseline()
k = pk.kernel_operator(model, x, memory=2**23)
product = k @ v
print(json.dumps({"bytes": peak() - held, "rows": k.size.rows}))
some = pk.gradient_kernel(model, x[:2], x) @ v
torch.testing.assert_close(product[:2], some, rtol=1e-3, atol=1e-3 * float(some.abs().max()))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads the peak from /proc")
def test_products_fit_in_a_memory_that_does_not_hold_the_matrix():
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(
        [sys.executable, "-c", LARGE], cwd=root, capture_output=True, text=True, check=True
    )
    told = json.loads(done.stdout)
    inputs = 6_000 * 144 * 4  # the operator keeps no second copy of what it was given
    assert told["bytes"] <= 2**23 + inputs < 6_000**2 * 4 / 10
    assert 1 < told["rows"] < 6_000


class BackwardMixing(nn.Module):
    """Right outputs, and gradients that are scaled by the largest of the batch."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(3, 2).double()

    def forward(self, x):
        h = self.a(x)
        if h.requires_grad:
            h.register_hook(lambda g: g * g.abs().max())
        return h


def test_models_whose_samples_mix_are_refused_as_by_kernels():
    mixing = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)).double()
    for model, words in (
        (mixing, "train mode"),
        (BackwardMixing(), "backward pass mixes samples"),
        (odd.built(Centred), "mixes the samples"),
        (odd.built(MiddleMixed), "mixes the samples"),
    ):
        for call in (pk.gradient_kernel, pk.kernel_operator):
            with pytest.raises(ValueError, match=words):
                call(model, numbers(7, 3))


class Centred(nn.Linear):
    def __init__(self):
        super().__init__(3, 1)

    def forward(self, x):
        return super().forward(x - x.mean(0))


class MiddleMixed(Centred):
    """Only samples between the first and the last meet."""

    def forward(self, x):
        if len(x) > 3:
            x = torch.cat([x[:1], x[1:-1] - x[1:-1].mean(0), x[-1:]])
        return nn.Linear.forward(self, x)


@pytest.mark.parametrize("make", [odd.Sorting, odd.InPlace])
def test_odd_models_are_right(make):
    model, x = odd.built(make), numbers(6, 4)
    kept = x.clone()
    near(pk.kernel_operator(model, x) @ numbers(6), pk.gradient_kernel(model, x) @ numbers(6))
    assert torch.equal(x, kept)


def test_wrong_vectors_are_refused():
    model, x = CASE["cnn"].model(), CASE["cnn"].data(5)
    k = pk.kernel_operator(model, x, x[:4])
    assert repr(k) == "KernelOperator(5 x 4, trace, torch.float64)"
    for v, error, words in (
        ([1.0], TypeError, "v must be a torch.Tensor"),
        (numbers(5), ValueError, r"v must be \[4\] or \[4, k\]"),
        (numbers(4, 0), ValueError, "v must be"),
        (numbers(4).float(), TypeError, "k.dtype"),
        (numbers(4) / 0, ValueError, "finite"),
    ):
        with pytest.raises(error, match=words):
            k @ v
    with pytest.raises(ValueError, match="reduce must be one of 'trace', 'full'"):
        pk.kernel_operator(model, x, reduce="diagonal")
    with pytest.raises(ValueError, match="train mode"):
        pk.kernel_operator(model.train(), x)
    model.eval()
    k = pk.kernel_operator(model, x)
    model.train()
    with pytest.raises(ValueError, match="train mode"):
        k @ numbers(5)


def test_without_scipy_the_extra_is_named(monkeypatch):
    k = pk.kernel_operator(CASE["cnn"].model(), CASE["cnn"].data(3))
    monkeypatch.setitem(sys.modules, "scipy.sparse.linalg", None)
    with pytest.raises(ImportError, match=r"aslinearoperator needs scipy; write pip install"):
        k.aslinearoperator()
