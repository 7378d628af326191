"""Figures: readable on both pages, described in words, the same in every run."""

import base64
import io
import re
from xml.etree import ElementTree

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from PIL import Image

from pkbook.lab import plots
from pkbook.lab.plots import house, inline, tracing

ALT = "Two lines that cross at one half."
matplotlib.use("agg")


def lines(slope=1.0):
    fig, ax = plots.figure()
    ax.plot([0, 1], [0, slope], "o-", label="up")
    ax.plot([0, 1], [1, 0], label="down")
    ax.set(xlabel="$x^2$", ylabel="value", title="Lines")
    ax.legend()
    return fig


def ids(markup):
    return re.findall(r'\bid="([^"]+)"', markup)


def references(markup):
    return re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', markup)


def luminance(colour):
    rgb = np.asarray(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


def contrast(one, other):
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


# --- colours ---------------------------------------------------------------------------------


@pytest.mark.parametrize("page", ["#ffffff", "#121212"])
def test_palette_stands_out_on_both_pages(page):
    assert min(contrast(colour, page) for colour in plots.PALETTE) >= 3


# Machado, Oliveira, Fernandes 2009, severity 1, acting on linear RGB.
DEFICIENCIES = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                   [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                     [-0.011820, 0.042940, 0.968881]],
}  # fmt: skip


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
def test_the_two_classes_differ_for_a_colour_blind_reader(deficiency):
    def seen(colour):
        rgb = np.asarray(to_rgb(colour))
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        return np.asarray(DEFICIENCIES[deficiency]) @ linear

    def distance(one, other):
        return np.abs(seen(one) - seen(other)).max()

    # Red and green of equal lightness, the classic mistake, lie closer than our two classes.
    assert distance(plots.PLUS, plots.MINUS) > 0.2 > distance("#c05000", "#7a7a00")
    assert plots.CLASS_MARKERS[1] != plots.CLASS_MARKERS[-1]


def test_diverging_map_is_symmetric_in_lightness_and_palest_at_zero():
    rgb = plots.DIVERGING(np.linspace(0, 1, 255))[:, :3]
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    lightness = (np.cbrt(linear @ house._TO_CONES.T) @ house._FROM_CONES.T)[:, 0]
    steps = np.diff(lightness)
    assert lightness.argmax() == 127
    np.testing.assert_allclose(lightness, lightness[::-1], atol=0.01)
    np.testing.assert_allclose(steps[:127], steps[:127].mean(), atol=1e-3)


def test_symmetric_norm():
    norm = plots.symmetric_norm(torch.tensor([[-3.0, 1.0]]))
    assert (norm.vmin, norm.vmax) == (-3, 3)
    assert plots.symmetric_norm([0.0]).vmax == 1
    assert plots.symmetric_norm([5.0], limit=2).vmin == -2


# --- the inline SVG --------------------------------------------------------------------------


def test_black_becomes_the_ink_of_the_page_and_nothing_is_opaque():
    markup = plots.svg(lines(), ALT)
    assert "currentColor" in markup
    assert 'fill="currentColor"' in markup[: markup.index(">")]  # glyphs inherit it
    assert not re.search(r"#000\b|#000000|#fff\b|#ffffff|black|white", markup)


def test_default_figures_of_pyplot_lose_their_white_ground_too():
    fig, ax = plt.subplots()
    ax.plot([0, 1], label="line")
    frame = ax.legend(facecolor="white").get_frame()
    assert "#ffffff" not in plots.svg(fig, ALT)
    assert frame.get_visible()
    plt.close(fig)


def test_markup_is_an_element_of_html_and_not_a_document():
    markup = plots.svg(lines(), ALT)
    for part in ("<?xml", "<!DOCTYPE", "<metadata", "<title", "<style", "xlink", "<!--", "xmlns"):
        assert part not in markup
    assert markup.startswith("<svg ")
    assert markup.endswith("</svg>")
    assert 'role="img"' in markup


def test_ids_are_unique_on_a_page_and_every_reference_is_kept():
    page = plots.svg(lines(1), ALT) + plots.svg(lines(2), ALT)
    assert len(ids(page)) == len(set(ids(page))) > 10
    assert {one or other for one, other in references(page)} == set(ids(page))


def test_the_same_figure_gives_the_same_text():
    assert plots.svg(lines(), ALT) == plots.svg(lines(), ALT)
    assert inline.png(lines()) == inline.png(lines())


def test_alt_is_escaped():
    markup = plots.svg(lines(), 'A "quoted" line < another & more')
    assert 'aria-label="A &quot;quoted&quot; line &lt; another &amp; more"' in markup


