"""The drawings that several chapters share; each fills axes and leaves showing to `show`."""

from collections.abc import Callable, Sequence

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle

from pkbook.lab.plots.house import (
    CLASS_COLOURS,
    CLASS_MARKERS,
    DIVERGING,
    MINUS,
    NEUTRAL,
    PALETTE,
    PLUS,
    rasterise,
    style,
    symmetric_norm,
)

MANY_POINTS = 1500  # more of them are embedded as a picture


@style()
def kernel_matrix(
    ax: Axes,
    kernel: np.ndarray | torch.Tensor,
    labels=None,
    *,
    names: dict | None = None,
    limit: float | None = None,
) -> AxesImage:
    """A kernel matrix [n, n] with its samples ordered by class, and a colour bar.

    Colours run from -limit to limit; `limit` is 1 where all entries lie in [-1, 1], so that
    normalised kernels share one scale, else the largest absolute entry. With `labels` [n] rows
    and columns are sorted by label (stable), each class gets a bar along both sides and its name
    from `names` (label -> text; the label itself where there is none). Without labels the kernel
    may be rectangular [n, m] and keeps its order.

    Raises TypeError if `ax` is no Axes, ValueError if shapes do not fit or an entry is not finite.
    """
    checked_axes(ax)
    values = finite("kernel", kernel, dimensions=2)
    if labels is not None:
        labels = _array(labels).reshape(-1)
        if values.shape != (len(labels), len(labels)):
            raise ValueError(
                f"labels: {len(labels)} labels do not fit a kernel of shape {values.shape}; "
                "pass one label for each row of a square kernel"
            )
        order = np.argsort(labels, kind="stable")
        values, labels = values[np.ix_(order, order)], labels[order]
    if limit is None:
        # A diagonal of 1 comes out a few rounding errors above 1.
        limit = 1.0 if np.abs(values).max() <= 1 + 1e-5 else None
    norm = symmetric_norm(values, limit=limit)
    image = ax.imshow(values, cmap=DIVERGING, norm=norm, interpolation="nearest")
    bar = ax.figure.colorbar(image, ax=ax, shrink=0.85, pad=0.03)
    bar.outline.set_visible(False)
    for spine in ax.spines.values():
        spine.set_visible(False)
    if labels is not None:
        _class_bars(ax, labels, names or {})
    return image


def _class_bars(ax: Axes, labels: np.ndarray, names: dict) -> None:
    classes, starts, counts = np.unique(labels, return_index=True, return_counts=True)
    for place, (label, start, count) in enumerate(zip(classes, starts, counts, strict=True)):
        colour = _class_colour(label, place)
        tall = Rectangle((-0.045, start - 0.5), 0.03, count, transform=ax.get_yaxis_transform())
        flat = Rectangle((start - 0.5, -0.045), count, 0.03, transform=ax.get_xaxis_transform())
        for strip in (tall, flat):
            strip.set(facecolor=colour, linewidth=0, clip_on=False)
            ax.add_patch(strip)
        if start:  # a neutral line between classes, seen on the pale and on the dark cells
            ax.axhline(start - 0.5, color=NEUTRAL, linewidth=1)
            ax.axvline(start - 0.5, color=NEUTRAL, linewidth=1)
    texts = [str(names.get(label.item(), f"{label:g}")) for label in classes]
    ax.set_xticks(starts + (counts - 1) / 2, texts)
    ax.set_yticks(starts + (counts - 1) / 2, texts)
    ax.tick_params(length=0, pad=9)
    ax.tick_params(axis="y", pad=14)


