"""A pytest plugin: what nbval ran becomes what the site shows, so that no notebook runs twice.

nbval keeps each cell's outputs on its item. Once every cell of a notebook has passed, they are
stored where ``build_book.py`` looks for them, under the same key. A notebook with a failing or
skipped cell is not stored.
"""

from __future__ import annotations

import time
from pathlib import Path

import nbformat
import pytest
from execute import environment_digest, load_outputs, notebook_key, save_outputs

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / "_build" / "executed"
PASSED = pytest.StashKey[int]()
BEGUN = pytest.StashKey[float]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> object:
    """Count the cells that passed; with the last one, store the notebook."""
    report = yield
    if hasattr(item, "test_outputs") and call.when == "call":
        notebook = item.parent
        notebook.stash.setdefault(BEGUN, call.start)
        if report.passed:
            notebook.stash[PASSED] = notebook.stash.get(PASSED, 0) + 1
            _note(notebook, item)
    return report


def _note(file: pytest.File, item: pytest.Item) -> None:
    code = [cell for cell in file.nb.cells if cell.cell_type == "code"]
    cell = code[item.cell_num]
    cell.outputs = [nbformat.from_dict(dict(output)) for output in item.test_outputs]
    cell.execution_count = item.cell_num + 1
    if file.stash[PASSED] == len(code):
        store_notebook(ROOT, file.path, file.nb, time.time() - file.stash[BEGUN])


def store_notebook(root: Path, path: Path, executed: nbformat.NotebookNode, seconds: float) -> None:
    """Store an executed notebook's outputs, if neither it nor the package changed meanwhile."""
    key = notebook_key(nbformat.read(path, as_version=4), environment_digest(root))
    if notebook_key(executed, environment_digest(root)) != key:
        return
    store = root / "_build" / "executed" / path.relative_to(root).with_suffix(".json")
    if load_outputs(store, key) is None:
        (root / "_build").mkdir(exist_ok=True)
        (root / "_build" / ".gitignore").write_text("*\n")
        save_outputs(store, key, executed, seconds)