def side_by_side(**axes):
    fig, (left, right) = plots.figure(1, 2, **axes)
    left.plot([0, 1])
    right.plot([1, 0])
    return fig


@pytest.mark.parametrize(("fig", "scrolls"), [
    (lines(), False),
    (side_by_side(), False),
    (side_by_side(sharey=True), True),
])  # fmt: skip
def test_only_wide_figures_that_cannot_be_parted_scroll_and_then_by_keyboard(fig, scrolls):
    markup = plots.svg(fig, ALT)
    assert ("overflow-x:auto" in markup) == scrolls == ('tabindex="0"' in markup)


def test_panels_tile_the_figure_and_show_one_drawing():
    markup = plots.svg(side_by_side(), ALT)
    boxes = [[float(v) for v in box.split()] for box in re.findall(r'viewBox="([^"]*)"', markup)]
    (left, top, width, height), (start, _, rest, _) = boxes
    assert (left, top, height) == (0, 0, 244.8)
    assert width == start
    assert start + rest == 7.5 * 72
    bases = [float(v) for v in re.findall(r"flex:\d+ 1 (\d+)px", markup)]
    assert sum(bases) == pytest.approx(tracing.SMALLEST_SHARE * 7.5 * 96, abs=1)
    assert max(bases) <= tracing.PHONE_PIXELS
    assert len(ids(markup)) == len(set(ids(markup)))
    assert {one or other for one, other in references(markup)} == set(ids(markup))


def test_a_cut_lies_where_nothing_stands():
    fig = side_by_side()
    (cut,) = tracing.trace(fig, apart=True).cuts
    fig.draw_without_rendering()
    left, right = (ax.get_tightbbox() for ax in fig.axes)
    assert left.x1 * 72 / fig.dpi < cut < right.x0 * 72 / fig.dpi


def over_both(fig):
    fig.axes[0].lines[0].set_label("a line that has a rather long name")
    fig.legend(loc="outside upper center")


def with_bar(fig):
    fig.colorbar(fig.axes[1].imshow([[0, 1]], aspect="auto"), ax=fig.axes[1])


@pytest.mark.parametrize(("add", "cuts"), [(over_both, 0), (with_bar, 1)])
def test_a_legend_over_both_panels_holds_them_and_a_colour_bar_stays_with_its_own(add, cuts):
    fig = side_by_side()
    add(fig)
    assert len(tracing.trace(fig, apart=True).cuts) == cuts


@pytest.mark.parametrize(("colours", "smaller"), [(200, True), (2000, False)])
def test_pictures_keep_their_pixels(colours, smaller):
    generator = np.random.default_rng(0)
    palette = generator.integers(0, 256, (colours, 4), dtype=np.uint8)
    pixels = palette[generator.integers(0, colours, (60, 70))]
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="png")
    before = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    after = tracing._smaller_picture(before)
    assert (len(after) < len(before)) == smaller
    picture = Image.open(io.BytesIO(base64.b64decode(after.partition(",")[2])))
    np.testing.assert_array_equal(np.asarray(picture.convert("RGBA")), pixels)


def test_points_share_one_style():
    fig, ax = plots.figure()
    ax.plot([0, 0.5, 1], [0, 0.5, 1], "o", color=plots.PLUS, alpha=0.5)
    markup = plots.svg(fig, ALT)
    (group,) = re.findall(r"<g clip-path[^>]*>(?:<use[^>]*>){3}</g>", markup)
    assert group.count("style=") == 1
    assert "fill-opacity:0.5" in group[: group.index(">")]


@pytest.mark.parametrize(
    ("style", "shared"), [("fill:red;fill-opacity:0.5", True), ("fill:red;opacity:0.5", False)]
)
def test_a_group_takes_no_style_over_that_would_fade_it_as_a_whole(style, shared):
    group = ElementTree.fromstring(f'<g><use style="{style}"/><use style="{style}"/></g>')
    tracing._merge(group)
    assert (group.get("style") == style) == shared
    assert [child.get("style") for child in group] == [None if shared else style] * 2


# --- show ------------------------------------------------------------------------------------


@pytest.fixture
def shown(monkeypatch):
    bundles = []
    monkeypatch.setattr(inline, "get_ipython", lambda: object())
    monkeypatch.setattr(inline, "display", lambda data, raw: bundles.append(data))
    return bundles


def test_show_displays_html_with_png_beside_it_and_closes(shown):
    fig, ax = plt.subplots()
    ax.plot([0, 1])
    assert plots.show(fig, alt=ALT) is None
    (bundle,) = shown
    assert ALT in bundle["text/html"]
    assert bundle["text/plain"] == ALT
    picture = Image.open(io.BytesIO(bundle["image/png"]))
    assert picture.convert("RGBA").getpixel((0, 0)) == (255, 255, 255, 255)
    assert np.allclose(picture.size, 100 * fig.get_size_inches(), atol=1)
    assert not plt.fignum_exists(fig.number)


