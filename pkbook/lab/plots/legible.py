"""What must hold of a figure that is to be read: nothing outside its axes, no two lines alike."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

DASHES = ((0, (5, 1.5)), (0, (5, 1.5, 1, 1.5)), (0, (1, 1.2)), (0, (7, 2, 1, 1, 1, 2)))
NO_MARKER = {None, "", " ", "None", "none"}
SLACK = 0.5  # pixels: a point on the edge of its axes is inside


def points_outside(fig: Figure) -> list[str]:
    """Plotted points that their axes cut off, one sentence for each set of them.

    Points are the markers of lines and the dots of scatters. What was drawn with
    ``clip_on=False`` is seen outside as well; what is hidden or not finite is no point.

    >>> from pkbook.lab import plots
    >>> fig, ax = plots.figure()
    >>> _ = ax.plot([0, 1, 2], [0, 1, 5], "o")
    >>> _ = ax.set_ylim(0, 2)
    >>> points_outside(fig)
    ['axes 0: 1 of 3 points outside, the first at (2, 5)']
    """
    found = []
    for place, ax in enumerate(fig.axes):
        for points in _points(ax):
            pixels = ax.transData.transform(points)
            box = ax.bbox
            inside = (pixels >= (box.x0 - SLACK, box.y0 - SLACK)) & (
                pixels <= (box.x1 + SLACK, box.y1 + SLACK)
            )
            cut = ~inside.all(1)
            if cut.any():
                x, y = points[cut][0]
                found.append(
                    f"axes {place}: {cut.sum()} of {len(points)} points outside, "
                    f"the first at ({x:g}, {y:g})"
                )
    return found


def _points(ax: Axes) -> Iterator[np.ndarray]:
    """The points of each visible artist in the axes' own coordinates, ``[n, 2]``."""
    for line in ax.lines:
        marked = line.get_marker() not in NO_MARKER
        if marked and line.get_transform() == ax.transData and line.get_clip_on():
            if line.get_visible():
                yield _finite(np.column_stack([line.get_xdata(), line.get_ydata()]))
    for dots in ax.collections:
        shown = isinstance(dots, PathCollection) and dots.get_visible() and dots.get_clip_on()
        if shown and dots.get_offset_transform() == ax.transData:
            yield _finite(np.asarray(dots.get_offsets(), dtype=float))


def _finite(points: np.ndarray) -> np.ndarray:
    points = np.asarray(points, dtype=float)
    return points[np.isfinite(points).all(1)]


@contextmanager
def second_cue(fig: Figure) -> Iterator[None]:
    """Named lines that differ by colour alone are dashed differently for as long as this lasts.

    Solid lines without markers that a legend names keep their colours; from the second on each gets
    dashes of its own, in the legend too, so that a grey print or a colour-blind reader tells them
    apart. Black and grey lines stay as they are: they stand apart by their lightness.
    """
    changed: list[tuple[Line2D, Any]] = []
    for ax in fig.axes:
        plain = [line for line in ax.lines if _plain(line)]
        colours = {line.get_label(): to_rgb(line.get_color()) for line in plain}
        legend = ax.get_legend()
        if legend is None or len(set(colours.values())) < 2:
            continue
        handles = {h.get_label(): h for h in legend.legend_handles if h is not None}
        for line, dashes in zip(plain[1:], DASHES, strict=False):
            for drawn in (line, handles.get(line.get_label())):
                if isinstance(drawn, Line2D):
                    changed.append((drawn, drawn.get_linestyle()))
                    drawn.set_linestyle(dashes)
    try:
        yield
    finally:
        for line, before in changed:
            line.set_linestyle(before)


def _plain(line: Line2D) -> bool:
    """A named, solid, coloured line without markers."""
    named = not str(line.get_label()).startswith("_")
    solid = line.get_linestyle() == "-" and line.get_marker() in NO_MARKER
    red, green, blue = to_rgb(line.get_color())
    return named and solid and line.get_visible() and not red == green == blue
