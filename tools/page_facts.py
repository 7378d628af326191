"""What a page says about itself: how long it takes, and what others show of it in a link."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass, field
from pathlib import Path

WORDS_A_MINUTE = 180  # of a text that is worked through
FORMULA_WORDS, FIGURE_WORDS, CODE_LINE_WORDS = 6, 40, 6  # as long as so many words
ARTICLE = re.compile(r'<article class="bd-article">(.*?)</article>', re.DOTALL)
TITLE = re.compile(r"<title>(.*?)</title>", re.DOTALL)
EXPLORER = re.compile(
    r'<figure class="pk-numbered" id="(?P<figure>[^"]*)"><div class="pk-flipbook"'
    r'|<div (?P<live>class="pk-live")'
)
PLAY = "explorer"  # the anchor of one that computes in the page; it takes its picture's place
LONGEST = 190  # characters of a description


@dataclass(frozen=True)
class Facts:
    """What the build knows: seconds of execution by page, and where the site will stand."""

    seconds: dict[str, float] = field(default_factory=dict)
    address: str = ""
    title: str = "How Networks Remember"


def reading_minutes(article: str) -> int:
    """Minutes to read an article, its formulas, figures and visible code included."""
    text = re.sub(r"<(?:script|style)\b.*?</(?:script|style)>", "", article, flags=re.DOTALL)
    text = re.sub(r"<details\b.*?</details>", "", text, flags=re.DOTALL)  # folded: read on demand
    formulas = len(re.findall(r'class="math ', text))
    figures = text.count('class="pk-numbered"')
    code = re.findall(r"<pre>.*?</pre>", text, re.DOTALL)
    lines = sum(block.count("\n") for block in code)
    text = re.sub(r"<(pre|svg|mjx-container)\b.*?</\1>", " ", text, flags=re.DOTALL)
    words = len(re.sub(r"<[^>]*>", " ", text).split())
    total = words + FORMULA_WORDS * formulas + FIGURE_WORDS * figures + CODE_LINE_WORDS * lines
    return max(1, round(total / WORDS_A_MINUTE))


def with_times(text: str, page: str, facts: Facts) -> str:
    """The page with its reading time, and running time where it is a notebook, below the title."""
    article = ARTICLE.search(text)
    if not article or "</h1>" not in article[1]:
        return text
    told = [f"{reading_minutes(article[1])} min to read"]
    seconds = facts.seconds.get(page)
    if seconds is not None:
        told.append(f"{seconds:.0f} s to run" if seconds < 90 else f"{seconds / 60:.0f} min to run")
    if explorer := EXPLORER.search(text):
        if explorer["live"]:
            at = explorer.start("live")
            text = f'{text[:at]}id="{PLAY}" {text[at:]}'
        told.append(f'<a href="#{explorer["figure"] or PLAY}">play with the explorer</a>')
    line = f'<p class="pk-times">{" · ".join(told)}</p>'
    place = text.index("</h1>", article.start()) + len("</h1>")  # a copy of it heads printed pages
    return f"{text[:place]}\n{line}{text[place:]}"


def description_of(text: str) -> str:
    """The first paragraph of the page in plain words, cut at a sentence or a word."""
    article = ARTICLE.search(text)
    found = re.search(r"<p>(.*?)</p>", article[1], re.DOTALL) if article else None
    if not found:
        return ""
    spoken = re.sub(r"<mjx-math.*?</mjx-math>", "", found[1], flags=re.DOTALL)  # MathML is left
    plain = html.unescape(re.sub(r"<[^>]*>", "", spoken))
    plain = " ".join(plain.split())
    if len(plain) <= LONGEST:
        return plain
    cut = plain[:LONGEST]
    return cut[: cut.rfind(". ") + 1] if ". " in cut[60:] else f"{cut.rsplit(' ', 1)[0]} …"


def with_head(text: str, path: str, facts: Facts) -> str:
    """The page with a description, and the title and picture that others show in a link to it."""
    title = TITLE.search(text)
    told = description_of(text)
    if not title or not told or 'name="description"' in text:
        return text
    name = html.unescape(title[1]).strip().removesuffix(f" — {facts.title}")
    base = f"{facts.address.rstrip('/')}/" if facts.address else "../" * path.count("/")
    fields = {
        "og:title": name,
        "og:description": told,
        "og:type": "article",
        "og:site_name": facts.title,
        "og:image": f"{base}_static/social-card.png",
        "og:image:alt": f"{facts.title}: every answer is a sum over the training samples.",
    }
    if facts.address:
        fields["og:url"] = base + path
    lines = [f'<meta name="description" content="{html.escape(told)}">']
    lines += [f'<meta property="{k}" content="{html.escape(v)}">' for k, v in fields.items()]
    lines.append('<meta name="twitter:card" content="summary_large_image">')
    return text.replace("</title>", "</title>\n    " + "\n    ".join(lines), 1)


def write_missing_page(folder: Path, facts: Facts) -> None:
    """404.html, which a server shows for any address that it does not know; it is all one file."""
    start = f"{facts.address.rstrip('/')}/" if facts.address else "index.html"
    (folder / "404.html").write_text(MISSING.format(title=facts.title, start=start), "utf8")


MISSING = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>No such page — {title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<style>:root{{color-scheme:light dark}}body{{font:1.1rem/1.6 system-ui,sans-serif;max-width:36rem;
margin:15vh auto;padding:0 1rem}}</style></head><body><main><h1>There is no such page</h1>
<p>The book has no page at this address. It may have moved when a chapter was renamed.</p>
<p><a id="home" href="{start}">{title}: to the beginning</a></p></main>
<script>
  // A site in a folder of a server (name.github.io/folder/) begins in that folder.
  const home = document.getElementById("home");
  const first = location.pathname.split("/")[1];
  const known = home.getAttribute("href") !== "index.html";
  if (!known && first && location.hostname.endsWith(".github.io"))
    home.href = `/${{first}}/`;
</script></body></html>
"""
