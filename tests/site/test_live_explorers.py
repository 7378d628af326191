"""The explorers of single chapters, which compute in the page: over http and from a folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import serve
from checks import dead_sliders
from live_page import (
    caption,
    closed,
    drag,
    handle,
    numbers,
    opened,
    says_something_else,
    write_pages,
)
from playwright.sync_api import Browser, Page

NAMES = ("even_and_odd", "dormant_unit", "lazy_to_rich", "moving_particles", "moving_samples")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page for each explorer."""
    return write_pages(tmp_path_factory.mktemp("explorers"), NAMES)


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


def dormant_unit(page: Page) -> None:
    """Beyond the training inputs the gap is one and the threshold stays where it is put."""
    counts = page.locator(".pk-ledger")
    what = handle(page, "start of the last threshold")
    drag(page, what, -150)
    assert float(what.get_attribute("aria-valuenow")) < 1
    assert "rank gap is 0" in counts.text_content()
    drag(page, what, 150)
    assert float(what.get_attribute("aria-valuenow")) > 1
    assert "rank gap is 1" in counts.text_content()
    moved, pull, kernel, inside, beyond = numbers(caption(page))
    assert moved == pull == kernel == 0
    weight = page.get_by_role("slider", name="its weight")
    weight.focus()
    page.keyboard.press("Home")  # a weight that nobody trains: only what lies beyond changes
    assert numbers(caption(page))[3] == inside
    assert numbers(caption(page))[4] != beyond
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    page.get_by_label("trained").select_option("both")
    assert "rank gap is 2" in counts.text_content()
    what.focus()
    for _ in range(4):
        page.keyboard.press("Shift+ArrowLeft")
    assert "rank gap is 0" in counts.text_content()


def lazy_to_rich(page: Page) -> None:
    """The wider, and the larger the output scale, the less the kernel drifts."""

    def drift() -> float:
        return float(caption(page).split("drifted by ")[1].split(" %")[0])

    narrow = drift()
    width = page.get_by_role("slider", name="width")
    width.focus()
    page.keyboard.press("End")
    wide = drift()
    assert wide < 0.3 * narrow
    scale = page.get_by_role("slider", name="output scale")
    scale.focus()
    page.keyboard.press("Home")
    assert drift() > 2 * wide
    what = handle(page, "place of the step")
    before = caption(page)
    drag(page, what, -90)
    assert float(what.get_attribute("aria-valuenow")) < 0.5
    says_something_else(page, before)


def moving_particles(page: Page) -> None:
    """The way of the reader's particle is carried by other points where it is put elsewhere."""
    page.wait_for_function(READY)
    before, what = caption(page), handle(page, "your particle")
    drag(page, what, -120, -60)
    assert float(what.get_attribute("aria-valuenow")) < 2.4
    page.wait_for_function(f"document.querySelector('.pk-caption').textContent !== {before!r}")
    size, made, first, up, down = numbers(caption(page).split("noise of size")[1])[:5]
    assert size == made  # along its own way the answer is as long as the noise
    assert abs(made - first - up - down) < 0.15  # each rounded to one place
    what.focus()
    before = caption(page)
    page.keyboard.press("ArrowUp")
    page.wait_for_function(f"document.querySelector('.pk-caption').textContent !== {before!r}")
    page.get_by_role("button", name="Step").focus()  # a caption that grows may move it away
    page.keyboard.press("Enter")
    page.wait_for_function(
        "document.querySelector('.pk-caption').textContent.includes('level 5 of 20')"
    )


def moving_samples(page: Page) -> None:
    """Steps move points; another point asked has another answer."""
    before = caption(page)
    drag(page, handle(page, "which point is asked"), 150, 60)
    says_something_else(page, before)
    page.get_by_role("button", name="Step").click()
    assert caption(page).startswith("Step 31:")
    rate = page.get_by_role("slider", name="rate of G")
    rate.focus()
    before = caption(page)
    page.keyboard.press("Home")
    says_something_else(page, before)
    page.get_by_label("loss of G").select_option("minimax")
    assert caption(page).startswith("Step 31:")


READY = "document.querySelector('.pk-caption').textContent.startsWith('Noise')"
DRIVEN = {
    "even_and_odd": even_and_odd,
    "dormant_unit": dormant_unit,
    "lazy_to_rich": lazy_to_rich,
    "moving_particles": moving_particles,
    "moving_samples": moving_samples,
}


@pytest.mark.parametrize("home", ["http", "file"])
@pytest.mark.parametrize("name", NAMES)
def test_it_is_driven(chrome: Browser, homes: dict[str, str], name: str, home: str) -> None:
    page = opened(chrome, f"{homes[home]}/{name}.html")
    if name == "moving_particles":
        page.wait_for_function(READY)
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
