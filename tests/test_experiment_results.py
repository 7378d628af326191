"""Claims, findings and their verdicts; the command line that makes them."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pkbook.__main__ import main as pkbook_main
from pkbook.lab.experiments import one_dimensional
from pkbook.lab.experiments.machinery import claims, command, results
from pkbook.lab.experiments.machinery.results import (
    Claim,
    Criterion,
    Finding,
    over_seeds,
    with_interval,
)

ROOT = Path(__file__).resolve().parents[1]
CLAIM = Claim("X1", "a title", "Fig. 0", "It says.", "a_page", (
    Criterion("share", 0.9), Criterion("gap", None, 0.1), Criterion("other")))  # fmt: skip


def numbers(share, gap):
    return {"share": over_seeds([share]), "gap": over_seeds([gap]), "other": over_seeds([7.0])}


def test_the_verdict_follows_from_the_numbers():
    assert Finding(CLAIM, {"paper": numbers(0.95, 0.05)}).verdict == "reproduced"
    under = Finding(CLAIM, {"paper": numbers(0.5, 0.05), "warm start": numbers(0.9, 0.1)})
    assert under.verdict == "reproduced under a condition"
    assert "warm start" in under.reason
    assert "share 0.500 instead of at least 0.9" in under.reason
    missed = Finding(CLAIM, {"paper": numbers(0.5, 0.3), "warm start": numbers(0.9, 0.2)})
    assert missed.verdict == "not reproduced"
    assert "gap 0.300 instead of at most 0.1" in missed.reason


def test_reproduced_never_stands_beside_a_number_outside_its_bound():
    made = Finding(CLAIM, {"paper": numbers(0.95, 0.05), "warm start": numbers(0.5, 0.05)})
    assert made.verdict == "reproduced under a condition"
    assert made.reason == "holds for: paper. With warm start: share 0.500 instead of at least 0.9"
    spread = numbers(0.95, 0.05) | {"share": over_seeds([0.7, 1.3])}
    beyond = Finding(CLAIM, {"paper": spread})
    assert beyond.verdict == "reproduced"  # by its mean
    assert beyond.reason == (
        "Beyond its bound in part, with paper: share 1 (0.700 to 1.300) instead of at least 0.9"
    )
    assert Finding(CLAIM, {"paper": numbers(0.95, 0.05)}).reason == ""


def test_a_number_that_is_not_one_confirms_nothing():
    assert Finding(CLAIM, {"paper": numbers(float("nan"), 0.0)}).verdict == "not reproduced"


def test_findings_survive_json(tmp_path):
    found = Finding(CLAIM, {"paper": numbers(0.5, 0.05)}, "full", 3.5, "a command")
    found.save(tmp_path / "X1.json")
    told = json.loads((tmp_path / "X1.json").read_text())
    assert results.from_json(told, CLAIM) == found
    with pytest.raises(ValueError, match="X2"):
        results.from_json(told, replace(CLAIM, id="X2"))


def test_findings_show_themselves_with_escaped_words():
    shown = Finding(CLAIM, {"a < b": numbers(0.5, 0.05)})._repr_mimebundle_()
    assert shown[results.MIME]["verdict"] == "not reproduced"
    assert "a &lt; b" in shown["text/html"]
    assert "not reproduced" in shown["text/plain"]


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: Finding(CLAIM, {}), ValueError, "at least the paper's own"),
        (lambda: Finding(CLAIM, {"paper": {"share": over_seeds([1.0])}}), ValueError, "expected"),
        (lambda: Finding(CLAIM, {"p": dict.fromkeys(numbers(1, 1), 0.5)}), TypeError, "Measured"),
        (lambda: Finding(CLAIM, {"p": numbers(1, 1)}, "slow"), ValueError, "preset"),
        (lambda: over_seeds([]), ValueError, "at least one"),
        (lambda: with_interval(2.0, 0.0, 1.0, 8), ValueError, "lie in its interval"),
        (lambda: claims.finding("E99", {}), ValueError, "must be one of"),
    ],
)
def test_bad_input_is_refused(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_every_claim_is_measured_somewhere():
    for row in claims.CLAIMS.values():
        assert row.criteria
        assert any(c.threshold != "reported" for c in row.criteria), row.id


def tiny(monkeypatch):
    config = one_dimensional.Config(width=8, samples=40, steps=5, seeds=(0, 1, 2))
    monkeypatch.setattr(one_dimensional.Config, "quick", classmethod(lambda cls: config))


def test_the_command_writes_numbers_and_figures_and_takes_up_where_it_stopped(
    tmp_path, monkeypatch, capsys
):
    tiny(monkeypatch)
    asked = ["e2", "--out", str(tmp_path), "--no-progress"]
    assert command.main(asked) == 0
    told = json.loads((tmp_path / "E2-quick.json").read_text())
    assert told["made_by"] == "python -m pkbook.experiments E2 --preset quick"
    assert {p.name for p in (tmp_path / "one_dimensional-quick").glob("*.png")} == {
        "fits.png",
        "profile.png",
    }
    assert "E2 near in the input" in capsys.readouterr().out
    monkeypatch.setattr(one_dimensional, "train", None)  # nothing is trained a second time
    assert command.main(asked) == 0
    again = json.loads((tmp_path / "E2-quick.json").read_text())
    assert again["settings"] == told["settings"]


def test_a_folder_of_other_settings_is_refused(tmp_path, monkeypatch, capsys):
    tiny(monkeypatch)
    folder = tmp_path / "one_dimensional-quick"
    folder.mkdir()
    (folder / "config.txt").write_text("Config(other)")
    assert command.main(["E2", "--out", str(tmp_path), "--no-progress"]) == 2
    assert "other settings" in capsys.readouterr().err


def test_the_command_lists_and_refuses(capsys):
    assert command.main([]) == 0
    assert "T4   stochastic theorem, momentum" in capsys.readouterr().out
    assert command.main(["E99"]) == 2
    assert "must be one of" in capsys.readouterr().err
    assert command.main(["T4"]) == 2
    assert "open book/momentum.ipynb" in capsys.readouterr().err
    if not torch.cuda.is_available():
        assert command.main(["E2", "--device", "cuda"]) == 2
        assert "--device cuda cannot be used" in capsys.readouterr().err


def test_experiment_is_a_command_of_the_package(tmp_path, monkeypatch, capsys):
    tiny(monkeypatch)
    assert pkbook_main(["experiment"]) == 0
    assert capsys.readouterr().out == command.listing() + "\n"
    found = {}
    for name, run in (("new", lambda asked: pkbook_main(["experiment", *asked])),
                      ("old", command.main)):  # fmt: skip
        assert run(["e2", "--out", str(tmp_path / name), "--no-progress"]) == 0
        found[name] = json.loads((tmp_path / name / "E2-quick.json").read_text())
    assert found["new"]["settings"] == found["old"]["settings"]
    capsys.readouterr()
    assert pkbook_main(["experiment", "E99"]) == 2
    assert "must be one of" in capsys.readouterr().err


def test_the_old_module_still_runs_experiments():
    words = [sys.executable, "-W", "error", "-m", "pkbook.experiments"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == command.listing() + "\n"
