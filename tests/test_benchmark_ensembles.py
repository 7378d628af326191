"""The ensemble benchmark runs small; its loops are what ours computes; its ratios add up."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def methods(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import ensembles_methods

    yield ensembles_methods
    for name in [name for name in sys.modules if name.split(".")[0] == "benchmarks"]:
        del sys.modules[name]


def run(*options):
    script = str(ROOT / "benchmarks" / "ensembles.py")
    return subprocess.run([sys.executable, script, *options], capture_output=True, text=True)


def test_runs_small_and_writes_json(tmp_path):
    path = tmp_path / "out.json"
    sizes = "--paths 32 --few 2 --steps 3 --width 8 --repeats 2 --threads 1 --json"
    done = run(*sizes.split(), str(path))
    assert done.returncode == 0, done.stderr
    found = json.loads(path.read_text())
    for name in ("discrete", "diffusion"):
        ours, loop = found[name]["ours"], found[name]["loop"]
        assert ours["runs"] == loop["runs"] == 2
        assert ours["ratio"] == 1
        assert loop["extrapolated"] == pytest.approx(loop["median"] * 16)
        assert loop["ratio"] == pytest.approx(loop["extrapolated"] / ours["median"])
        assert loop["largest_difference"] < 1e-5
    for row in (found["diffusion"][f"torchsde, {kind}"] for kind in ("matrix", "product")):
        assert "reason" in row or abs(row["mean_difference_in_errors"]) < 5
    assert str(ROOT) not in path.read_text()
    assert "extrapolated" in done.stdout


def test_a_loop_with_another_rate_is_found_out(methods):
    """What the check of the loops is worth: one percent of the learning rate."""
    setting = methods.Setting(width=8, steps=3)
    wrong = methods.Setting(width=8, steps=3, rate=0.101)
    for ours, loop in (
        (methods.ours_discrete, methods.loop_discrete),
        (methods.ours_diffusion, methods.loop_diffusion),
    ):
        right = ours(setting, 3)()
        assert (loop(setting, 3)() - right).abs().max() < 1e-5
        assert (loop(wrong, 3)() - right).abs().max() > 1e-4


def test_the_peers_equation_is_ours(methods):
    """The two ways to write the noise agree, and its covariance is that of the mini-batch."""
    setting = methods.Setting(width=4, samples=6, batch=2)
    matrix, product = methods._Matrix(setting), methods._Product(setting)
    theta = matrix.task.theta[None]
    g = matrix.g(0.0, theta)
    columns = torch.stack([product.g_prod(0.0, theta, v[None])[0] for v in torch.eye(6)], 1)
    torch.testing.assert_close(g[0], columns)
    each = matrix.task.sample_gradients(theta)[0]
    kappa = (6 - 2) / (2 * 5)
    torch.testing.assert_close(g[0] @ g[0].T, 0.1 * kappa * torch.cov(each.T, correction=0))
    torch.testing.assert_close(matrix.f(0.0, theta)[0], -each.mean(0))


@pytest.mark.parametrize("options", [("--paths", "2", "--few", "3"), ("--batch", "33")])
def test_refuses_sizes_that_make_no_sense(options):
    done = run(*options)
    assert done.returncode == 2
    assert "at most" in done.stderr
