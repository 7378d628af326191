"""The notation page names things that exist; citations and versions agree with their sources."""

import inspect
import re
import tomllib
from pathlib import Path

import pytest
import torch
import yaml

import pkbook as pk

ROOT = Path(__file__).resolve().parents[1]
NOTATION = (ROOT / "book/notation.md").read_text()
OWNERS = {"pk": pk, "run": pk.Trajectory, "told": pk.Interpolation}
NAMES = sorted(set(re.findall(r"`((?:pk|run|told)\.[\w.]+)`", NOTATION)))
ARGUMENTS = {
    "lr": torch.optim.SGD,
    "momentum": torch.optim.SGD,
    "dampening": torch.optim.SGD,
    "weight_decay": torch.optim.SGD,
    "steps": pk.batches,
    "nodes": pk.interpolate,
    "reduce": pk.gradient_kernel,
}


def known(owner: type | object, name: str) -> bool:
    """Attributes, and fields of a class, which are no attributes of it without a default."""
    return hasattr(owner, name) or name in getattr(owner, "__annotations__", {})


def test_the_notation_page_names_all_three_owners():
    assert {name.partition(".")[0] for name in NAMES} == set(OWNERS)


@pytest.mark.parametrize("name", NAMES)
def test_each_name_of_the_notation_page_exists(name):
    owner, *path = name.split(".")
    where = OWNERS[owner]
    for part in path:
        assert known(where, part), f"{name} stands in notation.md and does not exist"
        where = getattr(where, part, None)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_each_argument_of_the_notation_page_exists(name):
    assert re.search(rf"`{name}[`=]", NOTATION)
    assert name in inspect.signature(ARGUMENTS[name]).parameters


def test_every_cited_key_has_an_entry_and_every_entry_says_who_what_and_when():
    entries = re.findall(
        r"^@\w+\{(\w+),\n(.*?)^\}", (ROOT / "book/references.bib").read_text(), re.M | re.S
    )
    keys = [key for key, _ in entries]
    assert len(keys) == len(set(keys))
    for key, fields in entries:
        assert {"author", "title", "year"} <= set(re.findall(r"^  (\w+) *=", fields, re.M)), key
        assert re.search(r"year *= \{(\d+)\}", fields)[1] == key[-4:], key
    pages = [*(ROOT / "book").glob("*.md"), *(ROOT / "book").glob("*.ipynb")]
    cited = {
        key.strip()
        for page in pages
        for group in re.findall(r"\{cite(?::\w+)?\}`([^`]+)`", page.read_text())
        for key in group.split(",")
    }
    assert cited, "the pages cite something"
    assert cited <= set(keys), cited - set(keys)


def test_the_citation_file_states_the_version_of_the_package():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert citation["version"] == project["version"] == pk.__version__
    assert citation["license"] == project["license"]


def test_the_reference_lists_the_recorders_of_other_libraries():
    page = (ROOT / "book/api.md").read_text(encoding="utf8")
    listed = set(re.findall(r"automodule:: pkbook\.integrations\.(\w+)", page))
    modules = {p.stem for p in (ROOT / "pkbook/integrations").glob("*.py")}
    assert listed == modules - {"__init__", "numbered"}