def test_outside_ipython_show_is_silent(capsys):
    assert plots.show(lines(), ALT) is None
    assert capsys.readouterr() == ("", "")


def test_settings_are_restored(shown):
    before = dict(matplotlib.rcParams)
    fig, (left, right) = plots.figure(1, 2)
    plots.contribution_bars(left, [1.0, -1.0], ["a", "b"])
    plots.decision_region(right, lambda x: x[:, 0], (-1, 1, -1, 1), resolution=8)
    plots.show(fig, ALT)
    with plots.style():
        assert dict(matplotlib.rcParams) != before
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize(
    ("fig", "alt", "error", "message"),
    [
        (lines, "", ValueError, "alt: expected at least 15"),
        (lines, "  a plot       ", ValueError, "say in a sentence"),
        (lines, None, TypeError, "alt: expected text, got NoneType"),
        (lambda: lines().axes[0], ALT, TypeError, "pass ax.figure"),
        (lambda: None, ALT, TypeError, "fig: expected a matplotlib Figure"),
    ],
)
def test_show_refuses(fig, alt, error, message):
    with pytest.raises(error, match=message):
        plots.show(fig(), alt)


# --- drawings --------------------------------------------------------------------------------


@pytest.fixture
def ax():
    return plots.figure()[1]


def test_kernel_is_ordered_by_class_on_the_scale_of_normalised_kernels(ax):
    labels = torch.tensor([1, -1, 1, -1])
    kernel = torch.outer(labels, labels) * 0.5
    image = plots.kernel_matrix(ax, kernel, labels, names={-1: "disk", 1: "ring"})
    block = np.kron([[1, -1], [-1, 1]], np.ones((2, 2))) * 0.5
    np.testing.assert_array_equal(image.get_array(), block)
    assert (image.norm.vmin, image.norm.vmax) == (-1, 1)
    assert [text.get_text() for text in ax.get_yticklabels()] == ["disk", "ring"]
    assert plots.kernel_matrix(plots.figure()[1], 3 * kernel).norm.vmax == 1.5


def test_decision_region_has_its_zero_line_where_the_function_has(ax):
    values = plots.decision_region(ax, lambda x: x[:, :1] - 0.25, (-1, 1, 0, 2), resolution=64)
    assert values.shape == (64, 64)
    (line,) = [c for c in ax.collections if len(c.get_paths())]
    np.testing.assert_allclose(line.get_paths()[0].vertices[:, 0], 0.25, atol=1e-6)
    # The first row is the lowest.
    low = plots.decision_region(plots.figure()[1], lambda x: x[:, 1], (-1, 1, 0, 2), resolution=4)
    assert low[0, 0] < low[-1, 0]


def test_decision_region_takes_values_and_follows_the_dtype_of_a_model(ax):
    model = torch.nn.Linear(2, 1, dtype=torch.float64)
    values = plots.decision_region(ax, model, (0, 1, 0, 1), resolution=8)
    again = plots.decision_region(plots.figure()[1], values, (0, 1, 0, 1))
    np.testing.assert_array_equal(values, again)


def test_neighbours_are_ringed_and_the_anchor_is_starred(ax):
    x = torch.tensor([[0.0, 0], [1, 0], [0, 1], [1, 1]])
    plots.neighbours(ax, x, torch.tensor([[-1.0], [1], [-1], [1]]), 0, torch.tensor([2, 3]))
    ringed = [c for c in ax.collections if c.get_linewidth()[0] > 0 and len(c.get_offsets())]
    places = sorted(tuple(point) for c in ringed for point in np.asarray(c.get_offsets()).tolist())
    assert places == [(0, 1), (1, 1)]
    star = max(ax.collections, key=lambda c: c.get_sizes()[0])
    np.testing.assert_array_equal(star.get_offsets(), [[0, 0]])


def test_bars_are_signed_the_first_on_top(ax):
    plots.contribution_bars(ax, torch.tensor([0.5, -0.25, 0]), ["one", "two", "three"])
    up, down, _ = ax.patches
    assert (up.get_width(), down.get_width()) == (0.5, -0.25)
    assert (up.get_hatch(), down.get_hatch()) == (None, "///")
    assert ax.transData.transform((0, 0))[1] > ax.transData.transform((0, 1))[1]
    assert [text.get_text() for text in ax.texts] == ["+0.5", "\N{MINUS SIGN}0.25", "0"]


