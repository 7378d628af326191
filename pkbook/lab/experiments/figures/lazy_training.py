"""What T8 looks like: drift, modes and fits of networks from nearly lazy to rich."""

import math

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from pkbook.lab import plots
from pkbook.lab.experiments.lazy_training import Config, Result


@plots.style()
def draw_drift(result: Result) -> Figure:
    """Drift of the kernel against width, both kinds of signs; geometric mean and range."""
    fig, ax = plots.figure(height=4)
    widths = result.config.widths
    kinds = ("both signs", "o", "-", plots.PALETTE[0]), ("one sign", "s", "--", plots.PALETTE[1])
    for drift, (kind, mark, line, colour) in zip(result.drift, kinds, strict=True):
        mean = drift.log().mean(1).exp()
        ax.fill_between(widths, drift.amin(1), drift.amax(1), color=colour, alpha=0.2, linewidth=0)
        ax.plot(widths, mean, line, marker=mark, color=colour, label=kind)
    guides = (-0.5, 0.036, r"slope $-\frac{1}{2}$", "bottom"), (-1.0, 0.0018, "slope $-1$", "top")
    for power, end, text, side in guides:
        guide = end * (np.array(widths) / widths[-1]) ** power
        ax.plot(widths[-4:], guide[-4:], color=plots.NEUTRAL, linewidth=1)
        place = max(-3, -len(widths))
        ha = "left" if side == "bottom" else "right"
        ax.text(widths[place], guide[place], text, va=side, ha=ha)
    ax.set(xscale="log", yscale="log", xlabel="width $m$", ylabel=r"drift $\|K_T-K_0\|/\|K_0\|$")
    ax.set_xticks(widths[::2], [str(m) for m in widths[::2]])
    ax.minorticks_off()
    ax.legend(loc="lower left")
    return fig


@plots.style()
def draw_modes(result: Result, count: int = 5) -> Figure:
    """What is left of the first modes over time, narrowest and widest network of the first seed."""
    fig, axes = plots.figure(1, 2, height=3.9, sharex=True, sharey=True)
    for ax, w in zip(axes, (0, -1), strict=True):
        rates, residual = result.rates[0, w, 0, :count], result.residual[0, w, 0, :, :count]
        modes_panel(ax, result.config.times, rates, residual)
        ax.set(title=f"width {result.config.widths[w]}", xlabel="time $t$")
    axes[0].set_ylabel("share of the mode left")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=count + 1)
    return fig


def modes_panel(ax: Axes, times: Tensor, rates: Tensor, residual: Tensor) -> None:
    """Residual ``[E, modes]`` by its start, in solid lines; exp(-rate * time) dashed."""
    for j, line in enumerate((residual / residual[0]).T):
        look = {"color": plots.PALETTE[j % 5], "marker": "osD^v"[j % 5], "markevery": 6}
        ax.plot(times[1:], line[1:], label=f"mode {j + 1}", **look)
    smooth = torch.logspace(-1.5, math.log10(times[-1]), 100)
    dashed = [
        ax.plot(smooth, torch.exp(-rate * smooth), "--", color="black", linewidth=1)[0]
        for rate in rates
    ]
    dashed[-1].set_label(r"$e^{-\lambda_jt}$")
    ax.axhline(0, color=plots.NEUTRAL, linewidth=0.9)
    ax.set(xscale="log", ylim=(-0.3, 1.25))


@plots.style()
def draw_scale(result: Result) -> Figure:
    """Drift against the output scale at one width; geometric mean and range."""
    fig, ax = plots.figure(height=3.8)
    scales, drift = result.config.scales, result.scales["drift"]
    ax.fill_between(scales, drift.amin(1), drift.amax(1), alpha=0.2, linewidth=0)
    ax.plot(scales, drift.log().mean(1).exp(), "o-")
    ends = np.array([min(1, scales[-1]), scales[-1]])
    ax.plot(ends, 0.25 / ends, color=plots.NEUTRAL, linewidth=1)
    middle = ends.prod() ** 0.5
    ax.text(middle, 0.25 / middle, "slope $-1$", va="bottom")
    ax.set(xscale="log", yscale="log", xlabel=r"output scale $\alpha$")
    ax.set_ylabel(r"drift $\|K_T-K_0\|/\|K_0\|$")
    ax.set_xticks(scales[::2], [f"{a:g}" for a in scales[::2]])
    ax.minorticks_off()
    return fig


@plots.style()
def draw_fits(result: Result) -> Figure:
    """Trained network and lazy prediction of the first seed, narrowest and widest network."""
    fig, axes = plots.figure(1, 2, height=3.6, sharex=True, sharey=True)
    for ax, w in zip(axes, (0, -1), strict=True):
        fit_panel(ax, result.config, result.trained[0, w, 0], result.lazy[0, w, 0])
        ax.set(title=f"width {result.config.widths[w]}", xlabel="input $x$")
    axes[0].set_ylabel("change $f_T-f_0$")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return fig


def fit_panel(ax: Axes, config: Config, trained: Tensor, lazy: Tensor) -> None:
    """The data, and the change of the predictions ``[Q]`` with the lazy one."""
    queries = config.queries[:, 0]
    ax.plot(config.x[:, 0], config.y, "o", color=plots.PLUS, label="data")
    ax.plot(queries, trained, color="black", label="network")
    ax.plot(queries, lazy, "--", color=plots.MINUS, label="lazy prediction")


def figures(result: Result) -> dict[str, Figure]:
    """What the command line writes."""
    return {
        "drift": draw_drift(result),
        "modes": draw_modes(result),
        "fits": draw_fits(result),
        "scale": draw_scale(result),
    }
