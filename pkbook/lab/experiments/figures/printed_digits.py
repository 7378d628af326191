"""The pictures of E6 and E7: kernels of training digits with print and letters, and accuracy."""

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from torch import Tensor

from pkbook.lab import plots
from pkbook.lab.experiments.parts.nearest_rows import nearest_rows
from pkbook.lab.experiments.printed_digits import Result, alike

DIGITS = "0123456789"
LOOKS = {  # colour, line, marker
    "one class": (plots.MINUS, "-", "o"),
    "two classes": (plots.PLUS, "--", "s"),
    "letters": (plots.PALETTE[2], ":", "^"),
}
WORDS = {"one class": "digits, one class", "two classes": "digits, two classes"}


def matrices(result: Result, what: str = "print") -> Figure:
    """Figures 5 and 6: training digits (rows) and print or letters (columns), before and after.

    `what` is "print" or "letters".
    """
    n = 10 * result.config.shown
    names = {"print": DIGITS, "letters": result.config.letters}[what]
    first = 10 if what == "print" else 20
    columns = (result.y >= first) & (result.y < first + len(names))
    fig, axes = plots.figure(1, 2, width=7.5, height=3.9)
    for ax, kernel, title in zip(
        axes, result.kernels[[0, -1]], ("before training", "after training"), strict=True
    ):
        image = _blocks(ax, kernel[:n][:, columns], names)
        if ax is axes[0] and image.colorbar is not None:
            image.colorbar.remove()  # one scale for both
        ax.set_title(title, pad=8)
        ax.set_xlabel("printed digits" if what == "print" else "printed letters")
    axes[0].set_ylabel("training digits")
    return fig


@plots.style()
def _blocks(ax: Axes, kernel: Tensor, names: str) -> AxesImage:
    """A rectangular kernel of classes of equal sizes, with a class bar along both sides."""
    image = plots.kernel_matrix(ax, kernel, limit=1.0)
    ax.set_aspect("auto")
    height, width = kernel.shape[0] / 10, kernel.shape[1] / len(names)
    for place in range(10):
        colour = plots.PALETTE[place % 5]
        box = Rectangle((-0.045, place * height - 0.5), 0.03, height)
        box.set(transform=ax.get_yaxis_transform(), facecolor=colour, clip_on=False)
        ax.add_patch(box)
    for place in range(len(names)):
        colour = plots.PALETTE[place % 5]
        box = Rectangle((place * width - 0.5, -0.045), width, 0.03)
        box.set(transform=ax.get_xaxis_transform(), facecolor=colour, clip_on=False)
        ax.add_patch(box)
    ax.set_yticks((torch.arange(10) + 0.5) * height - 0.5, list(DIGITS))
    ax.set_xticks((torch.arange(len(names)) + 0.5) * width - 0.5, list(names))
    ax.tick_params(length=0, pad=14)
    return image


def class_table(result: Result) -> Figure:
    """Mean kernel after training of each training class with handwriting, print and letters."""
    means = result.means[:, -1].mean(0)
    parts = {"handwritten digits": DIGITS, "printed digits": DIGITS}
    parts["printed letters"] = result.config.letters
    sizes = [len(names) for names in parts.values()]
    fig, axes = plots.figure(1, 3, width=7.5, height=3.5, sharey=True, width_ratios=sizes)
    for ax, part, (title, names) in zip(axes, means.split(sizes, 1), parts.items(), strict=True):
        ax.imshow(part.numpy(), cmap=plots.SEQUENTIAL, vmin=0.2, vmax=0.9, aspect="auto")
        ax.set_xticks(range(len(names)), list(names))
        ax.set_yticks(range(10), list(DIGITS))
        ax.tick_params(length=0)
        ax.set_title(title)
        for spine in ax.spines.values():
            spine.set_visible(False)
    axes[0].set_ylabel("training digits")
    bar = fig.colorbar(
        axes[-1].images[0], ax=axes, location="bottom", shrink=0.5, pad=0.03, aspect=30
    )
    bar.outline.set_visible(False)
    return fig


def accuracy(result: Result) -> Figure:
    """Share of each printed digit that is read, against its kernel with its own class."""
    sizes = result.config.sizes
    fig, axes = plots.figure(1, len(sizes), width=7.5, height=3.3, sharey=True, squeeze=False)
    for place, (ax, size) in enumerate(zip(axes[0], sizes, strict=True)):
        kernel, right = (v[:, place].mean(0) for v in (result.sized_means, result.sized_accuracy))
        for digit, at in enumerate(zip(kernel.tolist(), right.tolist(), strict=True)):
            ax.scatter(*at, s=75, marker=f"${digit}$", color=plots.MINUS, linewidth=0)
        ax.set(title=f"{size} pixels large", xlabel=r"mean $\hat K$ with its class")
        ax.margins(x=0.12)
    axes[0, 0].set(ylabel="read correctly", ylim=(-0.06, 1.08))
    return fig


def training(result: Result) -> Figure:
    """Accuracy, and the mean kernel of three kinds of pairs, while training goes on."""
    fig, (left, right) = plots.figure(1, 2, height=3.9)
    epochs = range(len(result.config.epochs))
    for name, values, look in (
        ("handwriting, held out", result.handwriting, LOOKS["one class"]),
        ("print", result.accuracy.mean(2), LOOKS["two classes"]),
    ):
        plots.band(left, epochs, values, *look, label=name)
    for name, values in alike(result).items():
        label = WORDS.get(name, "digits and letters")
        plots.band(right, epochs, values, *LOOKS[name], label=label)
    left.set(title="read correctly", ylim=(0, 1.03))
    right.set(title=r"mean $\hat K$ with training digits", ylim=(0, 1.03))
    for ax in (left, right):
        ax.set_xticks(epochs, [str(epoch) for epoch in result.config.epochs])
        ax.set_xlabel("epoch")
        with plots.style():
            ax.legend(loc="lower right" if ax is left else "lower left")
    return fig


def nearest_training(result: Result, characters: str, count: int = 6) -> Figure:
    """Printed characters and the training digits nearest to them after training.

    The frame is orange where a training digit shows the character, blue where it does not.
    """
    n, kernel = 10 * result.config.shown, result.kernels[-1]
    classes = [10 + DIGITS.index(c) if c in DIGITS else 20 + result.config.letters.index(c)
               for c in characters]  # fmt: skip
    rows = []
    for label in classes:
        asked = int((result.y == label).nonzero()[0])
        found = kernel[asked, :n].topk(count).indices
        rows.append((result.x[asked], result.x[found], result.y[found] == label - 10))
    return nearest_rows(rows)


def figures(result: Result) -> dict[str, Figure]:
    """What the command line writes."""
    return {
        "print": matrices(result, "print"),
        "letters": matrices(result, "letters"),
        "classes": class_table(result),
        "accuracy": accuracy(result),
        "training": training(result),
    }
