"""One cell's text in Markdown that JupyterLab, VS Code and Colab show without the site's theme.

Directives become boxes with number and title, references become links between notebooks. The boxes
carry their style themselves: a coloured bar at the left, no background, so that they look right on
a light and on a dark page. A box is a cell of its own whose id is the label, for JupyterLab's links
lead to cells: ``02-domingos.ipynb#cell-id=thm-domingos``.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from .book import BOXES, Book, Box, KitError, Target, Words, split

ROLE = re.compile(r"\{([\w:-]+)\}`([^`]+)`")
LINK = re.compile(r"\]\(([\w./-]+?)\.(?:ipynb|md)(?:#([\w-]+))?\)")
BARE_LINK = re.compile(r"\]\(#([\w-]+)\)")
COMMENT = re.compile(r"[ \t]*<!--.*?-->", re.S)
FENCED = re.compile(r"^( *)(`{3,}|~{3,})[^\n]*\n(?:.*\n)*?\1\2[ \t]*$", re.M)
INLINE = re.compile(r"(`+)[^`]+\1")
COLOURS = {"Definition": "#b8860b", "Exercise": "#2e8b57", "Proof": "#888888"}
BLUE = "#3b6ea5"
ACCENTS = {"'": "\u0301", "`": "\u0300", '"': "\u0308", "^": "\u0302", "~": "\u0303", "c": "\u0327"}
ACCENTS |= {"v": "\u030c", "=": "\u0304", ".": "\u0307", "u": "\u0306", "H": "\u030b"}
ACCENTED = re.compile(r"""\\(['`"^~=.]|[cvuH](?=[{ ]))\s*\{?(\\?[a-zA-Z])\}?""")
LETTERS = {"ss": "ß", "o": "ø", "O": "Ø", "l": "ł", "L": "Ł", "ae": "æ", "aa": "å", "i": "i"}
WORK = re.compile(r"^@\w+\{(\w+),\n(.*?)^\}", re.M | re.S)
FIELD = re.compile(r"^  (\w+)\s*=\s*\{(.*?)\},?$(?=\n  \w+\s*=|\n*\Z)", re.M | re.S)
RST_NAME = re.compile(r"^\.\. auto(\w+):: ([\w.]+)\n((?:   :.*\n?)*)", re.M)


@dataclass(frozen=True)
class Piece:
    """A cell to be: its Markdown, its id where a link may lead to it, and what it comes from."""

    text: str
    label: str = ""
    kind: str = "words"  # or exercise, solution, solution-start, solution-end, statement, proof
    of: str = ""  # the exercise that a solution solves
    title: str = ""


def pieces(source: str, page: str, book: Book) -> Iterator[Piece]:
    """The cells that one markdown cell becomes.

    Raises KitError for a directive, a role or a label that is not known.
    """
    for found in split(source):
        if isinstance(found, Words):
            text = words(found.text, page, book)
            if text.strip():
                yield Piece(text, found.label)
        else:
            yield from _of_box(found, page, book)


def _of_box(box: Box, page: str, book: Book) -> Iterator[Piece]:
    inside = words(box.body, page, book)
    if box.name in BOXES and box.name != "exercise":
        target = book.targets.get(box.label) or Target(page, BOXES[box.name], box.argument)
        title = f" ({words(target.title, page, book)})" if target.title else ""
        text = framed(f"**{target.words}**{title}", inside, BOXES[box.name])
        yield Piece(text, box.label, "statement", title=target.words)
    elif box.name == "prf:proof":
        yield Piece(framed("*Proof.*", inside, "Proof"), box.label, "proof")
    elif box.name == "exercise":
        title = book.targets[box.label].words + ": " + words(box.argument, page, book)
        yield Piece(f"### {title}\n\n{inside}", box.label, "exercise", box.label, title)
    elif box.name in ("solution", "solution-start"):
        if box.argument not in book.targets:
            raise KitError(f"{page}: a solution of {box.argument!r}, which is no exercise")
        title = f"Solution of {book.targets[box.argument].words}"
        yield Piece(f"#### {title}\n\n{inside}".rstrip(), box.label, box.name, box.argument, title)
    elif box.name == "solution-end":
        yield Piece("", kind="solution-end")
    elif box.name == "admonition":
        yield Piece(framed(f"**{words(box.argument, page, book)}**", inside, "Try"), box.label)
    elif box.name == "dropdown":
        head = f"<summary>{words(box.argument, page, book)}</summary>"
        yield Piece(f"<details>{head}\n\n{inside}\n\n</details>", box.label)
    elif box.name == "bibliography":
        for key, entry in bibliography(book).items():
            yield Piece(f"**{entry.short}.** {entry.full}", key)
    elif box.name == "glossary":
        terms = re.sub(r"^(\S.*)\n((?:[ ]+\S.*\n?)+)", _of_term, inside + "\n", flags=re.M)
        yield Piece(terms.rstrip(), box.label)
    else:
        raise KitError(f"{page}: no plain form is known for the directive {{{box.name}}}")


def framed(head: str, body: str, kind: str) -> str:
    """A box: its head in bold, its body as Markdown, and a bar at its left."""
    style = f"border-left: 4px solid {COLOURS.get(kind, BLUE)}; padding: 2px 0 2px 14px"
    end = " $\\square$" if kind == "Proof" and "\\square" not in body else ""
    closing = f"\n\n{end.strip()}" if end else ""
    return f'<div style="{style}">\n\n{head}\n\n{body}{closing}\n\n</div>'


def _of_term(found: re.Match) -> str:
    """A term of the glossary, and what it means."""
    return f"**{found[1]}**: {' '.join(found[2].split())}\n"


def words(text: str, page: str, book: Book) -> str:
    """Text with its references as links, without comments and reStructuredText."""
    text = re.sub(
        r"^```\{eval-rst\}\n(.*?)^```[ \t]*$", lambda m: _names(m[1]), text, flags=re.M | re.S
    )
    made, start = [], 0
    for code in [*FENCED.finditer(text), None]:
        prose = text[start : code.start()] if code else text[start:]
        prose = ROLE.sub(lambda found: _role(found[1], found[2], page, book), prose)
        made += [_links(COMMENT.sub("", prose), page, book), code[0] if code else ""]
        start = code.end() if code else start
    return "".join(made)


def _links(text: str, page: str, book: Book) -> str:
    def to_page(found: re.Match) -> str:
        name, label = found[1].rsplit("/", 1)[-1], found[2] or ""
        if name not in book.pages:
            return found[0] if "/" in found[1] else "](" + book.link(_instead(name, book)) + ")"
        return f"]({book.link(name, label if label in book.targets else '')})"

    def to_label(found: re.Match) -> str:
        if found[1] not in book.targets:
            raise KitError(f"{page}: a link to #{found[1]}, which is no label")
        return f"]({book.link(book.targets[found[1]].page, found[1])})"

    parts, start = [], 0
    for code in [*INLINE.finditer(text), None]:
        prose = text[start : code.start()] if code else text[start:]
        parts += [BARE_LINK.sub(to_label, LINK.sub(to_page, prose)), code[0] if code else ""]
        start = code.end() if code else start
    return "".join(parts)


def _instead(name: str, book: Book) -> str:
    """For a page that the kit leaves out: the one to start with, else the first."""
    return "start_here" if "start_here" in book.pages else next(iter(book.pages))


def _role(role: str, inside: str, page: str, book: Book) -> str:
    if role == "cite":
        known = bibliography(book)
        keys = [key.strip() for key in inside.split(",")]
        return ", ".join(f"[{known[key].short}]({_to_entry(key, book)})" for key in keys)
    if role == "term":
        return f"[{inside}]({book.link('glossary')})" if "glossary" in book.pages else inside
    if role not in ("ref", "prf:ref", "numref"):
        raise KitError(f"{page}: no plain form is known for the role {{{role}}}")
    text, _, label = inside.rpartition("<")
    label, text = label.strip("<> "), text.strip()
    if label not in book.targets:
        if label.startswith("result-"):  # a row of the results page, which the site alone has
            return f"{text} ({label.removeprefix('result-').upper()} of the results page)"
        if label in ("genindex", "search"):  # pages that Sphinx makes, which the site alone has
            return f"{text or label} (of the site)"
        raise KitError(f"{page}: a reference to {label!r}, which is no label")
    target = book.targets[label]
    return f"[{text or target.words}]({book.link(target.page, label)})"


def _to_entry(key: str, book: Book) -> str:
    return book.link("bibliography", key) if "bibliography" in book.pages else ""


def _names(rst: str) -> str:
    """The reference page's lists of names, each with what shows its description."""
    found = []
    for what, name, options in RST_NAME.findall(rst):
        members = re.search(r":members: *(.+)", options)
        inside = [m.strip() for m in members[1].split(",")] if members else []
        short = name.removeprefix("pkbook.")
        if what != "module":
            found.append(short)
        found += [f"{short}.{member}" for member in inside]
    return "\n".join(f"* `help(pk.{name})`" for name in found) + "\n"


@dataclass(frozen=True)
class Entry:
    """A work: "Bell et al. (2023)", and its full description."""

    short: str
    full: str


def bibliography(book: Book) -> dict[str, Entry]:
    """The works of ``references.bib`` by key, sorted by author and year."""
    return _entries(str(book.bibliography))


@cache
def _entries(path: str) -> dict[str, Entry]:
    found = {}
    for key, inside in WORK.findall(Path(path).read_text(encoding="utf8")):
        fields = {name: _clean(value) for name, value in FIELD.findall(inside)}
        people = [name.partition(", ") for name in fields["author"].split(" and ")]
        last = [family for family, _, _ in people]
        who = " and ".join(last) if len(last) < 3 else f"{last[0]} et al."
        names = ", ".join(f"{first} {family}".strip() for family, _, first in people)
        found[key] = Entry(f"{who} ({fields['year']})", _full(names, fields))
    return dict(sorted(found.items(), key=lambda item: item[1].short.lower()))


def _full(names: str, fields: dict[str, str]) -> str:
    where = fields.get("journal") or fields.get("booktitle") or fields.get("publisher") or ""
    parts = [names, f"*{fields['title']}*", where, fields["year"]]
    text = ". ".join(part for part in parts if part) + "."
    if fields.get("archiveprefix", "").lower() == "arxiv":
        text += f" [arXiv {fields['eprint']}](https://arxiv.org/abs/{fields['eprint']})."
    elif "doi" in fields:
        text += f" [doi {fields['doi']}](https://doi.org/{fields['doi']})."
    elif "url" in fields:
        text += f" <{fields['url']}>."
    return text


def _clean(text: str) -> str:
    """Names and titles without LaTeX: ``{\\'i}`` is í, and braces only keep capitals."""

    def accented(found: re.Match) -> str:
        letter = found[2].replace("\\i", "i").replace("\\j", "j")
        return unicodedata.normalize("NFC", letter + ACCENTS[found[1]])

    text = ACCENTED.sub(accented, " ".join(text.split()))
    for command, letter in LETTERS.items():
        text = re.sub(rf"\\{command}(?![a-zA-Z])", letter, text)
    text = re.sub(r"[{}]", "", text).replace("---", "--").replace("--", "\u2013")
    return text.replace("\\&", "&").strip()
