"""The rules of the site's style sheets that its pages use, to stand in the pages themselves.

A page then paints as soon as its first bytes are there, instead of after a dozen more requests.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import tinycss2

NAME = re.compile(r"-?[A-Za-z_][\w-]*")
IMPORT = re.compile(r'@import\s+(?:url\()?["\']?([^"\')]+)["\']?\)?\s*;')
ADDRESS = re.compile(r'url\(\s*["\']?(?!data:|#|/|[a-z]+:|SITE)([^"\')]+)["\']?\s*\)')
ROOT = "SITE/"  # in an address: the folder of the site, as seen from a page


def words_of(pages: Iterable[str], scripts: Iterable[str]) -> set[str]:
    """The elements, classes and ids of pages, and every name that a script may set."""
    words = {word for text in scripts for word in NAME.findall(text)}
    for text in pages:
        for script in re.findall(r"<script>(.*?)</script>", text, re.DOTALL):
            words.update(NAME.findall(script))
        words.update(re.findall(r"<([a-z][\w-]*)", text))
        for values in re.findall(r'\b(?:class|id)="([^"]*)"', text):
            words.update(values.split())
    return words


def read_sheet(path: Path, site: Path) -> str:
    """A style sheet with what it imports in place, and its addresses as seen from ROOT."""
    text = IMPORT.sub(
        lambda found: f"{read_sheet(path.parent / found[1], site)}\n", path.read_text("utf8")
    )
    folder = path.resolve().parent.relative_to(site.resolve()).as_posix()
    return ADDRESS.sub(rf'url("{ROOT}{folder}/\1")', text)


def used(css: str, words: set[str]) -> str:
    """The rules of which some selector can match in a page made of these words."""
    rules = tinycss2.parse_stylesheet(css, skip_comments=True, skip_whitespace=True)
    return without_idle_variables("".join(_kept(rules, words)))


def _kept(rules: list, words: set[str]) -> Iterator[str]:
    for rule in rules:
        if rule.type == "qualified-rule":
            selectors = [one for one in _selectors(rule.prelude) if _possible(one, words)]
            if selectors:
                yield f"{','.join(map(_text, selectors))}{{{_text(rule.content)}}}"
        elif rule.type == "at-rule" and rule.lower_at_keyword in {"media", "supports"}:
            inside = tinycss2.parse_rule_list(rule.content, True, True)
            if kept := "".join(_kept(inside, words)):
                yield f"@{rule.at_keyword}{_text(rule.prelude, False)}{{{kept}}}"
        elif rule.type == "at-rule" and rule.lower_at_keyword == "font-face":
            if "Font Awesome" not in (text := _text(rule.content)):
                yield f"@font-face{{{text}}}"
        elif rule.type == "at-rule" and rule.content is not None:
            yield f"@{rule.at_keyword}{_text(rule.prelude, False)}{{{_text(rule.content)}}}"


def _selectors(prelude: list) -> Iterator[list]:
    """The parts of a prelude between its commas."""
    part: list = []
    for token in prelude:
        if token.type == "literal" and token.value == ",":
            yield part
            part = []
        else:
            part.append(token)
    yield part


def _possible(selector: list, words: set[str]) -> bool:
    """Whether all names that the selector wants are among the words."""
    before = ""
    for token in selector:
        if token.type == "ident" and before != ":":
            if token.value not in words and token.value.lower() not in words:
                return False
        elif token.type == "hash" and token.value not in words:
            return False
        elif token.type == "function" and token.lower_name in {"is", "where"}:
            if not any(_possible(one, words) for one in _selectors(token.arguments)):
                return False
        before = token.value if token.type == "literal" else ""
    return True


def _text(tokens: list, strip: bool = True) -> str:
    """The tokens as text, spaces and comments as short as may be."""
    parts = []
    for token in tokens:
        if token.type == "whitespace":
            parts.append(" ")
        elif token.type != "comment":
            parts.append(token.serialize())
    text = "".join(parts)
    return text.strip() if strip else text.rstrip()


def without_idle_variables(css: str) -> str:
    """The rules without custom properties that nothing reads; what only those read goes too."""
    declared = re.compile(r'(?<=[{;])\s*(--[\w-]+)\s*:(?:[^;{}"]|"[^"]*")*(?:;|(?=\}))')
    while True:
        read = set(re.findall(r"var\(\s*(--[\w-]+)", css))
        idle = [found[0] for found in declared.finditer(css) if found[1] not in read]
        if not idle:
            return css
        for text in idle:
            css = css.replace(text, "")
