"""The pictures of E4: boundaries over the true set, and what accuracy hangs on."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from torch import Tensor

from pkbook.lab import plots
from pkbook.lab.experiments.parts.support_vectors import STRENGTHS
from pkbook.lab.experiments.separability import (
    CIRCLE,
    ELLIPSE,
    EXTENT,
    HALF,
    MACHINES,
    Case,
    Outcome,
    Result,
    cells,
    thin,
    truth,
)

TITLES = {"RBF": "RBF", "untrained": "untrained", "tangent": "trained"}
NAMES = {"RBF": "RBF", "untrained": "features, untrained", "tangent": "features, trained"}
LOOK = {  # colour, line, marker
    "RBF, plain": (plots.MINUS, ":", "s"),
    "RBF, tuned": (plots.MINUS, "-", "s"),
    "untrained, tuned": (plots.NEUTRAL, "--", "^"),
    "tangent, tuned": (plots.PLUS, "-", "o"),
}
SETS = {"circle": CIRCLE, "ellipse": ELLIPSE}


@plots.style()
def panel(ax: Axes, outcome: Outcome, case: Case, machine: str) -> None:
    """One machine of the first seed: its boundary, the true set, and where the two disagree."""
    values = outcome.values[MACHINES.index(machine)]
    grid = len(values)
    true = truth(cells(grid), case.axes).reshape(grid, grid)
    wrong = (values > 0) != (true > 0)
    tint = wrong.numpy()[..., None] * np.array(to_rgba(plots.PLUS))
    width, height = (2 * a for a in case.axes)
    ax.add_patch(Ellipse((0, 0), width, height, facecolor=plots.MINUS, alpha=0.25, linewidth=0))
    ax.imshow(tint, extent=EXTENT, origin="lower", interpolation="nearest", zorder=2)
    middles = cells(grid)[:grid, 0].numpy()
    if values.min() < 0 < values.max():
        ax.contour(
            middles, middles, values.numpy(), levels=[0.0], colors="black", linewidths=1.4, zorder=3
        )
    ax.set(xticks=[], yticks=[], aspect="equal", xlim=(-HALF, HALF), ylim=(-HALF, HALF))
    for spine in ax.spines.values():
        spine.set(visible=True, color=plots.NEUTRAL)
    share = wrong.float().mean().item() * (2 * HALF) ** 2 / case.area
    ax.set_xlabel(f"{share:.0%} astray", fontsize=10.5)


def boundaries(result: Result, way: str = "plain") -> Figure:
    """Figure 3: rows are the two sets, columns the RBF machine and the plane in tangent space."""
    fig, axes = plots.figure(2, 2, width=4.5, height=5.0)
    for row, (name, half) in zip(axes, SETS.items(), strict=True):
        case = Case(half, result.config.sizes[-1])
        row[0].set_ylabel(name)
        for ax, kind in zip(row, ("RBF", "tangent"), strict=True):
            panel(ax, result.outcomes[case], case, f"{kind}, {way}")
    for ax, title in zip(axes[0], ("RBF on the inputs", "tangent features"), strict=True):
        ax.set_title(title, fontsize=10.5)
    return fig


def trio(result: Result, case: Case, way: str) -> Figure:
    """One set: RBF on the inputs, the untrained and the trained network's features."""
    fig, axes = plots.figure(1, 3, width=4.5, height=2.1)
    for ax, kind in zip(axes, TITLES, strict=True):
        panel(ax, result.outcomes[case], case, f"{kind}, {way}")
        ax.set_title(TITLES[kind])
    return fig


def penalty(result: Result) -> Figure:
    """Error on fresh points against C, at equal strength, for the three kinds of machine."""
    fig, axes = plots.figure(2, 1, height=6.0, sharex=True)
    looks = [LOOK[f"{kind}, tuned"] for kind in TITLES]
    for ax, (name, half) in zip(axes, SETS.items(), strict=True):
        curves = 1 - result.at(half).turned
        for k, (kind, look) in enumerate(zip(TITLES, looks, strict=True)):
            plots.band(ax, STRENGTHS, curves[:, k], *look, label=NAMES[kind])
        ax.axvline(1, color=plots.NEUTRAL, linewidth=0.9, linestyle=":")
        ax.set(xscale="log", title=name, ylabel="error on fresh points")
        _errors(ax)
    axes[1].set_xlabel("penalty (C)")
    return _with_legend(fig, axes[0])


def samples(result: Result) -> Figure:
    """Error on fresh points against the number of samples."""
    sizes = result.config.sizes
    fig, axes = plots.figure(2, 1, height=6.0, sharex=True)
    for ax, (name, half) in zip(axes, SETS.items(), strict=True):
        for machine in ("RBF, plain", "RBF, tuned", "tangent, tuned"):
            found = [1 - result.at(half, n).of("accuracy", machine) for n in sizes]
            plots.band(ax, sizes, _columns(found), *LOOK[machine], label=_named(machine))
        ax.set(xscale="log", title=name, ylabel="error on fresh points")
        ax.set_xticks(sizes, [str(n) for n in sizes])
        _errors(ax)
    axes[1].set_xlabel("samples")
    return _with_legend(fig, axes[0])


def ratios(result: Result) -> Figure:
    """Area of disagreement, as a share of the true set, against the ratio of the axes."""
    known, n = result.config.ratios, result.config.swept
    fig, ax = plots.figure(height=4.2)
    for machine, look in LOOK.items():
        shares = []
        for ratio in known:
            case = Case(thin(ratio), n)
            shares.append(result.outcomes[case].of("area", machine) / case.area)
        plots.band(ax, known, _columns(shares), *look, label=_named(machine))
    ax.set(xscale="log", xlabel="longer over shorter axis", ylabel="share of the set astray")
    ax.set_xticks(known, [f"{ratio:g}" for ratio in known])
    ax.minorticks_off()
    ax.set_ylim(0, 1.05)
    return _with_legend(fig, ax)


def _named(machine: str) -> str:
    kind, way = machine.split(", ")
    return f"{NAMES[kind]} ({way})"


def _columns(values: Sequence[Tensor]) -> Tensor:
    return Tensor([list(v) for v in values]).T


def _errors(ax: Axes) -> None:
    ticks = (0.01, 0.03, 0.1, 0.3)
    ax.set(yscale="log", ylim=(0.004, 0.32))
    ax.set_yticks(ticks, [f"{tick:.0%}" for tick in ticks])
    ax.minorticks_off()


@plots.style()
def _with_legend(fig: Figure, ax: Axes) -> Figure:
    fig.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return fig


def figures(result: Result) -> dict[str, Figure]:
    """What the command line writes."""
    return {
        "boundaries": boundaries(result),
        "penalty": penalty(result),
        "samples": samples(result),
        "ratios": ratios(result),
    }
