"""Choose an architecture and a shift: how alike does the network take a digit and its copy?"""

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from pkbook.lab.experiments import inheritance as experiment
from pkbook.lab.explorers.base import Explorer
from pkbook.lab.explorers.controls import Control
from pkbook.lab.plots import MINUS, NEUTRAL, figure, style

ROWS = ("moved copy, before", "moved copy, after", "of the class, after", "other class, after")


def levels(result: experiment.Result, architecture: str, pixels: int) -> Tensor:
    """The four numbers that `ROWS` names, as they are and with the mean taken off, ``[2, 4]``."""
    rows = []
    for kind in (False, True):
        before, after = (
            result.at(architecture, pixels, look, centred=kind).mean() for look in (0, -1)
        )
        same, other = result.unmoved(architecture, centred=kind).mean(0)
        rows.append(torch.stack([before, after, same, other]))
    return torch.stack(rows)


@style()
def draw(result: experiment.Result, pictures: np.ndarray, architecture: str, pixels: int) -> Figure:
    """The digit and its copy above; below the kernel, and the cosine without the mean."""
    fig, axes = figure(2, 2, width=4.6, height=5.2, height_ratios=(1, 1.2), sharey="row")
    place = result.config.shifts.index(pixels)
    for ax, picture, title in zip(axes[0], pictures[[0, place]], ("digit", "copy"), strict=True):
        ax.imshow(picture, cmap="gray", vmin=0, vmax=1)
        ax.set(title=title, xticks=[], yticks=[])
    titles = r"$\hat K$", "mean taken off"
    for ax, values, title in zip(
        axes[1], levels(result, architecture, pixels), titles, strict=True
    ):
        colours = NEUTRAL, MINUS, "black", "black"
        for row, (value, colour) in enumerate(zip(values.tolist(), colours, strict=True)):
            ax.plot([0, value], [row, row], color=colour, linewidth=1.2)
            ax.plot(value, row, "o" if row < 2 else "|", color=colour, markersize=9)
        ax.axvline(0, color="black", linewidth=0.8)
        ax.set(title=title, xlim=(-0.22, 1.05), xticks=(0, 0.5, 1))
    axes[1, 0].set_yticks(range(len(ROWS)), ROWS)
    axes[1, 0].set_ylim(len(ROWS) - 0.5, -0.5)
    return fig


def words(result: experiment.Result, architecture: str, pixels: int) -> str:
    """What is to be seen, in numbers."""
    (before, after, same, other), (_, clean, kin, _) = levels(result, architecture, pixels).tolist()
    nearer = "nearer than" if clean > kin else "farther than"
    unit = "pixel" if pixels == 1 else "pixels"
    return (
        f"{architecture}, {pixels} {unit}. The normalised kernel of a digit and its moved copy is "
        f"{before:.2f} before training and {after:.2f} after; after training that of two digits of "
        f"a class is {same:.2f}, of two classes {other:.2f}. With the mean feature taken off the "
        f"copy has {clean:.2f}, another digit of the class {kin:.2f}: the copy is {nearer} that."
    )


def shifted_copies(result: experiment.Result | None = None) -> Explorer:
    """Architecture and shift: the kernel of a digit with its copy and with other digits.

    Shows ``result``, a run of `pkbook.experiments.inheritance`, at some of its shifts. Without one
    the quick preset runs here with a single seed, some seconds. Raises TypeError for
    anything else, ValueError for a result with one architecture or fewer than three shifts.
    """
    if result is None:
        quick = experiment.Config.quick()
        result = experiment.run(experiment.Config.quick(seeds=quick.seeds[:1]))
    if not isinstance(result, experiment.Result):
        raise TypeError(
            f"result must be what pkbook.experiments.inheritance.run returns, got "
            f"{type(result).__name__}"
        )
    config = result.config
    _, _, copies = experiment.queries(config, config.seeds[0])
    pictures = copies[:, 0, 0].numpy()
    shifts = [s for s in config.shifts if s in (1, 2, 4, 7)] or config.shifts[1:]
    return Explorer(
        {
            "architecture": Control("architecture", config.architectures),
            "pixels": Control("shift in pixels", shifts, initial=shifts[min(1, len(shifts) - 1)]),
        },
        draw=lambda architecture, pixels: draw(result, pictures, architecture, pixels),
        alt=lambda architecture, pixels: words(result, architecture, pixels),
    )
