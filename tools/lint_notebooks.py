"""Check that the notebooks of the book follow CONTRIBUTING.md.

    python tools/lint_notebooks.py book

Each rule is a function ``notebook -> complaints``. A complaint names the cell (counted from one),
what is wrong and what to write instead. Only the standard library is needed.
"""

import argparse
import ast
import json
import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

from lint_assertions import check_assertions
from lint_teaching import FOR_READERS, check_trained
from notebook_text import (
    FENCED,
    called,
    cells_of,
    code_trees,
    directives,
    inside_solution,
    markdown,
    outside_functions,
    prose,
    section_text,
    sections,
)

# Pages that need neither the skeleton nor exercises, for they teach no theorem: the landing page,
# the check of the machine, and the page on the package.
NO_CHAPTER = {"index.ipynb", "house.ipynb", "start_here.ipynb"}
NO_TRAINING = {"computing_kernels.ipynb"}  # it computes kernels of networks as they are
# Chapters that do not follow the rules of lint_teaching.py yet. The list only ever shrinks.
TO_BE_READ_AGAIN = {
    f"{name}.ipynb"
    for name in (
        "accounts",
        "adam",
        "adversarial_models",
        "alignment",
        "computing_kernels",
        "diffusion_models",
        "exact_formula",
        "extrapolation",
        "inheritance",
        "kernel_evolution",
        "kernel_machine",
        "lazy_training",
        "linear_separability",
        "momentum",
        "null_space",
        "optimizers",
        "rank_gap",
        "rmsprop",
        "stochastic_sgd",
        "weak_approximation",
    )
}
SKELETON = [  # exact headings, in this order; a chapter has at least one of each group
    ("What you will be able to do",),
    ("Before you start",),
    ("The idea",),
    ("Definition", "Theorem"),
    ("Why it is true",),
    ("See it",),
    ("Check it",),
    ("Where it stops holding",),
    ("Summary",),
    ("Exercises",),
    ("Further reading",),
]
MAX_LINES = 25
MIN_ALT = 30  # characters; "a plot" describes nothing

FIGURE_MAKERS = {"subplots", "figure", "subplot_mosaic", "draw", "plot"}
FIGURE_MAKERS |= {"relplot", "displot", "catplot", "lmplot", "jointplot", "pairplot", "clustermap"}
DRAWS_NOTHING = {"show", "close", "get_cmap", "rc", "rc_context"}  # of plt
GIVEN = "<!-- given -->"


# ---- rules for every notebook ---------------------------------------------------------------


def check_format(notebook: dict) -> Iterator[str]:
    kernel = notebook.get("metadata", {}).get("kernelspec", {}).get("name")
    if kernel != "python3":
        yield f"the kernel must be named 'python3', not {kernel!r}"
    for number, cell in enumerate(notebook["cells"], start=1):
        if not cell.get("id"):
            yield f"cell {number}: has no id; save the notebook as nbformat 4.5"


def check_stripped(notebook: dict) -> Iterator[str]:
    for number, cell in enumerate(notebook["cells"], start=1):
        if cell.get("outputs") or cell.get("execution_count") is not None:
            yield f"cell {number}: carries outputs or a count; run nbstripout on the file"


def check_code(notebook: dict) -> Iterator[str]:
    for number, kind, source, _ in cells_of(notebook):
        if kind != "code":
            continue
        length = len(source.splitlines())
        if length > MAX_LINES:
            yield f"cell {number}: {length} lines of code; split it, at most {MAX_LINES}"
        try:
            ast.parse(source)
        except SyntaxError as error:
            yield f"cell {number}: is not plain Python ({error.msg}); magics are not allowed"


def check_figures(notebook: dict) -> Iterator[str]:
    makers = set(FIGURE_MAKERS)
    for number, tree, _ in code_trees(cells_of(notebook)):
        for node in ast.walk(tree):  # a helper that makes a figure makes one wherever it is called
            if isinstance(node, ast.FunctionDef):
                inside = {called(part)[1] for part in ast.walk(node)}
                if inside & makers:
                    makers.add(node.name)
        calls = {called(node) for node in outside_functions(tree)}
        if ("plt", "show") in calls:
            yield f"cell {number}: calls plt.show; write plots.show(figure, alt=...) instead"
        made = any(
            name in makers or (owner == "plt" and name not in DRAWS_NOTHING)
            for owner, name in calls
        )
        if made and ("plots", "show") not in calls:
            yield f"cell {number}: makes a figure and does not hand it to plots.show(..., alt=...)"
        for node in ast.walk(tree):
            if called(node) == ("plots", "show"):
                yield from (f"cell {number}: {text}" for text in complain_of_alt(node))


