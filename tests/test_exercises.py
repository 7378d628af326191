"""`pk.check`: stubs fail, solutions pass, hints come without the answer."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import pkbook as pk
from pkbook.lab.exercises import __main__ as command, known
from pkbook.lab.exercises.checking import registry
from pkbook.lab.exercises.sealing import opens, sealed

ROOT = Path(__file__).resolve().parents[1]
CHAPTERS = sorted({name.partition(".")[0] for name in known()})


def cells_of(chapter):
    return json.loads((ROOT / "book" / f"{chapter}.ipynb").read_text(encoding="utf8"))["cells"]


def source(cell):
    return "".join(cell["source"])


def checks_in(chapter, starter):
    """``{exercise: source of the cell}``, of starter or solution cells."""
    cells = [c for c in cells_of(chapter) if c["cell_type"] == "code"]
    code = [source(c) for c in cells]
    found = {}
    for place, cell in enumerate(cells):
        named = re.search(r'pk\.check\("([\w.]+)"', code[place])
        if named and ("starter" in cell["metadata"].get("tags", [])) == starter:
            assert named[1] not in found, f"{named[1]} is checked twice"
            found[named[1]] = code[place]
    return found


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_every_check_has_a_starter_cell_and_a_solution(chapter):
    asked = set(known(chapter))
    assert len(asked) >= 2
    assert set(checks_in(chapter, True)) == asked
    assert set(checks_in(chapter, False)) == asked


def test_a_check_bears_the_number_of_its_exercise():
    for chapter in CHAPTERS:
        number = 0
        for cell in cells_of(chapter):
            number += source(cell).count(":::{exercise}")
            for named in re.findall(r'pk\.check\("([\w.]+)"', source(cell)):
                assert named == f"{chapter}.{number}"


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_stubs_fail_and_say_what_is_asked(chapter):
    for name, cell in checks_in(chapter, True).items():
        space = {"pk": pk, "torch": torch}
        stub = "\n".join(line for line in cell.splitlines() if not line.startswith("pk.check"))
        exec(stub, space)
        told = pk.check(name, space["answer"])
        assert not told
        assert registry()[name].asks in str(told)


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_the_solutions_in_the_book_pass(chapter):
    """In what `make test` has run before these tests: each check of a solution says right."""
    kept = ROOT / "_build" / "executed" / "book" / f"{chapter}.json"
    if not kept.exists():
        pytest.skip("the notebooks were not run; make test runs them first")
    outputs = json.loads(kept.read_text(encoding="utf8"))["outputs"]
    shown = "\n".join(
        "".join(part["data"].get("text/plain", ""))
        for cell in outputs
        for part in cell["outputs"]
        if "data" in part
    )
    for name in known(chapter):
        assert f"✓ {name}: right." in shown, name


RIGHT = {  # derived here once more, from the exercises' words
    "domingos.1": -0.5,
    "domingos.2": 2.0,
    "gradient_kernels.1": np.array([[1, 2, 1], [-1, -1, 1], [0, 0, 1]])
    @ np.array([[1, 2, 1], [-1, -1, 1], [0, 0, 1]]).T,
    "gradient_kernels.2": -1,
    "gradient_kernels.3": 1.0,
    "momentum.1": [0.1 / 0.1, 0.01 / 0.1, 1 / 0.1, 0.1 / 0.01, 1 - math.sqrt(0.05 * 0.01 / 0.1)],
    "momentum.2": 4,
    "momentum.3": (1 + 0.8) / 0.8**2,
    "momentum.4": torch.tensor([1.0, 2.0]),
    "momentum.5": (1.05, 1.9),
    "null_space.2": 5,
    "null_space.3": 0.25 / 2.5,
    "null_space.4": -1.0,
    "null_space.5": -0.5,
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_answers_of_any_kind_pass_and_wrong_ones_do_not(name):
    right = torch.as_tensor(np.asarray(RIGHT[name], dtype=float))
    assert pk.check(name, RIGHT[name])
    assert pk.check(name, right.float())
    assert not pk.check(name, right + 3 * registry()[name].step)
    assert not pk.check(name, right * float("nan"))


def test_no_answer_stands_in_words_or_seals():
    for name, entry in registry().items():
        said = " ".join([entry.asks, entry.hint, *(words for _, words in entry.mistakes)])
        assert all(re.fullmatch(r"[0-9a-f]{16}", kept) for kept in entry.seals)
        value = np.asarray(RIGHT.get(name, 99.25)).reshape(-1)
        if len(value) == 1:
            told = re.findall(r"(?<![\w.])-?\d+(?:\.\d+)?", said)
            assert float(value[0]) not in map(float, told), name


def test_a_hint_says_what_kind_of_mistake_it_is():
    assert "sign" in str(pk.check("domingos.1", 0.5))
    assert "factor of two" in str(pk.check("momentum.2", 2))
    assert "upside down" in str(pk.check("momentum.2", 0.25))
    assert "left end" in str(pk.check("domingos.2", 1.0))
    assert "3 of 5 entries" in str(pk.check("momentum.1", [1, 10, 10, 10, 0.95]))
    assert "Hint:" in str(pk.check("domingos.1", 17))
    assert "Expected numbers of shape [5], got one number" in str(pk.check("momentum.1", 1.0))


def test_a_verdict_shows_itself():
    told = pk.check("domingos.1", -0.5)
    assert str(told) == repr(told) == "✓ domingos.1: right."
    assert "✓" in told._repr_html_()
    assert "&lt;" not in told._repr_html_()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: pk.check("domingos.99", 1), ValueError, r"those of domingos are: domingos\.1, "),
        (lambda: pk.check("nowhere.1", 1), ValueError, "those there are: accounts.2, "),
        (lambda: pk.check(2, 1), TypeError, "exercise must be text"),
        (lambda: pk.check("domingos.1", "x"), TypeError, "answer must be a number"),
        (lambda: pk.check("domingos.1", 1j), TypeError, "answer must be a number"),
        (lambda: pk.check("momentum.1", [1, "x", 2, 3, 4]), TypeError, "answer must be a number"),
        (lambda: sealed("a.1", [1.0], 0.0), ValueError, "step must be"),
        (lambda: sealed("a.1", [math.inf], 1.0), ValueError, "answer must be finite"),
    ],
)
def test_refuses(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_seal_opens_within_its_step_only():
    kept = sealed("a.1", [0.1], 0.01)[0]
    inside, outside = np.linspace(0.0901, 0.1099, 41), [0.0899, 0.1101, -0.1, 0.0]
    assert all(opens("a.1", 0, value, 0.01, kept) for value in inside)
    assert not any(opens("a.1", 0, value, 0.01, kept) for value in outside)
    assert not opens("a.1", 1, 0.1, 0.01, kept)
    assert not opens("a.2", 0, 0.1, 0.01, kept)


def test_the_command_prints_seals(capsys):
    command.main(["domingos.2", "--step", "0.2", "--", "2"])
    assert json.loads(capsys.readouterr().out) == list(registry()["domingos.2"].seals)
