"""One prediction drawn as a walk: where it started, who moved it, where it ended.

Bars from top to bottom, each starting where the one above ended: the samples that did most, all
others for and against, what belongs to no sample, and what the sum leaves open.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from torch import Tensor

from pkbook.basics.checks import require_whole
from pkbook.basics.colours import MINUS, NEUTRAL, PLUS
from pkbook.basics.extras import needs_lab
from pkbook.basics.words import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pkbook.interpolation.result import Interpolation

LONGEST = 26  # letters of a text beside a bar, so that half the width is left for the bars
WIDTH, ROW = 4.8, 0.29  # inches; narrow enough for a phone
PICTURE = 17  # points, a little less than a row
THICK = 0.74
REMAINDER = "not accounted for"
VISIBLE = 0.005  # of the width of the walk: a remainder that is smaller cannot be seen


class Bar(NamedTuple):
    """One row of the figure."""

    name: str
    height: float
    sample: int | None = None
    """Its number, None for a group of samples and for what belongs to none."""


def bars_of(told: "Interpolation", query: int, output: int, top: int) -> list[Bar]:
    """The rows of a query's output between its two ends."""
    numbers, values = told.top(require_whole(top, "top"), query, output)
    chosen = zip(numbers.tolist(), values.tolist(), strict=True)
    bars = [Bar(f"sample {i}", value, i) for i, value in chosen]
    others = told.contributions[:, query, output].clone()
    others[numbers] = 0.0
    for word, group in (("for", others[others > 0]), ("against", others[others < 0])):
        if len(group):
            bars.append(Bar(f"{counted(len(group), 'other')} {word}", group.sum().item()))
    bars += [Bar(name, value[query, output].item()) for name, value in told.other.items()]
    start, end = told.initial[query, output].item(), told.final[query, output].item()
    if not all(map(math.isfinite, (start, end, *(bar.height for bar in bars)))):
        raise ValueError(
            f"query {query}, output {output} must have finite values and contributions to be "
            "drawn, got NaN or infinity; look at told.contributions"
        )
    places = start + np.cumsum([0.0] + [bar.height for bar in bars])
    missing = end - places[-1]
    if abs(missing) > VISIBLE * (max(places.max(), end) - min(places.min(), end)):
        bars.append(Bar(REMAINDER, float(missing)))
    return bars


def waterfall(
    told: "Interpolation",
    query: int,
    output: int,
    top: int,
    show: Tensor | Sequence[str] | None,
    labels: Tensor | Sequence | None,
    ax: "Axes | None",
) -> "Axes":
    """Draw one output of one query; see :meth:`pkbook.Interpolation.plot`."""
    bars = bars_of(told, query, output, top)
    n, m, c = told.contributions.shape
    pictures, texts = _shown(show, n)
    names = [bar.name if bar.sample is None else _name(bar, texts, labels, n) for bar in bars]
    ax = _axes(ax, len(bars) + 2)
    start, end = told.initial[query, output].item(), told.final[query, output].item()
    tops = [start, *(start + np.cumsum([bar.height for bar in bars])).tolist()]
    _ends(ax, tops, end)
    _steps(ax, bars, tops)
    if pictures is not None:
        for row, bar in enumerate(bars, start=1):
            if bar.sample is not None:
                _picture(ax, row, _grey_or_colour(pictures, bar.sample))
    ax.set_yticks(range(len(bars) + 2), ["before training", *names, "after training"], fontsize=9.5)
    ax.tick_params(axis="y", length=0, pad=4 if pictures is None else PICTURE + 10)
    ax.set_ylim(len(bars) + 1.6, -0.6)
    ax.set_xlabel(f"output {output % c} for query {query % m}")
    for side in ("left", "right", "top"):
        ax.spines[side].set_visible(False)
    return ax


def _axes(ax: object, rows: int) -> "Axes":
    """The reader's axes, or those of a new figure."""
    with needs_lab("Interpolation.plot"):
        from matplotlib import pyplot
        from matplotlib.axes import Axes
    if ax is None:
        _, ax = pyplot.subplots(figsize=(WIDTH, ROW * rows + 0.7), layout="constrained")
    if not isinstance(ax, Axes):
        raise TypeError(
            f"ax must be matplotlib Axes, got {type(ax).__name__}; write fig, ax = "
            "plt.subplots() and give ax"
        )
    return ax


def _shown(show: object, n: int) -> tuple[Tensor | None, Sequence[str] | None]:
    """Pictures ``[N, channels, h, w]`` in [0, 1], or a text for each sample."""
    if show is None:
        return None, None
    if isinstance(show, Tensor):
        images = show[:, None] if show.ndim == 3 else show
        if images.ndim != 4 or len(images) != n or images.shape[1] not in (1, 3):
            raise ValueError(
                f"show must be images [{n}, height, width] or [{n}, 1 or 3, height, width], one "
                f"a sample, got shape {tuple(show.shape)}; write show.reshape(...)"
            )
        images = images.detach().cpu().float()
        low, high = images.min(), images.max()
        inside = 0 <= low and high <= 1
        return images if inside else (images - low) / (high - low), None
    if isinstance(show, str) or not isinstance(show, Sequence):
        raise TypeError(
            f"show must be a tensor of images or a list of texts, got {type(show).__name__}; "
            "write torch.as_tensor(show) for images"
        )
    if len(show) != n or not all(isinstance(text, str) for text in show):
        raise ValueError(
            f"show must be {n} texts, one a sample, got {len(show)} entries; for what is no text "
            "give labels"
        )
    return None, show


