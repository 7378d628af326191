"""The pictures of E3: kernel matrices, contrast along training, layers, neighbours."""

from collections.abc import Mapping

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from pkbook.lab import plots
from pkbook.lab.experiments.image_kernels import PROBES, Outcome, Result

LOOK = {"MNIST": (plots.PALETTE[0], "o"), "CIFAR-10": (plots.PALETTE[1], "s")}
BEFORE, AFTER = 0, -1


def matrices(result: Result, source: str, probes: str = PROBES[0]) -> Figure:
    """The normalised kernel of the first seed before and after training, on one colour scale."""
    outcome, side = result.outcomes[source], PROBES.index(probes)
    fig, axes = plots.figure(1, 2, height=3.6)
    for ax, title, epoch in zip(axes, ("before", "after"), (BEFORE, AFTER), strict=True):
        matrix(ax, outcome, epoch, side)
        ax.set_title(f"{source}, {title} training")
    return fig


@plots.style()
def matrix(ax: Axes, outcome: Outcome, epoch: int, side: int = 0, layer: int = 0) -> None:
    """One kernel matrix, ordered by class; colours run from -1 to 1 whatever it holds."""
    plots.kernel_matrix(ax, outcome.kernels[epoch, side, layer], outcome.labels, limit=1.0)
    ax.tick_params(labelsize=9)
    ax.tick_params(axis="x", pad=13)


@plots.style()
def contrasts(result: Result) -> Figure:
    """Contrast against training accuracy, on training images and on images held out."""
    fig, axes = plots.figure(1, 2, height=3.9, sharey=True)
    for ax, probes in zip(axes, PROBES, strict=True):
        for source, outcome in result.outcomes.items():
            colour, marker = LOOK[source]
            fitted, contrast = outcome.accuracy[:, :, 0], outcome.whole(probes)
            for x, y in zip(fitted, contrast, strict=True):
                ax.plot(x, y, color=colour, alpha=0.35, linewidth=1)
            style = {"color": colour, "marker": marker, "markersize": 7, "linewidth": 2.2}
            ax.plot(fitted.mean(0), contrast.mean(0), label=source, **style)
        ax.axhline(0, color="black", linewidth=0.9, linestyle=":")
        ax.set(xlabel="training accuracy", title=f"on {probes}", xlim=(0, 1.03))
    axes[0].set_ylabel("contrast: within less across")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return fig


@plots.style()
def layers(result: Result) -> Figure:
    """Each layer's share of the kernel and of its contrast after training, means over seeds."""
    fig, axes = plots.figure(1, len(result.outcomes), height=3.9, squeeze=False, sharey=True)
    for ax, (source, outcome) in zip(axes[0], result.outcomes.items(), strict=True):
        trace = outcome.share[:, AFTER, 0]
        carried = outcome.carried[:, AFTER, 0]
        bars = {
            "share of the trace": trace,
            "share of the contrast": carried / carried.sum(1, keepdim=True),
        }
        _bars(ax, outcome.layers, bars)
        ax.set_title(source)
    axes[0, 0].set(ylabel="share", ylim=(0, None))  # after all bars, as the axis is shared
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return fig


def _bars(ax: Axes, names: tuple[str, ...], bars: Mapping[str, Tensor]) -> None:
    """Groups of bars, each a mean over seeds ``[S, n]`` with their range."""
    places = np.arange(len(names))
    for k, (label, values) in enumerate(bars.items()):
        mean = values.mean(0)
        reach = torch.stack([mean - values.amin(0), values.amax(0) - mean]).numpy()
        at, look = places + 0.4 * k - 0.2, {"color": plots.PALETTE[k], "hatch": (None, "///")[k]}
        ax.bar(at, mean.numpy(), 0.38, label=label, yerr=reach, ecolor="black", **look)
    ax.set_xticks(places, names, fontsize=9.5)


@plots.style()
def faces(images: Tensor, labels: Tensor, rows: Mapping[str, Tensor], image: int) -> Figure:
    """One picture and, in rows, its nearest from tables ``[n, k]``; other classes are framed."""
    count = next(iter(rows.values())).shape[1]
    fig, axes = plots.figure(len(rows), count + 1, width=6.0, height=0.9 * len(rows), squeeze=False)
    low, high = images.amin(), images.amax()
    for row, (name, near) in zip(axes, rows.items(), strict=True):
        places = [image, *near[image].tolist()]
        plots.digit_row(row, (images[places] - low) / (high - low))
        row[0].set_ylabel(name, rotation=0, ha="right", va="center")
        for ax, place in zip(row, places, strict=True):
            for spine in ax.spines.values():
                other = bool(labels[place] != labels[image])
                spine.set(visible=other, color=plots.PLUS, linewidth=3)
    return fig


def figures(result: Result) -> dict[str, Figure]:
    """What the command line writes."""
    drawn = {"contrast": contrasts(result), "layers": layers(result)}
    return drawn | {f"{name}-matrices": matrices(result, name) for name in result.outcomes}
