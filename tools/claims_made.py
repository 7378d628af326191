"""The claims that executed notebooks made, read from their outputs.

Each claim leaves its record there as data beside its line of text; so does each finding. Sphinx
knows neither form of data and would warn of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import nbformat

CLAIM = "application/vnd.pkbook.claim+json"
FINDING = "application/vnd.pkbook.finding+json"


def outputs_of(notebook: nbformat.NotebookNode) -> Iterator[dict]:
    """The data of every output of the code cells."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if "data" in output:
                yield output["data"]


def claims_of(notebook: nbformat.NotebookNode) -> list[dict]:
    """The records of a notebook's claims, each with its line of text."""
    return [
        {**data[CLAIM], "text": data["text/plain"]}
        for data in outputs_of(notebook)
        if CLAIM in data
    ]


def all_claims(pages: Mapping[str, nbformat.NotebookNode]) -> list[tuple[str, bool, str]]:
    """``(page, whether it held, its line of text)`` of every claim."""
    return [
        (page, told["held"], told["text"].removeprefix("did not hold here: "))
        for page, notebook in pages.items()
        for told in claims_of(notebook)
    ]


def hide_data(stage: Path, pages: Mapping[str, nbformat.NotebookNode]) -> None:
    """Write the notebooks to the stage once more, without the data that Sphinx cannot show."""
    for page, notebook in pages.items():
        for data in outputs_of(notebook):
            data.pop(CLAIM, None)
            data.pop(FINDING, None)
        nbformat.write(notebook, stage / f"{page}.ipynb")