@pytest.mark.parametrize("shape", [(2, 1, 4, 4), (2, 4, 4), (2, 3, 4, 4)])
def test_digits_are_drawn_as_they_are_with_their_numbers(shape):
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    _, axes = plots.figure(1, 2)
    plots.digit_row(axes, images, [0.5, -0.5], labels=["7", "1"])
    drawn = axes[1].images[0].get_array()
    np.testing.assert_allclose(drawn[..., 0], images[1].reshape(-1, 4, 4)[0])
    assert axes[1].get_xlabel() == "\N{MINUS SIGN}0.5"
    assert axes[0].get_title() == "7"


NAN = float("nan")
POINTS = np.zeros((3, 2))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda ax: plots.figure(0), ValueError, "rows: expected a positive number, got 0"),
        (lambda ax: plots.figure(width=-1), ValueError, "width: "),
        (lambda ax: plots.symmetric_norm([NAN]), ValueError, "values: .*finite"),
        (lambda ax: plots.symmetric_norm([1.0], limit=0), ValueError, "limit: "),
        (lambda ax: plots.kernel_matrix(None, POINTS), TypeError, "ax: expected matplotlib Axes"),
        (lambda ax: plots.kernel_matrix(ax, [1.0]), ValueError, "kernel: expected 2 dim"),
        (lambda ax: plots.kernel_matrix(ax, [[NAN]]), ValueError, "kernel: NaN"),
        (lambda ax: plots.kernel_matrix(ax, POINTS, [1, 1]), ValueError, "labels: 2 labels"),
        (lambda ax: plots.decision_region(ax, POINTS, (1, 0, 0, 1)), ValueError, "extent: "),
        (lambda ax: plots.decision_region(ax, lambda x: x, (0, 1, 0, 1)), ValueError, "model: "),
        (lambda ax: plots.neighbours(ax, POINTS, [1, 1], 0, [1]), ValueError, "x, y: "),
        (lambda ax: plots.neighbours(ax, POINTS, [1, 1, 2], 0, [1]), ValueError, "y: expected lab"),
        (lambda ax: plots.neighbours(ax, POINTS, [1, 1, -1], 3, [1]), ValueError, "anchor: "),
        (lambda ax: plots.neighbours(ax, POINTS, [1, 1, -1], 0, [0.5]), ValueError, "index: "),
        (lambda ax: plots.contribution_bars(ax, [1.0], []), ValueError, "labels: expected 1"),
        (lambda ax: plots.contribution_bars(ax, [], []), ValueError, "values: expected 1 dim"),
        (lambda ax: plots.digit_row([ax], np.zeros((2, 4, 4))), ValueError, "images: expected 1"),
        (lambda ax: plots.digit_row([ax], np.zeros((1, 2, 4, 4))), ValueError, "images: expected"),
        (lambda ax: plots.digit_row([ax], np.zeros((1, 4, 4)), [1, 2]), ValueError, "values: exp"),
        (lambda ax: plots.digit_row(["ax"], np.zeros((1, 4, 4))), TypeError, "ax: expected"),
    ],
)  # fmt: skip
def test_drawings_refuse(ax, call, error, message):
    with pytest.raises(error, match=message):
        call(ax)


def test_a_waterfall_ends_on_the_sum(ax):
    end = plots.waterfall(ax, -1.0, [3.0, -0.5], ["up", "down"], [np.eye(4), None], query=np.eye(4))
    assert end == pytest.approx(1.5)
    columns = [p for p in ax.patches if p.get_width() == pytest.approx(0.72)]
    spans = [(p.get_x() + 0.36, p.get_y(), p.get_y() + p.get_height()) for p in columns]
    assert spans[:2] == [pytest.approx((1, -1, 2)), pytest.approx((2, 2, 1.5))]
    assert [t.get_text() for t in ax.texts] == [
        "+3.00",
        "\N{MINUS SIGN}0.50",
        "\N{MINUS SIGN}1.00",
        "1.50",
    ]


def test_a_waterfall_leaves_room_for_the_numbers_above_a_fall(ax):
    plots.waterfall(ax, 0.0, [10.0, -9.0], ["up", "down"])
    low, high = ax.get_ylim()
    assert low == 0
    assert high > 10.5


@pytest.mark.parametrize(
    ("change", "message"),
    [({"labels": ["a"]}, "labels: expected 2"), ({"images": [None]}, "images: expected 2"),
     ({"parts": [1.0, float("nan")]}, "parts: NaN")],
)  # fmt: skip
def test_a_waterfall_refuses_what_does_not_fit(ax, change, message):
    given = {"initial": 0.0, "parts": [1.0, 2.0], "labels": ["a", "b"]} | change
    with pytest.raises(ValueError, match=message):
        plots.waterfall(ax, **given)
