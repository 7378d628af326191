"""The table of margins: what counts as a run of a claim, and how far it is from its bound."""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import measure_claims as tool  # noqa: E402
from execute import environment_digest, notebook_key  # noqa: E402

PAGE = "book/page"


def told(says: str, value: float, above: float) -> dict:
    return {
        "says": says,
        "values": [value],
        "count": 1,
        "by": "each",
        "held": value > above,
        "distance": value - above,
        "bounds": {"above": above, "below": None, "least": None, "most": None},
    }


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A book of one page, without a package."""
    (tmp_path / "book").mkdir()
    cell = nbformat.v4.new_code_cell("claim()")
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / f"{PAGE}.ipynb")
    return tmp_path


def keep(root: Path, setting: str, records: list[dict], key: str | None = None) -> None:
    """Store a run of the page, of today's code or with another key."""
    outputs = [{"output_type": "display_data", "data": {tool.CLAIM: r}} for r in records]
    outputs = [{**output, "metadata": {}} for output in outputs]
    store = root / "_build" / "claims" / tool.slug(setting) / f"{PAGE}.json"
    store.parent.mkdir(parents=True, exist_ok=True)
    today = notebook_key(nbformat.read(root / f"{PAGE}.ipynb", 4), environment_digest(root))
    kept = {"key": key or today, "seconds": 1, "outputs": [{"execution_count": 1}]}
    kept["outputs"][0]["outputs"] = outputs
    store.write_text(json.dumps(kept), encoding="utf8")


def collected(root: Path, earlier: bool) -> tuple[dict[str, tool.Seen], list[str]]:
    folder = root / "_build" / "claims"
    seen, errors = tool.collect(root, folder, [PAGE])
    return seen, tool.add_earlier(seen, errors, folder, [PAGE]) if earlier else errors


def test_runs_of_earlier_code_count_only_when_asked_and_where_the_claim_is_the_same(root):
    first, second, third, *others = tool.settings()
    keep(root, first, [told("a", 3.0, 1.0), told("b", 3.0, 1.0)])
    keep(root, second, [told("a", 5.0, 1.0), told("b", 9.0, 2.0), told("gone", 9.0, 2.0)], "old")
    seen, errors = collected(root, earlier=False)
    assert {name: len(found.held) for name, found in seen.items()} == {"a": 1, "b": 1}
    assert len(errors) == 2 + len(others)
    seen, errors = collected(root, earlier=True)
    assert {name: (len(s.held), s.earlier) for name, s in seen.items()} == {
        "a": (2, 1),
        "b": (1, 0),
    }
    assert errors == [tool.not_run(PAGE, setting) for setting in [third, *others]]
    assert "Of 3 values, 1 are from earlier code. " in tool.as_table(seen, errors)


def test_margins_are_means_over_spreads(root):
    for setting, value in zip(tool.settings(), (3.0, 4.0, 5.0), strict=False):
        keep(root, setting, [told("zero", value, 0.0), told("missed", value, 4.5)])
    seen, _ = collected(root, earlier=False)
    assert seen["zero"].margin == pytest.approx(4.0)
    assert (seen["zero"].low, seen["zero"].high) == (3.0, 5.0)
    table = tool.as_table(seen, [])
    assert table.index("| page | missed | above 4.5 |") < table.index("| page | zero | above 0 |")
    assert "| 1 of 3 |" in table


@pytest.mark.parametrize(
    ("says", "found"), [("these points: move", [3.0, 5.0]), ("points: move", [3.0, 5.0, -9.0])]
)
def test_a_claim_about_one_network_is_judged_by_the_books_own_seeds(says, found):
    seen = tool.Seen(PAGE, says)
    for setting, distance in (("as it is", 3.0), ("two threads", 5.0), ("seeds moved once", -9.0)):
        seen.add(setting, told(says, distance - 1, -1.0))
    assert len(seen.held) == 3
    assert seen.margin == pytest.approx(statistics.mean(found) / statistics.stdev(found))


def test_a_setting_that_the_machine_has_anyway_is_not_run_twice(monkeypatch):
    for capability in ("AVX2", "AVX512", "DEFAULT"):
        monkeypatch.setattr(tool.torch.backends.cpu, "get_cpu_capability", lambda c=capability: c)
        assert ("AVX2" in tool.settings()) == (capability != "AVX2")
