"""Claims, findings and their verdicts; the command line that makes them."""

import json
import math
import random
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from inspect import signature
from pathlib import Path

import pytest
import torch

from pkbook.__main__ import main as pkbook_main
from pkbook.diffusion_limit.weak import Slope
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


def ranged(*values):
    return {"share": over_seeds(values), "gap": over_seeds([0.05]), "other": over_seeds([7.0])}


def test_a_range_that_leaves_its_bound_is_no_reproduction():
    found = Finding(CLAIM, {"paper": ranged(0.8, 1.0, 1.0)})  # mean 0.933, bound 0.9
    assert found.judged("paper") == {"share": "in the mean only", "gap": "holds",
                                     "other": "reported"}  # fmt: skip
    assert found.verdict == "reproduced on average"
    assert "share 0.933 (0.800 to 1), at least 0.9 in the mean only" in found.reason
    both = Finding(CLAIM, {"paper": ranged(0.8, 1.0, 1.0), "warm": numbers(0.95, 0.1)})
    assert both.verdict == "reproduced under a condition"
    assert both.reason.startswith("holds for: warm. In the mean only for: paper. With paper: ")


def test_the_papers_own_setting_alone_is_a_condition():
    found = Finding(CLAIM, {"paper": numbers(0.95, 0.05), "cold": numbers(0.5, 0.05)})
    assert found.verdict == "reproduced under a condition"
    assert found.reason == "holds for: paper. Not for: cold"


def test_reproduced_never_stands_beside_a_number_outside_its_bound():
    """On drawn findings, from their numbers alone: the verdict, and every line that is shown."""
    draw, seen = random.Random(0), set()
    for _ in range(400):
        settings = {
            f"setting {k}": {
                "share": over_seeds(draw.uniform(0.85, 1.02) for _ in range(draw.randint(1, 2))),
                "gap": over_seeds(draw.uniform(0, 0.11) for _ in range(draw.randint(1, 2))),
                "other": over_seeds([draw.random()]),
            }
            for k in range(draw.randint(1, 2))
        }
        found = Finding(CLAIM, settings)
        ends = [(n["share"].low, n["gap"].high) for n in settings.values()]
        inside = all(share >= 0.9 and gap <= 0.1 for share, gap in ends)
        assert (found.verdict == "reproduced") == inside
        for shown in (results.as_text(found), results.as_html(found)):
            assert ("✗" in shown) != inside
        assert (found.reason == "") == inside
        seen.add(found.verdict)
    assert seen == set(results.VERDICTS)


def test_a_number_that_is_not_one_confirms_nothing():
    assert Finding(CLAIM, {"paper": numbers(float("nan"), 0.0)}).verdict == "not reproduced"


def test_findings_survive_json(tmp_path):
    found = Finding(CLAIM, {"paper": numbers(0.5, 0.05)}, "full", 3.5, "a command")
    found.save(tmp_path / "X1.json")
    told = json.loads((tmp_path / "X1.json").read_text())
    assert results.from_json(told, CLAIM) == found
    with pytest.raises(ValueError, match="X2"):
        results.from_json(told, replace(CLAIM, id="X2"))


def test_a_finding_without_a_number_survives_json_too():
    none = Slope(math.nan, math.nan, math.nan)
    lost = Finding(CLAIM, {"paper": numbers(0.5, 0.05) | {"gap": results.fitted(none)}})
    told = json.loads(json.dumps(lost.to_json(), allow_nan=False))
    again = results.from_json(told, CLAIM)
    assert math.isnan(again.settings["paper"]["gap"].mean)
    assert again.verdict == lost.verdict == "not reproduced"
    assert "gap: nan; at most 0.1; ✗ does not hold" in results.as_text(again)


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


def test_every_module_that_a_row_names_can_be_run_alone():
    for module in {row.module for row in claims.CLAIMS.values() if row.module}:
        experiment = import_module(f"pkbook.lab.experiments.{module}")
        assert callable(command._drawings(module).figures)
        assert all(callable(getattr(experiment, name)) for name in ("Config", "run", "findings"))
        for name in ("findings", "table"):  # the command calls them with the result alone
            if hasattr(experiment, name):
                assert len(signature(getattr(experiment, name)).parameters) == 1, (module, name)


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
        "fits_more_jumps.png",
        "profile.png",
        "profile_more_jumps.png",
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
    assert command.main(["T2"]) == 2
    assert "open book/weak_approximation.ipynb" in capsys.readouterr().err
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
