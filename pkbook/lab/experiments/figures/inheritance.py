"""The pictures of E12: similarity and accuracy against the shift."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from pkbook.lab import plots
from pkbook.lab.experiments.inheritance import ARCHITECTURES, Result

COLOURS = dict(zip(ARCHITECTURES, plots.PALETTE, strict=False))
MARKS = dict(zip(ARCHITECTURES, (("--", "s"), ("-", "o"), ("-", "v"), (":", "D")), strict=True))


def band(ax: Axes, shifts, values: Tensor, name: str) -> None:
    """A curve ``[S, D]``: the mean over the seeds, and their range."""
    plots.band(ax, shifts, values, COLOURS[name], *MARKS[name], label=name)


@plots.style()
def curves(result: Result, *, centred: bool = False) -> Figure:
    """Similarity of an image and its moved copy, before and after training; pixels in black."""
    config = result.config
    fig, axes = plots.figure(2, 1, height=6.6, sharex=True, sharey=True)
    for ax, look, title in zip(axes, (0, -1), ("before training", "after training"), strict=True):
        pixels = result.pixels[:, int(centred)].mean((0, 2))
        ax.plot(config.shifts, pixels, color="black", linewidth=1.1, label="pixels")
        for name in config.architectures:
            band(ax, config.shifts, result.curve(name, look, centred=centred), name)
        ax.set(title=title, ylabel="cosine, mean taken off" if centred else r"$\hat K$")
        ax.axhline(0, color=plots.NEUTRAL, linewidth=0.8)
    axes[0].set_ylim(-0.2 if centred else 0, 1.04)
    axes[1].set(xlabel="shift in pixels", xticks=config.shifts)
    handles, labels = axes[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside upper center", ncols=3, columnspacing=1)
    return fig


@plots.style()
def accuracies(result: Result) -> Figure:
    """Accuracy on moved images after training."""
    config = result.config
    fig, ax = plots.figure(height=4.2)
    for name in config.architectures:
        band(ax, config.shifts, result.accuracy[result.place(name), :, -1], name)
    ax.set(xlabel="shift in pixels", ylabel="accuracy", ylim=(0, 1.03), xticks=config.shifts)
    fig.legend(loc="outside upper center", ncols=2)
    return fig


@plots.style()
def against_others(result: Result, *, centred: bool = False) -> Figure:
    """After training: the moved copy against another image of the class, one panel each."""
    config = result.config
    names = config.architectures
    rows = -(-len(names) // 2)
    fig, axes = plots.figure(
        rows, 2, width=4.6, height=0.7 + 2.0 * rows, sharex=True, sharey=True, squeeze=False
    )
    for ax, name in zip(axes.flat, names, strict=False):
        band(ax, config.shifts, result.curve(name, centred=centred), name)
        same, other = result.unmoved(name, centred=centred).mean(0)
        ax.axhline(same, color="black", linewidth=1.2, label="another of the class")
        ax.axhline(other, color="black", linewidth=1.2, linestyle=":", label="of another class")
        ax.set(title=name, xticks=config.shifts[::2])
    for ax in axes[:, 0]:
        ax.set_ylabel("cosine" if centred else r"$\hat K$")
    for ax in axes[-1]:
        ax.set_xlabel("shift in pixels")
    for ax in list(axes.flat)[len(names) :]:
        ax.set_visible(False)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    labels[0] = "its moved copy"
    fig.legend(handles[1:], labels[1:], loc="outside upper center", ncols=2)
    return fig


def figures(result: Result) -> dict[str, Figure]:
    """What the command line writes."""
    return {
        "as-they-are": curves(result),
        "mean-taken-off": curves(result, centred=True),
        "accuracy": accuracies(result),
        "against-others": against_others(result),
    }
