"""What C1 and C2 look like: coefficients that know the query, and machines that do not."""

import torch
from matplotlib.figure import Figure

from pkbook.function_space import coefficient_spread, fixed_coefficients
from pkbook.lab import plots
from pkbook.lab.experiments.kernel_machine import Result

NAMES = {"path": "kernel of the path", "start": "kernel of the start", "end": "kernel of the end"}


def middle_sample(result: Result, a: int) -> int:
    """The sample of the first seed whose coefficient's spread is the median."""
    spread = coefficient_spread(result.contributions[a, 0], result.kernel[a, 0])
    return int(spread.argsort()[len(spread) // 2])


@plots.style()
def draw_lines(result: Result) -> Figure:
    """One sample's contribution against its path kernel, a dot a query: lazy left, rich right."""
    fig, axes = plots.figure(1, 2, height=3.9)
    for ax, a, word in zip(axes, (-1, 0), ("lazy", "rich"), strict=True):
        i, scale = middle_sample(result, a), result.config.scales[a]
        c, k = result.contributions[a, 0, i], result.kernel[a, 0, :, i]
        one = fixed_coefficients(c[None], k[:, None]).item()
        unit = k.abs().max()
        ends = torch.tensor([min(0.0, k.min().item()), k.max().item()])
        ax.plot(k / unit, c / (one * unit), "o", color=plots.PLUS, markersize=4, alpha=0.6)
        ax.plot(ends / unit, ends / unit, "--", color="black", label="one coefficient for all")
        ax.set(
            title=f"{word}, output scale {scale:g}",
            xlabel=r"path kernel $\int K_{x,x_i}dt$, relative",
        )
    axes[0].set_ylabel("contribution $c_i(x)$, relative")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", frameon=False)
    return fig


@plots.style()
def draw_time(result: Result) -> Figure:
    """Spread of the coefficients, and what fixed ones miss, over training; one line a scale."""
    fig, axes = plots.figure(1, 2, height=3.9, sharex=True)
    times = [result.config.rate * k for k in result.config.stops]
    names = "spread of the coefficients", "fixed coefficients miss"
    for ax, values, name in zip(axes, (result.spread, result.fixed), names, strict=True):
        for a, scale in enumerate(result.config.scales):
            look = plots.PALETTE[a % 5], ("-", "--", "-.", ":")[a % 4], "osD^"[a % 4]
            plots.band(ax, times, values[a], *look, label=f"{scale:g}")
        ax.set(xscale="log", yscale="log", xlabel="time $t$", title=name)
    fig.legend(
        *axes[0].get_legend_handles_labels(),
        loc="outside upper center",
        ncols=len(result.config.scales),
        title="output scale, from rich to lazy",
    )
    return fig


@plots.style()
def draw_machines(result: Result) -> Figure:
    """Share of the change that machines miss against the output scale; mean and range."""
    fig, ax = plots.figure(height=4.2)
    lines = {"fixed coefficients": result.fixed[..., -1]}
    lines |= {name: result.missed_by(kernel) for kernel, name in NAMES.items()}
    looks = (
        ("black", ":", "^"),
        (plots.PLUS, "-", "o"),
        (plots.MINUS, "--", "s"),
        (plots.PALETTE[2], "-.", "D"),
    )
    for (name, values), look in zip(lines.items(), looks, strict=True):
        plots.band(ax, result.config.scales, values.T, *look, label=name)
    ax.set(xscale="log", yscale="log", xlabel=r"output scale $\alpha$")
    ax.set_ylabel("share of the change missed")
    ax.set_xticks(result.config.scales, [f"{s:g}" for s in result.config.scales])
    ax.minorticks_off()
    ax.legend(loc="lower left")
    return fig


def figures(result: Result) -> dict[str, Figure]:
    """All of them, by name."""
    return {
        "kernel_machine_lines": draw_lines(result),
        "kernel_machine_time": draw_time(result),
        "kernel_machine_scales": draw_machines(result),
    }
