"""Functions taken apart in eigenfunctions: the modes themselves, and how much lies in each."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from pkbook.lab.plots.drawings import _array, checked_axes, finite
from pkbook.lab.plots.house import NEUTRAL, PALETTE, style

LINES = ("-", "--", "-.", ":")
MARKERS = "osD^v"


@style()
def eigenfunctions(ax: Axes, x, values, functions, *, count: int = 6) -> None:
    """The first eigenfunctions on a line, one above the other, the largest eigenvalue on top.

    ``x [n]`` are the nodes, ``values [r]`` and ``functions [r, n]`` those of
    :class:`pkbook.function_space.Modes`.  All have the same scale, and each its zero line.

    Raises TypeError if ``ax`` is no Axes, ValueError if shapes do not fit.

    >>> from matplotlib.figure import Figure
    >>> ax = Figure().subplots()
    >>> eigenfunctions(ax, [0.0, 1.0], [2.0, 0.5], [[1.0, 1.0], [1.0, -1.0]], count=2)
    >>> [text.get_text() for text in ax.get_yticklabels()]
    ['2', '0.5']
    """
    checked_axes(ax)
    nodes, heights = finite("x", x, dimensions=1), finite("values", values, dimensions=1)
    rows = finite("functions", functions, dimensions=2)
    if rows.shape != (len(heights), len(nodes)):
        raise ValueError(
            f"functions: expected [{len(heights)}, {len(nodes)}], a row for each value and a "
            f"column for each node, got {rows.shape}"
        )
    if not 0 < count <= len(heights):
        raise ValueError(f"count: expected 1 to {len(heights)}, got {count}")
    step = 2.2 * np.abs(rows[:count]).max()
    for place in range(count):
        ax.axhline(-place * step, color=NEUTRAL, linewidth=0.7)
        ax.plot(nodes, rows[place] - place * step, color=PALETTE[place % 2])
    ax.set_yticks([-place * step for place in range(count)], map(_short, heights[:count]))
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.set_ylabel("eigenvalue of the mode")


def _short(value: float) -> str:
    return f"{value:.2g}" if 1e-2 <= abs(value) < 1e3 else f"{value:.0e}".replace("e-0", "e-")


@style()
def share_curve(ax: Axes, tolerances, curves: Mapping[str, object]) -> None:
    """Share of an energy in modes below the tolerance, against the tolerance.

    ``tolerances [T]`` are positive, relative to the largest eigenvalue.  ``curves`` maps a name
    to shares ``[T]``, or to ``[S, T]`` for several runs: then their mean, and their range as a
    band.

    Raises TypeError if ``ax`` is no Axes, ValueError if shapes do not fit or a share lies outside
    [0, 1].

    >>> from matplotlib.figure import Figure
    >>> share_curve(Figure().subplots(), [1e-4, 1e-2], {"residual": [0.1, 0.9]})
    """
    checked_axes(ax)
    places = finite("tolerances", tolerances, dimensions=1)
    if (places <= 0).any():
        raise ValueError("tolerances: expected positive numbers, for a logarithmic axis")
    for number, (name, given) in enumerate(curves.items()):
        shares = finite(f"curves[{name!r}]", np.atleast_2d(_array(given)), dimensions=2)
        if shares.shape[1] != len(places):
            raise ValueError(
                f"curves[{name!r}]: expected {len(places)} shares, one for each tolerance, got "
                f"{shares.shape[1]}"
            )
        if (shares < -1e-9).any() or (shares > 1 + 1e-9).any():
            raise ValueError(f"curves[{name!r}]: expected shares between 0 and 1")
        colour, line = PALETTE[number % len(PALETTE)], LINES[number % len(LINES)]
        if len(shares) > 1:
            ax.fill_between(places, shares.min(0), shares.max(0), color=colour, alpha=0.2, lw=0)
        ax.plot(places, shares.mean(0), line, color=colour, label=name)
    ax.set(xscale="log", ylim=(-0.03, 1.03), xlim=(places.min(), places.max()))
    ax.set(xlabel="tolerance, relative to the largest eigenvalue", ylabel="share below it")


@style()
def mode_energy(ax: Axes, times, energy, *, shown: Sequence[int] = (1, 2, 4, 8)) -> None:
    """Energy of a residual in single modes, against time, both logarithmic.

    ``times [E]`` increase from zero or later, ``energy [E, r]`` holds a column for each mode,
    largest eigenvalue first; ``shown`` are the modes drawn, counted from one.  Time zero stands
    at the left end of the axis.

    Raises TypeError if ``ax`` is no Axes, ValueError if shapes do not fit.

    >>> from matplotlib.figure import Figure
    >>> mode_energy(Figure().subplots(), [0, 1, 10], [[1, 1], [0.1, 0.9], [0.0, 0.5]], shown=(1, 2))
    """
    checked_axes(ax)
    moments = finite("times", times, dimensions=1)
    parts = finite("energy", energy, dimensions=2)
    if len(parts) != len(moments):
        raise ValueError(f"energy: expected {len(moments)} rows, one a time, got {len(parts)}")
    if not all(0 < j <= parts.shape[1] for j in shown):
        raise ValueError(f"shown: expected modes from 1 to {parts.shape[1]}, got {tuple(shown)}")
    for number, j in enumerate(shown):
        line, marker = LINES[number % len(LINES)], MARKERS[number % len(MARKERS)]
        colour = PALETTE[number % len(PALETTE)]
        ax.plot(moments, parts[:, j - 1], line, marker=marker, color=colour, label=f"mode {j}")
    first = moments[moments > 0].min() if (moments > 0).any() else 1.0
    ax.set_xscale("symlog", linthresh=first, linscale=0.4)
    ax.set(yscale="log", xlim=(moments.min(), moments.max()))
    ax.set(xlabel="time", ylabel="energy of the residual")
