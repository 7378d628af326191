"""What E8 looks like: thresholds, fits, ranks and losses with a unit inside or outside."""

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pkbook.lab import plots
from pkbook.lab.experiments.parts import relu_line
from pkbook.lab.experiments.rank_gap import EDGE, LEFT, PLACES, Config, Result, start, wanted


def _pair(**axes) -> tuple[Figure, list[Axes]]:
    """A panel for each placement, one above the other: readable on a phone."""
    fig, panels = plots.figure(2, 1, height=5.4, sharex=True, sharey=True, **axes)
    for ax, place in zip(panels, PLACES, strict=True):
        ax.set_title("all thresholds inside" if place == "inside" else "one threshold outside")
    return fig, list(panels)


def training_interval(ax: Axes, *, along: str = "x") -> None:
    """Shade where the training inputs lie."""
    shade = ax.axvspan if along == "x" else ax.axhspan
    shade(LEFT, EDGE, color=plots.PALETTE[2], alpha=0.15, linewidth=0)


@plots.style()
def draw(result: Result, seed: int = 0) -> Figure:
    """Figure 7: the thresholds over training, of one seed; ticks on the right are the teacher's."""
    fig, panels = _pair()
    config, moments = result.config, result.config.moments
    for p, ax in enumerate(panels):
        training_interval(ax, along="y")
        for j in range(config.units):
            last = j == config.units - 1
            line = "--" if last and p == 1 else "-"
            colour = plots.PLUS if last else plots.MINUS
            ax.plot(moments, result.thresholds[p, seed, :, j], line, color=colour)
        if config.target == "teacher":
            ends = start(config).teacher[seed]
            ax.plot([config.steps] * len(ends), ends, "<", color="black", markersize=5)
        ax.set(ylabel="threshold", xlim=(0, config.steps * 1.5))
        _logarithmic(ax, config)
    panels[-1].set_xlabel("step")
    return fig


def _logarithmic(ax: Axes, config: Config) -> None:
    ax.set_xscale("symlog", linthresh=1)
    ticks = [t for t in (0, 1, 10, 100, 1000, 10_000) if t <= config.steps]
    ax.set_xticks(ticks, [f"{t:,}" for t in ticks])
    ax.minorticks_off()


@plots.style()
def draw_fit(result: Result, seed: int = 0) -> Figure:
    """Figure 7: what both networks of one seed have learned, beyond the training interval too."""
    config = result.config
    fig, panels = _pair()
    x = torch.linspace(LEFT, config.reach, 401, dtype=torch.float64)
    for p, ax in enumerate(panels):
        training_interval(ax)
        t, a = result.thresholds[p, seed, -1], result.weights[p, seed, -1]
        ax.plot(x, wanted(config, x)[seed], color=plots.NEUTRAL, linewidth=4, label="target")
        ax.plot(x, relu_line.outputs(t, a, x), color="black", label="network")
        ax.plot(t, relu_line.outputs(t, a, t), "o", color=plots.MINUS, label="thresholds")
        ax.plot(t[-1:], relu_line.outputs(t, a, t[-1:]), "D", color=plots.PLUS, label="last one")
        ax.set_ylabel("$f(x)$")
    panels[-1].set_xlabel("input $x$")
    handles, labels = panels[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside upper center", ncols=4, columnspacing=1)
    return fig


@plots.style()
def draw_ranks(result: Result) -> Figure:
    """Figure 7: ranks of both tangent matrices over training, median and range over seeds."""
    fig, panels = _pair()
    for p, ax in enumerate(panels):
        for r, (name, line, marker) in enumerate(
            (("training inputs", "-", "o"), ("with test inputs", "--", "s"))
        ):
            values = result.ranks[p, :, :, r].double()
            look = plots.PALETTE[r], line, marker
            plots.band(ax, result.config.moments, values, *look, label=name, middle="median")
        low, high = int(result.ranks.min()), int(result.ranks.max())
        ax.set(ylabel="rank", yticks=range(low, high + 1), ylim=(low - 0.3, high + 0.3))
        _logarithmic(ax, result.config)
    panels[-1].set_xlabel("step")
    handles, labels = panels[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside upper center", ncols=2)
    return fig


@plots.style()
def draw_losses(result: Result) -> Figure:
    """Figure 7: training and test loss of both placements, median and range over the seeds."""
    fig, panels = plots.figure(2, 1, height=5.4, sharex=True, sharey=True)
    for ax, title, values in zip(
        panels, ("training loss", "test loss"), (result.train_loss, result.test_loss), strict=True
    ):
        for p, (place, marker) in enumerate(zip(PLACES, "os", strict=True)):
            look = plots.PALETTE[p], "-" if p == 0 else "--", marker
            plots.band(ax, result.config.moments, values[p], *look, label=place, middle="median")
        ax.set(title=title, ylabel="loss")
        _logarithmic(ax, result.config)
    panels[0].set_yscale("log")  # the panels share it
    for ax in panels:
        ax.minorticks_off()
    panels[-1].set_xlabel("step")
    handles, labels = panels[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside upper center", ncols=2)
    return fig


@plots.style()
def draw_regimes(result: Result, seed: int = 0) -> Figure:
    """Figure 8: where on the line each unit is on at the end."""
    fig, panels = _pair()
    config = result.config
    for p, ax in enumerate(panels):
        training_interval(ax)
        for j, t in enumerate(result.thresholds[p, seed, -1].tolist()):
            last = j == config.units - 1
            colour, hatch = (plots.PLUS, "///") if last else (plots.MINUS, None)
            ax.barh(j + 1, config.reach - t, 0.6, left=t, color=colour, hatch=hatch, alpha=0.8)
        ax.set(ylabel="unit", xlim=(LEFT, config.reach), ylim=(0.4, config.units + 0.6))
    panels[-1].set_xlabel("input $x$")
    return fig


@plots.style()
def draw_sweep(results: list[Result]) -> Figure:
    """In how many of the seeds the test loss ended higher with the unit outside.

    A row for each target and what is trained, a mark for each number of units.
    """
    counts = sorted({r.config.units for r in results})
    rows = list(dict.fromkeys((r.config.aim, r.config.trained) for r in results))
    fig, ax = plots.figure(height=4.8)
    for k, (count, marker) in enumerate(zip(counts, "^osDv", strict=False)):
        mine = [r for r in results if r.config.units == count]
        percent = [100 * (r.cost > 0).double().mean().item() for r in mine]
        lift = 0.22 * (k - (len(counts) - 1) / 2)  # so that equal shares do not hide each other
        places = [rows.index((r.config.aim, r.config.trained)) + lift for r in mine]
        ax.plot(percent, places, marker, alpha=0.7, markersize=7, label=f"{count} units")
    ax.axvline(50, color="black", linestyle=":")
    ax.set(xlim=(-4, 104), xlabel="higher loss outside: % of seeds")
    names = [f"{aim.replace(' from the start', '').replace(' the start', '')}" for aim, _ in rows]
    moving = ["biases" if trained == "biases" else "both" for _, trained in rows]
    ax.set_yticks(range(len(rows)), [f"{n}, {m}" for n, m in zip(names, moving, strict=True)])
    ax.invert_yaxis()
    fig.legend(loc="outside upper center", ncols=len(counts), columnspacing=1)
    return fig


def figures(result: Result) -> dict[str, Figure]:
    """What the command line writes."""
    return {
        "thresholds": draw(result),
        "fits": draw_fit(result),
        "ranks": draw_ranks(result),
        "losses": draw_losses(result),
        "regimes": draw_regimes(result),
    }
