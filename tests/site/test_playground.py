"""The playground in a real browser, over http and from a folder: nothing behind it but the page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import serve
from checks import dead_sliders
from live_page import (
    PAGE,
    caption,
    closed,
    drag,
    handle,
    numbers,
    opened,
    says_something_else,
)
from playwright.sync_api import Browser, Page

from pkbook.lab.explorers import playground


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One page with one playground, one with two of them."""
    folder = tmp_path_factory.mktemp("playground")
    one = f'<div class="cell_output">{playground().html()}</div>'
    told = "{&quot;optimizer&quot;: &quot;adam&quot;, &quot;data&quot;: &quot;step&quot;}"
    other = one.replace('data-settings="{}"', f'data-settings="{told}"')
    assert other != one
    (folder / "one.html").write_text(PAGE.format(one), encoding="utf8")
    (folder / "two.html").write_text(PAGE.format(one + other), encoding="utf8")
    return folder


@pytest.fixture(scope="module")
def homes(folder: Path) -> Iterator[dict[str, str]]:
    with serve(folder) as address:
        yield {"http": address, "file": folder.as_uri()}


@pytest.fixture(params=["http", "file"])
def page(chrome: Browser, homes: dict[str, str], request: pytest.FixtureRequest) -> Iterator[Page]:
    page = opened(chrome, f"{homes[request.param]}/one.html")
    yield page
    closed(page)


def test_it_appears_trained_and_its_sum_closes(page: Page) -> None:
    assert caption(page).startswith("After 60 steps")
    ledger = page.locator(".pk-ledger").text_content()
    before, up, down, after = numbers(ledger)[:4]
    assert abs(before + up + down - after) < 0.011  # each rounded to two places
    assert "Left over" in ledger


def test_dragging_the_query_changes_the_answer(page: Page) -> None:
    query, before = handle(page, "query"), caption(page)
    at = float(query.get_attribute("aria-valuenow"))
    drag(page, query, -150)
    assert float(query.get_attribute("aria-valuenow")) < at - 1
    says_something_else(page, before)
    start, up, down, after = numbers(page.locator(".pk-ledger").text_content())[:4]
    assert abs(start + up + down - after) < 0.011


def test_keys_move_query_sliders_and_points(page: Page) -> None:
    query = handle(page, "query")
    query.focus()
    page.keyboard.press("ArrowRight")
    assert query.get_attribute("aria-valuetext").startswith("input 1.30, answer")
    page.keyboard.press("Home")
    assert "at \N{MINUS SIGN}3.00" in caption(page)
    before, rate = caption(page), page.get_by_role("slider", name="learning rate")
    rate.focus()
    page.keyboard.press("ArrowLeft")
    assert rate.get_attribute("aria-valuetext") == "0.03"
    says_something_else(page, before)
    point = handle(page, "training point 7")
    point.focus()
    told = point.get_attribute("aria-valuetext")
    page.keyboard.press("ArrowUp")
    assert point.get_attribute("aria-valuetext") != told
    assert "Point 7 moved: the answer was" in caption(page)
    page.keyboard.press("PageDown")
    assert handle(page, "training point 8").evaluate("n => n === document.activeElement")
    assert page.locator(".pk-handle.pk-point[tabindex='0']").count() == 1  # one tab stop for all


def test_no_slider_is_dead(page: Page) -> None:
    """The site's own check, also where the largest learning rate has blown the training up."""
    assert dead_sliders(page) == []
    page.get_by_label("optimizer").select_option("momentum")
    assert dead_sliders(page) == []


def test_a_point_left_out_is_compared_with_a_real_training(page: Page) -> None:
    words = page.locator(".pk-compared")
    page.wait_for_function("!document.querySelector('.pk-compared').textContent.includes('…')")
    bar, worth = numbers(words.text_content())[:2]
    page.get_by_role("button", name="Leave point 7 out").click()
    said, changed = numbers(words.text_content())[:2]
    assert said == bar
    assert abs(changed + worth) < 0.011  # what it is worth is what the answer loses without it
    page.get_by_role("button", name="Put point 7 back").click()
    assert numbers(words.text_content())[0] == bar


def test_points_are_dragged_and_added(page: Page) -> None:
    before = caption(page)
    drag(page, handle(page, "training point 3"), 0, -60)
    assert "Point 3 moved" in caption(page)
    says_something_else(page, before)
    page.get_by_role("button", name="Add a point").click()
    assert page.locator(".pk-handle.pk-point").count() == 11
    box = page.locator(".pk-plot svg").first.bounding_box()
    page.mouse.dblclick(box["x"] + 100, box["y"] + 60)
    assert page.locator(".pk-handle.pk-point").count() == 12


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "rmsprop", "adam", "adamw"])
def test_every_optimizer_is_taken_apart_to_the_last_digits(
    chrome: Browser, homes: dict[str, str], optimizer: str
) -> None:
    page = opened(chrome, f"{homes['file']}/one.html#playground?optimizer={optimizer}&batch=2")
    ledger = page.locator(".pk-ledger").text_content()
    assert re.search(r"Left over: (0|\d × 10⁻([⁶⁷⁸⁹]|¹.)) of the change", ledger), ledger
    assert ("weight decay" in ledger) == (optimizer == "adamw")
    closed(page)