@style()
def decision_region(
    ax: Axes,
    model: Callable[[torch.Tensor], torch.Tensor] | np.ndarray | torch.Tensor,
    extent: tuple[float, float, float, float],
    *,
    resolution: int = 160,
) -> np.ndarray:
    """The sign of a function of the plane, stronger where it is larger, and its zero line.

    `model` maps points [n, 2] to one output each ([n] or [n, 1]); or it is the values themselves,
    [rows, columns], the first row lowest. `extent` is (left, right, bottom, top). Near zero the
    tint vanishes and the page shows through. Returns the values [rows, columns].

    Raises TypeError if `ax` is no Axes, ValueError if the extent is empty or the values are not
    finite or not one for each point.
    """
    checked_axes(ax)
    left, right, bottom, top = extent
    if not (left < right and bottom < top):
        raise ValueError(f"extent: expected (left, right, bottom, top) in order, got {extent}")
    values = model
    if not isinstance(model, np.ndarray | torch.Tensor):
        values = _on_grid(model, extent, resolution)
    values = finite("model", values, dimensions=2)
    tint = np.empty((*values.shape, 4))
    tint[..., :3] = np.where(values[..., None] > 0, to_rgb(PLUS), to_rgb(MINUS))
    strength = np.abs(values) / (np.abs(values).max() or 1.0)
    tint[..., 3] = 0.6 * np.round(strength, 2)  # few enough colours for a picture with a palette
    ax.imshow(tint, extent=extent, origin="lower", aspect="equal")
    if values.min() < 0 < values.max():
        # Cell centres, as imshow has them.
        rows, columns = values.shape
        x = left + (np.arange(columns) + 0.5) * (right - left) / columns
        y = bottom + (np.arange(rows) + 0.5) * (top - bottom) / rows
        ax.contour(x, y, values, levels=[0.0], colors="black", linewidths=1.3)
    return values


def _on_grid(model: Callable, extent: tuple, resolution: int) -> torch.Tensor:
    left, right, bottom, top = extent
    parameters = getattr(model, "parameters", None)  # a module has them, a function has not
    parameter = None if parameters is None else next(iter(parameters()), None)
    like = torch.empty(0) if parameter is None else parameter
    share = (torch.arange(resolution, dtype=like.dtype, device=like.device) + 0.5) / resolution
    y, x = torch.meshgrid(
        bottom + share * (top - bottom), left + share * (right - left), indexing="ij"
    )
    with torch.no_grad():
        values = model(torch.stack([x.reshape(-1), y.reshape(-1)], 1))
    if values.numel() != resolution**2:
        raise ValueError(
            f"model: expected one output for each of {resolution**2} points, got shape "
            f"{tuple(values.shape)}; pick one, for example `lambda x: model(x)[:, :1]`"
        )
    return values.reshape(resolution, resolution)


@style()
def neighbours(ax: Axes, x, y, anchor: int, index, *, names: dict | None = None) -> None:
    """Points of two classes in the plane, one of them starred, its neighbours ringed.

    `x` is [n, 2] and `y` holds a label for each point, -1 or 1; `anchor` is the place of the
    starred point, `index` the places of its neighbours. Classes differ by marker and colour,
    neighbours by a ring and full strength. `names` (label -> text) adds a legend.

    Raises TypeError if `ax` is no Axes, ValueError if shapes, labels or places do not fit.
    """
    checked_axes(ax)
    points = finite("x", x, dimensions=2)
    labels = _array(y).reshape(-1)
    if points.shape[1] != 2 or len(labels) != len(points):
        raise ValueError(
            f"x, y: expected [n, 2] and n labels, got {points.shape} and {len(labels)} labels"
        )
    if not np.isin(labels, (-1, 1)).all():
        raise ValueError(f"y: expected labels -1 and 1, got {np.unique(labels)[:5].tolist()}")
    places = _array(index).reshape(-1)
    for name, value in (("anchor", np.atleast_1d(anchor)), ("index", places)):
        if value.dtype.kind not in "iu" or (value < 0).any() or (value >= len(points)).any():
            raise ValueError(f"{name}: expected places from 0 to {len(points) - 1}")
    near = np.zeros(len(points), dtype=bool)
    near[places] = True
    for label, marker in CLASS_MARKERS.items():
        colour, mine = CLASS_COLOURS[label], labels == label
        far = ax.scatter(*points[mine & ~near].T, s=13, marker=marker, color=colour, alpha=0.5)
        far.set(linewidth=0, label=(names or {}).get(label))
        ringed = ax.scatter(*points[mine & near].T, s=26, marker=marker, color=colour, zorder=3)
        ringed.set(edgecolor="black", linewidth=0.9)
        if len(points) > MANY_POINTS:
            rasterise(far)
    ax.scatter(*points[anchor], s=330, marker="*", color="black", linewidth=0, zorder=4)
    ax.scatter(*points[anchor], s=60, marker="*", color=PALETTE[2], linewidth=0, zorder=5)
    ax.set_aspect("equal")
    if names:
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, columnspacing=1)


