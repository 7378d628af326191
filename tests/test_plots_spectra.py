"""Drawings of modes: the numbers on them are the numbers given, and what does not fit is named."""

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from pkbook.lab import plots

X = torch.linspace(-1, 1, 5)
VALUES = torch.tensor([20.0, 0.5, 3e-6])
FUNCTIONS = torch.stack([torch.ones(5), X, X**2])


@pytest.fixture
def ax():
    return Figure().subplots()


def test_eigenfunctions_stand_one_below_the_other_at_one_scale(ax):
    plots.eigenfunctions(ax, X, VALUES, FUNCTIONS, count=3)
    zeros, curves = ax.lines[::2], ax.lines[1::2]
    levels = [line.get_ydata()[0] for line in zeros]
    assert levels == sorted(levels, reverse=True)
    assert [text.get_text() for text in ax.get_yticklabels()] == ["20", "0.5", "3e-6"]
    for level, curve, function in zip(levels, curves, FUNCTIONS, strict=True):
        assert curve.get_ydata() - level == pytest.approx(function.numpy(), abs=1e-6)
    gaps = -np.diff(levels)
    assert (gaps > 2).all()  # two modes of height one do not meet


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"functions": FUNCTIONS[:2]}, r"functions: expected \[3, 5\]"),
        ({"x": X[:4]}, r"functions: expected \[3, 4\]"),
        ({"count": 4}, "count: expected 1 to 3, got 4"),
        ({"count": 0}, "count: expected 1 to 3"),
        ({"values": torch.tensor([1.0, torch.nan, 0.0])}, "values: NaN"),
    ],
)
def test_eigenfunctions_refuse_what_does_not_fit(ax, change, message):
    given = {"x": X, "values": VALUES, "functions": FUNCTIONS, "count": 2} | change
    with pytest.raises(ValueError, match=message):
        plots.eigenfunctions(ax, **given)


def test_share_curves_are_means_with_their_range(ax):
    many = torch.tensor([[0.0, 0.2, 1.0], [0.2, 0.6, 1.0]])
    plots.share_curve(ax, [1e-6, 1e-3, 1.0], {"one": [0.0, 0.5, 1.0], "many": many})
    one, mean = ax.lines
    assert one.get_ydata() == pytest.approx([0, 0.5, 1])
    assert mean.get_ydata() == pytest.approx([0.1, 0.4, 1])
    assert one.get_linestyle() != mean.get_linestyle()
    (band,) = ax.collections
    heights = {round(y, 6) for _, y in band.get_paths()[0].vertices.tolist()}
    assert {0.2, 0.6} <= heights
    assert ax.get_xscale() == "log"


@pytest.mark.parametrize(
    ("tolerances", "curves", "message"),
    [
        ([0.0, 1.0], {"a": [0, 1]}, "tolerances: expected positive"),
        ([0.1, 1.0], {"a": [0, 1, 1]}, "expected 2 shares, one for each tolerance, got 3"),
        ([0.1, 1.0], {"a": [0, 1.5]}, "expected shares between 0 and 1"),
        ([0.1, 1.0], {"a": [0, np.inf]}, "NaN or infinity"),
    ],
)
def test_share_curve_refuses_what_does_not_fit(ax, tolerances, curves, message):
    with pytest.raises(ValueError, match=message):
        plots.share_curve(ax, tolerances, curves)


def test_mode_energy_draws_the_modes_asked_for(ax):
    energy = torch.tensor([[1.0, 2.0, 3.0], [0.1, 1.0, 2.0], [0.01, 0.5, 1.9]])
    plots.mode_energy(ax, [0, 1, 10], energy, shown=(1, 3))
    first, third = ax.lines
    assert first.get_ydata() == pytest.approx([1, 0.1, 0.01])
    assert third.get_ydata() == pytest.approx([3, 2, 1.9])
    assert [line.get_label() for line in ax.lines] == ["mode 1", "mode 3"]
    assert (ax.get_xscale(), ax.get_yscale()) == ("symlog", "log")
    assert ax.get_xlim() == (0, 10)


@pytest.mark.parametrize(
    ("times", "shown", "message"),
    [
        ([0, 1], (1,), "energy: expected 2 rows, one a time, got 3"),
        ([0, 1, 10], (0,), "shown: expected modes from 1 to 3"),
        ([0, 1, 10], (4,), "shown: expected modes from 1 to 3"),
    ],
)
def test_mode_energy_refuses_what_does_not_fit(ax, times, shown, message):
    with pytest.raises(ValueError, match=message):
        plots.mode_energy(ax, times, torch.ones(3, 3), shown=shown)


@pytest.mark.parametrize(
    "draw",
    [
        lambda ax: plots.eigenfunctions(ax, X, VALUES, FUNCTIONS, count=2),
        lambda ax: plots.share_curve(ax, [0.1, 1.0], {"a": [0.0, 1.0]}),
        lambda ax: plots.mode_energy(ax, [0, 1], torch.ones(2, 2), shown=(1,)),
    ],
)
def test_they_ask_for_axes(draw):
    with pytest.raises(TypeError, match="ax: expected matplotlib Axes"):
        draw(Figure())
