"""The waterfall of an interpolation starts and ends where the prediction did."""

import dataclasses
import inspect

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox
from small_problem import problem, smooth

import pkbook as pk
from pkbook import plots
from pkbook.interpolation.waterfall import bars_of

matplotlib.use("agg")
N = 15


@pytest.fixture(scope="module")
def told():
    data, queries = problem()
    model = smooth()
    adamw = torch.optim.AdamW(model.parameters(), lr=0.02, weight_decay=0.5)
    run = pk.Trajectory(model, pk.losses.squared, adamw, data)
    for batch in pk.batches(N, size=4, steps=12, seed=0):
        run.step(batch)
    return run.interpolate(queries)


@pytest.fixture
def ax():
    return Figure().subplots()


def drawn(ax):
    """Each bar's left and right end, from top to bottom."""
    bars = sorted(ax.patches, key=lambda bar: bar.get_y())
    return [sorted((bar.get_x(), bar.get_x() + bar.get_width())) for bar in bars]


def names(ax):
    return [label.get_text() for label in ax.get_yticklabels()]


@pytest.mark.parametrize(("query", "output", "top"), [(0, 0, 3), (2, 1, 7), (-1, -2, 100)])
def test_the_bars_lead_from_the_first_value_to_the_last(told, ax, query, output, top):
    told.plot(query, output, top, ax=ax)
    spans = drawn(ax)
    start, end = (t[query, output].item() for t in (told.initial, told.final))
    assert spans[0] == pytest.approx(sorted((0, start)))
    assert spans[-1] == pytest.approx(sorted((0, end)))
    place = start
    for low, high in spans[1:-1]:
        assert place == pytest.approx(low, abs=1e-9) or place == pytest.approx(high, abs=1e-9)
        place = high if place == pytest.approx(low, abs=1e-9) else low
    assert place == pytest.approx(end, abs=1e-6)  # the sum closes to the tolerance


def test_the_rows_are_the_top_samples_the_others_and_weight_decay(told, ax):
    told.plot(query=1, output=0, top=4, ax=ax)
    c = told.contributions[:, 1, 0].numpy()
    order = np.argsort(-np.abs(c), kind="stable")
    rest = c[order[4:]]
    wanted = [f"sample {i}" for i in order[:4]]
    wanted += [f"{(rest > 0).sum()} others for", f"{(rest < 0).sum()} others against"]
    assert names(ax) == ["before training", *wanted, "weight decay", "after training"]
    bars = bars_of(told, 1, 0, 4)
    heights = [*c[order[:4]], rest[rest > 0].sum(), rest[rest < 0].sum()]
    heights.append(told.other["weight decay"][1, 0].item())
    np.testing.assert_allclose([bar.height for bar in bars], heights)
    low, high = ax.get_ylim()
    assert low > high  # the first row stands at the top
    assert "output 0 for query 1" in ax.get_xlabel()


def test_up_and_down_differ_in_colour_and_in_hatching(told, ax):
    told.plot(top=N, ax=ax)
    values = told.top(N)[1].tolist()
    bars = sorted(ax.patches, key=lambda bar: bar.get_y())[1 : N + 1]
    for bar, value in zip(bars, values, strict=True):
        if value:
            assert to_hex(bar.get_facecolor()).upper() == (plots.PLUS if value > 0 else plots.MINUS)
            assert (bar.get_hatch() is None) == (value > 0)
    numbers = [t.get_text() for t in ax.texts]
    assert f"{values[0]:+.2f}"[1:4] in "".join(numbers)


def test_a_gap_has_a_bar_of_its_own_where_it_can_be_seen(told, ax):
    gap = 0.3
    off = dataclasses.replace(told, final=told.final + gap)
    off.plot(top=2, ax=ax)
    assert names(ax)[-2:] == ["not accounted for", "after training"]
    low, high = drawn(ax)[-2]
    assert high - low == pytest.approx(gap, rel=1e-3)
    assert drawn(ax)[-1][1] == pytest.approx(high)
    assert "not accounted for" not in [bar.name for bar in bars_of(told, 0, 0, 2)]


def test_far_from_zero_the_ends_are_marks_and_small_numbers_keep_their_digits(told, ax):
    far = dataclasses.replace(told, initial=told.initial + 1000, final=told.final + 1000)
    far.plot(top=2, ax=ax)
    assert ax.get_xlim()[0] > 900
    assert len(ax.patches) == len(names(ax)) - 2
    small = {
        name: getattr(told, name) * 1e-9 for name in ("initial", "final", "contributions")
    } | {"other": {}}  # fmt: skip
    other_ax = Figure().subplots()
    dataclasses.replace(told, **small).plot(top=2, ax=other_ax)
    assert all("e" in t.get_text() for t in other_ax.texts)


