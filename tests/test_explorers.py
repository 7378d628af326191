"""Explorers without a browser: the grid, the flipbook's text, the live widget."""

import itertools
import re
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest

from pkbook.lab import plots
from pkbook.lab.explorers import Control, Explorer, base


def draw(rate, momentum):
    fig, ax = plots.figure()
    steps = np.arange(20)
    ax.plot(steps, (1 - rate) ** steps + momentum, "o-", label=f"rate {rate:g}")
    ax.set(xlabel="step", ylabel="error")
    ax.legend()
    return fig


def words(rate, momentum):
    return f"The error over 20 steps at rate {rate:g} and momentum {momentum:g}, falling."


@pytest.fixture
def explorer():
    controls = {
        "rate": Control("learning rate", (0.01, 0.1, 0.5), initial=0.1),
        "momentum": Control("momentum & more", (0.0, 0.9), formatter=lambda m: f"{m:.1f}"),
    }
    return Explorer(controls, draw, words)


def test_frames_are_the_whole_grid_the_last_control_fastest(explorer):
    values = [tuple(frame.values.values()) for frame in explorer.frames()]
    assert values == list(itertools.product((0.01, 0.1, 0.5), (0.0, 0.9)))
    assert len({frame.drawing.body for frame in explorer.frames()}) == 6
    assert explorer.frames()[5].alt == words(0.5, 0.9)


def test_every_frame_is_drawn_once(explorer):
    drawn = []
    counted = Explorer(explorer.controls, lambda **v: drawn.append(v) or draw(**v), words)
    counted.html()
    counted.frames()
    counted.sliders["rate"].value = 0.5
    assert counted.widget
    assert len(drawn) == 6


def test_flipbook_shows_the_initial_frame_and_hides_the_others(explorer):
    html = explorer.html()
    frames = re.findall(r"<div data-frame( hidden)?><svg [^>]*aria-label=\"([^\"]*)\"", html)
    assert [hidden for hidden, _ in frames].count("") == 1
    assert dict(frames)[""] == words(0.1, 0.0)
    assert f'aria-live="polite">{words(0.1, 0.0)}</p>' in html


def words_of_one(rate):
    return words(rate, 0)


def test_flipbook_has_unique_ids_and_no_dangling_reference(explorer):
    sliders = {"rate": Control("rate", (0.2, 0.3))}
    other = Explorer(sliders, lambda rate: draw(rate, 0), words_of_one)
    pages = explorer.html(), other.html(), plots.svg(draw(0.1, 0), words(0.1, 0))
    ids = [re.findall(r'\bid="([^"]+)"', html) for html in pages]
    assert len(set().union(*ids)) == sum(map(len, ids)) > 30
    for html, own in zip(pages, ids, strict=True):
        references = re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', html)
        assert {one or other for one, other in references} == set(own)


def test_flipbook_needs_nothing_from_elsewhere(explorer):
    html = explorer.html()
    assert not re.search(r"https?:|\bsrc=|@import|<link", html)
    assert "momentum &amp; more" in html
    assert 'data-texts="[&quot;0.0&quot;, &quot;0.9&quot;]"' in html


def test_flipbook_is_the_same_in_every_run_and_moderate_in_size(explorer):
    html = explorer.html()
    assert html == Explorer(explorer.controls, draw, words).html()
    assert len(html) / 6 < 12_000


def test_shared_definitions_make_a_frame_smaller_than_a_figure_alone(explorer):
    alone = len(plots.svg(draw(0.1, 0.0), words(0.1, 0.0)))
    assert len(explorer.html()) / 6 < 0.8 * alone


class Shell:
    """Stands for IPython's shell: what the front end sent with the cell that runs."""

    def __init__(self, metadata):
        self.metadata = metadata

    def get_parent(self):
        return {"metadata": self.metadata}


