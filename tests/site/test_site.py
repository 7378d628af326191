"""The real book in a real browser: over http and from a folder, light and dark, wide and narrow."""

from __future__ import annotations

import gzip
import re
from collections import Counter
from pathlib import Path

import checks
import nbformat
import pytest
from build_book import toc_pages
from playwright.sync_api import Browser

ROOT = Path(__file__).resolve().parents[2]
PAGES = toc_pages(ROOT)
BUILT = [*PAGES, "search", "genindex", "prf-prf"]  # the last three are Sphinx's own


def prose(page: str) -> str:
    """The text of a page's source without its code."""
    notebook, text = ROOT / f"{page}.ipynb", ROOT / f"{page}.md"
    if notebook.exists():
        cells = nbformat.read(notebook, as_version=4).cells
        source = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    else:
        source = text.read_text(encoding="utf8")
    return re.sub(r"```.*?```|`[^`\n]*`", " ", source, flags=re.DOTALL)


def words(page: str) -> set[str]:
    """Plain words of a page, long enough to be searched for."""
    plain = re.sub(
        r"\$\$.*?\$\$|\$[^$]*\$|^:::.*$|^:\w+:.*$|\{[^}]*\}|\(.*?\)",
        " ",
        prose(page),
        flags=re.DOTALL | re.MULTILINE,
    )
    return {word.lower() for word in re.findall(r"\b[A-Za-z]{6,}\b", plain)}


def telling_word(page: str) -> str:
    """A word of this page that as few other pages as possible have."""
    spread = Counter(word for other in PAGES for word in words(other))
    return min(words(page), key=lambda word: (spread[word], -len(word), word))


def report(problems: list[str]) -> str:
    return "\n".join(f"  - {problem}" for problem in dict.fromkeys(problems))


# Half of all combinations: any two of way, mode and width meet in each of their four ways.
READERS = [
    ("http", "light", 1280),
    ("http", "dark", 360),
    ("file", "light", 360),
    ("file", "dark", 1280),
]


@pytest.mark.parametrize(("way", "mode", "width"), READERS)
@pytest.mark.parametrize("page", BUILT)
def test_page(
    chrome: Browser, homes: dict[str, str], axe: Path, page: str, way: str, mode: str, width: int
) -> None:
    """Loads nothing from elsewhere, complains of nothing, is readable, accessible and in mode."""
    with checks.opened(chrome, homes[way], f"{page}.html", mode=mode, width=width) as watch:
        problems = checks.wrong_mode(watch.page, mode)
        problems += checks.in_page_problems(watch.page)
        if way == "http":
            problems += checks.axe_problems(watch.page, axe)
        problems += checks.dead_sliders(watch.page)
        problems += watch.problems
    assert not problems, f"{page} over {way}, {mode}, {width} px:\n{report(problems)}"


@pytest.mark.parametrize("page", PAGES)
def test_mathematics_of_the_source_is_drawn(
    chrome: Browser, homes: dict[str, str], page: str
) -> None:
    """A page whose source has formulas has about as many drawn ones."""
    written = len(re.findall(r"\$\$.+?\$\$|\$[^$\n]+?\$", prose(page), flags=re.DOTALL))
    with checks.opened(chrome, homes["http"], f"{page}.html") as watch:
        drawn = watch.page.locator(".bd-article mjx-container").count()
    assert drawn >= 0.9 * written, f"{page}: {written} formulas written, {drawn} drawn"


@pytest.mark.parametrize("way", ["http", "file"])
@pytest.mark.parametrize("page", PAGES)
def test_search_finds_every_page(
    chrome: Browser, homes: dict[str, str], page: str, way: str
) -> None:
    word = telling_word(page)
    found = searched(chrome, homes[way], word)
    assert f"{page}.html" in found, f"search for {word!r} found {found}"


@pytest.mark.parametrize("way", ["http", "file"])
def test_search_finds_nothing_where_there_is_nothing(
    chrome: Browser, homes: dict[str, str], way: str
) -> None:
    assert searched(chrome, homes[way], "xyzzyplugh") == []


def searched(chrome: Browser, home: str, word: str) -> list[str]:
    """The pages that a search finds."""
    with checks.opened(chrome, home, f"search.html?q={word}") as watch:
        found = checks.found_pages(watch.page, home)
        assert not watch.problems, report(watch.problems)
    return found


HEAVIEST = 500_000  # bytes that a page may send, packed as servers pack it


def test_no_page_is_heavy(site: Path) -> None:
    """A page with its scripts and style sheets, and none of the landing page's is mathematics."""
    heavy = []
    for page in BUILT:
        if page == "search":  # which needs the whole index
            continue
        text = (site / f"{page}.html").read_text(encoding="utf8")
        links = re.findall(r'<(?:script|link)[^>]* (?:src|href)="([^"#?]+\.(?:js|css))', text)
        files = {(site / f"{page}.html").parent / link for link in links}
        sent = sum(len(gzip.compress(file.read_bytes())) for file in files)
        sent += len(gzip.compress(text.encode()))
        if sent > HEAVIEST:
            heavy.append(f"{page}: {sent / 1000:.0f} kB")
    assert not heavy, report(heavy)
    landing = (site / f"{PAGES[0]}.html").read_text(encoding="utf8")
    assert not re.search(r"<(?:script|link)[^>]*math(?:jax|ematics)", landing, re.IGNORECASE)


def test_only_what_scrolls_or_acts_is_a_stop_of_the_tab_key(
    chrome: Browser, homes: dict[str, str]
) -> None:
    with checks.opened(chrome, homes["http"], "book/momentum.html") as watch:
        idle = watch.page.eval_on_selector_all(
            "article mjx-container[tabindex], article .pk-scroll[tabindex='0']",
            "all => all.filter((box) => box.scrollWidth <= box.clientWidth + 1).length",
        )
    assert idle == 0


def test_no_internal_link_is_broken(site: Path) -> None:
    problems = checks.broken_links(site)
    assert not problems, report(problems)


def test_every_entry_of_the_contents_is_one_page(site: Path) -> None:
    built = {
        path.relative_to(site).with_suffix("").as_posix() for path in site.glob("book/**/*.html")
    }
    assert built == set(PAGES)
    assert len(PAGES) == len(set(PAGES))
