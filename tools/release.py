"""Make a release: the wheel, the notebooks, the site and the book as a PDF, with their checksums.

    make release        (after make book)

Everything is written to ``_build/release`` and read back before the command says that it is done.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Iterable
from pathlib import Path

import nbformat
import whole_book
import yaml
from build_book import toc_pages

ROOT = Path(__file__).resolve().parents[1]
BESIDE = ("README.md", "LICENSE", "LICENSE-CC-BY-4.0.md", "CITATION.cff", "CHANGELOG.md")
BESIDE += ("requirements.txt", "constraints.txt")
NOT_SOURCE = shutil.ignore_patterns(".*", "_build", "build", "node_modules", "tests", "results")


class NotReleased(RuntimeError):
    """The release cannot be made, or is not what it should be; the text says why."""


def version_of(root: Path) -> str:
    """The version, which pyproject.toml and CITATION.cff must agree on. Raises NotReleased."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf8"))["project"]
    citation = yaml.safe_load((root / "CITATION.cff").read_text(encoding="utf8"))
    for name in ("cff-version", "message", "title", "authors", "version"):
        if not citation.get(name):
            raise NotReleased(f"CITATION.cff has no {name}")
    if str(citation["version"]) != project["version"]:
        raise NotReleased(
            f"pyproject.toml has version {project['version']}, CITATION.cff {citation['version']}"
        )
    return project["version"]


def make_wheel(root: Path, target: Path) -> Path:
    """The wheel, built from a copy so that nothing is left behind."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "source"
        shutil.copytree(root, copy, ignore=NOT_SOURCE)
        code = "import sys, setuptools.build_meta as b; print(b.build_wheel(sys.argv[1]))"
        done = subprocess.run(
            [sys.executable, "-c", code, str(target)], cwd=copy, capture_output=True, text=True
        )
    if done.returncode:
        raise NotReleased(f"the wheel was not built: {done.stderr[-2000:]}")
    return target / done.stdout.strip().splitlines()[-1]


def make_zip(target: Path, files: Iterable[tuple[Path, str]]) -> Path:
    """A zip whose bytes depend on the files' content only."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, name in sorted(files, key=lambda pair: pair[1]):
            entry = zipfile.ZipInfo(name, date_time=(2026, 1, 1, 0, 0, 0))
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(entry, path.read_bytes())
    return target


def notebook_files(root: Path, top: str) -> list[tuple[Path, str]]:
    """The notebooks and what they need beside them, in one folder."""
    kinds = {".ipynb", ".md", ".bib"}
    files = [path for path in (root / "book").iterdir() if path.suffix in kinds]
    files += [root / name for name in BESIDE if (root / name).exists()]
    return [(path, f"{top}/{path.relative_to(root).as_posix()}") for path in files]


def site_files(site: Path, top: str) -> list[tuple[Path, str]]:
    files = [path for path in site.rglob("*") if path.is_file()]
    return [(path, f"{top}/{path.relative_to(site).as_posix()}") for path in files]


def make_pdf(root: Path, site: Path, target: Path, version: str) -> Path:
    """The book as a PDF."""
    title = yaml.safe_load((root / "_config.yml").read_text(encoding="utf8"))["title"]
    page = whole_book.one_page(site, toc_pages(root), title, f"Version {version}")
    whole_book.print_pdf(page, site, target)
    return target


def write_sums(folder: Path) -> Path:
    """SHA256SUMS, in the form that ``sha256sum --check`` reads."""
    files = sorted(path for path in folder.iterdir() if path.name != "SHA256SUMS")
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}" for path in files]
    sums = folder / "SHA256SUMS"
    sums.write_text("\n".join(lines) + "\n", encoding="utf8")
    return sums


def validate(folder: Path, version: str, pages: int) -> None:
    """Read everything back. Raises NotReleased."""
    for line in (folder / "SHA256SUMS").read_text(encoding="utf8").splitlines():
        told, _, name = line.partition("  ")
        if hashlib.sha256((folder / name).read_bytes()).hexdigest() != told:
            raise NotReleased(f"{name} is not what SHA256SUMS says")
    for path in [*folder.glob("*.zip"), *folder.glob("*.whl")]:
        with zipfile.ZipFile(path) as archive:
            if bad := archive.testzip():
                raise NotReleased(f"{path.name}: {bad} is damaged")
            for name in archive.namelist():
                if name.endswith(".ipynb"):
                    notebook = json.loads(archive.read(name))
                    nbformat.validate(nbformat.from_dict(notebook))
                if name.endswith("METADATA") and f"\nVersion: {version}\n" not in (
                    archive.read(name).decode()
                ):
                    raise NotReleased(f"{path.name} is not of version {version}")
    for path in folder.glob("*.pdf"):
        data = path.read_bytes()
        found = len(re.findall(rb"/Type\s*/Page\b", data))
        if not data.startswith(b"%PDF") or found < pages:
            raise NotReleased(f"{path.name} has {found} pages for {pages} pages of the site")


def release(root: Path, pdf: bool = True) -> list[Path]:
    """Make and check a release; returns its files. Raises NotReleased or whole_book.NoBook."""
    site, version = root / "_build" / "html", version_of(root)
    missing = [page for page in toc_pages(root) if not (site / f"{page}.html").exists()]
    if missing:
        raise NotReleased(f"the site lacks {', '.join(missing)}; run make book first")
    folder = root / "_build" / "release"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    name = f"how-networks-remember-{version}"
    make_wheel(root, folder)
    make_zip(folder / f"{name}-notebooks.zip", notebook_files(root, name))
    make_zip(folder / f"{name}-site.zip", site_files(site, name))
    if pdf:
        make_pdf(root, site, folder / f"{name}.pdf", version)
    shutil.copy2(root / "CITATION.cff", folder)
    write_sums(folder)
    validate(folder, version, len(toc_pages(root)))
    return sorted(folder.iterdir())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=ROOT, help="folder with _config.yml")
    parser.add_argument("--no-pdf", action="store_true", help="where there is no browser")
    options = parser.parse_args()
    try:
        files = release(options.root.resolve(), not options.no_pdf)
    except (NotReleased, whole_book.NoBook) as error:
        print(f"\n{error}\nNothing was released.", file=sys.stderr)
        return 1
    for path in files:
        print(f"{path.stat().st_size / 1e6:8.2f} MB  {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
