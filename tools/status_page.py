"""The status page: what this site was made with, how long each page ran, which claims held."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import nbformat
from claims_made import all_claims

MARKER = "<!-- status -->"
PACKAGES = ("pkbook", "torch", "numpy", "scipy", "scikit-learn", "matplotlib", "jupyter-book")


def seconds_of(cache: Path, pages: list[str]) -> dict[str, float]:
    """How long each notebook ran when its outputs were made, as the store of outputs knows."""
    found = {}
    for page in pages:
        try:
            found[page] = float(json.loads((cache / f"{page}.json").read_text("utf8"))["seconds"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return found


def write(
    stage: Path, notebooks: Mapping[str, nbformat.NotebookNode], seconds: Mapping[str, float]
) -> None:
    """Fill in the staged status page, where the book has one."""
    path = stage / "book" / "status.md"
    if path.exists():
        text = path.read_text(encoding="utf8")
        path.write_text(text.replace(MARKER, section(notebooks, seconds)), encoding="utf8")


def section(notebooks: Mapping[str, nbformat.NotebookNode], seconds: Mapping[str, float]) -> str:
    """The page's own part: the machine, the versions, and a row for each notebook."""
    made, held = Counter(), Counter()
    for page, good, _ in all_claims(notebooks):
        made[page] += 1
        held[page] += good
    rows = ["| page | seconds | claims that held |", "|:--|--:|--:|"]
    for page in notebooks:
        name = Path(page).name
        time = f"{seconds[page]:.0f}" if page in seconds else "–"
        claims = f"{held[page]} of {made[page]}" if made[page] else "–"
        rows.append(f"| [{name}]({name}.ipynb) | {time} | {claims} |")
    total = f"| together | {sum(seconds.values()):.0f} | {held.total()} of {made.total()} |"
    return "\n".join([*machine(), "", "## Pages", "", *rows, total])


def machine() -> list[str]:
    """The machine and the versions, as a list."""
    import torch

    today = datetime.now(UTC).strftime("%d %B %Y").lstrip("0")
    lines = [
        f"* Built on {today}.",
        f"* Machine: {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, "
        f"{os.cpu_count()} cores, {platform.system()}.",
        f"* Python {platform.python_version()}.",
    ]
    versions = []
    for name in PACKAGES:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return [*lines, f"* Packages: {', '.join(versions)}."]