def _name(bar: Bar, texts: Sequence[str] | None, labels: object, n: int) -> str:
    """What stands beside the bar of a sample."""
    name = bar.name
    if texts is not None:
        name = " ".join(texts[bar.sample or 0].split())
        name = (
            name
            if len(name) <= LONGEST
            else name[: LONGEST - 1].rstrip() + "\N{HORIZONTAL ELLIPSIS}"
        )
    if labels is None:
        return _plain(name)
    if isinstance(labels, str) or not isinstance(labels, Sequence | Tensor | np.ndarray):
        raise TypeError(f"labels must be a tensor or a list, got {type(labels).__name__}")
    if len(labels) != n:
        raise ValueError(f"labels must be {n}, one a sample, got {len(labels)}")
    label = labels[bar.sample or 0]
    label = label.item() if isinstance(label, Tensor | np.generic) else label
    return _plain(f"{name}: {label:g}" if isinstance(label, float) else f"{name}: {label}")


def _short(text: str) -> str:
    """The beginning of a text, on one line."""
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else text[: LONGEST - 3].rstrip() + "..."


def _plain(text: str) -> str:
    """Dollars of a text are no mathematics."""
    return text.replace("$", r"\$")


def _ends(ax: "Axes", tops: list[float], end: float) -> None:
    """The prediction before and after: bars from zero, or diamonds where zero is far away."""
    low, high = min(*tops, end), max(*tops, end)
    span = (high - low) or abs(high) or 1.0
    near = low - span <= 0 <= high + span
    form = f".{_decimals([tops[0], end, span])}f"
    for row, value in ((0, tops[0]), (len(tops), end)):
        if near:
            ax.barh(row, value, THICK, color=NEUTRAL)
        else:
            ax.plot([value], [row], "D", color=NEUTRAL, markersize=7)
        _number(ax, row, max(value, 0.0) if near else value, format(value, form))
    left, right = (min(low, 0.0), max(high, 0.0)) if near else (low, high)
    room = (right - left) or 1.0
    ax.set_xlim(left - 0.02 * room, right + 0.17 * room)  # numbers stand at the right of bars
    if near:
        ax.axvline(0, color=NEUTRAL, linewidth=0.9, zorder=0.5)
    ax.plot([end, end], [len(tops) - 1, len(tops)], color=NEUTRAL, linewidth=0.9)


def _steps(ax: "Axes", bars: list[Bar], tops: list[float]) -> None:
    form = f"+.{_decimals([bar.height for bar in bars])}f"
    for row, (bar, start) in enumerate(zip(bars, tops[:-1], strict=True), start=1):
        up = bar.height >= 0
        colour, hatch = (PLUS, None) if up else (MINUS, "////")
        if bar.name == REMAINDER:
            colour, hatch = NEUTRAL, "...."
        ax.barh(row, bar.height, THICK, start, color=colour, hatch=hatch)
        ax.plot([start, start], [row - 1, row], color=NEUTRAL, linewidth=0.9, zorder=0.8)
        _number(ax, row, max(start, start + bar.height), format(bar.height, form))


def _decimals(numbers: Sequence[float]) -> int:
    """So many that the smallest number of weight shows two digits."""
    sizes = [abs(x) for x in numbers if x]
    if not sizes:
        return 0
    least = max(min(sizes), max(sizes) / 1000)
    return max(0, 1 - math.floor(math.log10(least)))


def _number(ax: "Axes", row: int, right: float, text: str) -> None:
    ax.annotate(
        text.replace("-", "\N{MINUS SIGN}"),
        (right, row),
        xytext=(3, 0),
        textcoords="offset points",
        va="center",
        fontsize=9,
    )


def _grey_or_colour(pictures: Tensor, sample: int) -> np.ndarray:
    """One picture ``[h, w, 3]``."""
    return pictures[sample].expand(3, -1, -1).permute(1, 2, 0).numpy()


def _picture(ax: "Axes", row: int, picture: np.ndarray) -> None:
    """A small picture left of the axes, at the height of its bar."""
    with needs_lab("Interpolation.plot"):
        from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    fine = np.kron(picture, np.ones((4, 4, 1)))  # squares stay squares where it is made larger
    image = OffsetImage(fine, zoom=PICTURE / max(fine.shape[:2]))
    place = dict(xycoords=("axes fraction", "data"), boxcoords="offset points")
    ax.add_artist(
        AnnotationBbox(image, (0, row), (-PICTURE / 2 - 4, 0), frameon=False, pad=0, **place)
    )
