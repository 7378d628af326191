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
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellTimeoutError

CELL_TIMEOUT = 600  # seconds
ANSI = re.compile(r"\x1b\[[0-9;]*m")
NOT_DATA = {".ipynb", ".md", ".bib"}  # text of the book, which no cell reads
NOT_CONTENT = {"__pycache__", ".ipynb_checkpoints", "_static"}


class NotebookChanged(RuntimeError):
    """Outputs and sources no longer belong together; the text says which."""


@dataclass(frozen=True)
class Outcome:
    """What became of one notebook."""

    page: str
    seconds: float
    cached: bool
    error: str = ""


def _content_files(folder: Path) -> list[Path]:
    """Every file of the folder that counts as content, sorted."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not NOT_CONTENT.intersection(path.relative_to(folder).parts)
    )


@functools.cache
def installed_packages() -> tuple[str, ...]:
    """All installed distributions with their versions."""
    found = importlib.metadata.distributions()
    return tuple(sorted(f"{d.metadata['Name']}=={d.version}" for d in found))


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


def run_notebook(root: Path, page: str, key: str, store: Path, threads: int) -> Outcome:
    """Execute one notebook with its own folder as working directory and store its outputs."""
    source = root / f"{page}.ipynb"
    # root first: the pkbook beside this book is the one under test, wherever pip installed one.
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    ipython = store.parent / "ipython"
    ipython.mkdir(parents=True, exist_ok=True)
    os.environ["IPYTHONDIR"] = str(ipython)  # so that no profile of the user's takes part
    start = time.perf_counter()
    try:
        notebook = nbformat.read(source, as_version=4)
        client = NotebookClient(
            notebook,
            timeout=CELL_TIMEOUT,
            kernel_name="python3",
            extra_arguments=["--log-level=40"],
            resources={"metadata": {"path": str(source.parent)}},
            store_widget_state=False,
        )
        client.execute()
    except CellTimeoutError as error:
        return Outcome(page, time.perf_counter() - start, False, f"a cell ran too long: {error}")
    except Exception as error:  # whatever happened, this page must not be published
        text = ANSI.sub("", f"{type(error).__name__}: {error}")
        return Outcome(page, time.perf_counter() - start, False, text)
    seconds = time.perf_counter() - start
    if notebook_key(notebook, environment_digest(root)) != key:
        return Outcome(page, seconds, False, "it or pkbook was edited meanwhile; build again")
    save_outputs(store, key, notebook, seconds)
    return Outcome(page, seconds, False)


def execute_all(root: Path, pages: Iterable[str], cache: Path, jobs: int = 2) -> Iterator[Outcome]:
    """Bring the stored outputs of all notebooks up to date, yielding each as it is done."""
    environment = environment_digest(root)
    todo = []
    for page in pages:
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
        waiting = [pool.submit(run_notebook, *task, threads) for task in todo]
        for future in as_completed(waiting):
            yield future.result()


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
