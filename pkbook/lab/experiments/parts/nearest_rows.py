"""Pictures that were asked about, each beside the ones nearest to it."""

from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from pkbook.lab import plots


def nearest_rows(rows: Sequence[tuple[Tensor, Tensor, Tensor]]) -> Figure:
    """A row for each ``(asked [1, h, w], nearest [count, 1, h, w], alike [count])``.

    The frame is orange where a near picture shows the same (``alike``), blue where it does not.
    """
    count = len(rows[0][1])
    fig, axes = plots.figure(len(rows), count + 1, width=6.2, height=0.95 * len(rows))
    for row, (asked, found, alike) in zip(axes, rows, strict=True):
        plots.digit_row(row[:1], asked[None])
        plots.digit_row(row[1:], found, torch.where(alike, 1.0, -1.0))
        for ax in row[1:]:
            ax.set_xlabel("")
    axes[0, 0].set_title("asked", fontsize=10)
    axes[0, 1].set_title("nearest", fontsize=10)
    return fig