def complain_of_alt(show: ast.Call) -> Iterator[str]:
    alt = next((word.value for word in show.keywords if word.arg == "alt"), None)
    if alt is None:
        yield "plots.show without alt=; say in words what is to be seen"
    elif isinstance(alt, ast.Constant) and len(str(alt.value).strip()) < MIN_ALT:
        yield f"alt={alt.value!r} is too short; say in words what is to be seen"


def check_markdown(notebook: dict) -> Iterator[str]:
    for number, kind, source, _ in cells_of(notebook):
        if kind != "markdown":
            continue
        if re.search(r"^ *(`{3,}|~{3,})\{", source, re.M):
            yield f"cell {number}: directive in backticks; use a colon fence, :::{{name}}"
        macro = re.search(
            r"\\(newcommand|renewcommand|providecommand|DeclareMathOperator|def|let)(?![a-zA-Z])",
            source,
        )
        if macro:
            yield f"cell {number}: {macro[0]} defines a LaTeX macro; write the formula out"
        if re.search(r"!\[\s*\]\(", source):
            yield f"cell {number}: image without alternative text; write ![what is seen](...)"
        for name, _, options in directives(source):
            if name in {"image", "figure"} and not options.get("alt"):
                yield f"cell {number}: {{{name}}} without :alt:"
        images = ImagesWithoutAlt()
        images.feed(source)
        if images.found:
            yield f"cell {number}: <img> without alt"


class ImagesWithoutAlt(HTMLParser):
    """Notes whether an ``<img>`` without a non-empty ``alt`` was fed."""

    found = False

    def handle_starttag(self, tag: str, attrs: list) -> None:
        if tag == "img" and not dict(attrs).get("alt"):
            self.found = True


def check_numbers(notebook: dict) -> Iterator[str]:
    """A result in prose goes stale. Names such as "Theorem 2.2" or "Python 3.11" are no results."""
    named = (
        r"\b(?:Def|Definition|Thm|Theorem|Theorems|Lemma|Cor|Corollary|Rem|Remark|Sec|Section|"
        r"Chapter|App|Appendix|Fig|Figure|Table|Eq|Assumption|Exercise|arXiv|Python|PyTorch|torch|"
        r"BY|[Vv]ersion)s?[.:]?[ \u00a0]?\(?(?:\d+(?:\.\d+)+(?:, | and | to |[-\u2013])?)+"
    )
    result = (
        r"(?<![\w.])(?:\d*\.\d+(?:e[-+]?\d+)?|\d+e[-+]?\d+|\d+(?=\s*(?:%|percent\b|per cent\b)))"
    )
    for number, kind, source, _ in cells_of(notebook):
        if kind != "markdown" or GIVEN in source:
            continue
        for found in re.findall(result, re.sub(named, " ", prose(source))):
            yield (
                f"cell {number}: the number {found} in prose; let a code cell print it, "
                f"or mark a setting with {GIVEN}"
            )


# ---- rules for chapters ---------------------------------------------------------------------


def check_skeleton(notebook: dict) -> Iterator[str]:
    text = markdown(cells_of(notebook))
    headings = re.findall(r"^## +(.+?) *$", text, re.M)
    titles = re.findall(r"^# +(.+)$", text, re.M)
    if len(titles) != 1:
        yield f"has {len(titles)} titles (#); a chapter has exactly one"
    places = []
    for group in SKELETON:
        found = [place for place, heading in enumerate(headings) if heading in group]
        if not found:
            yield f"section missing: {' or '.join('## ' + name for name in group)}"
        elif len(found) > 1 and len(group) == 1:
            yield f"section {group[0]!r} stands {len(found)} times"
        else:
            places.append((found[0], headings[found[0]]))
    for (before, first), (after, second) in pairwise(places):
        if before > after:
            yield f"section {second!r} must come after {first!r}"


def check_run_time(notebook: dict) -> Iterator[str]:
    text = section_text(cells_of(notebook), "Before you start")
    if not re.search(r"run(?:ning)?[ -]?time", text, re.I):
        yield "'Before you start' must state the run time (write the words 'Run time')"


def check_asserts(notebook: dict) -> Iterator[str]:
    for _, tree, title in code_trees(cells_of(notebook)):
        for node in ast.walk(tree):
            stated = isinstance(node, ast.Assert) and not isinstance(node.test, ast.Constant)
            claimed = called(node)[1] == "claim" or called(node)[1].startswith("assert_")
            if title == "Check it" and (stated or claimed):
                return
    yield "no assert and no pk.claim in the code under '## Check it'"


