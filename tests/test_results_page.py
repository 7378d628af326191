"""The results page holds every claim, and cannot be made from chapters that hide one."""

import json
import re
import sys
from pathlib import Path

import nbformat
import pytest

from pkbook.lab.experiments.machinery.claims import CLAIMS
from pkbook.lab.experiments.machinery.results import (
    MIME,
    Claim,
    Criterion,
    Finding,
    from_json,
    over_seeds,
)

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import results_page  # noqa: E402


def found(id, value=1.0, preset="quick"):
    claim = CLAIMS[id]
    numbers = {c.name: over_seeds([value, value + 0.02]) for c in claim.criteria}
    return Finding(claim, {"the paper's setting": numbers}, preset, 120.0, "a command")


def notebook(*findings):
    cells = []
    for finding in findings:
        cell = nbformat.v4.new_code_cell("show")
        data = {MIME: finding.to_json(), "text/plain": "finding"}
        cell.outputs = [nbformat.v4.new_output("execute_result", data=data)]
        cells.append(cell)
    return nbformat.v4.new_notebook(cells=cells)


def test_every_claim_has_its_row_and_its_verdict(tmp_path):
    (tmp_path / "book").mkdir()
    (tmp_path / "results").mkdir()
    path = tmp_path / "book" / "results.md"
    path.write_text(f"# Results\n\n{results_page.MARKER}\n")
    found("E9", 0.99, "full").save(tmp_path / "results" / "E9-full.json")
    others = found("D1", 0.5), found("D2", -1.0), found("D3"), found("D4")
    pages = {"book/optimizers": notebook(found("E9", 0.5), found("E10", 0.95), *others)}
    results_page.write(tmp_path, pages, tmp_path / "results")
    text = path.read_text()
    assert results_page.MARKER not in text
    assert re.findall(r"^## (\w+):", text, re.M) == list(CLAIMS)
    assert "**2 not reproduced**: [E9](#result-e9), [E10](#result-e10)" in text
    e9 = text.split("## E9:")[1].split("## E10:")[0]
    assert "\n\n**Not reproduced.** Whatever the optimizer" in e9
    assert "SGD 0.510 (0.500 to 0.520) instead of at least 0.9" in e9
    row = "**0.510 (0.500 to 0.520)** | ✗ does not hold | **1 (0.990 to 1.010)** | ✓ holds |"
    assert f"| SGD | at least 0.9 | {row}\n" in e9
    assert "Quick preset: not reproduced; full preset: reproduced." in e9
    assert "in brackets lowest to highest of 2 seeds" in e9
    assert "2 minutes" in e9
    assert "\n\n**Not measured yet.**" in text.split("## E8:")[1].split("##")[0]


def test_no_row_says_reproduced_beside_a_number_outside_its_bound():
    """On the whole page, whichever of the two presets missed; the worse verdict is the row's."""
    for quick, full in ((0.95, 0.95), (0.95, 0.89), (0.89, 0.95), (0.5, 0.95), (0.95, 0.5)):
        tables = {"E9": found("E9", quick)}, {"E9": found("E9", full, "full")}
        row = results_page.page(results_page.MARKER, *tables).split("## E9:")[1].split("## E10:")[0]
        alone = "**Reproduced.**" in row
        assert alone == ("✗" not in row) == (quick == full == 0.95)
        worst = "reproduced on average" if 0.89 in (quick, full) else "not reproduced"
        assert alone or f"**{worst.capitalize()}.**" in row


def test_numbers_with_bars_stay_in_their_column():
    name = "share | of a"
    claim = Claim("X1", "t", "p", "s", "c", (Criterion(name, 0.5),))
    lines = results_page._table(claim, {name: over_seeds([1.0])}, None)
    assert lines[2] == "| share \\| of a | at least 0.5 | **1** | ✓ holds |"


def claims(*made):
    """A notebook whose cells made these claims: ``(held, its line)``."""
    cells = []
    for held, line in made:
        data = {"application/vnd.pkbook.claim+json": {"held": held}, "text/plain": line}
        output = nbformat.v4.new_output("display_data", data=data)
        cells.append(nbformat.v4.new_code_cell("claim", outputs=[output]))
    return nbformat.v4.new_notebook(cells=cells)


def test_missed_claims_and_pages_without_results_are_listed(tmp_path):
    (tmp_path / "book").mkdir()
    path = tmp_path / "book" / "results.md"
    path.write_text(f"{results_page.MARKER}\n\n{results_page.CLAIMS_MARKER}\n")
    pages = {
        "book/index": claims((True, "held: a: 1, below 2"), (False, "did not hold here: b_c: 3")),
        "book/own_network": claims((True, "held: d: yes")),
    }
    results_page.write(tmp_path, pages, ROOT / "results", ["book/momentum"])
    text = path.read_text()
    assert results_page.CLAIMS_MARKER not in text
    assert "2 of 3 claims held." in text
    assert "* [index](index.ipynb): b\\_c: 3\n" in text
    assert "Not executed, and so without claims: [momentum](momentum.ipynb)." in text
    assert results_page.machine() in text


def test_where_all_claims_held_none_is_listed():
    text = results_page.claims_section({"book/adam": claims((True, "held: a: yes"))})
    assert "1 of 1 claims held." in text
    assert "did not" not in text
    assert "Not executed" not in text


@pytest.mark.parametrize(
    ("pages", "words"),
    [
        ({"book/optimizers": notebook(found("E9"))}, "E10: optimizers shows no finding"),
        (
            {"book/optimizers": notebook(found("E9"), found("E9"), found("E10"))},
            "E9 is shown twice",
        ),
        ({"book/adam": notebook(found("T6"), found("T3"))}, "T3 belongs to stochastic_sgd"),
    ],
)
def test_chapters_that_hide_or_repeat_a_claim_fail(pages, words):
    with pytest.raises(results_page.ResultsMissing, match=words):
        results_page.collect(pages)


def test_a_page_without_its_marker_fails():
    with pytest.raises(results_page.ResultsMissing, match="once"):
        results_page.page("# Results", {}, {})


def test_shipped_full_results_are_of_todays_claims():
    for path in (ROOT / "results").glob("*-full.json"):
        told = json.loads(path.read_text())
        assert path.name == f"{told['id']}-full.json"
        assert told["made_by"]
        computed = from_json(told, CLAIMS[told["id"]]).verdict
        assert told["verdict"] == computed, f"{path.name}: save it again, the rule has changed"
    results_page.full_findings(ROOT / "results")


def test_the_shipped_full_results_are_as_extrapolation_tells_them():
    full = results_page.full_findings(ROOT / "results")
    assert full["E7"].verdict == "reproduced"  # letters keep their bound
    gap, correlation = next(iter(full["E6"].settings.values())).values()
    assert gap.mean < 0.1  # print is read almost as well as handwriting
    assert correlation.high - correlation.low > 0.3  # what is left differs from seed to seed