def test_pictures_stand_beside_their_samples(told, ax):
    images = torch.rand(N, 6, 6)
    told.plot(top=3, show=images, ax=ax)
    boxes = [a for a in ax.artists if isinstance(a, AnnotationBbox)]
    assert [box.xy[1] for box in boxes] == [1, 2, 3]
    first = told.top(1)[0].item()
    seen = boxes[0].offsetbox.get_data()[::4, ::4, 0]
    np.testing.assert_allclose(seen, images[first], atol=1e-6)
    for other in (images[:, None], images[:, None].expand(-1, 3, -1, -1), images * 7 - 3):
        told.plot(top=3, show=other, ax=ax)
        data = [a for a in ax.artists if isinstance(a, AnnotationBbox)][-1].offsetbox.get_data()
        assert data.shape == (24, 24, 3)
        assert data.min() >= 0
        assert data.max() <= 1
    told.plot(show=torch.zeros(N, 2, 2), top=1, ax=ax)
    told.plot(show=torch.full((N, 2, 2), 5), top=1, ax=ax)  # nothing to stretch


def test_texts_and_labels_name_the_rows(told, ax):
    texts = [f"the text of number {i}, worth $5\nand long" for i in range(N)]
    first = told.top(1)[0].item()
    told.plot(top=1, show=texts, labels=torch.arange(N) % 3, ax=ax)
    assert names(ax)[1] == f"the text of number {first}"[:19].rstrip() + f"...: {first % 3}"
    told.plot(top=1, labels=torch.full((N,), -1.0), ax=ax)
    assert names(ax)[1] == f"sample {first}: -1"
    told.plot(top=1, labels=["$a$"] * N, ax=ax)
    assert names(ax)[1] == rf"sample {first}: \$a\$"


def test_a_new_figure_follows_the_readers_style(told):
    with plt.style.context("dark_background"):
        ax = told.plot(top=2)
        assert {t.get_color() for t in ax.texts} == {"white"}
        plt.close(ax.figure)
    ax = told.plot(top=2)
    assert ax.figure.number in plt.get_fignums()  # so a notebook shows it
    markup = plots.svg(ax.figure, "A walk from before training to after it.")
    assert "#fff" not in markup
    plt.close(ax.figure)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"query": 3}, ValueError, r"query must lie in 0\.\.2"),
        ({"output": 2}, ValueError, r"output must lie in 0\.\.1"),
        ({"top": 0}, ValueError, "top must be at least 1"),
        ({"show": torch.zeros(N, 36)}, ValueError, r"show must be images \[15, height, width\]"),
        ({"show": torch.zeros(3, 6, 6)}, ValueError, r"got shape \(3, 6, 6\)"),
        ({"show": np.zeros((N, 6, 6))}, TypeError, r"write torch\.as_tensor\(show\)"),
        ({"show": ["a"] * 3}, ValueError, "show must be 15 texts"),
        ({"show": [1] * N}, ValueError, "for what is no text give labels"),
        ({"show": "a" * N}, TypeError, "a list of texts, got str"),
        ({"labels": [1, 2]}, ValueError, "labels must be 15, one a sample, got 2"),
        ({"labels": "abc"}, TypeError, "labels must be a tensor or a list, got str"),
        ({"ax": "axes"}, TypeError, "ax must be matplotlib Axes, got str"),
    ],
)
def test_what_does_not_fit_is_refused(told, given, error, message):
    with pytest.raises(error, match=message):
        told.plot(**given)
    assert not plt.get_fignums()


def test_what_is_not_finite_is_not_drawn(told, ax):
    broken = dataclasses.replace(told, final=told.final * float("nan"))
    with pytest.raises(ValueError, match="query 0, output 0 must have finite values"):
        broken.plot(ax=ax)


def test_no_public_function_swallows_a_misspelt_option():
    """Any ``**`` but that of the typed overloads would take ``toleranc=1`` in silence."""
    run_functions = [pk.Trajectory, pk.Trajectory.open, pk.Trajectory.step]
    results = [f for cls in (pk.Interpolation, pk.Explanation) for f in vars(cls).values()]
    for owner in [*map(pk.__dict__.get, pk.__all__), *run_functions, *results]:
        if inspect.isfunction(owner) and owner.__module__.partition(".lab")[1] == "":
            kinds = {p.kind for p in inspect.signature(owner).parameters.values()}
            assert inspect.Parameter.VAR_KEYWORD not in kinds, owner
