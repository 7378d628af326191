"""What the pages of the site are told of themselves: numbers of figures, times, descriptions."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import author_year_labels  # noqa: E402
import page_facts  # noqa: E402
import page_figures  # noqa: E402
import status_page  # noqa: E402
from pybtex.database import parse_string  # noqa: E402

ALT = "Error against step &amp; time over thirty steps. It falls. Then it stays."
SVG = f'<svg class="pk-figure" viewBox="0 0 1 1" role="img" aria-label="{ALT}"><path d=""/></svg>'
SCROLLED = f'<div class="pk-scroll" tabindex="0">{SVG}</div>'
PANELS = (
    f'<div class="pk-figure" role="img" aria-label="{ALT}">'
    '<svg viewBox="0 0 1 1"><path d=""/></svg><svg viewBox="1 0 1 1"><use href="#a"/></svg></div>'
)
BOOK = (
    '<div class="pk-flipbook" role="group" aria-label="Explorer: rate, seed"><style></style>'
    f"<div data-frame>{SVG}</div><div data-frame hidden>{SVG}</div><script>1</script></div>"
)
PAGE = (
    "<head><title>Momentum &#8212; How Networks Remember</title></head><h1>Momentum</h1>"
    '<article class="bd-article"><h1>{}Momentum<a class="headerlink" href="#m">#</a></h1>'
    "<p>A gradient acts &amp; fades.</p>{}</article>"
)
NUMBER = '<span class="section-number">8. </span>'


def test_figures_and_explorers_are_numbered_by_chapter() -> None:
    text = page_figures.with_captions(PAGE.format(NUMBER, SVG + BOOK + SCROLLED))
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", text)
    assert [re.sub("<[^>]*>", "", found) for found in captions] == [
        "Figure 8.1 Error against step &amp; time over thirty steps.",
        "Figure 8.2 An explorer: rate, seed.",
        "Figure 8.3 Error against step &amp; time over thirty steps.",
    ]
    assert re.findall(r'<figure class="pk-numbered" id="([^"]*)"', text) == [
        "figure-8-1", "figure-8-2", "figure-8-3"]  # fmt: skip
    assert f'id="figure-8-3">{SCROLLED}<figcaption>' in text


def test_panels_that_stand_apart_are_one_figure() -> None:
    text = page_figures.with_captions(PAGE.format(NUMBER, PANELS + SVG))
    assert f'id="figure-8-1">{PANELS}<figcaption>' in text
    assert f'id="figure-8-2">{SVG}<figcaption>' in text


def test_the_next_and_the_last_figure_are_called_by_number() -> None:
    spoken = '<p><span\nclass="pk-{}-figure">the {} one</span></p>'
    last, following = spoken.format("last", "last"), spoken.format("next", "next")
    text = page_figures.with_captions(
        PAGE.format(NUMBER, last + SVG + last + following + BOOK + last + following)
    )
    assert re.findall(r"<p>(the last one|<a[^>]*>Figure [^<]*</a>|the next one)</p>", text) == [
        "the last one",
        '<a href="#figure-8-1">Figure 8.1</a>',
        '<a href="#figure-8-2">Figure 8.2</a>',
        '<a href="#figure-8-2">Figure 8.2</a>',
        "the next one",
    ]


def test_a_page_that_is_no_chapter_counts_from_one() -> None:
    text = page_figures.with_captions(PAGE.format("", SVG))
    assert ">Figure 1</a>" in text


@pytest.mark.parametrize(
    ("alt", "wanted"),
    [
        ("Three runs of the network side by side. They agree.",
         "Three runs of the network side by side."),
        ("Two panels. Left, the loss falls. Right, it rises.", "Two panels. Left, the loss falls."),
        ("A curve of about 0.5. something more", "A curve of about 0.5. something more."),
    ],
)  # fmt: skip
def test_a_caption_is_a_first_sentence_that_says_something(alt: str, wanted: str) -> None:
    assert page_figures.caption(alt) == wanted


def test_times_stand_below_the_title_of_the_article() -> None:
    facts = page_facts.Facts({"book/momentum": 40.2})
    text = page_facts.with_times(PAGE.format(NUMBER, "word " * 1000), "book/momentum", facts)
    assert text.count('class="pk-times"') == 1
    assert text.index("pk-times") > text.index("<article")
    assert "6 min to read · 40 s to run" in text
    played = page_figures.with_captions(PAGE.format(NUMBER, SVG + BOOK))
    text = page_facts.with_times(played, "book/momentum", facts)
    assert '<a href="#figure-8-2">play with the explorer</a>' in text
    live = f'<div class="pk-live" data-explorer="memory"><div class="pk-still">{SVG}</div></div>'
    played = page_figures.with_captions(PAGE.format(NUMBER, SVG + live + BOOK))
    text = page_facts.with_times(played, "book/momentum", facts)
    assert '<a href="#explorer">play with the explorer</a>' in text
    assert text.count('<div id="explorer" class="pk-live"') == 1
    text = page_facts.with_times(PAGE.format("", ""), "book/notation", facts)
    assert "1 min to read</p>" in text


def test_links_to_a_page_show_its_title_words_and_picture() -> None:
    text = page_facts.with_head(PAGE.format("", ""), "book/momentum.html", page_facts.Facts())
    assert '<meta name="description" content="A gradient acts &amp; fades.">' in text
    assert '<meta property="og:title" content="Momentum">' in text
    assert '<meta property="og:image" content="../_static/social-card.png">' in text
    assert "og:url" not in text
    facts = page_facts.Facts(address="https://example.org/book/")
    text = page_facts.with_head(PAGE.format("", ""), "book/momentum.html", facts)
    assert 'content="https://example.org/book/_static/social-card.png"' in text
    assert 'content="https://example.org/book/book/momentum.html"' in text


def test_a_long_description_is_cut_at_a_sentence() -> None:
    long = "<p>" + "A sentence with several words in it. " * 9 + "</p>"
    told = page_facts.description_of(f'<article class="bd-article">{long}</article>')
    assert told.endswith("in it.")
    assert 100 < len(told) <= page_facts.LONGEST


def test_the_missing_page_needs_no_other_file(tmp_path: Path) -> None:
    page_facts.write_missing_page(tmp_path, page_facts.Facts(address="https://example.org/b"))
    text = (tmp_path / "404.html").read_text(encoding="utf8")
    assert 'href="https://example.org/b/"' in text
    assert not re.search(r"<link|src=", text)


def test_the_status_page_counts_claims_and_seconds(tmp_path: Path) -> None:
    cell = nbformat.v4.new_code_cell("1")
    told = {"application/vnd.pkbook.claim+json": {"held": True}, "text/plain": "a claim"}
    cell.outputs = [nbformat.v4.new_output("display_data", data=told)]
    notebook = nbformat.v4.new_notebook(cells=[cell])
    (tmp_path / "book").mkdir()
    page = tmp_path / "book" / "status.md"
    page.write_text(f"# Status\n\n{status_page.MARKER}\n", encoding="utf8")
    status_page.write(tmp_path, {"book/a": notebook, "book/b": notebook}, {"book/a": 12.4})
    text = page.read_text(encoding="utf8")
    assert "| [a](a.ipynb) | 12 | 1 of 1 |" in text
    assert "| [b](b.ipynb) | – | 1 of 1 |" in text
    assert "| together | 12 | 2 of 2 |" in text
    assert "torch 2" in text


def test_labels_are_authors_and_year_and_differ() -> None:
    entry = "@misc{{{}, author={{{}}}, title={{T}}, year={{2020}}}}"
    bib = "\n".join(
        entry.format(key, who)
        for key, who in (("a", "de Vries, Jan"), ("b", "A, B and C, D"), ("c", "A, B and C, D"),
                         ("d", "A, B and C, D and E, F"))
    )  # fmt: skip
    entries = list(parse_string(bib, "bibtex").entries.values())
    labels = list(author_year_labels.AuthorYearLabels().format_labels(entries))
    assert labels == ["de Vries, 2020", "A and C, 2020a", "A and C, 2020b", "A et al., 2020"]
