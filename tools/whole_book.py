"""The whole book as one page, and that page as a PDF: printed by a browser, chapter after chapter.

Ids get the name of their page in front, and links between pages become links within the one.
"""

from __future__ import annotations

import html
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome", "msedge")
ARTICLE = re.compile(r'<article class="bd-article">(.*)</article>', re.DOTALL)
STYLE = re.compile(r"<style>(.*?)</style>", re.DOTALL)
LINK = re.compile(r'\b(href|id|for|aria-labelledby|aria-describedby)="([^"]*)"')
IDLE = (  # what paper cannot use: other frames of explorers, their sliders, scripts
    re.compile(r"<div data-frame hidden>.*?</svg></div>", re.DOTALL),
    re.compile(r'<div class="pk-controls".*?</div>', re.DOTALL),
    re.compile(r"<script\b.*?</script>", re.DOTALL),
)
PAPER = """@page{size:A4;margin:18mm 16mm}body{font-size:10.5pt}
.pk-page{break-before:page}.pk-front{text-align:center;padding-top:30vh}
.pk-contents ol{list-style:none}.bd-article{padding:0!important}"""


class NoBook(RuntimeError):
    """The book cannot be printed; the text says why."""


def one_page(site: Path, pages: Sequence[str], title: str, below: str) -> str:
    """The articles of the pages, in order, behind a title and a list of contents."""
    texts = {page: (site / f"{page}.html").read_text(encoding="utf8") for page in pages}
    styles = [rules for text in texts.values() for rules in STYLE.findall(text)]
    fonts = site / "_static" / "mathematics.css"
    rules = [
        max(styles, key=len, default=""),
        fonts.read_text(encoding="utf8") if fonts.exists() else "",
        PAPER,
    ]
    parts, entries = [], []
    for page, text in texts.items():
        article = ARTICLE.search(text)
        if not article:
            raise NoBook(f"{page}.html has no article")
        head = re.search(r"<h1>(.*?)<a class", article[1], re.DOTALL)
        name = re.sub(r"<[^>]*>", "", head[1]) if head else page
        entries.append(f'<li><a href="#{slug(page)}">{name}</a></li>')
        body = within(article[1], page, set(pages))
        parts.append(f'<article class="bd-article pk-page" id="{slug(page)}">{body}</article>')
    front = f'<div class="pk-front"><h1>{html.escape(title)}</h1><p>{html.escape(below)}</p></div>'
    contents = (
        f'<div class="pk-page pk-contents"><h1>Contents</h1><ol>{"".join(entries)}</ol></div>'
    )
    return (
        f'<!DOCTYPE html><html lang="en" data-theme="light"><head><meta charset="utf-8">'
        f"<title>{html.escape(title)}</title><style>{''.join(rules)}</style></head>"
        f'<body><main class="bd-content">{front}{contents}{"".join(parts)}</main></body></html>'
    )


def slug(page: str) -> str:
    return page.rpartition("/")[2]


def within(body: str, page: str, pages: set[str]) -> str:
    """The article with ids of its own and links that stay within the one page."""
    for idle in IDLE:
        body = idle.sub("", body)
    folder = page.rpartition("/")[0]

    def one(found: re.Match) -> str:
        name, value = found[1], found[2]
        if value.startswith("pk") or value.startswith("#pk"):  # of figures, unique already
            return found[0]
        if name != "href":
            return f'{name}="{" ".join(f"{slug(page)}--{word}" for word in value.split())}"'
        path, _, anchor = value.partition("#")
        if not path:
            return f'href="#{slug(page)}--{anchor}"'
        target = os.path.normpath(f"{folder}/{path.removesuffix('.html')}")
        if target not in pages:
            return found[0]
        return f'href="#{slug(target)}{f"--{anchor}" if anchor else ""}"'

    return LINK.sub(one, body)


def browser() -> str:
    """A browser that prints, as the tests of the site find theirs. Raises NoBook."""
    named = os.environ.get("PKBOOK_BROWSER")
    found = named or next(filter(None, map(shutil.which, BROWSERS)), None)
    if not found or not shutil.which(found):
        raise NoBook(f"no browser: PKBOOK_BROWSER is {named!r}; looked for {', '.join(BROWSERS)}")
    return found


def print_pdf(page: str, site: Path, target: Path, seconds: float = 1800) -> None:
    """Print a page as a PDF; pictures are looked for beside the site's own pages."""
    source = site / "book" / "whole-book.html"
    source.write_text(page, encoding="utf8")
    with tempfile.TemporaryDirectory() as profile:
        command = [browser(), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
        command += [f"--user-data-dir={profile}", "--no-pdf-header-footer"]
        command += ["--generate-pdf-document-outline", f"--print-to-pdf={target}", source.as_uri()]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
        except subprocess.TimeoutExpired as error:
            raise NoBook(f"the browser did not print within {seconds:.0f} s") from error
        finally:
            source.unlink()
    if done.returncode or not target.exists():
        raise NoBook(f"the browser did not print: {done.stderr[-1000:]}")
