"""What a chapter needs for its readers: an example by hand, what is trained, a guide, exercises.

Rules of ``lint_notebooks.py``, in a file of their own.
"""

import ast
import re
from collections.abc import Iterator

from notebook_text import FENCED, called, cells_of, code_trees, directives, sections

LEVELS = ("Recall", "Compute", "Prove", "Explore")
EXERCISES = range(4, 7)
BY_HAND = "### By hand"
SHORT = 12  # lines of code that a reader can compare with the sums on paper
CHECKS = 2  # exercises of a chapter whose answers check themselves, at least
PLUMBING = "getsource"


def check_by_hand(notebook: dict) -> Iterator[str]:
    """An example with numbers on paper, then the same numbers by a few lines that assert them."""
    inside, text, agreed = False, 0, False
    for number, kind, source, _ in cells_of(notebook):
        if kind == "markdown":
            headings = re.findall(r"^##+ .+?$", FENCED.sub("", source), re.M)
            if headings:
                inside = headings[-1].strip() == BY_HAND
                text = text or number * inside
        elif inside:
            if len(source.splitlines()) > SHORT:
                yield f"cell {number}: code of the example by hand; at most {SHORT} lines"
            agreed = agreed or "assert" in source
    if not text:
        yield f"no example by hand; write a part {BY_HAND!r}: one parameter, both sides on paper"
    elif not agreed:
        yield f"no assert in the code under {BY_HAND!r}"


def check_trained(notebook: dict) -> Iterator[str]:
    for _, tree, _ in code_trees(cells_of(notebook)):
        if any(called(node)[1] == "trained" for node in ast.walk(tree)):
            return
    yield "nowhere says what is trained; write pk.trained(model, optimizer, loss, steps=...)"


def check_guide(notebook: dict) -> Iterator[str]:
    """Beside an explorer stand questions, and what is to be seen, folded."""
    wanted = guides = 0
    for _, kind, source, _ in cells_of(notebook):
        if kind == "markdown":
            names = [(name, argument) for name, argument, _ in directives(source)]
            guides += ("admonition", "Try it") in names and "dropdown" in dict(names)
        else:
            wanted += bool(re.search(r"\bexplorers\.\w+\(", source))
    if wanted > guides:
        yield (
            f"{wanted} explorers and {guides} guides; write :::{{admonition}} Try it with two or "
            "three questions, and :::{dropdown} What you should see, in one cell"
        )


def check_levels(notebook: dict) -> Iterator[str]:
    titles = []
    for number, kind, source, _ in cells_of(notebook):
        if kind != "markdown":
            continue
        for name, argument, _ in directives(source):
            if name in {"exercise", "exercise-start"}:
                titles.append(argument)
                if argument.partition(":")[0] not in LEVELS:
                    yield f"cell {number}: exercise {argument!r}; begin with {', '.join(LEVELS)}:"
    if len(titles) not in EXERCISES:
        yield f"{len(titles)} exercises; a chapter has {EXERCISES[0]} to {EXERCISES[-1]}"
    if len({title.partition(":")[0] for title in titles}) < len(LEVELS) - 1:
        yield f"exercises of fewer than three levels; the levels are {', '.join(LEVELS)}"


def check_answers(notebook: dict) -> Iterator[str]:
    """Starter cells in which a student types, and the same check in the solution."""
    asked: dict[bool, set[str]] = {True: set(), False: set()}
    for _, kind, source, _, meta in sections(cells_of(notebook)):
        for name in re.findall(r'pk\.check\("([\w.]+)"', source) if kind == "code" else []:
            asked["starter" in meta.get("tags", [])].add(name)
    if asked[True] != asked[False]:
        names = sorted(asked[True] ^ asked[False])
        yield f"checked in a starter cell or in a solution alone: {', '.join(names)}"
    if len(asked[True]) < CHECKS:
        yield f"{len(asked[True])} answers that check themselves; a chapter has {CHECKS} or more"


def check_plumbing(notebook: dict) -> Iterator[str]:
    for number, kind, source, _ in cells_of(notebook):
        if kind == "code" and PLUMBING in source:
            yield f"cell {number}: prints a function's source; show the lines that are the idea"


FOR_READERS = [
    check_by_hand,
    check_trained,
    check_guide,
    check_levels,
    check_answers,
    check_plumbing,
]
