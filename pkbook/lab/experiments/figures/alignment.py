"""The pictures of E11: accuracy and alignment along training, and runs of equally many steps."""

from collections.abc import Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from pkbook.lab import plots
from pkbook.lab.experiments.alignment import ARCHITECTURES, PLACES, Result, Run

CURVES = {"training": (plots.PLUS, "--", "s"), "held-out": (plots.MINUS, "-", "o")}
MARKS = dict(zip(ARCHITECTURES, "osD", strict=True))


def panel(ax: Axes, steps: Sequence[int], curves: dict[str, Tensor]) -> None:
    """Curves along training ``[S, E]``: the mean over the seeds, and their range as a band."""
    for name, values in curves.items():
        plots.band(ax, steps, values, *CURVES[name], label=f"{name} images")
    ax.set_xscale("symlog", linthresh=max(1, steps[1]), linscale=0.5)
    ticks = [steps[0], *steps[1::2]] if len(steps) > 5 else list(steps)
    ax.set_xticks(ticks, [str(k) for k in ticks])
    ax.minorticks_off()
    ax.set_xlim(steps[0], steps[-1])


def accuracies(runs: Sequence[Run]) -> dict[str, Tensor]:
    """Accuracy along training ``[S, E]`` on training and on held-out images."""
    both = (torch.stack([getattr(r, name) for r in runs]) for name in ("fitted", "accuracy"))
    return dict(zip(PLACES, both, strict=True))


def alignments(runs: Sequence[Run], **how) -> dict[str, Tensor]:
    """Alignment along training ``[S, E]`` on training and on held-out images."""
    return {place: torch.stack([r.alignment(place, **how) for r in runs]) for place in PLACES}


@plots.style()
def training(result: Result, share: float = 0.0) -> Figure:
    """Accuracy on the left, alignment of the normalised kernel on the right; by architecture."""
    names = result.config.architectures
    fig, axes = plots.figure(
        len(names),
        2,
        width=4.6,
        height=0.8 + 1.9 * len(names),
        sharex=True,
        sharey="col",
        squeeze=False,
    )
    for (left, right), name in zip(axes, names, strict=True):
        runs = result.of(name, share)
        panel(left, runs[0].steps, accuracies(runs))
        panel(right, runs[0].steps, alignments(runs, normalised=True))
        left.set(ylabel=name, ylim=(0, 1.03), yticks=(0, 0.5, 1))
        right.set(ylim=(-0.05, 0.65), yticks=(0, 0.2, 0.4, 0.6))
    for ax, title in zip(axes[0], ("accuracy", "CKA with the labels"), strict=True):
        ax.set_title(title)
    for ax in axes[-1]:
        ax.set_xlabel("step")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside upper center", ncols=2, columnspacing=1)
    return fig


@plots.style()
def equal_steps(result: Result) -> Figure:
    """Runs of equally many steps: held-out accuracy against alignment, a line for each seed."""
    config = result.config
    fig, axes = plots.figure(2, 1, height=7, sharex=True, sharey=True)
    shares, sizes = sorted(config.shares), sorted({config.samples, *config.sizes})
    fills = ["full", *["left"] * (len(shares) - 2), "none"]
    families = {
        "filled: right labels, empty: random": [
            ({"share": share}, {"fillstyle": fill, "markersize": 8})
            for share, fill in zip(shares, fills, strict=False)
        ],
        "small to large: more images": [
            ({"samples": n}, {"markersize": 4 + 8 * k / len(sizes)}) for k, n in enumerate(sizes)
        ],
    }
    for ax, (title, family) in zip(axes, families.items(), strict=True):
        for colour, name in zip(plots.PALETTE, config.architectures, strict=False):
            points = torch.stack([_last(result.of(name, **setting)) for setting, _ in family])
            ax.plot(*points.permute(2, 0, 1), color=colour, linewidth=0.9, zorder=1)
            for point, (_, look) in zip(points, family, strict=True):
                ax.plot(*point.T, MARKS[name], color=colour, **look)
        ax.set(title=title, ylabel="accuracy, held-out images", ylim=(0, 1))
    for colour, name in zip(plots.PALETTE, config.architectures, strict=False):
        axes[0].plot([], [], MARKS[name], color=colour, markersize=7, label=name)
    axes[1].set_xlabel("CKA, held-out images")
    fig.legend(loc="outside upper center", ncols=3)
    return fig


def _last(runs: Sequence[Run]) -> Tensor:
    """Alignment of the normalised kernel and accuracy after the last step, held-out ``[S, 2]``."""
    return torch.tensor([[r.alignment(normalised=True)[-1], r.accuracy[-1]] for r in runs])


def figures(result: Result) -> dict[str, Figure]:
    """What the command line writes."""
    drawn = {f"labels-{share:g}-random": training(result, share) for share in result.config.shares}
    return drawn | {"equal-steps": equal_steps(result)}
