"""The sources of the book as the kit reads them: pages in reading order, and what has a number.

Chapters (pages with exercises) are counted from one in the order of ``_toc.yml``; the number also
begins their file's name, so that a list of files is a table of contents. Theorems, definitions,
exercises and so on are counted within their chapter, each kind for itself.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import nbformat
import yaml

START = "start_here"
LEFT_OUT = (
    "index",
    "teaching",
    "run_it",
    "results",
    "changelog",
    "status",
    "accessibility",
)  # pages of the site alone
AFTER = 90  # pages that are no chapters come after them: 90-notation, 91-hypotheses
BOXES = {
    "prf:theorem": "Theorem",
    "prf:definition": "Definition",
    "prf:proposition": "Proposition",
    "prf:corollary": "Corollary",
    "prf:lemma": "Lemma",
    "prf:remark": "Remark",
    "prf:example": "Example",
    "exercise": "Exercise",
}
OPENING = re.compile(r"^(:{3,})\{([\w:-]+)\}[ \t]*(.*)$")
OPTION = re.compile(r"^:([\w-]+):[ \t]*(.*)$")
TARGET = re.compile(r"^\(([\w-]+)\)=[ \t]*$")
CODE_FENCE = re.compile(r"^ *(`{3,}|~{3,})")


class KitError(ValueError):
    """A source that the kit cannot make plain; the text names page and place."""


@dataclass(frozen=True)
class Box:
    """One directive: its name, what stands behind the name, its options and its body."""

    name: str
    argument: str
    options: dict[str, str]
    body: str

    @property
    def label(self) -> str:
        return self.options.get("label", "")


@dataclass(frozen=True)
class Words:
    """Text between directives; ``label`` where a target ``(label)=`` stands above it."""

    text: str
    label: str = ""


@dataclass(frozen=True)
class Target:
    """What a label names: where it stands, and how a reference calls it."""

    page: str
    words: str
    title: str = ""


@dataclass
class Page:
    """One page: its name in ``book/``, its notebook or text, its number and its file in the kit."""

    name: str
    part: str
    notebook: nbformat.NotebookNode
    number: int | None = None  # of a chapter
    file: str = ""

    @cached_property
    def title(self) -> str:
        found = re.search(r"^# +(.+?) *$", self.notebook.cells[0].source, re.M)
        if found is None:
            raise KitError(f"{self.name}: the first cell has no title (# ...)")
        return found[1]


def split(source: str) -> Iterator[Box | Words]:
    """The directives of a cell and the text between them, in order.

    Raises KitError for a directive that is not closed.
    """
    lines, kept, label, fence = source.split("\n"), [], "", ""
    place = 0
    while place < len(lines):
        line, code = lines[place], CODE_FENCE.match(lines[place])
        if code:
            fence = "" if fence and code[1].startswith(fence) else fence or code[1]
        opened, target = OPENING.match(line), TARGET.match(line)
        if fence or not (opened or target):
            kept.append(line)
            place += 1
            continue
        if "\n".join(kept).strip():
            yield Words("\n".join(kept).strip("\n"), label)
        kept, label = [], target[1] if target else ""
        if opened:
            box, place = _box(lines, place, opened)
            yield box
        else:
            place += 1
    if "\n".join(kept).strip() or label:
        yield Words("\n".join(kept).strip("\n"), label)


def _box(lines: list[str], place: int, opened: re.Match) -> tuple[Box, int]:
    """The directive that begins in line ``place``, and the line behind it."""
    try:
        end = lines.index(opened[1], place + 1)
    except ValueError:
        raise KitError(f"{lines[place]!r} is not closed by {opened[1]}") from None
    inside, options = lines[place + 1 : end], {}
    while inside and (option := OPTION.match(inside[0])):
        options[option[1]] = option[2].strip()
        inside = inside[1:]
    body = "\n".join(inside).strip("\n")
    return Box(opened[2], opened[3].strip(), options, body), end + 1


@dataclass
class Book:
    """All pages in reading order, and every label."""

    pages: dict[str, Page]
    targets: dict[str, Target] = field(default_factory=dict)
    bibliography: Path = Path()

    def chapters(self) -> list[Page]:
        """The pages with a number, in order."""
        return [page for page in self.pages.values() if page.number is not None]

    def link(self, page: str, label: str = "") -> str:
        """The address of a page, or of a cell of it, from any other notebook of the kit."""
        return self.pages[page].file + (f"#cell-id={label}" if label else "")


def read_book(root: Path) -> Book:
    """Read ``_toc.yml`` and the pages that it names.

    Raises KitError for a page without a title, a directive that is not closed, or a label that
    stands twice.
    """
    pages = {}
    for part, name in _entries(yaml.safe_load((root / "_toc.yml").read_text(encoding="utf8"))):
        if name not in LEFT_OUT:
            pages[name] = Page(name, part, _read(root / "book" / name))
    book = Book(pages, bibliography=root / "book" / "references.bib")
    _number(book)
    for page in pages.values():
        _find_targets(book, page)
    return book


def _entries(toc: dict) -> Iterator[tuple[str, str]]:
    """``(part, page)`` for every entry of the table of contents."""
    yield "", Path(toc["root"]).name
    for part in toc.get("parts", [{"chapters": toc.get("chapters", [])}]):
        for entry in part["chapters"]:
            yield part.get("caption", ""), Path(entry["file"]).name


def _read(path: Path) -> nbformat.NotebookNode:
    """The page's notebook; a text becomes a notebook of one cell a section."""
    if path.with_suffix(".ipynb").exists():
        text = path.with_suffix(".ipynb").read_text(encoding="utf8")
        return nbformat.v4.reads(text)  # without validation, which takes seconds
    source = path.with_suffix(".md").read_text(encoding="utf8")
    cells = [
        nbformat.v4.new_markdown_cell(text.strip("\n"), id=f"part-{count}")
        for count, text in enumerate(re.split(r"^(?=## |\([\w-]+\)=\n)", source, flags=re.M))
    ]
    merged = []  # a target belongs to the heading below it
    for cell in cells:
        if merged and TARGET.match(merged[-1].source):
            merged[-1].source += "\n" + cell.source
        else:
            merged.append(cell)
    return nbformat.v4.new_notebook(cells=merged)