@style()
def contribution_bars(ax: Axes, values, labels: Sequence[str]) -> None:
    """Signed bars, the first on top, each with its number at its end.

    `values` [n] are contributions to one output, `labels` n texts. Bars to the right push the
    output up, bars to the left down; the latter are hatched as well.

    Raises TypeError if `ax` is no Axes, ValueError if there are no values, lengths differ or a
    value is not finite.
    """
    checked_axes(ax)
    heights = finite("values", values, dimensions=1)
    if len(labels) != len(heights):
        raise ValueError(f"labels: expected {len(heights)} texts, got {len(labels)}")
    rows = np.arange(len(heights))
    with matplotlib.rc_context({"hatch.linewidth": 0.6}):
        for row, height in zip(rows, heights, strict=True):
            up = height >= 0
            ax.barh(row, height, 0.7, color=PLUS if up else MINUS, hatch=None if up else "///")
    for row, height in zip(rows, heights, strict=True):
        side = 1 if height >= 0 else -1
        ax.annotate(
            signed(height),
            (height, row),
            xytext=(4 * side, 0),
            textcoords="offset points",
            ha="left" if side > 0 else "right",
            va="center",
            fontsize=9.5,
        )
    ax.axvline(0, color="black", linewidth=0.9)
    ax.set_yticks(rows, [str(label) for label in labels])
    ax.tick_params(axis="y", length=0)
    ax.invert_yaxis()
    ax.margins(x=0.25)  # room for the numbers
    ax.spines["left"].set_visible(False)


@style()
def digit_row(axes: Sequence[Axes], images, values=None, labels: Sequence[str] | None = None):
    """Pictures side by side, each with its signed contribution below.

    `axes` are n Axes; `images` [n, 1, h, w], [n, h, w] or, in colour, [n, 3, h, w], in [0, 1];
    `values` [n] are written below, and the frame takes the colour of their sign; `labels` are n
    texts above. Digits keep their own dark ground, so that they look the same on both pages.

    Raises TypeError if an entry of `axes` is no Axes, ValueError if the numbers of axes, images,
    values and labels differ or an image has another shape.
    """
    axes = list(np.atleast_1d(np.asarray(axes, dtype=object)).ravel())
    for ax in axes:
        checked_axes(ax)
    pictures = _array(images)
    if pictures.ndim == 4 and pictures.shape[1] in (1, 3):
        pictures = np.moveaxis(pictures, 1, -1)
    elif pictures.ndim == 3:
        pictures = pictures[..., None]
    else:
        raise ValueError(
            f"images: expected [n, 1, h, w], [n, 3, h, w] or [n, h, w], got {pictures.shape}"
        )
    numbers = None if values is None else finite("values", values, dimensions=1)
    for name, given in (("images", pictures), ("values", numbers), ("labels", labels)):
        if given is not None and len(given) != len(axes):
            raise ValueError(f"{name}: expected {len(axes)}, one for each axes, got {len(given)}")
    for place, ax in enumerate(axes):
        picture = np.broadcast_to(pictures[place], (*pictures.shape[1:3], 3))
        ax.imshow(np.clip(picture, 0, 1), interpolation="nearest")
        ax.set(xticks=[], yticks=[])
        for spine in ax.spines.values():
            spine.set(visible=numbers is not None, linewidth=2.5)
            if numbers is not None:
                spine.set_edgecolor(PLUS if numbers[place] >= 0 else MINUS)
        if numbers is not None:
            ax.set_xlabel(signed(numbers[place]), fontsize=10, labelpad=3)
        if labels is not None:
            ax.set_title(str(labels[place]), fontsize=10, pad=4)


def signed(number: float) -> str:
    """A number with its sign, three digits."""
    return f"{number:+.3g}".replace("-", "\N{MINUS SIGN}") if number else "0"


def _class_colour(label, place: int) -> str:
    return CLASS_COLOURS.get(label.item(), PALETTE[place % len(PALETTE)])


def checked_axes(ax: Axes) -> None:
    """TypeError if ``ax`` is no Axes."""
    if not isinstance(ax, Axes):
        raise TypeError(f"ax: expected matplotlib Axes, got {type(ax).__name__}")


def _array(values) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)


def finite(name: str, values, *, dimensions: int) -> np.ndarray:
    """``values`` as a float array; ValueError if empty, of other dimensions, or not finite."""
    array = _array(values).astype(float)
    if array.ndim != dimensions or array.size == 0:
        raise ValueError(
            f"{name}: expected {dimensions} dimensions and at least one entry, "
            f"got shape {array.shape}"
        )
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: NaN or infinity among the values; remove them first")
    return array