def check_exercises(notebook: dict) -> Iterator[str]:
    exercises: list[str] = []
    solved: list[str] = []
    gate = None  # label of the open solution, then whether code has run in it
    ran = executed = False
    for number, kind, source, title, meta in sections(cells_of(notebook)):
        if kind == "code" and gate:
            ran = executed = True
            if not meta.get("jupyter", {}).get("source_hidden"):
                yield (
                    f"cell {number}: code of a solution; fold it in JupyterLab too, "
                    'with the cell metadata {"jupyter": {"source_hidden": true}}'
                )
        if kind != "markdown":
            continue
        if re.search(r"^#+ ", inside_solution(FENCED.sub("", source), bool(gate)), re.M):
            yield f"cell {number}: heading inside a solution; it would break the fold"
        for name, argument, options in directives(source):
            if name in {"exercise", "exercise-start"}:
                exercises.append(options.get("label", ""))
                if title != "Exercises":
                    yield f"cell {number}: exercise outside '## Exercises'"
            if name in {"solution", "solution-start"}:
                solved.append(argument)
                if "dropdown" not in options.get("class", ""):
                    yield f"cell {number}: solution is not folded; add ':class: dropdown'"
            if name == "solution-start":
                gate, ran = argument, False
            if name == "solution-end":
                if gate and not ran:
                    yield f"cell {number}: no code in this solution; write :::{{solution}} instead"
                gate = None
    if "" in exercises or len(set(exercises)) < len(exercises):
        yield "every exercise needs a ':label:' of its own"
    if sorted(exercises) != sorted(solved):
        yield f"exercises {sorted(exercises)} and solutions {sorted(solved)} do not match"
    if gate:
        yield f"the solution of {gate!r} is not closed with :::{{solution-end}}"
    if not executed:
        yield "no solution contains a code cell; at least one is executed"


EVERYWHERE = [check_format, check_stripped, check_code, check_figures, check_markdown]
EVERYWHERE += [check_numbers, check_assertions]
IN_CHAPTERS = [check_skeleton, check_run_time, check_asserts, check_exercises]


def lint(notebook: dict, name: str) -> list[str]:
    """Return the complaints about one notebook (parsed JSON); an empty list means clean."""
    file, rules = Path(name).name, list(EVERYWHERE)
    if file not in NO_CHAPTER:
        rules += IN_CHAPTERS
    if file not in NO_CHAPTER | TO_BE_READ_AGAIN:
        rules += [rule for rule in FOR_READERS if rule != check_trained or file not in NO_TRAINING]
    return [f"{name}: {complaint}" for rule in rules for complaint in rule(notebook)]


def claims_told_twice(notebooks: dict[str, dict]) -> Iterator[str]:
    """A claim is known by its words, so no two may have the same ones."""
    places: dict[str, list[str]] = {}
    for name, notebook in notebooks.items():
        for number, tree, _ in code_trees(cells_of(notebook)):
            for node in ast.walk(tree):
                named = node.args[:1] if called(node)[1] == "claim" else []
                if named and not isinstance(named[0], ast.Name):  # names stand for many words
                    words = ast.unparse(node.args[0])
                    places.setdefault(words, []).append(f"{name}: cell {number}")
    for words, found in places.items():
        if len(found) > 1:
            yield f"{', '.join(found)}: the claim {words} is made twice; name what differs"


def notebooks_in(paths: list[Path]) -> list[Path]:
    """Return the notebooks among ``paths`` and below the folders among them."""
    found = []
    for path in paths:
        inside = sorted(path.rglob("*.ipynb")) if path.is_dir() else [path]
        found += [file for file in inside if ".ipynb_checkpoints" not in file.parts]
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Check the notebooks against CONTRIBUTING.md.")
    parser.add_argument("paths", nargs="+", type=Path, help="notebooks, or folders of them")
    files = notebooks_in(parser.parse_args(arguments).paths)
    notebooks = {str(file): json.loads(file.read_text(encoding="utf8")) for file in files}
    complaints = [text for name, notebook in notebooks.items() for text in lint(notebook, name)]
    complaints += claims_told_twice(notebooks)
    print("\n".join(complaints) or f"{len(files)} notebooks follow the style guide")
    return 1 if complaints or not files else 0


if __name__ == "__main__":
    sys.exit(main())
