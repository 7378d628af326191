"""The notebook linter: each rule reports its own fault alone, and the real notebooks are clean."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import lint_notebooks as linter  # noqa: E402  (tools/ is no package)

NOTEBOOKS = linter.notebooks_in([ROOT / "book"])
FOLDED = {"jupyter": {"source_hidden": True}}
KINDS = {"solution": FOLDED, "starter": {"tags": ["starter", "remove-cell"]}}
ALT = "Two curves; the blue one stays above the orange one everywhere."


def exercise(label: str, level: str = "Recall", name: str = "") -> list[tuple[str, str]]:
    """An exercise with an executed, folded solution, as CONTRIBUTING.md prescribes it."""
    title = f"{level}: a short title"
    starter = ("starter", f'answer = None\npk.check("{name}", answer)')
    return [
        ("markdown", f":::{{exercise}} {title}\n:label: {label}\n\nShow that $a=b$.\n:::"),
        *([starter] if name else []),
        (
            "markdown",
            f":::{{solution-start}} {label}\n:class: dropdown\n:::\n\nCompute both sides.",
        ),
        ("solution", "assert 1 + 1 == 2"),
        *([("solution", f'pk.check("{name}", 2)')] if name else []),
        ("markdown", "They agree.\n\n:::{solution-end}\n:::"),
    ]


def notebook(*cells: tuple[str, str]) -> dict:
    built = []
    for place, (kind, source) in enumerate(cells):
        cell = {"cell_type": "markdown", "id": f"c{place}", "metadata": {}, "source": source}
        if kind != "markdown":
            cell |= {"cell_type": "code", "outputs": [], "execution_count": None}
            cell["metadata"] = copy.deepcopy(KINDS.get(kind, {}))
        built.append(cell)
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return {"cells": built, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


def clean() -> dict:
    """A chapter without fault, with the constructions that a coarse rule would trip over."""
    return notebook(
        ("markdown", "# Gradient kernels\n\nCC BY 4.0, Python 3.11, arXiv 2603.13872, [2]."),
        ("markdown", "## What you will be able to do\n\nRead Theorem 2.2 and Thms 3.4, 3.5."),
        ("markdown", "## Before you start\n\nRun time: under one minute on two cores."),
        ("markdown", "## The idea\n\nAt $\\eta=0.1$ see `0.25`, [here](https://a.org/v1.5)."),
        ("markdown", "### By hand\n\n$f=\\theta x$ at $x=2$: the kernel is $4$."),
        ("code", "assert 2 * 2 == 4"),
        ("markdown", "## An extra section\n\n$$\n\\alpha = 0.5\n$$\n\nCor. A.1 and Section 5.1."),
        ("markdown", "## Definition\n\n:::{prf:definition} Kernel\n:label: def\n\n$K$.\n:::"),
        ("markdown", "## Why it is true\n\n```python\n# not a heading\nx = 0.1\n```"),
        ("markdown", "## See it\n\nThe learning rate is 0.1. <!-- given -->"),
        ("code", 'pk.trained(net, sgd, "squared loss", steps=3)'),
        ("code", "pk.explorers.waves()"),
        (
            "markdown",
            ":::{admonition} Try it\n:class: tip\n\nWhy?\n:::\n\n:::{dropdown} Seen\nSo.\n:::",
        ),
        ("code", "def sketch(ax):\n    ax.plot([1, 2])\n    ax.set_title('a')"),
        ("code", f"figure, ax = plt.subplots()\nsketch(ax)\nplots.show(figure, alt={ALT!r})"),
        ("code", f"pk.plots.show(pk.experiments.ring.draw(result), alt={ALT!r})"),
        ("markdown", "## Check it\n\nBoth sides agree."),
        ("code", "assert error < 1e-9, error"),
        ("markdown", "## Where it stops holding\n\nAt kinks: ![a kink](kink.png)."),
        ("markdown", "## Summary\n\n<img src='a.png' alt='a kink'>"),
        ("markdown", "## Exercises"),
        *exercise("ex-one", "Recall", "chapter.1"),
        *exercise("ex-two", "Compute", "chapter.2"),
        *exercise("ex-four", "Explore"),
        ("markdown", ":::{exercise} Prove: why\n:label: ex-three\n\nWhy?\n:::"),
        ("markdown", ":::{solution} ex-three\n:class: dropdown\n\nIn words.\n:::"),
        ("markdown", "## Further reading\n\nSee {cite}`guo2026`."),
    )


def cell(book: dict, start: str) -> dict:
    """The one cell whose source starts with ``start``."""
    (found,) = [part for part in book["cells"] if part["source"].startswith(start)]
    return found


def replaced(start: str, old: str, new: str):
    def damage(book: dict) -> None:
        part = cell(book, start)
        assert old in part["source"]
        part["source"] = part["source"].replace(old, new)

    return damage


def appended(start: str, text: str):
    return replaced(start, start, start + text)


def removed(start: str):
    return lambda book: book["cells"].remove(cell(book, start))


def inserted(before: str, kind: str, source: str):
    def damage(book: dict) -> None:
        (new,) = notebook((kind, source))["cells"]
        book["cells"].insert(book["cells"].index(cell(book, before)), new | {"id": "new"})

    return damage


def code(source: str):
    return inserted("## Check it", "code", source)


def text(source: str):
    return inserted("## Check it", "markdown", source)


def swap_sections(book: dict) -> None:
    idea, definition = cell(book, "## The idea"), cell(book, "## Definition")
    idea["source"], definition["source"] = definition["source"], idea["source"]


def only_two_exercises(book: dict) -> None:
    for start in (":::{exercise} Prove", ":::{solution} ex-three"):
        removed(start)(book)
    place = book["cells"].index(cell(book, ":::{exercise} Explore"))
    del book["cells"][place : place + 4]


def four_more(book: dict) -> None:
    extra = [part for label in "abcd" for part in exercise(label)]
    place = book["cells"].index(cell(book, "## Further"))
    new = notebook(*extra)["cells"]
    book["cells"][place:place] = [part | {"id": f"e{n}"} for n, part in enumerate(new)]


def no_executed_solution(book: dict) -> None:
    for label in ("ex-one", "ex-two", "ex-four"):
        gate = cell(book, f":::{{solution-start}} {label}")
        place = book["cells"].index(gate)
        gate["source"] = gate["source"].replace("-start", "").replace(":::\n\n", "\n") + "\n:::"
        del book["cells"][place + 1 : place + (3 if label == "ex-four" else 4)]


def unfolded_in_lab(book: dict) -> None:
    place = book["cells"].index(cell(book, ":::{solution-start} ex-one"))
    book["cells"][place + 1]["metadata"] = {}


def solution_without_code(book: dict) -> None:
    place = book["cells"].index(cell(book, ":::{solution-start} ex-four"))
    del book["cells"][place + 1]


def solution_never_closed(book: dict) -> None:
    place = book["cells"].index(cell(book, ":::{solution-start} ex-four"))
    book["cells"][place + 2]["source"] = "They agree."


FAULTS = {
    "kernel": (lambda b: b["metadata"]["kernelspec"].update(name="ir"), "named 'python3'"),
    "no id": (lambda b: cell(b, "## Summary").pop("id"), "has no id"),
    "outputs": (lambda b: cell(b, "assert error").update(outputs=[{}]), "carries outputs"),
    "count": (lambda b: cell(b, "assert error").update(execution_count=3), "carries outputs"),
    "26 lines": (code("x = 1\n" * 26), "26 lines of code"),
    "magic": (code("%matplotlib inline"), "not plain Python"),
    "plt.show": (code("plt.show()"), "calls plt.show"),
    "subplots": (code("figure, ax = plt.subplots()"), "makes a figure"),
    "plt.figure": (code("figure = plt.figure()"), "makes a figure"),
    "plots.figure": (code("figure, ax = plots.figure()"), "makes a figure"),
    "draw": (code("figure = experiments.ring.draw(result)"), "makes a figure"),
    "ax.plot": (code("ax.plot([1, 2])"), "makes a figure"),
    "implicit figure": (code("plt.imshow(image)"), "makes a figure"),
    "figure in a helper": (code("sketch(ax)"), "makes a figure"),
    "no alt": (code("plots.show(figure)"), "without alt="),
    "short alt": (code("plots.show(figure, alt='A plot.')"), "too short"),
    "no alt in a helper": (code("def see(f):\n    plots.show(f)"), "without alt="),
    "backticks": (text("```{note}\nHello.\n```"), "directive in backticks"),
    "newcommand": (text("$\\newcommand{\\R}{\\mathbb R}$"), "LaTeX macro"),
    "def": (text("$\\def\\R{\\mathbb R}$"), "LaTeX macro"),
    "markdown image": (text("![](a.png)"), "without alternative text"),
    "html image": (text("<img src='a.png'>"), "<img> without alt"),
    "empty alt": (text("<img src='a.png' alt=''>"), "<img> without alt"),
    "figure directive": (text(":::{figure} a.png\n:width: 50%\n\nText.\n:::"), "without :alt:"),
    "decimal": (text("The error is 0.031."), "number 0.031 in prose"),
    "percentage": (text("It explains 98 % of it."), "number 98 in prose"),
    "power of ten": (text("It closes to 1e-9."), "number 1e-9 in prose"),
    "two titles": (text("# Another title"), "has 2 titles"),
    "no title": (replaced("# Gradient", "# Gradient", "Gradient"), "has 0 titles"),
    "no summary": (removed("## Summary"), "section missing: ## Summary"),
    "no definition": (
        replaced("## Definition", "## Definition", "## Meaning"),
        "section missing: ## Definition or ## Theorem",
    ),
    "order": (swap_sections, "'Definition' must come after 'The idea'"),
    "twice": (text("## Summary\n\nAgain."), "stands 2 times"),
    "run time": (replaced("## Before", "Run time: under", "Under"), "state the run time"),
    "no assert": (replaced("assert error", "assert error < 1e-9, error", "error"), "no assert"),
    "empty assert": (replaced("assert error", "error < 1e-9, error", "True"), "no assert"),
    "two exercises": (only_two_exercises, "2 exercises; a chapter has 4 to 6|three levels"),
    "eight exercises": (four_more, "8 exercises; a chapter has 4 to 6"),
    "no level": (replaced(":::{exercise} Prove", "Prove: why", "Why"), "begin with Recall"),
    "two levels": (
        lambda book: [
            replaced(f":::{{exercise}} {level}", level, "Recall")(book)
            for level in ("Prove", "Explore")
        ],
        "fewer than three levels",
    ),
    "no example by hand": (
        replaced("### By hand", "### By hand", "### On paper"),
        "no example by hand",
    ),
    "by hand unasserted": (
        replaced("assert 2 * 2 == 4", "assert 2 * 2 == 4", "2 * 2"),
        "no assert in the code under",
    ),
    "by hand and long": (
        replaced("assert 2 * 2 == 4", "assert", "x = 1\n" * 12 + "assert"),
        "at most 12 lines",
    ),
    "untold training": (removed("pk.trained"), "what is trained"),
    "no guide": (removed(":::{admonition} Try it"), "1 explorers and 0 guides"),
    "answer unchecked": (removed('pk.check("chapter.1"'), "in a solution alone: chapter.1"),
    "printed source": (code("inspect.getsource(f)"), "prints a function's source"),
    "no solution": (removed(":::{solution} ex-three"), "do not match"),
    "wrong label": (replaced(":::{solution} ex-three", "ex-three", "ex-3"), "do not match"),
    "not folded": (replaced(":::{solution} ex-three", "dropdown", "tip"), "not folded"),
    "not folded in Lab": (unfolded_in_lab, "fold it in JupyterLab"),
    "never executed": (
        no_executed_solution,
        "at least one is executed|in a starter cell or in a solution alone",
    ),
    "gate without code": (solution_without_code, "no code in this solution"),
    "gate left open": (solution_never_closed, "is not closed|heading inside a solution"),
    "heading in a solution": (
        replaced(":::{solution-start} ex-one", "Compute", "### Compute"),
        "heading inside a solution",
    ),
    "measured": (code("run = pk.Trajectory(m, loss, o, d)\nassert run.loss < 0.1"), "is measured"),
    "measured through names": (
        code("end = net.step(3)\nhalf = 2 * end\nassert torch.isfinite(half) and half > 1"),
        "is measured",
    ),
    "measured, an equality": (code("n = run.train(3)\nassert len(n) == 3"), "is measured"),
    "measured in a loop": (
        code("ends = [net.fit(s) for s in range(3)]\nassert all(e < 1 for e in ends)"),
        "is measured",
    ),
    "a wide tolerance": (code("gap = 1.0\nassert gap < 0.2"), "is measured"),
    "an experiment's number": (
        code("from pkbook.experiments import ring\nassert ring.run().found == 1"),
        "is measured",
    ),
    "exercise elsewhere": (
        replaced("## Exercises", "## Exercises", "## Exercises\n\n## Tasks"),
        "exercise outside",
    ),
}


def test_a_clean_chapter_has_no_complaint():
    assert linter.lint(clean(), "chapter.ipynb") == []


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_reported_and_nothing_else(name):
    damage, message = FAULTS[name]
    book = clean()
    damage(book)
    complaints = linter.lint(book, "chapter.ipynb")
    assert complaints, "the fault went unnoticed"
    allowed = message.split("|")
    assert any(allowed[0] in text for text in complaints), complaints
    assert all(any(part in text for part in allowed) for text in complaints), complaints
    assert all(text.startswith("chapter.ipynb: ") for text in complaints)


@pytest.mark.parametrize(
    "line",
    [
        "assert abs(both - sides) < 1e-9",
        "assert (left - right).abs().max() < 1e-6 * right.abs().max()",
        "assert -1e-9 < gap < 1e-9",
        "assert torch.allclose(run.step(3), told)",
        "assert kernel.shape == (4, 4)",
        "assert not (a != b)",
        "assert all(torch.equal(a, b) for a, b in pairs)",
    ],
)
def test_what_is_exact_may_be_asserted(line):
    book = clean()
    code(line)(book)
    assert linter.lint(book, "chapter.ipynb") == []


def test_a_claim_told_twice_is_reported_with_both_places():
    one, two = clean(), clean()
    code("pk.claim('the loss', loss, below=1)")(one)
    code("for name in names:\n    pk.claim(f'{name}: the loss', loss, below=1)")(one)
    assert list(linter.claims_told_twice({"a.ipynb": one})) == []
    code("pk.claim('the loss', other, below=2)")(two)
    (told,) = linter.claims_told_twice({"a.ipynb": one, "b.ipynb": two})
    assert "a.ipynb" in told
    assert "b.ipynb" in told
    assert "'the loss' is made twice" in told


def test_an_exercise_without_label_is_reported():
    book = clean()
    replaced(":::{exercise} Prove", ":label: ex-three\n", "")(book)
    assert any("needs a ':label:'" in text for text in linter.lint(book, "chapter.ipynb"))


def test_the_landing_page_needs_no_skeleton_but_the_other_rules_hold():
    page = notebook(("markdown", "# The book"), ("code", "1 + 1"))
    assert linter.lint(page, "book/index.ipynb") == []
    page["cells"][1]["execution_count"] = 1
    assert len(linter.lint(page, "book/index.ipynb")) == 1
    assert len(linter.lint(page, "book/house.ipynb")) == 1
    assert len(linter.lint(page, "book/other.ipynb")) > 1


def test_cells_may_be_stored_as_lists_of_lines():
    book = clean()
    for part in book["cells"]:
        part["source"] = part["source"].splitlines(keepends=True)
    assert linter.lint(book, "chapter.ipynb") == []


def test_the_command_names_the_file_and_fails(tmp_path):
    command = [sys.executable, str(ROOT / "tools/lint_notebooks.py"), str(tmp_path)]
    nothing = subprocess.run(command, capture_output=True, text=True, check=False)
    assert nothing.returncode == 1, "an empty folder must not count as clean"
    (tmp_path / "chapter.ipynb").write_text(json.dumps(clean()))
    good = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (good.returncode, good.stderr) == (0, "")
    bad = clean()
    code("plt.show()")(bad)
    (tmp_path / "bad.ipynb").write_text(json.dumps(bad))
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "bad.ipynb: cell 17: calls plt.show" in result.stdout


def test_the_book_has_notebooks():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_the_notebooks_of_the_book_are_clean(path):
    complaints = linter.lint(json.loads(path.read_text()), str(path.relative_to(ROOT)))
    assert not complaints, "\n".join(complaints)
