"""The benchmark runs, on few samples and without peers, and counts as it says."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import cases, limits, peers, reference

    yield {"cases": cases, "limits": limits, "peers": peers, "reference": reference}
    for name in [name for name in sys.modules if name.split(".")[0] == "benchmarks"]:
        del sys.modules[name]


def test_runs_and_writes_json(tmp_path):
    path = tmp_path / "out.json"
    options = (
        "--cases A,B-600 --peers torch.func-jacobian --parts cases,weighted "
        "--factor 0.02 --repeats 2 --threads 1"
    )
    script = str(ROOT / "benchmarks" / "kernels.py")
    done = subprocess.run(
        [sys.executable, script, "--json", str(path), *options.split()],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(path.read_text())
    assert set(found["cases"]) == {"A", "B-600"}
    for row in found["cases"].values():
        for method in ("ours", "torch.func-jacobian"):
            got = row["methods"][method]
            assert got["runs"] == 2
            assert got["error"] < 1e-4
            assert got["ratio"] == pytest.approx(got["median"] / row["limit"]["seconds"])
    assert all(row["error"] < 1e-4 for row in found["weighted"].values())
    assert str(ROOT) not in path.read_text()
    assert "/limit" in done.stdout


def test_memory_of_a_fresh_process(tmp_path, benchmarks):
    from benchmarks import memory

    case = benchmarks["cases"].Case("A", "mlp", 300, outputs=1, width=20)
    got = memory.of_torch(case, "ours", 1, 100)
    assert got["result_megabytes"] == pytest.approx(300 * 300 * 4 / 2**20)
    assert got["result_megabytes"] / 2 < got["megabytes"] < 100
    gone = memory.of_torch(case, "no such method", 1, 100)
    assert "KeyError" in gone["reason"]


def test_counts_of_a_linear_layer(benchmarks):
    ways = benchmarks["limits"].ways
    layer = benchmarks["limits"].Layer("fc", inputs=5, outputs=3, positions=1)
    # a a' : 2 * 5, plus 1 for the bias; g g' over 4 outputs: 2 * 4 * 3; product and sum: 2
    assert ways(layer, 10, 7, 4, "trace")["factors"] == 10 * 7 * (11 + 24 + 2)
    assert ways(layer, 10, None, 4, "trace")["factors"] == 10 * 10 / 2 * (11 + 24 + 2)
    assert ways(layer, 10, 7, 4, "full")["factors"] == 10 * 7 * (11 + 2 * 16 * 3 + 2 * 16)


def test_passes_count_what_torch_counts(benchmarks):
    from torch.utils.flop_counter import FlopCounterMode

    cases, limits = benchmarks["cases"], benchmarks["limits"]
    problem = cases.build(cases.Case("B", "mnist", 3, outputs=2))
    x = problem.x1
    problem.model.requires_grad_(False)
    # where the backward pass ends; times one, because the counter takes no leaf
    first_output = problem.model.conv1(x).requires_grad_() * 1
    with FlopCounterMode(display=False) as counter:
        f = problem.model[1:](first_output)
        for k in range(2):
            torch.autograd.grad(f[:, k].sum(), first_output, retain_graph=True)
    first = 2 * 3 * 9 * 16 * 28 * 28
    assert limits.pass_flops(problem) == counter.get_total_flops() + first


def test_reference_sees_an_error(benchmarks):
    cases, peers = benchmarks["cases"], benchmarks["peers"]
    problem = cases.build(cases.Case("A", "mlp", 5, 4, outputs=2, reduce="full", width=6))
    wanted = benchmarks["reference"].reference(problem)
    found = peers.ours(problem)()
    assert cases.relative_error(found, wanted) < 1e-5
    assert cases.relative_error(found * 1.01, wanted) > 5e-3


@pytest.mark.parametrize("reduce", ["trace", "full"])
@pytest.mark.parametrize(
    "name", ["unet", "vit", "lstm", "experts", "llama", "gpt2", "resnet", "mlp"]
)
def test_modern_networks_against_row_by_row(benchmarks, name, reduce):
    from benchmarks import modern

    problem = modern.problem_of(name, 3, reduce)
    problem.model.double()  # in float32 rounding may switch a unit
    if problem.x1.is_floating_point():
        problem.x1 = problem.x1.double()
    found, wanted = modern.ours(problem)(), modern.row_by_row(problem)()
    assert benchmarks["cases"].relative_error(found, wanted) < 1e-6
    assert name in modern.NETWORKS
    assert len(modern.NETWORKS) == 8
