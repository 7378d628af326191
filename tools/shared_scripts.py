"""Scripts that explorers bring along, each written once for the whole site.

Every output of an explorer that computes in the page holds its scripts, so that a notebook works
alone. On the site that would send the same text again and again: it goes into a file, which the
browser keeps from page to page, also from a folder.
"""

from __future__ import annotations

import re
from pathlib import Path

import nbformat

SCRIPT = re.compile(r'<script data-pk-live="([\w-]+)">(.*?)</script>', re.DOTALL)
FOLDER = "book/_static/live"  # what is in book/_static lies in _static of the site


def share_scripts(stage: Path) -> list[Path]:
    """Move the scripts in the outputs of the staged notebooks to files; returns those files."""
    files: dict[Path, str] = {}
    for path in sorted((stage / "book").rglob("*.ipynb")):
        up = "../" * (len(path.relative_to(stage).parts) - 1)

        def moved(match: re.Match, up: str = up) -> str:
            files.setdefault(stage / FOLDER / f"{match[1]}.js", match[2])
            return f'<script src="{up}_static/live/{match[1]}.js"></script>'

        notebook, changed = nbformat.read(path, as_version=4), False
        for cell in notebook.cells:
            for output in cell.get("outputs", []):
                text = output.get("data", {}).get("text/html", "")
                if "data-pk-live=" in text:
                    output["data"]["text/html"], changed = SCRIPT.sub(moved, text), True
        if changed:
            nbformat.write(notebook, path)
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf8")
    return list(files)
