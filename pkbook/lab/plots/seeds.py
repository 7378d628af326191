"""What several seeds gave: a curve with its band, a row of dots. Drawn by seaborn."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes

from pkbook.lab.plots.drawings import checked_axes, finite
from pkbook.lab.plots.house import MINUS, style

MIDDLES = ("mean", "median")


@style()
def band(
    ax: Axes,
    at,
    values,
    colour: str,
    line: str = "-",
    marker: str | None = None,
    *,
    label: str | None = None,
    middle: str = "mean",
) -> None:
    """A curve over seeds: ``values [S, n]`` at ``at [n]``, their mean, their range as a band.

    ``middle`` is "mean" or "median".

    Raises TypeError if ``ax`` is no Axes, ValueError for shapes that do not fit, entries that are
    not finite, or an axis with another scale than a linear one, on which seaborn would take the
    mean of logarithms: set the scale afterwards.

    >>> from matplotlib.figure import Figure
    >>> band(Figure().subplots(), [0, 1], [[0.1, 0.5], [0.3, 0.9]], "#0072B2")
    """
    import seaborn

    checked_axes(ax)
    if middle not in MIDDLES:
        raise ValueError(f"middle must be one of {', '.join(MIDDLES)}, got {middle!r}")
    if ax.get_yscale() != "linear":
        raise ValueError(
            f"ax must have a linear y axis, got a {ax.get_yscale()} one; write "
            f"ax.set(yscale={ax.get_yscale()!r}) after the bands"
        )
    places, rows = finite("at", at, dimensions=1), finite("values", values, dimensions=2)
    if rows.shape[1] != len(places):
        raise ValueError(f"values must have {len(places)} columns, got {rows.shape[1]}")
    seaborn.lineplot(
        x=np.tile(places, len(rows)),
        y=rows.ravel(),
        estimator=middle,
        errorbar=("pi", 100),  # all of them: the extremes
        err_kws={"alpha": 0.2, "linewidth": 0},
        color=colour,
        linestyle=line,
        marker=marker,
        markeredgecolor=colour,
        label=label,
        legend=False,
        ax=ax,
    )


@style()
def dots(ax: Axes, rows: Mapping[str, object], *, colour: str = MINUS) -> None:
    """A row for each name, from above: a dot for each seed, side by side where they would hide one
    another, and a bar at their mean.  ``rows`` is ``{name: [S]}``.

    Raises TypeError if ``ax`` is no Axes, ValueError for entries that are not finite.

    >>> from matplotlib.figure import Figure
    >>> dots(Figure().subplots(), {"near": [0.1, 0.2, 0.2], "far": [0.7, 0.9, 0.8]})
    """
    import seaborn

    checked_axes(ax)
    found = {name: finite(f"rows[{name!r}]", values, dimensions=1) for name, values in rows.items()}
    names = [name for name, values in found.items() for _ in values]
    at = np.concatenate(list(found.values()))
    look = {"x": at, "y": names, "order": list(found), "orient": "h", "ax": ax}
    seaborn.pointplot(
        **look, estimator="mean", errorbar=None, linestyle="none", color="black", marker="|",
        markersize=24, markeredgewidth=2.5,
    )  # fmt: skip
    seaborn.swarmplot(**look, color=colour, size=6, alpha=0.8, zorder=3)
    ax.set(xlabel="", ylabel="")
