"""What is wanted of a page: each check returns sentences that say what is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from playwright.sync_api import Browser, Page

IN_PAGE = (Path(__file__).parent / "checks.js").read_text(encoding="utf8")
AXE_TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
# Sections far from the window are laid out only when they come near; here all of them are wanted.
READY = """async () => {
  const all = document.createElement('style');
  all.textContent = '.bd-article > section > section { content-visibility: visible !important }';
  document.head.append(all);
  if (window.MathJax && MathJax.startup) await MathJax.startup.promise;
  for (const image of document.images) image.loading = 'eager';
  await Promise.all([...document.images].map((image) => image.decode().catch(() => {})));
  await document.fonts.ready;
  window.dispatchEvent(new Event('resize'));
}"""


class Watch:
    """Everything a page asks for and complains about while it is open."""

    def __init__(self, page: Page, home: str) -> None:
        self.page, self.home, self.problems = page, home, []
        page.on("request", self._request)
        page.on("requestfailed", lambda r: self._note(f"request failed: {r.url} {r.failure}"))
        page.on("response", self._response)
        page.on("console", self._console)
        page.on("pageerror", lambda error: self._note(f"script error: {error}"))

    def _note(self, text: str) -> None:
        self.problems.append(text)

    def _request(self, request) -> None:
        if not request.url.startswith((self.home, "data:", "blob:", "about:")):
            self._note(f"request to another host: {request.url}")

    def _response(self, response) -> None:
        if response.status >= 400:
            self._note(f"answer {response.status}: {response.url}")

    def _console(self, message) -> None:
        if message.type in ("error", "warning"):
            self._note(f"console {message.type}: {message.text}")


@contextmanager
def opened(
    browser: Browser, home: str, path: str, *, mode: str = "light", width: int = 1280
) -> Iterator[Watch]:
    """The page in a fresh context, its mathematics drawn and its images loaded."""
    context = browser.new_context(
        color_scheme=mode, viewport={"width": width, "height": 800}, reduced_motion="reduce"
    )
    try:
        page = context.new_page()
        watch = Watch(page, home)
        page.goto(f"{home}/{path}", wait_until="load")
        page.evaluate(READY)
        page.evaluate(IN_PAGE)
        yield watch
    finally:
        context.close()


def in_page_problems(page: Page) -> list[str]:
    """All checks of checks.js."""
    return page.evaluate("() => Object.values(pkChecks).flatMap((check) => check())")


def wrong_mode(page: Page, mode: str) -> list[str]:
    """The theme must follow the reader's system setting."""
    found = page.evaluate("() => document.documentElement.dataset.theme")
    return [] if found == mode else [f"theme is {found!r}, not {mode!r}"]


def axe_problems(page: Page, axe: Path) -> list[str]:
    """Violations of WCAG A and AA that axe-core finds."""
    page.evaluate(axe.read_text(encoding="utf8"))
    # Of what passes axe need not tell every node: thousands a page, and half of its time.
    result = page.evaluate(
        """tags => axe.run(document, {
            runOnly: {type: 'tag', values: tags}, resultTypes: ['violations']})""",
        AXE_TAGS,
    )
    return [
        f"axe {rule['id']}: {node['target']} {node['html'][:120]} {node['failureSummary']}"
        for rule in result["violations"]
        for node in rule["nodes"]
    ]


PATIENCE = 100  # tenths of a second
SHOWN = """slider => {
  const box = slider.closest('.pk-flipbook, figure, .cell_output') || document.body;
  const seen = (node) => node.checkVisibility({visibilityProperty: true, opacityProperty: true});
  const parts = [...box.querySelectorAll('svg, img, [data-frame], [data-pk-frame], p, td')];
  return parts.map((node) => seen(node) ? (node.id || node.textContent) : '').join('|');
}"""


def dead_sliders(page: Page) -> list[str]:
    """Sliders that the arrow keys do not move, or that show the same at both ends."""
    problems = []
    for slider in page.query_selector_all(".bd-content input[type=range]:enabled"):
        name = slider.get_attribute("id") or slider.get_attribute("aria-label") or "unnamed"
        slider.focus()
        seen = []
        for key in ("Home", "ArrowRight", "End"):
            page.keyboard.press(key)
            seen.append((slider.input_value(), slider.evaluate(SHOWN)))
        for _ in range(PATIENCE):  # what computes in the page shows it when it has computed
            if slider.evaluate(SHOWN) != seen[0][1]:
                break
            page.wait_for_timeout(100)
        values, shown = zip(*seen[:-1], (seen[-1][0], slider.evaluate(SHOWN)), strict=True)
        if values[0] == values[1]:
            problems.append(f"slider {name}: the arrow key does not move it")
        if shown[0] == shown[2]:
            problems.append(f"slider {name}: shows the same at both ends")
    return problems


def found_pages(page: Page, home: str) -> list[str]:
    """Addresses, relative to the home, that an opened page of search results lists."""
    page.wait_for_function(
        "() => /found|did not match/i.test(document.querySelector('#search-results p')?.innerText)"
    )
    hits = page.eval_on_selector_all("#search-results li a", "all => all.map((a) => a.href)")
    return [hit.removeprefix(f"{home}/").split("#")[0].split("?")[0] for hit in hits]


class Links(HTMLParser):
    """Targets of links, images, scripts and styles, and the ids of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.targets: set[str] = set()
        self.ids: set[str] = set()
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        self.ids.update(filter(None, (found.get("id"), found.get("name"))))
        self.targets.update(filter(None, (found.get("href"), found.get("src"))))


def broken_links(folder: Path) -> list[str]:
    """Internal links of all pages of a folder whose file or anchor does not exist."""
    folder, problems = folder.resolve(), []
    files = [path for path in folder.rglob("*.html") if "_static" not in path.parts]
    pages = {path: Links(path.read_text("utf8")) for path in files}
    for path, links in pages.items():
        for link in sorted(links.targets):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            name = path.relative_to(folder)
            if target.is_dir():
                target = target / "index.html"
            if not target.exists():
                problems.append(f"{name}: broken link {link}")
            elif parts.fragment and target in pages:
                if unquote(parts.fragment) not in pages[target].ids | {"top"}:
                    problems.append(f"{name}: link to a missing anchor {link}")
    return problems
