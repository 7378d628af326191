"""Numbers and captions for the figures and explorers of a page.

A figure's description is written for those who do not see it; its first sentence says what the
figure is, and that is its caption. Numbers count by chapter: figure 3.2 is the second of chapter 3,
and ``page.html#figure-3-2`` leads to it.

What a notebook calls ``<span class="pk-next-figure">the next figure</span>``, or
``pk-last-figure``, has its number on the page.
"""

from __future__ import annotations

import html
import re

CHAPTER = re.compile(
    r'<article.*?<h1>(?:<span class="section-number">(?P<number>\d+)[^<]*</span>)?', re.DOTALL
)
EXPLORER = r'<div class="pk-flipbook" role="group" aria-label="Explorer: (?P<name>[^"]*)">'
FIGURE = (
    r'(?P<holder><div class="pk-scroll"[^>]*>(?=<svg)|(?=<div class="pk-figure"))?'
    r'<(?:svg|div) class="pk-figure"[^>]*? aria-label="(?P<alt>[^"]*)".*?</svg>(?(holder)</div>)'
)
EITHER = re.compile(rf"{EXPLORER}.*?</script></div>|{FIGURE}", re.DOTALL)
NUMBERED = r'<figure class="pk-numbered" id="(?P<label>[^"]*)">'
SPOKEN = r'<span\s+class="pk-(?P<which>next|last)-figure">(?P<words>[^<]*)</span>'
PLACES = re.compile(f"{NUMBERED}|{SPOKEN}")
SHORT = 30  # characters; a first sentence below that is given its second


def caption(alt: str) -> str:
    """The first sentence of a description, or two where the first says little."""
    sentences = re.split(r"(?<=[a-z0-9)”’\"'])[.;] (?=[A-Z])", html.unescape(alt).strip())
    text = sentences[0]
    if len(text) < SHORT and len(sentences) > 1:
        text += f". {sentences[1]}"
    return html.escape(f"{text.rstrip('.')}.", quote=False)


def with_captions(text: str) -> str:
    """The page with each figure in an element of its own, numbered and named."""
    chapter = CHAPTER.search(text)
    prefix = f"{chapter['number']}." if chapter and chapter["number"] else ""
    count = 0

    def one(found: re.Match) -> str:
        nonlocal count
        count += 1
        number = f"{prefix}{count}"
        told = caption(found["alt"]) if found["alt"] else f"An explorer: {found['name']}."
        label = f"figure-{number.replace('.', '-')}"
        return (
            f'<figure class="pk-numbered" id="{label}">{found[0]}<figcaption>'
            f'<a href="#{label}">Figure {number}</a> {told}</figcaption></figure>'
        )

    return _by_number(EITHER.sub(one, text))


def _by_number(text: str) -> str:
    """What is called the next or the last figure, by its number, as a link."""
    labels, before = re.findall(NUMBERED, text), 0

    def one(found: re.Match) -> str:
        nonlocal before
        if found["label"]:
            before += 1
            return found[0]
        place = before - (found["which"] == "last")
        if not 0 <= place < len(labels):
            return found["words"]
        number = labels[place].removeprefix("figure-").replace("-", ".")
        return f'<a href="#{labels[place]}">Figure {number}</a>'

    return PLACES.sub(one, text)
