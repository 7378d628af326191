"""The longest notebooks go first, and every notebook has its seconds."""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import order  # noqa: E402


def test_longest_first_and_what_is_not_known_before_all(monkeypatch, tmp_path):
    seconds = tmp_path / "seconds.json"
    seconds.write_text(json.dumps({"book/a": 3, "book/b": 30, "book/c": 20}))
    monkeypatch.setattr(order, "SECONDS", seconds)
    found = order.longest_first(["book/a", "book/b", "book/new", "book/c"])
    assert found == ["book/new", "book/b", "book/c", "book/a"]


def test_the_seconds_are_those_of_todays_notebooks():
    known = json.loads(order.SECONDS.read_text())
    assert set(known) == {f"book/{path.stem}" for path in (ROOT / "book").glob("*.ipynb")}
    assert min(known.values()) > 0
