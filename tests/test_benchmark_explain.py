"""The benchmark of recording and explaining runs, on a tiny run and without peers."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = str(ROOT / "benchmarks" / "explain.py")
TINY = (
    "--smooth --parts recording,explain,peers --optimizers sgd --steps 4 --tolerance-steps 2 "
    "--samples 70 --queries 3 --block 2 --repeats 1 --threads 1 --peers none "
    "--peer-optimizers adamw --peer-steps 3"
)


@pytest.fixture
def compare(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import explain_compare

    yield explain_compare
    for name in [name for name in sys.modules if name.split(".")[0] == "benchmarks"]:
        del sys.modules[name]


def test_runs_and_writes_json(tmp_path):
    path = tmp_path / "out.json"
    done = subprocess.run(
        [sys.executable, SCRIPT, "--json", str(path), *TINY.split()], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(path.read_text())
    assert set(found["recording"]) == {"cnn sgd", "mlp sgd"}
    for row in found["recording"].values():
        times = row["milliseconds_per_step"]
        more = 100 * (times["folder"]["median"] / times["plain"]["median"] - 1)
        assert row["overhead_percent"]["folder"] == pytest.approx(more)
    rules = found["explain"]["sgd"]
    assert [rules[rule]["steps"] for rule in ("one node", "default")] == [4, 2]
    assert rules["one node"]["completeness_max"] < 0.02  # the midpoint rule, in big steps
    assert rules["default"]["completeness_max"] < 1e-3
    assert all(row["ratio"] > 0 and row["megabytes"] > 0 for row in rules.values())
    row = found["peers"]["adamw"]["methods"]["ours"]
    assert row["parameters_off"] == 0
    assert row["completeness_max"] < 0.02
    assert row["correlation_median"] == pytest.approx(1)
    assert str(ROOT) not in path.read_text()
    for heading in ("Recording:", "Explaining a whole run, sgd", "Side by side"):
        assert heading in done.stdout


def test_growth_has_every_series(compare, monkeypatch):
    from benchmarks import explain_growth, explain_report

    sizes = {"steps": (2, 4), "samples": (40, 80), "queries": (2, 4), "width": (2, 4)}
    monkeypatch.setattr(explain_growth, "SIZES", sizes)
    setting = compare.Setting(queries=2, smooth=True)
    found = explain_growth.growth(setting, ("sgd",), steps=2, repeats=1, factor=1.0)
    assert set(found) == {f"sgd {field}" for field in sizes}
    assert found["sgd width"]["sizes"] == [784 * w + w + 10 * w + 10 for w in (2, 4)]
    for row in found.values():
        times, xs = row["seconds"], row["sizes"]
        wanted = math.log(times[1] / times[0]) / math.log(xs[1] / xs[0])
        assert row["slope"] == pytest.approx(wanted)
    assert explain_report.growth_text(found).count("slope") == 4


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ("--steps 0", "--steps must be at least 1"),
        ("--peer-steps 0", "--peer-steps must be at least 1"),
        ("--samples 9000", "--samples must lie in 1..8000, got 9000"),
        ("--samples 63", "--samples must be at least the batch, 64"),
        ("--optimizers sgd,lion", "--optimizers: expected some of sgd, "),
        ("--peers captum", "--peers: expected some of captum-steps, "),
        ("--peer-python nowhere", "--peer-python: there is no nowhere"),
        ("--factor 2", "--factor must lie in (0, 1]"),
    ],
)
def test_bad_arguments_are_refused(compare, capsys, options, complaint):
    from benchmarks import explain

    with pytest.raises(SystemExit) as caught:
        explain.main(options.split())
    assert complaint in f"{caught.value} {capsys.readouterr().err}"


def test_a_method_that_fails_is_a_line_with_the_reason(compare, tmp_path):
    setting = compare.Setting(steps=2, samples=64, queries=2, network="peers")
    case = compare.run_of(setting, every=1)
    case.save(str(tmp_path / "case.pt"))
    options = compare.Options(repeats=2, threads=1, seconds=60)
    rounds = compare._rounds(("no such method",), options, tmp_path / "case.pt")
    assert [set(run) for run in rounds["no such method"]] == [{"reason"}]


def test_what_the_sum_misses_is_measured(compare):
    """Plain gradients at the left ends are complete for tiny steps; a share left out is seen."""
    setting = compare.Setting(steps=2, samples=64, queries=3, network="peers", smooth=True)
    case = compare.run_of(setting, every=1)
    truth = compare.change(case)
    assert (truth != 0).all()
    share = 0.95 * truth.expand(len(case.x), 3) / len(case.x)
    result = {"contributions": share, "other": 0.0, "final": None}
    found = compare._quality(result, truth, case, None)
    assert found["completeness_max"] == pytest.approx(0.05)
    assert found["explained_median"] == pytest.approx(0.95)
    moved = {name: t * 1.01 for name, t in case.states[-1].items()}
    found = compare._quality(result | {"final": moved}, truth, case, None)
    assert found["parameters_off"] == pytest.approx(0.01, rel=1e-3)
    torch.testing.assert_close(case.picked(torch.eye(10)[case.outputs]), torch.ones(3))
