"""How high each section of a page will be, roughly, for browsers that lay it out only when near.

The sheet gives the sections of a page ``content-visibility: auto``; with a height to go by, the
scroll bar is about right before a section was ever seen. Once it was, its true height counts.
"""

from __future__ import annotations

import html
import re

BORDER = re.compile(r"<(/?)section\b[^>]*>")
CHARACTERS, LINE, CODE_LINE, FIGURE, BLOCK = 80, 27, 21, 340, 24  # of a line; the rest in pixels


def height(markup: str) -> int:
    """Pixels that a section takes on a wide screen, from what stands in it."""
    shown = re.sub(r"<div[^>]* data-frame=\"[^\"]*\"[^>]* hidden.*?</svg>", "", markup, flags=re.S)
    code = sum(text.count("\n") for text in re.findall(r"<pre>.*?</pre>", shown, re.S))
    figures = len(re.findall(r'<(?:svg|div)[^>]*role="img"|<img ', shown))
    blocks = len(re.findall(r"<(?:p|h[1-6]|li|tr|pre)\b", shown))
    plain = re.sub(r"<(pre|script|style|svg|mjx-container)\b.*?</\1>", "", shown, flags=re.S)
    text = html.unescape(re.sub(r"<[^>]*>", "", plain))
    lines = len(" ".join(text.split())) / CHARACTERS
    return round(lines * LINE + code * CODE_LINE + figures * FIGURE + blocks * BLOCK)


def with_heights(text: str) -> str:
    """The page with a rough height at each section of second level."""
    parts, depth, start, done = [], 0, 0, 0
    for found in BORDER.finditer(text):
        if not found[1]:
            depth += 1
            if depth == 2:
                start = found.end()
        else:
            if depth == 2:
                rough = height(text[start : found.start()])
                style = f' style="contain-intrinsic-size:auto {rough}px">'
                parts += [text[done : start - 1], style]
                done = start
            depth -= 1
    return "".join([*parts, text[done:]])
