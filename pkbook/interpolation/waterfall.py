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

LONGEST = 22  # letters of a text beside a bar, so that room is left for the bars
WIDTH, ROW = 4.8, 0.29  # inches; narrow enough for a phone
PICTURE = 17  # points, a little less than a row
THICK = 0.74
DIAMOND = 7  # points
MOST_DECIMALS = 5
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
    _require_labels(labels, n)
    names = [b.name if b.sample is None else _name(b.sample, texts, labels) for b in bars]
    ax = _axes(ax, len(bars) + 2)
    start, end = told.initial[query, output].item(), told.final[query, output].item()
    tops = [start, *(start + np.cumsum([bar.height for bar in bars])).tolist()]
    look = _look(bars, tops, end)
    _ends(ax, tops, end, look)
    _steps(ax, bars, tops, look)
    ax.set_xlim(*look.limits)
    if pictures is not None:
        samples = [bar.sample for bar in bars if bar.sample is not None]
        for row, picture in enumerate(_tiles(pictures, samples), start=1):
            _picture(ax, row, picture)
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
    """Images ``[N, channels, h, w]``, or a text for each sample."""
    if show is None:
        return None, None
    if isinstance(show, Tensor):
        images = show[:, None] if show.ndim == 3 else show
        if images.ndim != 4 or len(images) != n or images.shape[1] not in (1, 3):
            raise ValueError(
                f"show must be images [{n}, height, width] or [{n}, 1 or 3, height, width], one "
                f"a sample, got shape {tuple(show.shape)}; write show.reshape(...)"
            )
        return images, None
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


def _name(sample: int, texts: Sequence[str] | None, labels: Tensor | Sequence | None) -> str:
    """What stands beside the bar of a sample; dollars of a text are no mathematics."""
    name = f"sample {sample}" if texts is None else _short(texts[sample])
    if labels is not None:
        label = labels[sample]
        label = label.item() if isinstance(label, Tensor | np.generic) else label
        name += f": {label:g}" if isinstance(label, float) else f": {label}"
    return name.replace("$", r"\$")


def _require_labels(labels: object, n: int) -> None:
    if isinstance(labels, str) or not isinstance(labels, Sequence | Tensor | np.ndarray | None):
        raise TypeError(
            f"labels must be a tensor or a list, got {type(labels).__name__}; write list(labels)"
        )
    if labels is not None and len(labels) != n:
        raise ValueError(f"labels must be {n}, one a sample, got {len(labels)}")


def _short(text: str) -> str:
    """The beginning of a text, on one line."""
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else text[: LONGEST - 3].rstrip() + "..."


class _Look(NamedTuple):
    """What the numbers decide about the figure."""

    form: str
    from_zero: bool
    """Whether zero is so near that the two ends are bars from there."""
    left: bool
    """Whether numbers stand left of their bars: where most of the walk lies below zero."""
    limits: tuple[float, float]


def _look(bars: list[Bar], tops: list[float], end: float) -> _Look:
    low, high = min(*tops, end), max(*tops, end)
    span = (high - low) or abs(high) or 1.0
    from_zero = low - span <= 0 <= high + span
    if from_zero:
        low, high = min(low, 0.0), max(high, 0.0)
    left = from_zero and -low > high
    room = (high - low) or 1.0
    form = _form(bars, (tops[0], end))
    letters = max(len(format(x, "+" + form)) for x in (*tops, end))
    before, after = (0.04 * letters, 0.03) if left else (0.03, 0.17)  # room for the numbers
    return _Look(form, from_zero, left, (low - before * room, high + after * room))


def _ends(ax: "Axes", tops: list[float], end: float, look: _Look) -> None:
    """The prediction before and after: bars from zero, or diamonds where zero is far away."""
    for row, value in ((0, tops[0]), (len(tops), end)):
        if look.from_zero:
            ax.barh(row, value, THICK, color=NEUTRAL)
        else:
            ax.plot([value], [row], "D", color=NEUTRAL, markersize=DIAMOND)
        _number(ax, row, (0.0 if look.from_zero else value, value), format(value, look.form), look)
    if look.from_zero:
        ax.axvline(0, color=NEUTRAL, linewidth=0.9, zorder=0.5)
    _join(ax, len(tops), end)


def _steps(ax: "Axes", bars: list[Bar], tops: list[float], look: _Look) -> None:
    """The bars between, each joined to the row above."""
    for row, (bar, start) in enumerate(zip(bars, tops[:-1], strict=True), start=1):
        up = bar.height >= 0
        colour, hatch = (PLUS, None) if up else (MINUS, "////")
        if bar.name == REMAINDER:
            colour, hatch = NEUTRAL, "...."
        ax.barh(row, bar.height, THICK, start, color=colour, hatch=hatch)
        _join(ax, row, start)
        ends = (start, start + bar.height)
        _number(ax, row, ends, format(bar.height, "+" + look.form), look)


def _form(bars: list[Bar], others: Sequence[float]) -> str:
    """One format for all numbers: three digits of the largest sample, six of the largest of all."""
    sizes = [abs(bar.height) for bar in bars if bar.sample is not None]
    whole = max(map(abs, [*(bar.height for bar in bars), *others]), default=0.0)
    largest = max(sizes, default=0.0) or whole
    if not largest:
        return ".2f"
    decimals = 2 - math.floor(math.log10(largest))
    if decimals > MOST_DECIMALS:
        return ".2e"
    return f".{max(0, min(decimals, 5 - math.floor(math.log10(whole))))}f"


def _join(ax: "Axes", row: int, place: float) -> None:
    """A short line from the row above to this one."""
    ends = [row - 1 + THICK / 2, row - THICK / 2]
    ax.plot([place, place], ends, color=NEUTRAL, linewidth=1.1)


def _number(ax: "Axes", row: int, ends: tuple[float, float], text: str, look: _Look) -> None:
    gap = 3.0 if look.from_zero or ends[0] != ends[1] else DIAMOND
    ax.annotate(
        text.replace("-", "\N{MINUS SIGN}"),
        (min(ends) if look.left else max(ends), row),
        xytext=(-gap if look.left else gap, 0),
        textcoords="offset points",
        ha="right" if look.left else "left",
        va="center",
        fontsize=9,
    )


def _tiles(images: Tensor, samples: list[int]) -> list[np.ndarray]:
    """Pictures ``[h, w, 3]`` in [0, 1], on one scale: that of all images where it is another."""
    low, high = images.min().item(), images.max().item()
    if low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    chosen = (images[samples].detach().cpu().double() - low) / ((high - low) or 1.0)
    return [picture.expand(3, -1, -1).permute(1, 2, 0).numpy() for picture in chosen]


def _picture(ax: "Axes", row: int, picture: np.ndarray) -> None:
    """A small picture left of the axes, at the height of its bar."""
    with needs_lab("Interpolation.plot"):
        from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    fine = np.kron(picture, np.ones((4, 4, 1)))  # squares stay squares where it is made larger
    image = OffsetImage(fine, zoom=PICTURE / max(fine.shape[:2]))
    box = AnnotationBbox(
        image,
        (0, row),
        (-PICTURE / 2 - 4, 0),
        xycoords=("axes fraction", "data"),
        boxcoords="offset points",
        frameon=False,
        pad=0,
    )
    ax.add_artist(box)
