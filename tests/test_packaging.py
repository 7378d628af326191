"""What goes into the wheel: the package, light; into the sdist: the pictures as well."""

import importlib.util
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

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


def test_every_import_of_the_package_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    core = {"torch", "numpy", "safetensors", "filelock", "tqdm"}
    assert {requirement.partition(">")[0] for requirement in project["dependencies"]} == core
    lab = {line.partition(">")[0] for line in project["optional-dependencies"]["lab"]}
    assert lab >= {"scipy", "scikit-learn", "matplotlib", "seaborn", "ipywidgets", "pooch"}
