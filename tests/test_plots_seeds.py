"""What is drawn over seeds, read from the artists and counted again in plain numpy."""

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from pkbook.lab import plots

VALUES = torch.tensor([[0.1, 0.5, 0.2], [0.3, 0.9, 0.4], [0.8, 0.6, 0.3], [0.2, 0.1, 0.9]])
AT = (0, 10, 100)


@pytest.mark.parametrize("middle", ["mean", "median"])
@pytest.mark.parametrize("scale", ["linear", "symlog"])
def test_a_band_is_the_middle_and_the_extremes(middle, scale):
    ax = Figure().subplots()
    ax.set_xscale(scale)
    plots.band(ax, AT, VALUES, plots.PLUS, "--", "s", label="a name", middle=middle)
    (line,) = (line for line in ax.lines if len(line.get_xdata()))
    wanted = getattr(np, middle)(VALUES.double().numpy(), axis=0)
    assert np.asarray(line.get_xdata()) == pytest.approx(np.array(AT))
    assert np.asarray(line.get_ydata()) == pytest.approx(wanted)
    assert (line.get_label(), line.get_linestyle(), line.get_marker()) == ("a name", "--", "s")
    assert to_hex(line.get_color()).upper() == plots.PLUS
    (shade,) = ax.collections
    corners = shade.get_paths()[0].vertices
    for place, column in zip(AT, VALUES.T.numpy(), strict=True):
        there = corners[np.isclose(corners[:, 0], place), 1]
        assert [there.min(), there.max()] == pytest.approx([column.min(), column.max()])


def test_a_band_keeps_the_house_style_and_the_axis_labels():
    ax = plots.figure()[1]
    ax.set(xlabel="step", ylabel="loss")
    plots.band(ax, AT, VALUES, plots.MINUS)
    line = ax.lines[-1]
    assert (line.get_linewidth(), line.get_markeredgecolor()) == (1.8, plots.MINUS)
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_legend()) == ("step", "loss", None)


def test_dots_do_not_hide_one_another_and_the_bar_is_the_mean():
    fig, ax = plots.figure()
    rows = {"near": torch.tensor([0.5, 0.5, 0.8]), "far": np.array([0.1, 0.3, 0.2])}
    plots.dots(ax, rows)
    fig.draw_without_rendering()  # the dots are moved apart when they are drawn
    assert [text.get_text() for text in ax.get_yticklabels()] == ["near", "far"]
    for row, (collection, values) in enumerate(zip(ax.collections, rows.values(), strict=True)):
        at = np.asarray(collection.get_offsets())
        assert sorted(at[:, 0]) == pytest.approx(sorted(np.asarray(values)))
        assert abs(at[:, 1] - row).max() < 0.4
        assert len({tuple(place) for place in at.round(6)}) == 3
    (bar,) = (line for line in ax.lines if line.get_marker() == "|")
    assert np.asarray(bar.get_xdata()) == pytest.approx([0.6, 0.2])
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first row is the uppermost


def test_the_global_random_state_is_left_alone():
    before = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    plots.band(plots.figure()[1], AT, VALUES, plots.MINUS)
    plots.dots(plots.figure()[1], {"one": VALUES[0]})
    assert (np.random.get_state()[1] == before[0]).all()  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[1])


def test_refused():
    ax = plots.figure()[1]
    with pytest.raises(TypeError, match="matplotlib Axes"):
        plots.band(None, AT, VALUES, plots.MINUS)
    with pytest.raises(ValueError, match="values must have 2 columns, got 3"):
        plots.band(ax, AT[:2], VALUES, plots.MINUS)
    with pytest.raises(ValueError, match="middle must be one of mean, median"):
        plots.band(ax, AT, VALUES, plots.MINUS, middle="mode")
    with pytest.raises(ValueError, match="NaN or infinity"):
        plots.dots(ax, {"one": [1.0, float("nan")]})
    ax.set_yscale("log")
    with pytest.raises(ValueError, match=r"write ax.set\(yscale='log'\) after the bands"):
        plots.band(ax, AT, VALUES, plots.MINUS)