def test_play_step_and_reset(page: Page) -> None:
    page.get_by_role("button", name="Step").click()
    assert caption(page).startswith("After 61 steps")
    page.get_by_role("button", name="Reset").click()
    assert caption(page).startswith("After 0 steps")
    page.get_by_role("button", name="Play").click()
    page.wait_for_function("/After [1-9]\\d+ steps/.test(document.querySelector('.pk-caption')"
                           ".textContent)")  # fmt: skip
    page.evaluate("window.scrollTo(0, 2500)")  # out of view it rests
    page.wait_for_timeout(200)
    frames = "document.querySelector('.pk-live').pkFrame.frames"
    rested = page.evaluate(frames)
    page.wait_for_timeout(300)
    assert page.evaluate(frames) == rested
    page.evaluate("window.scrollTo(0, 0)")
    page.wait_for_function(f"{frames} > {rested}")
    page.get_by_role("button", name="Pause").click()
    still = caption(page)
    page.wait_for_timeout(150)
    assert caption(page) == still


def test_the_address_keeps_the_state(chrome: Browser, page: Page) -> None:
    assert "#" not in page.url
    page.get_by_label("optimizer").select_option("adam")
    handle(page, "training point 2").focus()
    page.keyboard.press("ArrowUp")
    page.wait_for_function("location.hash.includes('optimizer=adam')")
    spoken = page.locator(".pk-spoken").text_content()
    assert spoken == caption(page)  # read out once it has come to rest
    again = opened(chrome, page.url)
    shown = caption(again)
    assert shown.split(" Point 2 moved")[0] == caption(page).split(" Point 2 moved")[0]
    assert again.get_by_label("optimizer").input_value() == "adam"
    closed(again)


def test_a_rate_that_diverges_is_said(chrome: Browser, homes: dict[str, str]) -> None:
    page = opened(chrome, f"{homes['file']}/one.html#playground?lr=1&steps=600&width=48")
    assert "left every bound" in caption(page)
    page.get_by_role("slider", name="learning rate").focus()
    page.keyboard.press("Home")
    assert "the answer at" in caption(page)
    closed(page)


def test_touch(chrome: Browser, homes: dict[str, str]) -> None:
    how = {"has_touch": True, "is_mobile": True, "viewport": {"width": 360, "height": 700}}
    page = opened(chrome, f"{homes['file']}/one.html", **how)
    box = page.locator(".pk-plot svg").first.bounding_box()
    page.touchscreen.tap(box["x"] + 120, box["y"] + 100)
    query = handle(page, "query").element_handle()
    page.wait_for_function("e => e.getAttribute('aria-valuenow') < -1", arg=query)  # from 1.2
    assert float(query.get_attribute("aria-valuenow")) > -1.8
    assert page.evaluate("document.scrollingElement.scrollWidth <= window.innerWidth")
    closed(page)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_accessibility_violation(
    chrome: Browser, homes: dict[str, str], axe: Path, scheme: str
) -> None:
    page = opened(chrome, f"{homes['file']}/two.html", color_scheme=scheme)
    page.add_script_tag(content=axe.read_text(encoding="utf8"))
    found = page.evaluate(
        """async () => (await axe.run({runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa',
             'wcag22aa']})).violations.map((v) => v.id + ': ' + v.nodes[0].html)"""
    )
    assert found == []
    closed(page)


def test_two_on_a_page_do_not_share_their_state(chrome: Browser, homes: dict[str, str]) -> None:
    page = opened(chrome, f"{homes['file']}/two.html")
    captions = page.locator(".pk-caption")
    first, second = captions.first.text_content(), captions.nth(1).text_content()
    assert first != second
    drag(page, handle(page, "query"), -100)
    assert captions.first.text_content() != first
    assert captions.nth(1).text_content() == second
    assert page.evaluate("Object.keys(window.pkLive).length") == 1
    closed(page)


def test_without_scripts_the_still_picture_remains(chrome: Browser, homes: dict[str, str]) -> None:
    page = opened(chrome, f"{homes['file']}/one.html", java_script_enabled=False)
    assert page.locator(".pk-still svg[role=img]").is_visible()
    assert "The prediction at 1.2 went from" in page.locator(".pk-still p").text_content()
    closed(page)
