"""The package's rooms stay in order, its page in the book is true, its type errors only fall."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest

import pkbook

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import check  # noqa: E402
import types_by_room  # noqa: E402

PACKAGE = ROOT / "pkbook"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf8"))


def layers() -> list[str]:
    """The floors of the contract, the highest first."""
    return PROJECT["tool"]["importlinter"]["contracts"][0]["layers"]


def linted(folder: Path) -> tuple[int, str]:
    command = [check.program("lint-imports"), "--no-cache", "--no-logo"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The package's sources and its contracts, to be spoilt."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(PACKAGE, tmp_path / "pkbook", ignore=lambda folder, names: {
        name for name in names if (Path(folder) / name).is_file() and not name.endswith(".py")
    } | {"__pycache__"})  # fmt: skip
    return tmp_path


def add(folder: Path, file: str, line: str) -> None:
    path = folder / "pkbook" / file
    path.parent.mkdir(exist_ok=True)
    with path.open("a", encoding="utf8") as source:
        source.write(f"\n{line}\n")


def page() -> list[str]:
    notebook = json.loads((ROOT / "book" / "house.ipynb").read_text(encoding="utf8"))
    return ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]


@pytest.fixture(scope="module")
def house() -> dict:
    """What the page's cells leave behind."""
    names: dict = {}
    for source in page():
        exec(source, names)
    return names


def test_every_import_points_down():
    status, words = linted(ROOT)
    assert status == 0, words
    assert "3 kept, 0 broken" in words


def test_the_copy_that_the_next_tests_spoil_is_good(copy):
    assert linted(copy)[0] == 0


@pytest.mark.parametrize(
    ("file", "line", "told"),
    [
        ("basics/checks.py", "from pkbook.lab import plots", "pkbook.basics.checks -> pkbook.lab"),
        ("runs/steps.py", "from pkbook.kernels import factors", "pkbook.runs.steps -> pkbook.ker"),
        ("basics/files.py", "import pkbook.basics.circle", "no circle, at any depth BROKEN"),
        ("attic/__init__.py", "", "attic"),
    ],
    ids=["an arrow up", "a wing that knows the other", "a circle", "a room without a floor"],
)
def test_what_breaks_the_order_is_noticed(copy, file, line, told):
    if "circle" in line:
        add(copy, "basics/circle.py", "from pkbook.basics import files")
    add(copy, file, line)
    status, words = linted(copy)
    assert status != 0
    assert re.search(told, words), words


def test_the_page_has_the_floors_of_the_contract(house):
    contract = [set(re.findall(r"\w+", rooms)) for rooms in layers() if rooms != "__main__"]
    assert [set(rooms) for rooms in reversed(house["FLOORS"])] == contract


def test_the_page_finds_the_arrows_that_grimp_finds(house):
    """Another program's reading of the same imports, lines of type checkers left out as well."""
    grimp = pytest.importorskip("grimp")
    graph = grimp.build_graph("pkbook", exclude_type_checking_imports=True, cache_dir=None)
    pairs = set()
    for module in graph.modules:
        for other in graph.find_modules_directly_imported_by(module):
            one, two = (name.split(".")[1:2] for name in (module, other))
            if one and two and one != two:
                pairs.add((*one, *two))
    rooms = set(house["floor"])
    assert {pair for pair in pairs if set(pair) <= rooms} == set(house["arrows"])


def test_the_page_notices_a_name_that_is_gone(house):
    assert house["place"]("interpolation", "Walk.backwards").startswith("interpolation/")
    for gone in ("Walk.sideways", "sideways"):
        with pytest.raises(AssertionError, match="sideways"):
            house["place"]("interpolation", gone)


def test_no_arrow_of_the_figure_runs_through_a_room(house):
    used: list[float] = []
    for source, target in house["arrows"]:
        x = house["shaft"](source, target, used)
        used.append(x)
        left, right = house["WALLS"][target]
        assert left < x < right
        for floor in range(house["floor"][target] + 1, house["floor"][source]):
            assert not house["blocked"](x, floor), (source, target)


def test_the_places_named_for_newcomers_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf8")
    table = text.split("## Where does it go")[1].split("\n* ")[0]
    named = re.findall(r"`([\w./]+/[\w./]*)`", table)
    assert len(named) >= 12
    for name in named:
        assert list(ROOT.glob(name.replace("NAME", "*"))), name


def test_readme_and_package_have_the_same_rooms():
    readme = (ROOT / "README.md").read_text(encoding="utf8")
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert set(re.findall(r"^\| `pkbook/(\w+)/` \|", readme, re.MULTILINE)) == rooms


def test_a_room_above_its_budget_is_told_and_one_below_may_be_lowered():
    found, budget = Counter(runs=3, kernels=1), {"runs": 2, "kernels": 4, "lab": 1}
    above, below = types_by_room.compared(found, budget)
    assert above == ["runs: 3 type errors, budget 2"]
    assert below == ["kernels: 1 type errors, budget 4", "lab: 0 type errors, budget 1"]
    assert types_by_room.lowered(found, budget) == {"kernels": 1, "runs": 2}  # never raised
    assert types_by_room.compared(Counter(cellar=1), {})[0] == ["cellar: 1 type errors, budget 0"]


def report(file: str, row: int) -> dict:
    return {"file": str(PACKAGE / file), "severity": "error", "message": "wrong\nmore",
            "range": {"start": {"line": row}}, "rule": "reportIndexIssue"}  # fmt: skip


def test_the_ratchet_fails_above_the_budget_and_writes_lower_numbers(tmp_path, monkeypatch, capsys):
    budget = tmp_path / "budget.json"
    budget.write_text('{"runs": 1, "kernels": 1}')
    monkeypatch.setattr(types_by_room, "BUDGET", budget)
    errors = [report("runs/steps.py", 4), report("runs/steps.py", 6)]
    monkeypatch.setattr(types_by_room, "errors_found", lambda root: errors)
    assert types_by_room.main([]) == 1
    told = capsys.readouterr().out
    assert "runs: 2 type errors, budget 1\n  pkbook/runs/steps.py:5: wrong (reportInd" in told
    errors.pop()
    assert types_by_room.main([]) == 0
    assert "--lower" in capsys.readouterr().out
    assert types_by_room.main(["--lower"]) == 0
    assert json.loads(budget.read_text()) == {"runs": 1}
    assert types_by_room.main([]) == 0
    assert "--lower" not in capsys.readouterr().out


def test_a_failing_check_is_named_and_the_others_still_run(monkeypatch, capsys):
    python = sys.executable
    checks = {"bad": [python, "-c", "print('why'); exit(3)"], "none": ["no-such-program"],
              "good": [python, "-c", "print('quiet')"]}  # fmt: skip
    monkeypatch.setattr(check, "CHECKS", checks)
    assert check.main() == 1
    told = capsys.readouterr().out
    assert "why" in told
    assert "quiet" not in told
    assert told.endswith("failed: bad, none\n")
    monkeypatch.setattr(check, "CHECKS", {"good": checks["good"]})
    assert check.main() == 0


def test_the_package_says_that_it_is_typed():
    assert (Path(pkbook.__file__).parent / "py.typed").exists()
    assert "py.typed" in PROJECT["tool"]["setuptools"]["package-data"]["pkbook"]
