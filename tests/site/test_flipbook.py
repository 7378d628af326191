"""Flipbooks of explorers in a real browser, opened from the disk, without kernel or network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, Locator, Page

from pkbook.lab import plots
from pkbook.lab.explorers import Control, Explorer

PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Two explorers</title>
<meta name="viewport" content="width=device-width"><style>
html {{ color-scheme: light dark }}
body {{ margin: 16px; font-family: sans-serif; background: #fff; color: #222832 }}
@media (prefers-color-scheme: dark) {{ body {{ background: #121212; color: #ced6dd }} }}
</style></head><body><main><h1>Two explorers</h1>{}</main></body></html>"""


def descent(rate: float, momentum: float):
    fig, axes = plots.figure(1, 2)
    position, speed, path = 1.0, 0.0, []
    for _ in range(30):
        path.append(position)
        speed = momentum * speed - rate * position
        position += speed
    axes[0].plot(path, "o-", label="position")
    axes[0].set(xlabel="step", title="Descent", ylim=(-2, 2))
    axes[0].legend()
    plots.contribution_bars(axes[1], np.diff(path)[:5], [f"step {k}" for k in range(5)])
    axes[1].set_xlim(-2, 2)
    return fig


def wave(cycles: int):
    fig, ax = plots.figure()
    x = np.linspace(0, 1, 80)
    ax.plot(x, np.sin(2 * np.pi * cycles * x))
    ax.fill_between(x, -1, -0.5, color=plots.MINUS, alpha=0.5)  # clipped, as most drawings are
    ax.set_ylim(-0.9, 1.1)
    return fig


EXPLORERS = [
    Explorer(
        {
            "rate": Control("learning rate", (0.03, 0.1, 0.3, 1.0), initial=0.1),
            "momentum": Control("momentum", (0.0, 0.5, 0.9)),
        },
        descent,
        lambda rate, momentum: f"Descent at rate {rate:g} with momentum {momentum:g}.",
    ),
    Explorer(
        {"cycles": Control("cycles", (1, 2, 3))}, wave, lambda cycles: f"A wave, {cycles} cycles."
    ),
]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("flipbook") / "page.html"
    file.write_text(PAGE.format("".join(e.html() for e in EXPLORERS)), encoding="utf8")
    return file.as_uri()


@pytest.fixture(
    params=[("light", 1280), ("dark", 1280), ("light", 360), ("dark", 360)],
    ids=lambda p: f"{p[0]}-{p[1]}",
)
def page(chrome: Browser, address: str, request: pytest.FixtureRequest) -> Iterator[Page]:
    """The page, in which any error of a script and any request beyond the file fails the test."""
    scheme, width = request.param
    page = chrome.new_page(color_scheme=scheme, viewport={"width": width, "height": 900})
    faults = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(message.text))
    page.on("request", lambda asked: faults.append(asked.url) if asked.url != address else None)
    page.goto(address)
    yield page
    page.close()
    assert faults == []


def visible(page: Page) -> list[list[str]]:
    """The descriptions of the visible frames of each flipbook."""
    return page.eval_on_selector_all(
        ".pk-flipbook",
        """books => books.map((book) => [...book.querySelectorAll('[data-frame] > svg')]
             .filter((svg) => svg.checkVisibility() && svg.getBoundingClientRect().width > 0)
             .map((svg) => svg.getAttribute('aria-label')))""",
    )


def slider(page: Page, name: str) -> Locator:
    return page.get_by_role("slider", name=name)


def captions(page: Page) -> list[str]:
    return page.eval_on_selector_all(".pk-caption", "all => all.map((p) => p.textContent)")


def test_arrow_keys_turn_the_pages_of_one_flipbook_only(page: Page) -> None:
    def expect(rate: str, momentum: str, cycles: str) -> None:
        words = [
            f"Descent at rate {rate} with momentum {momentum}.",
            f"A wave, {cycles} cycles.",
        ]
        assert visible(page) == [[text] for text in words]
        assert captions(page) == words

    rate, momentum, cycles = (slider(page, name) for name in ("rate", "momentum", "cycles"))
    expect("0.1", "0", "1")
    rate.focus()
    page.keyboard.press("ArrowRight")
    expect("0.3", "0", "1")
    assert rate.get_attribute("aria-valuetext") == "0.3"
    page.keyboard.press("Tab")
    page.keyboard.press("End")
    expect("0.3", "0.9", "1")
    assert momentum.evaluate("input => input.parentElement.innerText").split()[-1] == "0.9"
    cycles.focus()
    page.keyboard.press("ArrowUp")
    expect("0.3", "0.9", "2")
    rate.focus()
    page.keyboard.press("Home")
    expect("0.03", "0.9", "2")


def test_every_frame_is_really_drawn(page: Page) -> None:
    """Frames differ on the screen: shared clips and glyphs work in hidden and shown ones."""
    slider(page, "cycles").focus()
    page.keyboard.press("Home")
    seen = set()
    for _ in range(3):
        picture = page.locator(".pk-flipbook").nth(1).locator("[data-frame]:not([hidden])")
        seen.add(picture.screenshot())
        page.keyboard.press("ArrowRight")
    assert len(seen) == 3


def test_text_has_the_colour_of_the_page(page: Page) -> None:
    ink, drawn = page.eval_on_selector(
        "[data-frame]:not([hidden]) use",
        "use => [getComputedStyle(document.body).color, getComputedStyle(use).fill]",
    )
    assert ink == drawn


def test_the_page_itself_never_scrolls_sideways(page: Page) -> None:
    assert page.evaluate("document.scrollingElement.scrollWidth <= window.innerWidth")


def test_no_accessibility_violation(page: Page, axe: Path) -> None:
    page.add_script_tag(content=axe.read_text(encoding="utf8"))
    found = page.evaluate(
        """async () => (await axe.run({runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa']}))
             .violations.map((v) => v.id + ': ' + v.nodes[0].html)"""
    )
    assert found == []


def test_script_is_idempotent_and_leaves_no_globals(page: Page) -> None:
    script = page.eval_on_selector(".pk-flipbook script", "script => script.textContent")
    before = page.evaluate("Object.keys(window)")
    page.evaluate("script => { (0, eval)(script); (0, eval)(script); }", script)
    assert page.evaluate("Object.keys(window)") == before
    slider(page, "cycles").focus()
    page.keyboard.press("ArrowRight")
    assert visible(page)[1] == ["A wave, 2 cycles."]


def test_without_scripts_the_initial_frame_remains(chrome: Browser, address: str) -> None:
    page = chrome.new_page(java_script_enabled=False)
    page.goto(address)
    shown = [svg for svg in page.locator("[data-frame] > svg").all() if svg.is_visible()]
    assert [svg.get_attribute("aria-label") for svg in shown] == [
        "Descent at rate 0.1 with momentum 0.",
        "A wave, 1 cycles.",
    ]
    assert not slider(page, "cycles").is_visible()
    page.close()
