"""Digit memory, memory in time, weak and strong: in a browser, over http and from a folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import serve
from checks import dead_sliders
from live_page import caption, closed, drag, drawn, handle, numbers, opened, write_pages
from playwright.sync_api import Browser, Page

NAMES = ("digits", "memory", "paths")
READY = """() => {
  const words = document.querySelector('.pk-caption').textContent;
  return !/is learning/.test(words) && (!/pairs/.test(words) || /300 pairs/.test(words));
}"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One page for each of the three."""
    return write_pages(tmp_path_factory.mktemp("explorers"), NAMES)


@pytest.fixture(scope="module")
def homes(folder: Path) -> Iterator[dict[str, str]]:
    with serve(folder) as address:
        yield {"http": address, "file": folder.as_uri()}


@pytest.fixture(params=["http", "file"])
def home(homes: dict[str, str], request: pytest.FixtureRequest) -> str:
    return homes[request.param]


def shown(chrome: Browser, home: str, name: str, more: str = "", **how) -> Page:
    """The page of an explorer, once its first computing is done."""
    page = opened(chrome, f"{home}/{name}.html{more}", **how)
    ready(page)
    return page


def ready(page: Page) -> None:
    page.wait_for_function(READY)


def compared(page: Page) -> str:
    page.wait_for_function("!document.querySelector('.pk-compared').textContent.includes('…')")
    return page.locator(".pk-compared").text_content()


def pushes(page: Page, row: str) -> list[float]:
    return numbers(" ".join(page.locator(f".{row} .pk-digit:visible span").all_text_contents()))


def test_digits(chrome: Browser, home: str) -> None:
    """Trained, taken apart to the last digits; drawing, keys and leaving out change numbers."""
    page = shown(chrome, home, "digits")
    before, up, down, lead = numbers(page.locator(".pk-ledger").first.text_content())[:4]
    assert abs(before + up + down - lead) < 0.021  # each rounded to two places
    assert "Left over: 0" in page.text_content("body") or "× 10⁻" in page.text_content("body")
    ups, downs = pushes(page, "pk-for"), pushes(page, "pk-against")
    assert ups == sorted(ups, reverse=True)
    assert downs == sorted(downs)
    assert len(ups) == len(downs) == 8
    first = page.locator(".pk-for .pk-digit").first
    first.focus()
    page.keyboard.press("Enter")  # out it goes
    said, changed = numbers(compared(page))[:2]
    assert said == ups[0]
    assert changed < 0  # it spoke for the answer; without it the lead is smaller
    assert first.get_attribute("aria-pressed") == "true"
    page.get_by_role("button", name="Put all back").click()
    assert "Click a training digit" in compared(page)
    slider = page.get_by_role("slider", name="when")
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert pushes(page, "pk-for")[0] < ups[0]
    was = caption(page)
    page.get_by_role("button", name="Next mistake").click()
    assert "wrongly" in caption(page) != was
    pad = page.locator(".pk-pad canvas").bounding_box()
    page.mouse.move(pad["x"] + 70, pad["y"] + 20)
    page.mouse.down()
    page.mouse.move(pad["x"] + 66, pad["y"] + 120, steps=8)
    drawn(page)
    assert "So far this is read as a" in caption(page)
    page.mouse.up()
    page.wait_for_function("/^The digit you drew, is read as a 1/.test("
                           "document.querySelector('.pk-caption').textContent)")  # fmt: skip
    page.wait_for_function("location.hash.includes('drawn=')")
    again = shown(chrome, page.url.split(".html")[0].rsplit("/", 1)[0], "digits",
                  f"#{page.url.split('#')[1]}")  # fmt: skip
    assert "The digit you drew, is read as a 1" in caption(again)
    closed(again)
    page.get_by_role("button", name="Clear").click()
    assert caption(page).startswith("Test digit")
    closed(page)


