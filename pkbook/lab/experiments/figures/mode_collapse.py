"""What T10 looks like: rings, coherence over time, coherence against modes, who leads."""

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from pkbook.generative import ring_of_gaussians
from pkbook.lab import plots
from pkbook.lab.experiments.mode_collapse import Result

LOOKS = {
    "healthy": ("o", plots.PALETTE[0]),
    "collapsing": ("s", plots.PALETTE[1]),
    "slower generator": ("^", plots.PALETTE[2]),
    "faster discriminator": ("v", plots.PALETTE[3]),
    "more momentum": ("D", plots.PALETTE[4]),
    "wider generator": ("P", "black"),
}


def ring_panel(ax: Axes, points: Tensor) -> None:
    """Generated points ``[n, 2]`` and the centres of the modes."""
    centres = ring_of_gaussians(8).means
    dots = ax.plot(*points.T, ".", markersize=3, color=plots.PALETTE[0], label="generated")
    plots.rasterise(*dots)
    ax.plot(*centres.T, "+", markersize=11, color="black", label="modes")
    ax.set(xlim=(-1.6, 1.6), ylim=(-1.6, 1.6), aspect="equal", xticks=(-1, 1), yticks=(-1, 1))


@plots.style()
def draw_rings(result: Result) -> Figure:
    """What the first seed makes at the end, healthy and collapsing."""
    fig, axes = plots.figure(1, 2, width=6, height=3.4, sharey=True)
    for ax, name in zip(axes, ("healthy", "collapsing"), strict=True):
        ring_panel(ax, result.places[name][0, -1])
        ax.set_title(f"{name}: {int(result.modes[name][0, -1])} modes")
    return fig


@plots.style()
def draw_coherence(result: Result) -> Figure:
    """Coherence before and after the kernel, over time: mean and range over seeds."""
    fig, axes = plots.figure(2, 1, width=4.8, height=5.4, sharex=True, sharey=True)
    every = result.config.every
    steps = every * (torch.arange(result.config.steps // every) + 0.5)
    for ax, name in zip(axes, ("healthy", "collapsing"), strict=True):
        kinds = (
            ("by batch", result.carried, "-", plots.PALETTE[0]),
            ("by step", result.moved, ":", plots.PALETTE[2]),
            ("feedback", result.feedback, "--", plots.PALETTE[1]),
        )
        for label, values, line, colour in kinds:
            blocks = result.blocks(values[name])
            plots.band(ax, steps, blocks, colour, line, label=label)
        ax.set(title=name, ylabel="coherence", ylim=(0, 1))
    axes[1].set_xlabel("step")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return fig


@plots.style()
def draw_modes(result: Result) -> Figure:
    """Late coherence against the late number of modes, one mark a run."""
    fig, axes = plots.figure(2, 1, width=4.8, height=6.4, sharex=True, sharey=True)
    for ax, values in zip(axes, (result.carried, result.feedback), strict=True):
        for name, coherent in values.items():
            mark, colour = LOOKS[name]
            where = result.late(coherent), result.late(result.modes[name])
            ax.plot(*where, mark, color=colour, markersize=7, label=name)
        ax.set(ylabel="modes covered", ylim=(0, 8.6), xlim=(0, 1))
    axes[0].set_title("what a batch did to the queries")
    axes[1].set(title="the feedback itself", xlabel="coherence")
    handles, labels = axes[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside upper center", ncols=2, columnspacing=1)
    return fig


@plots.style()
def draw_lead(result: Result, most: int = 4) -> Figure:
    """Correlation of coherence with the number of modes, earlier and later, collapsing runs."""
    fig, ax = plots.figure(height=3.4)
    found = result.lagged("collapsing", most)
    lags = result.config.every * torch.arange(-most, most + 1)
    for row in found:
        ax.plot(lags, row, color=plots.NEUTRAL, linewidth=1)
    ax.plot(lags, found.nanmean(0), "o-", color=plots.PALETTE[0])
    ax.axhline(0, color="black", linewidth=0.8)
    ax.axvline(0, color="black", linewidth=0.8, linestyle=":")
    ax.set(ylim=(-1, 1), xlabel="modes counted so many steps later", ylabel="correlation")
    return fig


def figures(result: Result) -> dict[str, Figure]:
    """What the command line writes."""
    return {
        "rings": draw_rings(result),
        "coherence": draw_coherence(result),
        "modes": draw_modes(result),
        "lead": draw_lead(result),
    }