def boxes_of(page: Page) -> Iterator[Box]:
    """Every directive of the page's text."""
    for cell in page.notebook.cells:
        if cell.cell_type == "markdown":
            yield from (piece for piece in split(cell.source) if isinstance(piece, Box))


def _number(book: Book) -> None:
    chapter, after = 0, AFTER
    for page in book.pages.values():
        if any(box.name == "exercise" for box in boxes_of(page)):
            chapter += 1
            page.number = chapter
            page.file = f"{chapter:02d}-{page.name}.ipynb"
        elif page.name == START:
            page.file = f"00-{page.name}.ipynb"
        else:
            page.file = f"{after}-{page.name}.ipynb"
            after += 1


def _find_targets(book: Book, page: Page) -> None:
    counts: Counter[str] = Counter()
    for cell in page.notebook.cells:
        if cell.cell_type != "markdown":
            continue
        for piece in split(cell.source):
            if isinstance(piece, Box) and piece.name in BOXES:
                counts[piece.name] += 1
                words = f"{BOXES[piece.name]} {page.number or ''}.{counts[piece.name]}"
                target = Target(page.name, words.replace(" .", " "), piece.argument)
            elif isinstance(piece, Words) and piece.label:
                heading = re.match(r"#+ +(.+)", piece.text)
                target = Target(page.name, heading[1] if heading else page.title)
            else:
                continue
            if piece.label in book.targets:
                raise KitError(f"{page.name}: the label {piece.label} stands twice")
            if piece.label:
                book.targets[piece.label] = target
