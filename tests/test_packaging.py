"""What goes into the wheel: the package, light; into the sdist: the pictures as well."""

import ast
import importlib.util
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
BUILT_FROM = ("pyproject.toml", "README.md", "LICENSE", "MANIFEST.in")
BACKEND = "from setuptools import build_meta as b; import sys; print(b.{}(sys.argv[1]))"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy to build in: a build leaves folders behind."""
    if importlib.util.find_spec("setuptools") is None:
        pytest.skip("setuptools, which builds the package, is not installed")
    folder = tmp_path_factory.mktemp("source")
    for name in BUILT_FROM:
        shutil.copy(ROOT / name, folder)
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "pkbook", folder / "pkbook", ignore=ignore)
    return folder


def built(source: Path, out: Path, what: str) -> Path:
    """By the backend itself, without a network."""
    command = [sys.executable, "-c", BACKEND.format(what), str(out)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out / done.stdout.splitlines()[-1]


def test_the_wheel_is_light_and_whole(source, tmp_path):
    wheel = built(source, tmp_path, "build_wheel")
    assert wheel.stat().st_size < 1e6
    names = set(zipfile.ZipFile(wheel).namelist())
    assert not [name for name in names if name.endswith(".npz")]
    files = [p for p in (ROOT / "pkbook").rglob("*") if p.is_file() and p.suffix != ".npz"]
    wanted = {p.relative_to(ROOT).as_posix() for p in files if "__pycache__" not in p.parts}
    assert wanted <= names


def test_the_sdist_holds_the_pictures(source, tmp_path):
    with tarfile.open(built(source, tmp_path, "build_sdist")) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {f"pkbook/problems/data/{n}.npz" for n in ("mnist10k", "cifar10_small")} <= names


BROUGHT = {"PIL": "matplotlib", "pandas": "seaborn", "requests": "pooch"}  # by what we ask for
NAMES = {"sklearn": "scikit-learn", "umap": "umap-learn", "IPython": "ipython"}
CORE = ("basics", "kernels", "runs", "interpolation")


def on_request(node: ast.AST) -> bool:
    """Whether what stands inside is not needed: only for type checkers, or told of when missing."""
    if isinstance(node, ast.If):
        return ast.unparse(node.test) == "TYPE_CHECKING"
    calls = [i.context_expr for i in node.items] if isinstance(node, ast.With) else []
    return any("needs_lab(" in ast.unparse(call) for call in calls)


def nodes(tree: ast.AST, whole: bool) -> Iterator[ast.AST]:
    """A tree's nodes; unless ``whole``, without what is imported on request."""
    for node in ast.iter_child_nodes(tree):
        if whole or not on_request(node):
            yield node
            yield from nodes(node, whole)


def imported(folder: Path, whole: bool = True) -> set[str]:
    """The distributions that the modules below a folder import, anywhere in them."""
    found = set()
    for path in folder.rglob("*.py"):
        for node in nodes(ast.parse(path.read_text(encoding="utf8")), whole):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(node.module.partition(".")[0])
    others = found - set(sys.stdlib_module_names) - {"pkbook"}
    return {NAMES.get(name, BROUGHT.get(name, name)) for name in others}


def declared() -> tuple[dict[str, Requirement], dict[str, Requirement], dict[str, Requirement]]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lists = project["dependencies"], extras["lab"], extras["book"]
    return tuple({r.name: r for r in map(Requirement, lines)} for lines in lists)


def recorders() -> dict[str, Requirement]:
    """What the recorders of other libraries need."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = extras["optional-dependencies"]
    lines = extras["transformers"] + extras["lightning"] + extras["ekfac"]
    return {r.name: r for r in map(Requirement, lines)}


def test_what_is_imported_is_declared_and_nothing_else():
    core, lab, _ = declared()
    rooms = set().union(*(imported(ROOT / "pkbook" / room, whole=False) for room in CORE))
    assert rooms == set(core)
    theirs = set(recorders()) - {"accelerate"}  # which the Trainer of transformers imports
    assert imported(ROOT / "pkbook") == set(core) | set(lab) | theirs


def test_the_pinned_versions_lie_in_the_ranges():
    files = ("constraints.txt", "constraints-integrations.txt")
    lines = " ".join((ROOT / file).read_text() for file in files).split()
    pinned = {
        name.lower(): version for name, _, version in (line.partition("==") for line in lines)
    }
    for group in (*declared(), recorders()):
        for name, requirement in group.items():
            if name not in ("pkbook", "kronfluence"):  # no part of any environment here
                assert requirement.specifier.contains(pinned[name.lower()]), name
