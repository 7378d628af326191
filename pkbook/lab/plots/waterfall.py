"""One prediction as a walk from where it started to where it ended."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.offsetbox import AnnotationBbox, OffsetImage

from pkbook.lab.plots.drawings import checked_axes, finite
from pkbook.lab.plots.house import MINUS, NEUTRAL, PLUS, style


@style()
def waterfall(
    ax: Axes,
    initial: float,
    parts: Sequence[float],
    labels: Sequence[str],
    images: Sequence[np.ndarray | None] | None = None,
    *,
    query: np.ndarray | None = None,
    ends: tuple[str, str] = ("before\ntraining", "after\ntraining"),
) -> float:
    """Columns that start where the last one ended: ``initial``, each of ``parts``, their sum.

    ``labels`` are one text per part; ``images`` one picture ``[h, w]`` in [0, 1] per part, or None
    where a part is a group of samples; ``query`` is the picture below the last column.  Returns
    the height of the last column, ``initial`` plus all parts.

    Raises TypeError if ``ax`` is no Axes, ValueError if lengths differ or a number is not finite.

    >>> from matplotlib.figure import Figure
    >>> float(waterfall(Figure().subplots(), 1.0, [2.0, -0.5], ["a", "b"]))
    2.5
    """
    checked_axes(ax)
    heights = finite("parts", parts, dimensions=1)
    images = [None] * len(heights) if images is None else images
    for name, given in (("labels", labels), ("images", images)):
        if len(given) != len(heights):
            raise ValueError(f"{name}: expected {len(heights)}, one a part, got {len(given)}")
    tops = np.concatenate([[initial], initial + np.cumsum(heights)])
    span = max(tops.max(), 0) - min(tops.min(), 0) or 1.0
    for place, (height, bottom) in enumerate(zip(heights, tops[:-1], strict=True), start=1):
        up = height >= 0
        bars = ax.bar(
            place, height, 0.72, bottom, color=PLUS if up else MINUS, hatch=None if up else "///"
        )
        bars[0].sticky_edges.y[:] = [0]  # else a fall from the top takes the margin away
        ax.plot([place - 1.36, place + 0.36], [bottom] * 2, color=NEUTRAL, linewidth=0.9)
        _number(ax, place, max(bottom, bottom + height), _fixed(height, "+.2f"), span)
    last = len(heights) + 1
    ax.plot([last - 1.36, last + 0.36], [tops[-1]] * 2, color=NEUTRAL, linewidth=0.9)
    for place, height in ((0, initial), (last, tops[-1])):
        ax.bar(place, height, 0.72, color=NEUTRAL)
        _number(ax, place, max(height, 0), _fixed(height, ".2f"), span)
    ax.axhline(0, color="black", linewidth=0.9)
    ax.set_xticks(range(last + 1), [ends[0], *map(str, labels), ends[1]], fontsize=9.5)
    ax.tick_params(
        axis="x", length=0, pad=40 if any(i is not None for i in (*images, query)) else 4
    )
    ax.set_xlim(-0.55, last + 0.55)
    ax.margins(y=0.12)
    ax.spines["bottom"].set_visible(False)
    for place, image in enumerate([*images, query], start=1):
        if image is not None:
            _tile(ax, place, np.asarray(image, dtype=float))
    return tops[-1]


def _number(ax: Axes, place: float, top: float, text: str, span: float) -> None:
    ax.text(place, top + 0.015 * span, text, ha="center", va="bottom", fontsize=9.5)


def _fixed(number: float, form: str) -> str:
    return format(number, form).replace("-", "\N{MINUS SIGN}")


def _tile(ax: Axes, place: int, picture: np.ndarray) -> None:
    """A picture below the axis, on its own dark ground so that both pages show it alike."""
    picture = np.kron(np.clip(picture, 0, 1), np.ones((4, 4)))
    box = AnnotationBbox(
        OffsetImage(np.stack([picture] * 3, axis=-1), zoom=30 / picture.shape[0]),
        (place, 0),
        xycoords=("data", "axes fraction"),
        xybox=(0, -22),
        boxcoords="offset points",
        frameon=False,
        pad=0,
    )
    ax.add_artist(box)