def test_memory(chrome: Browser, home: str) -> None:
    page = shown(chrome, home, "memory")
    s = handle(page, "gradient of step s")
    at, was = float(s.get_attribute("aria-valuenow")), caption(page)
    drag(page, s, 200)
    assert float(s.get_attribute("aria-valuenow")) > at + 5
    assert caption(page) != was
    s.focus()
    page.keyboard.press("Home")
    assert "gradient of step 0 counts 1.00 learning rates" in caption(page)
    page.get_by_label("optimizer").select_option("sgd")
    assert "0.00 in step 10. Its push grows to 1.00" in caption(page)
    page.get_by_label("optimizer").select_option("adamw")
    assert "has shrunk to" in caption(page)
    plane = page.locator(".pk-plane canvas").bounding_box()
    page.mouse.click(plane["x"] + 0.51 * plane["width"], plane["y"] + 0.51 * plane["height"])
    drawn(page)
    assert "gradient of step 19 counts" in caption(page)
    assert "weights in step 20" in caption(page)
    page.get_by_role("button", name="Step").click()
    assert "gradient of step 20 counts" in caption(page)
    closed(page)


def test_paths(chrome: Browser, home: str) -> None:
    page = shown(chrome, home, "paths")
    pair, partners, means, error = numbers(caption(page).split("partners of")[1])[:4]
    assert partners > 5 * means  # single paths part, means do not
    assert means < 2 * error
    assert pair > means
    rate = page.get_by_role("slider", name="learning rate")
    rate.focus()
    page.keyboard.press("ArrowLeft")
    ready(page)
    closer = numbers(caption(page).split("partners of")[1])[1]
    assert closer < partners
    told = page.locator(".pk-side .pk-plot > svg").get_attribute("aria-label")
    assert f"η 0.1: partners {closer:.3f}" in told
    assert f"η 0.2: partners {partners:.3f}" in told
    page.get_by_role("button", name="Reset").click()
    assert "time 0.00" in caption(page)
    page.get_by_role("button", name="Step").click()
    assert "time 0.10" in caption(page)
    closed(page)


@pytest.mark.parametrize("name", NAMES)
def test_no_slider_is_dead(chrome: Browser, homes: dict[str, str], name: str) -> None:
    page = shown(chrome, homes["file"], name, "#memory?optimizer=adamw" if name == "memory" else "")
    assert dead_sliders(page) == []
    closed(page)


@pytest.mark.parametrize("name", NAMES)
def test_on_a_phone(chrome: Browser, homes: dict[str, str], axe: Path, name: str) -> None:
    """Touch, nothing wider than 360 pixels, and no violation in the dark."""
    how = {"has_touch": True, "is_mobile": True, "viewport": {"width": 360, "height": 700}}
    page = shown(chrome, homes["file"], name, **how, color_scheme="dark")
    assert page.evaluate("document.scrollingElement.scrollWidth <= window.innerWidth")
    was = caption(page)
    place = {"digits": ".pk-pad canvas", "memory": ".pk-plane canvas", "paths": "text=Reset"}[name]
    page.locator(place).first.tap()
    page.wait_for_function("was => document.querySelector('.pk-caption').textContent !== was",
                           arg=was)  # fmt: skip
    page.add_script_tag(content=axe.read_text(encoding="utf8"))
    found = page.evaluate(
        """async () => (await axe.run({runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa',
             'wcag22aa']})).violations.map((v) => v.id + ': ' + v.nodes[0].html)"""
    )
    assert found == []
    closed(page)


def test_training_waits_out_of_view(chrome: Browser, folder: Path, homes: dict[str, str]) -> None:
    text = (folder / "digits.html").read_text(encoding="utf8")
    far = text.replace("<h1>", '<div style="height: 3000px"></div><h1>')
    (folder / "far.html").write_text(far, encoding="utf8")
    page = opened(chrome, f"{homes['file']}/far.html")
    page.wait_for_timeout(300)
    seen = caption(page)
    page.wait_for_timeout(300)
    assert "is learning" in seen == caption(page)
    page.locator(".pk-caption").scroll_into_view_if_needed()
    ready(page)
    closed(page)
