"""What C22 to C25 look like: scores of accounts, removals, wrong labels."""

import torch
from matplotlib.figure import Figure

from pkbook.lab import plots
from pkbook.lab.experiments.accounts import HALF, LITTLE, Result

LINES = {
    "influence": (plots.PLUS, "-", "o"),
    "contributions": (plots.MINUS, "--", "s"),
    "Gauss-Newton influence": (plots.PALETTE[2], "-.", "D"),
    "last layer": ("black", ":", "^"),
}


@plots.style()
def draw_shares(result: Result) -> Figure:
    """The linear datamodeling score against the share of the digits left out."""
    config = result.config
    names = config.optimizers
    fig, axes = plots.figure(1, len(names), height=3.9, sharey=True, squeeze=False)
    for ax, name in zip(axes[0], names, strict=True):
        for account, look in LINES.items():
            if account in config.accounts:
                scores = [result.judged(name, account, k) for k in range(len(config.left_out))]
                plots.band(ax, config.left_out, torch.tensor(scores).T, *look, label=account)
        ax.axhline(0, color=plots.NEUTRAL, linewidth=0.8)
        ax.set(xscale="log", title=name, xlabel="share left out")
        ax.set_xticks(config.left_out, [f"{share:g}" for share in config.left_out])
        ax.minorticks_off()
    axes[0, 0].set_ylabel("linear datamodeling score")
    handles = axes[0, 0].get_legend_handles_labels()
    fig.legend(*handles, loc="outside upper center", ncols=2, frameon=False)
    return fig


@plots.style()
def draw_accounts(result: Result) -> Figure:
    """The scores of all accounts, a dot for each seed: little left out, and half."""
    config = result.config
    names = config.optimizers
    height = 0.32 * len(config.accounts) + 1.2
    fig, axes = plots.figure(
        len(names), 2, height=height * len(names), sharex=True, sharey=True, squeeze=False
    )
    for row, name in zip(axes, names, strict=True):
        for ax, share in zip(row, (LITTLE, HALF), strict=True):
            place = config.left_out.index(share)
            found = {one: result.judged(name, one, place) for one in config.accounts}
            plots.dots(ax, found, colour=plots.PLUS)
            ax.axvline(0, color=plots.NEUTRAL, linewidth=0.8)
            ax.set_title(f"{name}, {share:.0%} left out")
    for ax in axes[-1]:
        ax.set_xlabel("linear datamodeling score")
    return fig


@plots.style()
def draw_removals(result: Result) -> Figure:
    """Log-odds lost without the digits that each account names first, a dot for each query."""
    config = result.config
    names = config.optimizers
    rows = len(config.accounts) + 1
    fig, axes = plots.figure(
        1, len(names), height=0.34 * rows + 1.2, sharey=True, sharex=True, squeeze=False
    )
    for ax, name in zip(axes[0], names, strict=True):
        lost = result.named(name, "lost")
        chance = lost.pop("at random").mean(-1)
        found = {one: v.flatten() for one, v in lost.items()}
        plots.dots(ax, found | {"same class, random": chance.flatten()}, colour=plots.PLUS)
        ax.axvline(float(chance.mean()), color=plots.NEUTRAL, linewidth=1.2, linestyle="--")
        ax.set(title=name, xlabel="log-odds lost")
    return fig


@plots.style()
def draw_suspects(result: Result) -> Figure:
    """How well each number finds wrong labels, a dot for each seed."""
    names = result.config.optimizers
    fig, axes = plots.figure(1, len(names), height=2.9, sharey=True, sharex=True, squeeze=False)
    for ax, name in zip(axes[0], names, strict=True):
        found = {one: v[:, 0] for one, v in result.named(name, "found").items()}
        plots.dots(ax, found, colour=plots.PLUS)
        ax.axvline(0.5, color=plots.NEUTRAL, linewidth=1.2, linestyle="--")
        ax.set(title=name, xlabel="area under the ROC curve")
    return fig


def figures(result: Result) -> dict[str, Figure]:
    """All of them, by name."""
    return {
        "accounts_shares": draw_shares(result),
        "accounts_scores": draw_accounts(result),
        "accounts_removals": draw_removals(result),
        "accounts_suspects": draw_suspects(result),
    }
