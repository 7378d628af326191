"""Colours, type sizes and the empty figure that every drawing starts from."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, overload

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler
from matplotlib.typing import RcKeyType

from pkbook.basics.colours import MINUS, NEUTRAL, PALETTE, PLUS

# The two classes of the toy problems, by their label. Shape tells them apart where colour cannot.
CLASS_COLOURS = {-1: MINUS, 1: PLUS}
CLASS_MARKERS = {-1: "s", 1: "o"}

PANEL_INCHES = (4.5, 3.4)  # one panel alone; narrow, so that a phone hardly shrinks its text
WIDEST_INCHES = 7.5

_SETTINGS: dict[RcKeyType, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": "black",
    "axes.facecolor": "none",
    "axes.grid": False,
    "axes.labelcolor": "black",
    "axes.labelsize": 11,
    "axes.linewidth": 0.9,
    "axes.prop_cycle": cycler(color=PALETTE),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": "black",
    "axes.titlesize": 11.5,
    "figure.dpi": 100,
    "figure.facecolor": "none",
    "font.family": ["DejaVu Sans"],
    "font.size": 11,
    "grid.alpha": 0.35,
    "grid.color": NEUTRAL,
    "image.cmap": "viridis",
    "image.interpolation": "nearest",
    "legend.facecolor": "none",
    "legend.fontsize": 10.5,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "mathtext.fontset": "dejavusans",
    "savefig.facecolor": "none",
    "svg.fonttype": "path",
    "text.color": "black",
    "xtick.color": "black",
    "xtick.labelsize": 10.5,
    "ytick.color": "black",
    "ytick.labelsize": 10.5,
}


def _to_oklab(colour: str) -> np.ndarray:
    rgb = np.asarray(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return _FROM_CONES @ np.cbrt(_TO_CONES @ linear)


def _from_oklab(lab: np.ndarray) -> np.ndarray:
    linear = np.linalg.solve(_TO_CONES, np.linalg.solve(_FROM_CONES, lab) ** 3).clip(0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


# Ottosson's Oklab, a space in which equal steps look equal (bottosson.github.io/posts/oklab).
_TO_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_FROM_CONES = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


def _diverging(low: str, high: str, *, steps: int = 128) -> LinearSegmentedColormap:
    """Straight lines in Oklab from a pale middle to two ends of equal lightness."""
    middle = np.array([0.97, 0.0, 0.0])
    ends = [_to_oklab(low), _to_oklab(high)]
    lightness = min(end[0] for end in ends)
    for end in ends:
        end *= lightness / end[0]
    weights = np.linspace(0, 1, steps)[:, None]
    left = ends[0] + weights * (middle - ends[0])
    right = middle + weights * (ends[1] - middle)
    colours = [_from_oklab(lab) for lab in np.concatenate([left, right[1:]])]
    return LinearSegmentedColormap.from_list("pkbook_diverging", colours, N=2 * steps - 1)


SEQUENTIAL = matplotlib.colormaps["viridis"]
DIVERGING = _diverging(MINUS, PLUS)


def symmetric_norm(values, *, limit: float | None = None) -> Normalize:
    """A norm from -limit to +limit, so that zero falls on the pale middle of `DIVERGING`.

    `limit` is the largest absolute entry of `values` where none is given (1 if all are zero).

    >>> norm = symmetric_norm([-2.0, 0.5])
    >>> norm.vmin, norm.vmax, float(norm(0.0))
    (-2.0, 2.0, 0.5)
    """
    if limit is None:
        array = np.asarray(values, dtype=float)
        if array.size == 0 or not np.isfinite(array).all():
            raise ValueError("values: expected at least one number and all of them finite")
        limit = float(np.abs(array).max()) or 1.0
    if not 0 < limit < np.inf:
        raise ValueError(f"limit: expected a positive finite number, got {limit}")
    return Normalize(vmin=-limit, vmax=limit)


@contextmanager
def style() -> Iterator[None]:
    """The house style, for as long as the `with` block runs.

    >>> before = matplotlib.rcParams["font.size"]
    >>> with style():
    ...     inside = matplotlib.rcParams["font.size"]
    >>> inside, matplotlib.rcParams["font.size"] == before
    (11.0, True)
    """
    with matplotlib.rc_context(_SETTINGS):
        yield


@overload
def figure(
    rows: Literal[1] = 1,
    cols: Literal[1] = 1,
    *,
    width: float | None = None,
    height: float | None = None,
    squeeze: Literal[True] = True,
    **axes: Any,
) -> tuple[Figure, Axes]: ...
@overload
def figure(
    rows: int = 1,
    cols: int = 1,
    *,
    width: float | None = None,
    height: float | None = None,
    squeeze: Literal[False],
    **axes: Any,
) -> tuple[Figure, np.ndarray]: ...
@overload
def figure(
    rows: int = 1,
    cols: int = 1,
    *,
    width: float | None = None,
    height: float | None = None,
    **axes: Any,
) -> tuple[Figure, Any]: ...  # Axes or an array of them, as the numbers turn out
def figure(
    rows: int = 1,
    cols: int = 1,
    *,
    width: float | None = None,
    height: float | None = None,
    **axes: Any,
) -> tuple[Figure, Any]:
    """An empty figure in the house style and its axes, as `matplotlib.pyplot.subplots` gives them.

    `width` and `height` are inches. One panel is 4.5 wide, two or more share up to 7.5; more than
    three panels in a row are hard to read on a phone. Further keywords go to `Figure.subplots`
    (`sharex`, `squeeze`, `width_ratios`, ...). The figure is unknown to pyplot: nothing shows it
    but `show`.

    Raises ValueError if `rows`, `cols`, `width` or `height` is not positive.

    >>> fig, (left, right) = figure(1, 2)
    >>> [float(side) for side in fig.get_size_inches()]
    [7.5, 3.4]
    """
    for name, value in (("rows", rows), ("cols", cols), ("width", width), ("height", height)):
        if value is not None and not value > 0:
            raise ValueError(f"{name}: expected a positive number, got {value}")
    width = width or min(PANEL_INCHES[0] * cols, WIDEST_INCHES)
    height = height or PANEL_INCHES[1] * rows
    with style():
        fig = Figure(figsize=(width, height), layout="constrained")
        return fig, fig.subplots(rows, cols, **axes)


def rasterise(*artists: Artist) -> None:
    """Embed heavy artists (thousands of points or faces) as one picture inside the SVG.

    What is rasterised keeps its colour on both pages: give it a colour of `PALETTE`, not black.
    """
    for artist in artists:
        artist.set_rasterized(True)
