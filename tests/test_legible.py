"""Figures that can be read: no point outside its axes, no two lines alike but for colour."""

import re

import numpy as np
import pytest
import torch

from pkbook.lab import plots
from pkbook.lab.experiments import unseen_span
from pkbook.lab.plots.legible import second_cue

ALT = "Two lines that cross at one half."


def three_lines(**look):
    fig, ax = plots.figure()
    for k in range(3):
        ax.plot([0, 1], [0, k], label=f"line {k}", **look)
    ax.legend()
    return fig, ax


def test_points_beyond_the_limits_are_told():
    fig, (left, right) = plots.figure(1, 2)
    left.plot([0, 1, np.nan, 9], [0, 1, 5, 1], "o")
    left.set_xlim(0, 2)
    right.scatter([0, 1], [0, 7])
    right.set_ylim(-1, 1)
    assert plots.points_outside(fig) == [
        "axes 0: 1 of 3 points outside, the first at (9, 1)",
        "axes 1: 1 of 2 points outside, the first at (1, 7)",
    ]


def test_what_is_no_point_or_is_seen_outside_is_not_told():
    fig, ax = plots.figure()
    ax.plot([0, 9], [0, 9])  # a line may go on beyond the axes
    ax.plot([9], [9], "o", clip_on=False)
    ax.plot([9], [9], "o", visible=False)
    ax.plot([0.5], [0.99], "o", transform=ax.transAxes)
    ax.plot([0, 2], [0, 2], "s")  # exactly in the corners
    ax.set(xlim=(0, 2), ylim=(0, 2))
    assert plots.points_outside(fig) == []


def test_every_dot_of_the_shares_outside_the_span_is_inside_its_axes():
    """Two panels share an axis, and the second holds the larger values."""
    small, large = torch.rand(2, 5, 2, 30).split(1)
    share = torch.stack([0.2 * small[0, :, :, :], large[0]], 1)[:, :, None]  # [S, 2, 1, 2, n]
    result = type("Result", (), {"share": share.double()})
    fig = unseen_span.draw(result)
    assert plots.points_outside(fig) == []
    assert fig.axes[0].get_ylim()[0] == 0


def test_named_lines_are_dashed_differently_while_they_are_drawn():
    fig, ax = three_lines()
    handles = ax.get_legend().legend_handles
    with second_cue(fig):
        looks = [line.get_linestyle() for line in ax.lines]
        patterns = {str(line._dash_pattern) for line in ax.lines}
        assert len(patterns) == 3
        drawn = [str(line._dash_pattern) for line in ax.lines]
        assert [str(handle._dash_pattern) for handle in handles] == drawn
        assert looks[0] == "-", "the first stays solid"
    assert [line.get_linestyle() for line in (*ax.lines, *handles)] == ["-"] * 6


@pytest.mark.parametrize("look", [{"marker": "o"}, {"linestyle": ":"}, {"color": "black"}])
def test_lines_that_differ_already_stay_as_they_are(look):
    fig, ax = three_lines(**look)
    before = [str(line._dash_pattern) for line in ax.lines]
    with second_cue(fig):
        assert [str(line._dash_pattern) for line in ax.lines] == before


def test_the_drawing_has_the_dashes():
    fig, _ = three_lines()
    markup = plots.svg(fig, ALT)
    assert len(set(re.findall(r"stroke-dasharray:([\d.,]+)", markup))) == 2
