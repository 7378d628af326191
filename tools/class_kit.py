"""Make the class kit: notebooks for students and instructors, and slides, from the one source.

    python tools/class_kit.py [--executed] [--reader FOLDER]

Writes ``_build/class/student`` and ``_build/class/instructor`` (each also as a zip file) and
``_build/class/slides``. The folders are ready for nbgitpuller: the same source gives the same
files. With ``--executed`` the notebooks carry the outputs that `make book` has kept. ``--reader``
makes the notebooks that ``make lab`` opens and nothing else.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import shutil
import sys
import zipfile
from pathlib import Path

import nbformat
import yaml
from kit.book import Book, KitError, Page, read_book
from kit.editions import exercises, notebook_of
from launch import install_cell, repository

ROOT = Path(__file__).resolve().parents[1]
THEN = (1980, 1, 1, 0, 0, 0)  # the date of every file in a zip, so that its bytes stay the same
MADE = ".made.json"  # in a reader's folder: the hash of each notebook as it was written
README = """# {title}

These notebooks are made from the book's sources by `make class`; begin with
`00-start_here.ipynb`. They need the package `pkbook` in the same environment: in the book's folder,
`make environment`, or `pip install '.[lab]' jupyterlab`.

{words}

Text: CC BY 4.0. Code: MIT licence.
"""
WORDS = {
    "student": "Exercises wait for an answer. Where a cell ends in `pk.check(...)`, run it: it "
    "says at once whether the answer is right, and gives a hint where it is not.",
    "instructor": "Solutions are open and every exercise shows its marks; `marks.csv` lists them. "
    "Keep this folder from students until the work is handed in.",
}


def text_of(notebook: nbformat.NotebookNode) -> str:
    """The notebook as a file holds it, valid and the same in every run.

    Raises nbformat.ValidationError if it is no valid notebook.
    """
    nbformat.validate(notebook)
    return nbformat.writes(notebook) + "\n"


def with_outputs(book: Book, root: Path) -> None:
    """Put kept outputs into the pages. Raises NotebookChanged where they are of another source."""
    from execute import executed_copy

    for page in book.pages.values():
        if (root / "book" / f"{page.name}.ipynb").exists():
            page.notebook = executed_copy(root, f"book/{page.name}", root / "_build" / "executed")


def write_edition(
    book: Book,
    edition: str,
    folder: Path,
    pages: list[Page] | None = None,
    where: tuple[str, str, str] | None = None,
) -> None:
    """Write an edition into a fresh folder; ``where``: a cell installs the package from there."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for page in pages or book.pages.values():
        notebook = notebook_of(page, book, edition)
        if where:
            notebook.cells.insert(1, install_cell(where))
        text = text_of(notebook)
        (folder / page.file).write_text(text, encoding="utf8")
    title = f"How Networks Remember: {edition} notebooks"
    (folder / "README.md").write_text(README.format(title=title, words=WORDS[edition]), "utf8")
    if edition == "instructor":
        (folder / "marks.csv").write_text(marks_table(book), encoding="utf8")


def marks_table(book: Book) -> str:
    """All exercises as comma-separated values: file, number and title, marks, label."""
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(["notebook", "exercise", "marks", "label"])
    for page in book.chapters():
        for label, title, marks in exercises(page, book):
            table.writerow([page.file, title, marks, label])
    return out.getvalue()


def zip_folder(folder: Path) -> Path:
    """The folder as a zip file beside it, with the same bytes for the same content."""
    made = folder.with_suffix(".zip")
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as file:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            entry = zipfile.ZipInfo(f"{folder.name}/{path.relative_to(folder).as_posix()}", THEN)
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            entry.create_system = 3  # the same on every system
            file.writestr(entry, path.read_bytes())
    return made


def content_digest(text: str) -> str:
    """A hash of a notebook's cells and outputs, not of what JupyterLab writes when it opens one."""
    try:
        cells = json.loads(text)["cells"]
        told = [[c["cell_type"], "".join(c["source"]), c.get("outputs", [])] for c in cells]
    except (ValueError, KeyError, TypeError):  # half written, or no notebook any more: the reader's
        told = text
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def update_reader(book: Book, folder: Path) -> tuple[list[str], list[str]]:
    """Bring a reader's folder up to date; ``(written, kept)``.

    A notebook that was changed since it was written here belongs to its reader and is kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    record = folder / MADE
    known = json.loads(record.read_text("utf8")) if record.exists() else {}
    written, kept = [], []
    for page in book.pages.values():
        path, text = folder / page.file, text_of(notebook_of(page, book, "reader"))
        digest = content_digest(text)
        if path.exists():
            now = content_digest(path.read_text(encoding="utf8"))
            if now != known.get(page.file):
                kept.append(page.file)
                continue
            if now == digest:
                continue
        path.write_text(text, encoding="utf8")
        known[page.file] = digest
        written.append(page.file)
    record.write_text(json.dumps(known, indent=1, sort_keys=True), encoding="utf8")
    return written, kept


def make_class(root: Path, executed: bool = False) -> Path:
    """Write everything; the folder. Raises KitError, and NotebookChanged with ``executed``."""
    from kit.slides import write_slides

    book, target = read_book(root), root / "_build" / "class"
    if executed:
        with_outputs(book, root)
    (root / "_build").mkdir(exist_ok=True)
    (root / "_build" / ".gitignore").write_text("*\n")
    where = repository(yaml.safe_load((root / "_config.yml").read_text(encoding="utf8")))
    for edition in ("student", "instructor"):
        write_edition(book, edition, target / edition, where=where)
        zip_folder(target / edition)
    write_slides(root, read_book(root), target / "slides")
    return target


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--executed", action="store_true", help="with the outputs of `make book`")
    parser.add_argument("--reader", type=Path, help="only a reader's notebooks, into this folder")
    asked = parser.parse_args(arguments)
    try:
        if asked.reader:
            written, kept = update_reader(read_book(ROOT), asked.reader)
            print(f"{len(written)} notebooks written to {asked.reader}", flush=True)
            if kept:
                print(f"kept as you left them: {', '.join(kept)}", flush=True)
            return 0
        target = make_class(ROOT, asked.executed)
    except (KitError, RuntimeError) as error:  # RuntimeError: no outputs, or no browser assets
        print(f"\n{error}\nThe class kit was NOT made.", file=sys.stderr)
        return 1
    print(f"class kit: {target}\n  student.zip, instructor.zip, slides/index.html")
    return 0


if __name__ == "__main__":
    sys.exit(main())
