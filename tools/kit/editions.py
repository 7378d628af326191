"""Whole notebooks from the one source: for students, for instructors, and for readers.

* *student*: no solution; below each exercise its starter cell, or a place for the answer.
* *instructor*: solutions open, each exercise with its marks; starter cells are left out.
* *reader*: all of it, solutions folded away as collapsed headings.

Nothing in them depends on the day or the machine: the same source gives the same bytes.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator

import nbformat

from .book import START, Book, KitError, Page
from .plain import Piece, pieces

EDITIONS = ("student", "instructor", "reader")
STARTER = "starter"  # the tag of cells that wait for an answer; the site does not show them
ANSWER = "*Your answer (double-click to write):*"
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
FOLDED = {"jp-MarkdownHeadingCollapsed": True}
# By the level that an exercise's title begins with; told on the teacher's page.
MARKS = {"Recall": 2, "Compute": 4, "Prove": 4, "Explore": 6}
WITH_NUMBERS = ("Compute", "Explore")


def notebook_of(page: Page, book: Book, edition: str) -> nbformat.NotebookNode:
    """One page as a notebook of an edition.

    Raises ValueError for an edition that does not exist, KitError as `pieces` does.
    """
    if edition not in EDITIONS:
        raise ValueError(f"edition must be one of {EDITIONS}, got {edition!r}")
    cells = list(_unique(_cells(page, book, edition)))
    if page.name == START:
        cells.append(_contents(book))
    cells.append(_way_on(page, book))
    language = {"name": "python", "file_extension": ".py", "mimetype": "text/x-python"}
    metadata = {"kernelspec": KERNEL, "language_info": language}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata=metadata)
    notebook.nbformat_minor = 5
    return notebook


def _cells(page: Page, book: Book, edition: str) -> Iterator[nbformat.NotebookNode]:
    inside, started = False, False  # of a solution; whether its exercise has a starter cell
    for cell in page.notebook.cells:
        tags = cell.metadata.get("tags", [])
        if cell.cell_type == "code":
            if STARTER in tags:
                started = True
            if (inside and edition == "student") or (STARTER in tags and edition == "instructor"):
                continue
            yield _code(cell, edition)
            continue
        for piece in pieces(cell.source, page.name, book):
            if piece.kind == "exercise":
                started = False
            if piece.kind == "solution-end":
                inside = False
            elif piece.kind in ("solution", "solution-start"):
                inside = piece.kind == "solution-start"
                if edition != "student":
                    yield _markdown(piece, cell.id, FOLDED if edition == "reader" else {})
                elif not started:
                    yield nbformat.v4.new_markdown_cell(ANSWER, id=f"answer-{piece.of}"[:64])
            elif not (inside and edition == "student"):
                marked = _with_marks(piece, page) if edition == "instructor" else piece
                yield _markdown(marked, cell.id)


def _markdown(piece: Piece, id: str, metadata: dict | None = None) -> nbformat.NotebookNode:
    cell = nbformat.v4.new_markdown_cell(piece.text, id=(piece.label or f"text-{id}")[:64])
    cell.metadata.update(metadata or {})
    return cell


def _code(cell: nbformat.NotebookNode, edition: str) -> nbformat.NotebookNode:
    """A code cell as the edition shows it; what the site hides is folded here."""
    made = copy.deepcopy(cell)
    tags = set(made.metadata.pop("tags", []))
    made.id, hidden = f"code-{cell.id}"[:64], made.metadata.pop("jupyter", {})
    for name in [name for name in made.metadata if name not in ("mystnb",)]:
        made.metadata.pop(name)
    if tags & {"hide-input", "remove-input"} or (hidden and edition == "reader"):
        made.metadata["jupyter"] = {"source_hidden": True}
    return made


def _unique(cells: Iterator[nbformat.NotebookNode]) -> Iterator[nbformat.NotebookNode]:
    """The cells with ids that occur once: the second ``text-5`` becomes ``text-5-2``."""
    seen: dict[str, int] = {}
    for cell in cells:
        seen[cell.id] = count = seen.get(cell.id, 0) + 1
        if count > 1:
            cell.id = f"{cell.id}-{count}"[:64]
        yield cell


def _contents(book: Book) -> nbformat.NotebookNode:
    """The table of contents at the end of the first notebook."""
    lines, part = ["## Contents"], None
    for page in book.pages.values():
        if page.name == START:
            continue
        if page.part != part:
            part = page.part
            lines += ["", f"**{part}**", ""]
        number = f"{page.number}. " if page.number else ""
        lines.append(f"* [{number}{page.title}]({page.file})")
    return nbformat.v4.new_markdown_cell("\n".join(lines), id="contents")


def _way_on(page: Page, book: Book) -> nbformat.NotebookNode:
    """The last cell: links to the chapters before and after, and to the first notebook."""
    ordered = sorted(book.pages.values(), key=lambda other: other.file)
    place = ordered.index(page)
    links = []
    if place > 0:
        links.append(f"← [{ordered[place - 1].title}]({ordered[place - 1].file})")
    if page.name != START and START in book.pages:
        links.append(f"[Contents]({book.link(START, 'contents')})")
    if place + 1 < len(ordered):
        links.append(f"[{ordered[place + 1].title}]({ordered[place + 1].file}) →")
    return nbformat.v4.new_markdown_cell("---\n\n" + " · ".join(links), id="way-on")


# ---- marks --------------------------------------------------------------------------------------


def marks_of(page: Page, label: str) -> int:
    """The marks of an exercise, by its level; see ``MARKS``.

    Raises KitError for a label that is no exercise of the page, and for a title without a level.
    """
    return MARKS[_level(page, label)]


def _level(page: Page, label: str) -> str:
    title = rf"^:::\{{exercise\}} *(.*)\n:label: {re.escape(label)}$"
    for cell in page.notebook.cells:
        if found := re.search(title, cell.source, re.M):
            level = found[1].partition(":")[0]
            if level not in MARKS:
                raise KitError(f"{page.name}: {label!r} must begin with {', '.join(MARKS)}")
            return level
    raise KitError(f"{page.name}: {label!r} is no exercise")


def _with_marks(piece: Piece, page: Page) -> Piece:
    if piece.kind != "exercise":
        return piece
    level = _level(page, piece.label)
    split = " (half for the argument, half for the numbers)" if level in WITH_NUMBERS else ""
    told = f"**Marks: {MARKS[level]}**{split}"
    return Piece(f"{piece.text}\n\n{told}", piece.label, piece.kind, piece.of, piece.title)


def exercises(page: Page, book: Book) -> list[tuple[str, str, int]]:
    """``(label, "Exercise 2.1: title", marks)`` of the page's exercises, in order."""
    return [
        (piece.label, piece.title, marks_of(page, piece.label))
        for cell in page.notebook.cells
        if cell.cell_type == "markdown"
        for piece in pieces(cell.source, page.name, book)
        if piece.kind == "exercise"
    ]
