"""Slides of every chapter: its goals, statements, figures, summary and exercises, with reveal.js.

The statements come from the theorem boxes; the figures from the outputs that `make book` has kept,
where they belong to the present source, and are left out otherwise. The slides need no network:
reveal.js and MathJax lie beside them. To print or to make a PDF, open ``<chapter>.html?print-pdf``.
"""

from __future__ import annotations

import html
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
from markdown_it import MarkdownIt
from mdit_py_plugins.dollarmath import dollarmath_plugin

from .book import Book, Page
from .editions import exercises
from .plain import pieces

ASSETS = Path(__file__).with_name("slides")  # the look and the script, beside this file
MOST_POINTS = 4  # of a list on one slide
REVEAL = ("dist/reveal.js", "dist/reveal.css", "dist/reset.css", "LICENSE")
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}: slides</title>
<link rel="stylesheet" href="assets/reset.css"><link rel="stylesheet" href="assets/reveal.css">
<link rel="stylesheet" href="assets/slides.css">
</head>
<body>
<div class="reveal"><div class="slides">
{slides}
</div></div>
<script src="assets/reveal.js"></script><script src="assets/slides.js"></script>
<script src="assets/tex-svg.js" async></script>
</body>
</html>
"""


def renderer() -> MarkdownIt:
    """Markdown to HTML; mathematics stays TeX in the brackets that MathJax looks for."""

    def formula(text: str, options: dict) -> str:
        opened, closed = (r"\[", r"\]") if options["display_mode"] else (r"\(", r"\)")
        return f"{opened}{html.escape(text)}{closed}"

    made = MarkdownIt("commonmark", {"html": True}).enable("table")
    return made.use(dollarmath_plugin, renderer=formula, allow_space=True, double_inline=True)


def slide(body: str, kind: str = "") -> str:
    """One slide; what it holds is made smaller where it would not fit (slides.js)."""
    name = f' class="{kind}"' if kind else ""
    return f'<section{name}><div class="fit">\n{body}\n</div></section>'


def slides_of(page: Page, book: Book) -> list[str]:
    """The slides of a chapter, from its notebook; figures where it carries outputs."""
    write, text = renderer(), _without_links
    opening = page.notebook.cells[0].source.partition("\n")[2].strip()
    first = "\n\n".join(piece.text for piece in pieces(opening, page.name, book)) if opening else ""
    title = f"# {page.number}. {page.title}" if page.number else f"# {page.title}"
    made = [slide(write.render(f"{title}\n\n{text(first)}"), "title")]
    made += _points(page, book, "What you will be able to do", write)
    made += list(_middle(page, book, write))
    made += _points(page, book, "Summary", write)
    asked = [f"* {name} ({marks} marks)" for _, name, marks in exercises(page, book)]
    if asked:
        made.append(slide(write.render("## Exercises\n\n" + "\n".join(asked))))
    return made


def _middle(page: Page, book: Book, write: MarkdownIt) -> Iterator[str]:
    """Statements and figures in the order of the chapter, without those of solutions."""
    section, inside = "", False
    for cell in page.notebook.cells:
        if cell.cell_type == "code":
            if not inside:
                yield from (slide(_figure(section, figure)) for figure in _figures(cell))
            continue
        for piece in pieces(cell.source, page.name, book):
            if piece.kind in ("solution-start", "solution-end"):
                inside = piece.kind == "solution-start"
            elif piece.kind == "words":
                section = ([section, *re.findall(r"^##+ +(.+?) *$", piece.text, re.M)])[-1]
            elif piece.kind == "statement":
                yield slide(write.render(_without_links(piece.text)), "statement")


def _figures(cell: nbformat.NotebookNode) -> Iterator[tuple[str, str]]:
    """``(markup, description)`` of the figures that a cell shows; explorers are left out."""
    for output in cell.get("outputs", []):
        data = output.get("data", {})
        if "image/png" in data and "text/html" in data:
            told = (data[kind] for kind in ("text/html", "text/plain"))
            markup, words = ("".join(text) for text in told)
            yield markup, words


def _figure(section: str, figure: tuple[str, str]) -> str:
    markup, words = figure
    heading = f"<h2>{html.escape(section)}</h2>" if section else ""
    return f"{heading}<figure>{markup}<figcaption>{html.escape(words)}</figcaption></figure>"


def _points(page: Page, book: Book, heading: str, write: MarkdownIt) -> list[str]:
    """The list below a heading, a few points a slide."""
    for cell in page.notebook.cells:
        if cell.cell_type == "markdown" and re.search(rf"^## {heading} *$", cell.source, re.M):
            below = re.split(rf"^## {heading} *$", cell.source, flags=re.M)[1]
            below = re.split(r"^## ", below, flags=re.M)[0]
            text = "\n\n".join(piece.text for piece in pieces(below, page.name, book))
            points = re.split(r"^(?=[*-] )", _without_links(text), flags=re.M)
            lead, points = points[0], points[1:] or [""]
            return [
                slide(write.render(f"## {heading}\n\n{lead}\n\n" + "".join(points[at : at + 4])))
                for at in range(0, len(points), MOST_POINTS)
            ]
    return []


def _without_links(text: str) -> str:
    """Links to notebooks as their words: on a slide they lead nowhere."""
    return re.sub(r"\[([^\[\]]+)\]\([\w-]+\.ipynb[^)]*\)", r"\1", text)


def kept_outputs(root: Path, page: Page) -> None:
    """Give the page the outputs that `make book` has kept, if they belong to its source."""
    from execute import NotebookChanged, executed_copy

    try:
        page.notebook = executed_copy(root, f"book/{page.name}", root / "_build" / "executed")
    except (NotebookChanged, OSError):
        return


def copy_assets(root: Path, target: Path) -> None:
    """reveal.js, MathJax and the look, from node_modules.

    Raises vendor.AssetsUnavailable if they cannot be had.
    """
    from vendor import ensure_assets

    ensure_assets(root)
    target.mkdir(parents=True, exist_ok=True)
    for name in REVEAL:
        shutil.copy2(root / "node_modules" / "reveal.js" / name, target)
    shutil.copy2(root / "node_modules" / "mathjax" / "es5" / "tex-svg.js", target)
    for path in ASSETS.iterdir():
        shutil.copy2(path, target)


def write_slides(root: Path, book: Book, folder: Path) -> dict[str, int]:
    """Write ``<chapter>.html`` and an index; the number of slides of each chapter."""
    shutil.rmtree(folder, ignore_errors=True)
    copy_assets(root, folder / "assets")
    counts = {}
    for page in book.chapters():
        kept_outputs(root, page)
        made = slides_of(page, book)
        text = PAGE.format(title=html.escape(page.title), slides="\n".join(made))
        (folder / f"{page.name}.html").write_text(text, encoding="utf8")
        counts[page.name] = len(made)
    if not any(_figures(cell) for page in book.chapters() for cell in page.notebook.cells):
        print("slides without figures: run `make book` first to have them", file=sys.stderr)
    entries = "\n".join(
        f'<li><a href="{page.name}.html">{page.number}. {html.escape(page.title)}</a>: '
        f"{counts[page.name]} slides</li>"
        for page in book.chapters()
    )
    index = "<h1>Slides</h1><p>Arrow keys turn the pages; F fills the screen; to print, open a "
    index += f"chapter with <code>?print-pdf</code> behind its address.</p><ul>{entries}</ul>"
    head = '<!doctype html><html lang="en"><meta charset="utf-8"><title>Slides</title>'
    head += '<link rel="stylesheet" href="assets/slides.css"><body class="list">'
    (folder / "index.html").write_text(head + index + "</body></html>\n", encoding="utf8")
    return counts
