"""A page with explorers that compute in it, and how to drive it; shared by their tests."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from playwright.sync_api import Browser, Locator, Page

from pkbook.lab import explorers

PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Explorers</title>
<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,"><style>
html {{ color-scheme: light dark }}
body {{ margin: 16px; font-family: sans-serif; background: #fff; color: #222832 }}
@media (prefers-color-scheme: dark) {{ body {{ background: #121212; color: #ced6dd }} }}
</style></head><body><main class="bd-content"><h1>Explorers</h1>{}
<div style="height: 2000px"></div></main></body>"""
NUMBER = r"[+\N{MINUS SIGN}]?\d+\.\d+"


def write_pages(folder: Path, names: Iterable[str]) -> Path:
    """A page for each explorer of these names."""
    for name in names:
        told = f'<div class="cell_output">{getattr(explorers, name)().html()}</div>'
        (folder / f"{name}.html").write_text(PAGE.format(told), encoding="utf8")
    return folder


def opened(chrome: Browser, address: str, **how) -> Page:
    """A page in which any error of a script and any further request fails the test at its end."""
    page = chrome.new_context(**{"viewport": {"width": 1280, "height": 900}} | how).new_page()
    page.faults = []
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    page.on("console", lambda message: page.faults.append(message.text))
    home = address.split("#")[0]
    page.on("request", lambda r: r.url.startswith((home, "data:")) or page.faults.append(r.url))
    page.goto(address)
    return page


def closed(page: Page) -> None:
    faults = page.faults
    page.context.close()
    assert faults == []


def caption(page: Page) -> str:
    return page.locator(".pk-caption").first.text_content()


def says_something_else(page: Page, before: str) -> None:
    """Wait until the caption is another: the page draws when it comes to it."""
    script = "before => document.querySelector('.pk-caption').textContent !== before"
    page.wait_for_function(script, arg=before)


def numbers(text: str) -> list[float]:
    return [float(n.replace("\N{MINUS SIGN}", "-")) for n in re.findall(NUMBER, text)]


def handle(page: Page, name: str) -> Locator:
    return page.get_by_role("slider", name=name, exact=False).first


def drag(page: Page, what: Locator, right: float, down: float = 0) -> None:
    box = what.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + right / 2, y + down / 2, steps=3)
    page.mouse.move(x + right, y + down, steps=3)
    page.mouse.up()
    drawn(page)


def drawn(page: Page) -> None:
    """Wait for the next picture: what follows a pointer is drawn with the browser's frames."""
    page.evaluate(
        "() => new Promise((go) => requestAnimationFrame(() => requestAnimationFrame(go)))"
    )
