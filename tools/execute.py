"""Execute notebooks in parallel and keep their outputs, keyed by all that they depend on.

Sphinx's own notebook cache knows only the notebook: with a name removed from pkbook it still
shows the old output. Here the key is made of the code cells *and* the content of pkbook, of the
data files beside the notebooks, of the requirement files, the installed packages and Python.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellTimeoutError
from order import longest_first

STALL = 3600.0  # seconds without the end of a cell after which a notebook is given up
NOTHING: Mapping[str, str] = MappingProxyType({})
ANSI = re.compile(r"\x1b\[[0-9;]*m")
NOT_DATA = {".ipynb", ".md", ".bib"}  # text of the book, which no cell reads
NOT_CONTENT = {"__pycache__", ".ipynb_checkpoints", "_static"}
NOT_CONTENT |= {"claims.json"}  # only quoted where a claim misses; made from what is run here


class NotebookChanged(RuntimeError):
    """Outputs and sources no longer belong together; the text says which."""


@dataclass(frozen=True)
class Outcome:
    """What became of one notebook."""

    page: str
    seconds: float
    cached: bool
    error: str = ""
    cell: int = 0
    """Where it failed, counted from zero."""


def _content_files(folder: Path) -> list[Path]:
    """Every file of the folder that counts as content, sorted."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not NOT_CONTENT.intersection(path.relative_to(folder).parts)
    )


@functools.cache
def installed_packages() -> tuple[str, ...]:
    """All installed distributions with their versions.

    Each once: run from the book's own folder, Python finds the package beside its installation.
    """
    found = importlib.metadata.distributions()
    return tuple(sorted({f"{d.metadata['Name']}=={d.version}" for d in found}))


def environment_digest(root: Path) -> str:
    """One hash of everything but the notebook itself that can change an output."""
    files = [root / name for name in ("requirements.txt", "constraints.txt")]
    files += _content_files(root / "pkbook")
    files += [p for p in _content_files(root / "book") if p.suffix not in NOT_DATA]
    digest = hashlib.sha256()
    digest.update(repr((sys.version, platform.platform(), installed_packages())).encode())
    for path in files:
        if path.exists():
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            digest.update(f"{path.relative_to(root)}:{content}\n".encode())
    return digest.hexdigest()


def notebook_key(notebook: nbformat.NotebookNode, environment: str) -> str:
    """Hash of the code cells (prose may change freely), their tags and the environment."""
    cells = [
        (cell.source, sorted(cell.metadata.get("tags", [])))
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]
    kernel = notebook.metadata.get("kernelspec", {}).get("name", "python3")
    return hashlib.sha256(json.dumps([environment, kernel, cells]).encode()).hexdigest()


