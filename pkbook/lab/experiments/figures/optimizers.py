"""What E9 and E10 look like: decision regions, and the kernel over training and distance."""

from matplotlib.figure import Figure

from pkbook.lab import plots
from pkbook.lab.experiments import neighbours
from pkbook.lab.experiments.optimizers import ALIKE, APART, Result, curves

CURVES = {  # what Figure 10 follows from one anchor: colour, line, marker
    "itself": ("black", "-", None),
    "same class": (plots.PLUS, "-", "o"),
    "other class": (plots.MINUS, "--", "s"),
}


def draw_regions(result: Result, anchor: str = "disk edge") -> Figure:
    """Figure 9: above the decision region of each optimizer, below one anchor's nearest."""
    names = result.config.optimizers
    x, y, count = result.x, result.y, result.config.neighbours
    fig, axes = plots.figure(2, len(names), width=7.5, height=4.3, squeeze=False)
    place = neighbours.anchors(x, y)[anchor]
    for (top, bottom), name, f, kernel in zip(
        axes.T, names, result.outputs, result.kernels, strict=True
    ):
        plots.decision_region(top, f.clamp(-1, 1), neighbours.EXTENT)
        for label, marker in plots.CLASS_MARKERS.items():
            mine = x[y[:, 0] == label]
            dots = top.scatter(*mine.T, s=2, marker=marker, color=plots.CLASS_COLOURS[label])
            dots.set_linewidth(0)
            plots.rasterise(dots)
        top.set(title=name, xticks=[], yticks=[])
        near = neighbours.nearest(kernel, count)[place]
        neighbours.panel(bottom, x, y, place, near)
        bottom.set_xlabel(f"{int((y[near] == y[place]).sum())} of {count} alike", fontsize=10)
    return fig


def draw_curves(result: Result, anchor: str = "disk edge") -> Figure:
    """Figure 10: the kernel from one anchor over training, mean and range over the seeds."""
    names, epochs = result.config.optimizers, result.config.epochs
    fig, axes = plots.figure(2, 2, height=5.4, sharex=True, sharey=True)
    for ax, o in zip(axes.flat, range(len(names)), strict=True):
        for kind, values in curves(result, anchor).items():
            for line in values[:, o] if kind == "other class" else values[o][None]:
                plots.band(ax, epochs, line, *CURVES[kind], label=kind)
        for level in (ALIKE, APART):
            ax.axhline(level, color=plots.NEUTRAL, linewidth=0.9, linestyle=":")
        ax.set(title=names[o], ylim=(-0.3, 1.08))
        ax.set_xscale("symlog", linthresh=1)
        ticks = [t for t in (0, 1, 10, 100, 1000) if t <= epochs[-1]]
        ax.set_xticks(ticks, [str(t) for t in ticks])
        ax.minorticks_off()
        ax.set_xlim(0, epochs[-1])
    handles, labels = axes[0, 0].get_legend_handles_labels()
    shown = dict(zip(labels, handles, strict=True))
    fig.legend(shown.values(), shown.keys(), loc="outside upper center", ncols=3)
    for ax in axes[1]:
        ax.set_xlabel("epoch")
    return fig


def draw_distance(result: Result, epoch: int | None = None) -> Figure:
    """What decides: the kernel against distance in the plane, pairs of one and of two classes."""
    e = -1 if epoch is None else result.at(epoch)
    fig, axes = plots.figure(1, 2, height=4, sharey=True)
    titles = "pairs of one class", "pairs of two classes"
    for ax, values, title, level in zip(
        axes, (result.same, result.cross), titles, (ALIKE, APART), strict=True
    ):
        start = values[:, :, 0].mean((0, 1))
        ax.plot(result.distance, start, color=plots.NEUTRAL, label="before training")
        for o, (name, marker) in enumerate(zip(result.config.optimizers, "osD^", strict=False)):
            mean = values[o, :, e].nanmean(0)
            ax.plot(result.distance, mean, "--", marker=marker, color=plots.PALETTE[o], label=name)
        ax.axhline(level, color="black", linewidth=0.9, linestyle=":")
        ax.set(title=title, xlabel="distance in the plane", ylim=(-0.1, 1.05), xlim=(0, 1.8))
    axes[0].set_ylabel(r"mean $\hat K$")
    handles, labels = axes[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside upper center", ncols=5, columnspacing=1)
    return fig


def figures(result: Result) -> dict[str, Figure]:
    """What the command line writes."""
    return {
        "regions": draw_regions(result),
        "curves": draw_curves(result),
        "distance": draw_distance(result),
    }
