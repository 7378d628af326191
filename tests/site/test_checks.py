"""The checker itself: a page with a planted fault must be reported, a clean one must not."""

from __future__ import annotations

from pathlib import Path

import checks
import pytest
from browser import serve
from playwright.sync_api import Browser

CLEAN = """<!doctype html><html lang="en" data-theme="light"><head><title>A page</title>
<link rel="icon" href="data:,"><meta name="viewport" content="width=device-width">
<style>body {{ margin: 8px }} .wide {{ overflow-x: auto }}</style></head>
<body><main class="bd-content"><h1>A page</h1><p>Text, and <code>$x$</code> in code.</p>
<div class="wide" tabindex="0"><div style="width: 900px">wide, but in its own box</div></div>
{fault}
<svg role="img" aria-label="a square" width="9" height="9"><rect width="9" height="9"/></svg>
<figure><label>Step <input type="range" min="0" max="2" value="0" oninput="{moved}"></label>
<p>frame <b>0</b></p></figure></main></body></html>"""
MOVED = "this.closest('figure').querySelector('b').textContent = this.value"
PIXEL = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"

FAULTS = {
    "another host": ('<script src="http://localhost:9/x.js"></script>', "another host"),
    "console error": ("<script>console.error('planted')</script>", "console error: planted"),
    "console warning": ("<script>console.warn('planted')</script>", "console warning: planted"),
    "script error": ("<script>setTimeout(() => { throw Error('planted') })</script>", "planted"),
    "missing file": ('<script src="missing.js"></script>', "answer 404"),
    "broken image": ('<img src="missing.png" alt="nothing">', "broken image: missing.png"),
    "no alt text": (f'<img src="{PIXEL}" alt="">', "without alt text"),
    "no label": ('<svg role="img"></svg>', "without a label"),
    "nameless svg": ("<svg></svg>", "neither role=img nor hidden"),
    "raw dollars": ("<p>Let $x$ be a number.</p>", "raw mathematics"),
    "raw parentheses": (r"<p>Let \(x\) be a number.</p>", "raw mathematics"),
    "formula in error": ('<mjx-container><mjx-merror data-mjx-error="bad">x</mjx-merror>'
                         "</mjx-container>", "mathematics in error: bad"),
    "undefined macro": ('<mjx-container><svg role="img" aria-label="x"><g fill="red">'
                        "</g></svg></mjx-container>", "undefined macro"),
    "formula not drawn": ('<span class="math">x</span>', "not rendered"),
    "overflow": ('<div style="width: 700px">wide</div>', "px wide in a window of 360"),
    "anchor": ('<a href="#nowhere">a link</a>', "missing anchor: #nowhere"),
    "contrast": ('<p style="color: #ddd; background: #fff">pale</p>', "axe color-contrast"),
    "field without a name": ('<input type="text">', "axe label"),
}  # fmt: skip


def problems_of(
    chrome: Browser, axe: Path, folder: Path, fault: str = "", moved: str = MOVED, mode="light"
) -> list[str]:
    """Everything the checker says about a page with this fault."""
    (folder / "page.html").write_text(CLEAN.format(fault=fault, moved=moved), encoding="utf8")
    with (
        serve(folder) as home,
        checks.opened(chrome, home, "page.html", width=360) as watch,
    ):
        problems = checks.wrong_mode(watch.page, mode)
        problems += checks.in_page_problems(watch.page)
        problems += checks.axe_problems(watch.page, axe)
        problems += checks.dead_sliders(watch.page)
        return problems + watch.problems


def test_a_clean_page_passes(chrome: Browser, axe: Path, tmp_path: Path) -> None:
    assert problems_of(chrome, axe, tmp_path) == []


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_reported(chrome: Browser, axe: Path, tmp_path: Path, name: str) -> None:
    fault, expected = FAULTS[name]
    problems = problems_of(chrome, axe, tmp_path, fault)
    assert any(expected in problem for problem in problems), problems


def test_a_dead_slider_is_reported(chrome: Browser, axe: Path, tmp_path: Path) -> None:
    problems = problems_of(chrome, axe, tmp_path, moved="")
    assert any("shows the same at both ends" in problem for problem in problems), problems
    problems = problems_of(chrome, axe, tmp_path, moved="this.value = 0")
    assert any("does not move it" in problem for problem in problems), problems


def test_the_wrong_mode_is_reported(chrome: Browser, axe: Path, tmp_path: Path) -> None:
    assert "theme is 'light', not 'dark'" in problems_of(chrome, axe, tmp_path, mode="dark")


def test_broken_links_are_reported(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text('<a href="b.html#there">1</a><a href="c.html">2</a>', "utf8")
    (tmp_path / "b.html").write_text('<p id="here"><a href="a.html">3</a></p>', "utf8")
    assert checks.broken_links(tmp_path) == [
        "a.html: link to a missing anchor b.html#there",
        "a.html: broken link c.html",
    ]