def load_outputs(store: Path, key: str) -> list[dict] | None:
    """Stored outputs of the code cells if they belong to this key, else None."""
    try:
        kept = json.loads(store.read_text(encoding="utf8"))
        return kept["outputs"] if kept["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def save_outputs(store: Path, key: str, notebook: nbformat.NotebookNode, seconds: float) -> None:
    """Store the outputs; written beside and renamed, so that no half file is ever read."""
    outputs = [
        {"execution_count": cell.execution_count, "outputs": cell.outputs}
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]
    store.parent.mkdir(parents=True, exist_ok=True)
    half = store.with_suffix(".half")
    kept = {"key": key, "seconds": round(seconds, 2), "outputs": outputs}
    half.write_text(json.dumps(kept), encoding="utf8")
    half.replace(store)


def merge_outputs(notebook: nbformat.NotebookNode, outputs: list[dict]) -> None:
    """Put stored outputs into the code cells of a fresh notebook."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell, kept in zip(code, outputs, strict=True):
        cell.execution_count = kept["execution_count"]
        cell.outputs = [nbformat.from_dict(output) for output in kept["outputs"]]


class Watched(NotebookClient):
    """A notebook's client that notes in a file which cell runs, for whoever shows progress."""

    def __init__(self, notebook: nbformat.NotebookNode, note: Path, **options) -> None:
        super().__init__(notebook, **options)
        self.note, self.at = note, 0
        self.on_cell_start = self._started

    def _started(self, cell: nbformat.NotebookNode, cell_index: int) -> None:
        self.at = cell_index
        told = {"cell": cell_index + 1, "of": len(self.nb.cells), "since": time.time()}
        self.note.write_text(json.dumps(told), encoding="utf8")


def kernel_environment(
    root: Path, store: Path, threads: int, more: Mapping[str, str]
) -> dict[str, str]:
    """The environment of a kernel: this book's pkbook, and no profile of the user's."""
    # root first: the pkbook beside this book is the one under test, wherever pip installed one.
    path = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    ipython = store.parent / "ipython"
    ipython.mkdir(parents=True, exist_ok=True)
    fixed = {"PYTHONPATH": os.pathsep.join(path), "IPYTHONDIR": str(ipython)}
    return {"OMP_NUM_THREADS": str(threads), **os.environ, **fixed, **more}


def run_notebook(
    root: Path,
    page: str,
    key: str,
    store: Path,
    threads: int,
    stall: float = STALL,
    more: Mapping[str, str] = NOTHING,
    go_on: bool = False,
) -> Outcome:
    """Execute one notebook with its own folder as working directory and store its outputs.

    ``more`` is set in the kernel's environment; with ``go_on`` a failing cell stops nothing.
    """
    source, note = root / f"{page}.ipynb", store.with_suffix(".running")
    env = kernel_environment(root, store, threads, more)
    start = time.perf_counter()
    client = None
    try:
        notebook = nbformat.read(source, as_version=4)
        client = Watched(
            notebook,
            note,
            timeout=stall,
            startup_timeout=stall,
            kernel_name="python3",
            extra_arguments=["--log-level=40"],
            resources={"metadata": {"path": str(source.parent)}},
            store_widget_state=False,
            allow_errors=go_on,
        )
        client.execute(env=env)
    except Exception as error:  # whatever happened, no output of this page may be published
        text = ANSI.sub("", f"{type(error).__name__}: {error}")
        if isinstance(error, CellTimeoutError):
            text = f"no cell ended for {stall:.0f} s; give it longer with make STALL=...\n{text}"
        at = client.at if client else 0
        return Outcome(page, time.perf_counter() - start, False, text, at)
    finally:
        note.unlink(missing_ok=True)
    seconds = time.perf_counter() - start
    if notebook_key(notebook, environment_digest(root)) != key:
        return Outcome(page, seconds, False, "it or pkbook was edited meanwhile; build again")
    save_outputs(store, key, notebook, seconds)
    return Outcome(page, seconds, False)


def execute_all(
    root: Path,
    pages: Iterable[str],
    cache: Path,
    jobs: int = 2,
    stall: float = STALL,
    each: float = 15.0,
) -> Iterator[Outcome | dict[str, dict]]:
    """Bring the stored outputs of all notebooks up to date, the longest first.

    Yields the outcome of each as it is done and, every ``each`` seconds, what is running:
    ``{page: {"cell", "of", "since"}}``.
    """
    environment = environment_digest(root)
    todo = []
    for page in longest_first(pages):
        notebook = nbformat.read(root / f"{page}.ipynb", as_version=4)
        key, store = notebook_key(notebook, environment), cache / f"{page}.json"
        if load_outputs(store, key) is None:
            todo.append((root, page, key, store))
        else:
            yield Outcome(page, 0.0, True)
    if not todo:
        return
    jobs = min(jobs, len(todo))
    threads = max(1, (os.cpu_count() or 1) // jobs)
    with ProcessPoolExecutor(max_workers=jobs) as pool:
        waiting = {pool.submit(run_notebook, *task, threads, stall): task[1] for task in todo}
        while waiting:
            done, _ = wait(waiting, timeout=each, return_when=FIRST_COMPLETED)
            for future in done:
                yield _outcome(future, waiting.pop(future))
            if not done:
                yield running(cache, waiting.values())


def _outcome(future: Future, page: str) -> Outcome:
    """What became of a notebook, also where the process that ran it died."""
    try:
        return future.result()
    except Exception as error:
        return Outcome(page, 0.0, False, f"the process that ran it died: {error!r}")


def running(cache: Path, pages: Iterable[str]) -> dict[str, dict]:
    """Which of the pages run just now, and where each stands."""
    found = {}
    for page in pages:
        with suppress(OSError, ValueError):  # not begun, just ended, or half written
            note = (cache / f"{page}.running").read_text(encoding="utf8")
            found[page] = json.loads(note)
    return found


def executed_copy(root: Path, page: str, cache: Path) -> nbformat.NotebookNode:
    """The notebook as it stands now, with the stored outputs that belong to it.

    Raises NotebookChanged if there are none: a page is never built from anything older.
    """
    notebook = nbformat.read(root / f"{page}.ipynb", as_version=4)
    outputs = load_outputs(cache / f"{page}.json", notebook_key(notebook, environment_digest(root)))
    if outputs is None:
        raise NotebookChanged(f"{page}.ipynb or pkbook was edited during the build; build again")
    merge_outputs(notebook, outputs)
    return notebook
