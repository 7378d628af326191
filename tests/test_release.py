"""A release of a small book: made, read back, and refused where something is wrong."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import release  # noqa: E402
import whole_book  # noqa: E402

PAGE = (
    '<html><head><style>p{{color:black}}</style></head><body><article class="bd-article">'
    '<h1>{0}<a class="headerlink" href="#t">#</a></h1><section id="t"><p>Words of {0}, see '
    '<a href="{1}.html#t">there</a> and <a href="{1}.html">all</a>.</p>'
    "<div data-frame hidden><svg></svg></div></section></article><script>1</script></body></html>"
)


@pytest.fixture
def book(tmp_path: Path) -> Path:
    root = tmp_path / "book-folder"
    (root / "book").mkdir(parents=True)
    (root / "pkbook").mkdir()
    (root / "pkbook" / "__init__.py").write_text("", encoding="utf8")
    site = root / "_build" / "html" / "book"
    site.mkdir(parents=True)
    files = {
        "pyproject.toml": '[build-system]\nrequires = ["setuptools"]\n'
        'build-backend = "setuptools.build_meta"\n[project]\nname = "pkbook"\nversion = "1.2.0"\n'
        '[tool.setuptools]\npackages = ["pkbook"]\n',
        "CITATION.cff": "cff-version: 1.2.0\nmessage: m\ntitle: t\nversion: 1.2.0\n"
        'authors:\n  - name: "We"\n',
        "_config.yml": "title: A book\n",
        "_toc.yml": "format: jb-book\nroot: book/index\nchapters:\n- file: book/other\n",
        "README.md": "read me",
    }
    for name, text in files.items():
        (root / name).write_text(text, encoding="utf8")
    for name, other in (("index", "other"), ("other", "index")):
        nbformat.write(nbformat.v4.new_notebook(), root / "book" / f"{name}.ipynb")
        (site / f"{name}.html").write_text(PAGE.format(name, other), encoding="utf8")
    return root


def test_a_release_holds_wheel_notebooks_site_and_sums(book: Path) -> None:
    files = {path.name: path for path in release.release(book, pdf=False)}
    assert set(files) == {
        "CITATION.cff", "SHA256SUMS", "how-networks-remember-1.2.0-notebooks.zip",
        "how-networks-remember-1.2.0-site.zip", "pkbook-1.2.0-py3-none-any.whl"}  # fmt: skip
    names = zipfile.ZipFile(files["how-networks-remember-1.2.0-notebooks.zip"]).namelist()
    assert {name.partition("/")[2] for name in names} == {
        "book/index.ipynb", "book/other.ipynb", "README.md", "CITATION.cff"}  # fmt: skip
    assert not (book / "build").exists(), "nothing is left in the folder"
    before = files["how-networks-remember-1.2.0-notebooks.zip"].read_bytes()
    release.release(book, pdf=False)
    assert files["how-networks-remember-1.2.0-notebooks.zip"].read_bytes() == before


def test_versions_that_disagree_are_refused(book: Path) -> None:
    citation = book / "CITATION.cff"
    citation.write_text(citation.read_text("utf8").replace("1.2.0\nauthors", "1.1.0\nauthors"))
    with pytest.raises(release.NotReleased, match=r"has version 1.2.0, CITATION.cff 1.1.0"):
        release.release(book, pdf=False)


def test_a_site_with_a_page_missing_is_refused(book: Path) -> None:
    (book / "_build" / "html" / "book" / "other.html").unlink()
    with pytest.raises(release.NotReleased, match="the site lacks book/other; run make book"):
        release.release(book, pdf=False)


def test_what_was_damaged_is_found(book: Path) -> None:
    files = release.release(book, pdf=False)
    folder = files[0].parent
    wheel = next(folder.glob("*.whl"))
    wheel.write_bytes(wheel.read_bytes()[:-1] + b"x")
    with pytest.raises(release.NotReleased, match=r"whl is not what SHA256SUMS says"):
        release.validate(folder, "1.2.0", 2)


def test_links_between_pages_stay_within_the_whole_book(book: Path) -> None:
    site = book / "_build" / "html"
    text = whole_book.one_page(site, ["book/index", "book/other"], "A book", "Version 1.2.0")
    assert '<a href="#other--t">there</a> and <a href="#other">all</a>' in text
    assert 'id="other--t"' in text
    assert 'id="index--t"' in text
    assert '<li><a href="#other">other</a></li>' in text
    assert "data-frame hidden" not in text
    assert "<script>" not in text


def test_the_book_is_printed(book: Path) -> None:
    try:
        whole_book.browser()
    except whole_book.NoBook as error:
        pytest.skip(str(error))
    files = release.release(book)
    (pdf,) = (path for path in files if path.suffix == ".pdf")
    assert pdf.read_bytes().startswith(b"%PDF")
    assert not list((book / "_build" / "html" / "book").glob("whole*")), "nothing is left"
