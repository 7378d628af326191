"""The explorers of single chapters, which compute in the page: over http and from a folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import serve
from checks import dead_sliders
from live_page import PAGE, caption, closed, drag, handle, numbers, opened
from playwright.sync_api import Browser, Page

from pkbook.lab import explorers

NAMES = ("even_and_odd",)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page for each explorer."""
    folder = tmp_path_factory.mktemp("explorers")
    for name in NAMES:
        told = f'<div class="cell_output">{getattr(explorers, name)().html()}</div>'
        (folder / f"{name}.html").write_text(PAGE.format(told), encoding="utf8")
    return folder


@pytest.fixture(scope="module")
def homes(folder: Path) -> Iterator[dict[str, str]]:
    with serve(folder) as address:
        yield {"http": address, "file": folder.as_uri()}


def even_and_odd(page: Page) -> None:
    """The even part follows the target, the odd one stays whatever is asked of it."""
    even, left, odd, kept = numbers(caption(page))
    assert left < 0.1 * even
    assert kept == odd == 0.5
    drag(page, handle(page, "odd part"), 0, 40)
    page.wait_for_function("!document.querySelector('.pk-live').pkFrame.playing")
    even, left, odd, kept = numbers(caption(page))
    assert kept == odd != 0.5
    what = handle(page, "even part")
    what.focus()
    page.keyboard.press("ArrowDown")
    assert what.get_attribute("aria-valuetext") == "amount 0.90"
    page.wait_for_function("!document.querySelector('.pk-live').pkFrame.playing")
    assert numbers(caption(page))[0] < even
    page.get_by_label("the network sees").select_option("x")
    assert numbers(caption(page))[3] < 0.5 * odd


DRIVEN = {"even_and_odd": even_and_odd}


@pytest.mark.parametrize("home", ["http", "file"])
@pytest.mark.parametrize("name", NAMES)
def test_it_is_driven(chrome: Browser, homes: dict[str, str], name: str, home: str) -> None:
    page = opened(chrome, f"{homes[home]}/{name}.html")
    assert dead_sliders(page) == []
    page.reload()
    DRIVEN[name](page)
    closed(page)


@pytest.mark.parametrize("name", NAMES)
def test_it_plays_and_rests_out_of_view(chrome: Browser, homes: dict[str, str], name: str) -> None:
    page = opened(chrome, f"{homes['file']}/{name}.html")
    page.get_by_role("button", name="Reset").click()
    first = caption(page)
    page.get_by_role("button", name="Play").click()
    page.wait_for_function(f"document.querySelector('.pk-caption').textContent !== {first!r}")
    page.evaluate("window.scrollTo(0, 2500)")
    page.wait_for_timeout(200)
    frames = "document.querySelector('.pk-live').pkFrame.frames"
    rested = page.evaluate(frames)
    page.wait_for_timeout(200)
    assert page.evaluate(frames) == rested
    closed(page)


@pytest.mark.parametrize("name", NAMES)
def test_on_a_phone_in_the_dark(
    chrome: Browser, homes: dict[str, str], axe: Path, name: str
) -> None:
    """It fits, with reduced motion, and axe finds nothing."""
    how = {"has_touch": True, "is_mobile": True, "viewport": {"width": 360, "height": 700}}
    page = opened(chrome, f"{homes['file']}/{name}.html", color_scheme="dark",
                  reduced_motion="reduce", **how)  # fmt: skip
    assert page.evaluate("document.scrollingElement.scrollWidth <= window.innerWidth")
    page.add_script_tag(content=axe.read_text(encoding="utf8"))
    found = page.evaluate(
        """async () => (await axe.run({runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa',
             'wcag22aa']})).violations.map((v) => v.id + ': ' + v.nodes[0].html)"""
    )
    assert found == []
    closed(page)
