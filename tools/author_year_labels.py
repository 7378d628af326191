"""A style of the bibliography whose labels are what the text cites: authors and year.

A Sphinx extension; ``_config.yml`` names it, and ``bibliography.md`` asks for ``author_year``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from string import ascii_lowercase

from pybtex.database import Entry
from pybtex.plugin import register_plugin
from pybtex.style.formatting.unsrt import Style
from pybtex.style.labels import BaseLabelStyle
from sphinx.application import Sphinx


def label_of(entry: Entry) -> str:
    """Names and year: "Guo et al., 2026"; a work without authors goes by its key."""
    people = entry.persons.get("author") or entry.persons.get("editor") or []
    names = [" ".join([*person.prelast_names, *person.last_names]) for person in people]
    names = [name.replace("{", "").replace("}", "") for name in names] or [entry.key]
    who = names[0] if len(names) == 1 else " and ".join(names)
    if len(names) > 2:
        who = f"{names[0]} et al."
    return f"{who}, {entry.fields.get('year', 'no year')}"


class AuthorYearLabels(BaseLabelStyle):
    """Labels of names and years, with letters where two would be the same."""

    def format_labels(self, sorted_entries: list[Entry]) -> Iterator[str]:
        labels = [label_of(entry) for entry in sorted_entries]
        often, seen = Counter(labels), Counter()
        for label in labels:
            yield label + (ascii_lowercase[seen[label]] if often[label] > 1 else "")
            seen[label] += 1


class AuthorYearStyle(Style):
    """Entries as ever, sorted by author and year, with those labels."""

    default_sorting_style = "author_year_title"
    default_label_style = AuthorYearLabels


def setup(app: Sphinx) -> dict[str, bool]:
    register_plugin("pybtex.style.formatting", "author_year", AuthorYearStyle)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