@pytest.fixture
def shown(monkeypatch):
    """What an explorer displays, in order: ``[("show" or "update", bundle)]``."""
    told = []

    def display(bundle, raw, display_id=None):
        told.append(("show", bundle))
        return SimpleNamespace(update=lambda bundle, raw: told.append(("update", bundle)))

    monkeypatch.setattr(base, "display", display)
    return told


def test_a_build_is_shown_the_flipbook_and_no_widget_that_a_saved_notebook_would_miss(
    explorer, shown, monkeypatch
):
    for shell in (None, Shell({})):
        monkeypatch.setattr(base, "get_ipython", lambda shell=shell: shell)
        explorer._ipython_display_()
    told = {"text/html": explorer.html(), "text/plain": f"Explorer: {words(0.1, 0.0)}"}
    assert shown == [("show", told)] * 2


def test_a_reader_sees_the_first_frame_before_the_others_are_drawn(shown, monkeypatch):
    drawn = []
    controls = {"rate": Control("rate", (0.2, 0.3, 0.4), initial=0.3)}
    slow = Explorer(controls, lambda rate: drawn.append(rate) or draw(rate, 0), words_of_one)
    monkeypatch.setattr(base, "get_ipython", lambda: Shell({"cellId": "a-cell"}))
    seen = []
    show = base.display
    monkeypatch.setattr(base, "display", lambda *a, **k: seen.append(list(drawn)) or show(*a, **k))
    slow._ipython_display_()
    assert seen == [[0.3]]
    assert [how for how, _ in shown] == ["show", "update"]
    first, last = (bundle["text/html"] for _, bundle in shown)
    assert words_of_one(0.3) in first
    assert words_of_one(0.2) not in first
    assert last == slow.html()


def test_moving_a_slider_redraws(explorer):
    picture = explorer.widget.children[-1]
    assert words(0.1, 0.0) in picture.value
    before = picture.value
    explorer.sliders["rate"].value = 0.5
    assert words(0.5, 0.0) in picture.value
    explorer.sliders["momentum"].value = 0.9
    assert words(0.5, 0.9) in picture.value
    assert words(0.1, 0.0) not in picture.value
    explorer.sliders["rate"].value, explorer.sliders["momentum"].value = 0.1, 0.0
    assert picture.value == before


def test_figures_of_pyplot_are_closed(explorer):
    def with_pyplot(rate, momentum):
        fig, ax = plt.subplots()
        ax.plot([0, rate], [0, momentum])
        return fig

    before = plt.get_fignums()
    Explorer(explorer.controls, with_pyplot, words).frames()
    assert plt.get_fignums() == before


TWO = {"rate": Control("rate", (1, 2))}


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Control("", (1, 2)), ValueError, "label: expected words"),
        (lambda: Control("a", (1,)), ValueError, "values: expected at least two"),
        (lambda: Control("a", (1, 1)), ValueError, "values: .*differ"),
        (lambda: Control("a", (1.0, 1.1), formatter=lambda v: f"{v:.0f}"), ValueError, "wording"),
        (lambda: Control("a", (1, 2), initial=3), ValueError, "initial: expected one of"),
        (lambda: Explorer({}, draw, words), ValueError, "controls: expected at least one"),
        (lambda: Explorer({"rate": (1, 2)}, draw, words), TypeError, "expected a Control for"),
        (lambda: Explorer(TWO, None, words), TypeError, "draw: expected a function"),
        (lambda: Explorer(TWO, draw, "words"), TypeError, "alt: expected a function"),
        (lambda: Explorer({"a": Control("a", range(61))}, draw, words), ValueError, "61 frames"),
        (lambda: Explorer(TWO, lambda rate: None, words_of_one).frames(), TypeError, "a Figure"),
        (lambda: Explorer(TWO, draw, lambda rate: "short").frames(), ValueError, "at least 15"),
        (lambda: Explorer(TWO, draw, words).frame(rat=1), ValueError, "values: expected"),
        (lambda: Explorer(TWO, draw, words).frame(rate=9), ValueError, "rate: expected one of"),
    ],
)
def test_refuses(call, error, message):
    with pytest.raises(error, match=message):
        call()
