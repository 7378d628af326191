"""Turn epoch and layer, and watch classes appear in the kernel matrix of digits."""

from dataclasses import replace

import torch
from matplotlib.figure import Figure

from pkbook.lab.experiments import image_kernels as experiment
from pkbook.lab.experiments.figures.image_kernels import matrix
from pkbook.lab.explorers.base import Explorer
from pkbook.lab.explorers.controls import Control
from pkbook.lab.plots import figure, style

WHOLE = "whole network"
SHOWN = 4  # images of a class; a small picture says the same and loads faster


@style()
def draw(outcome: experiment.Outcome, epoch: int, layer: int) -> Figure:
    """The matrix of some images of each class, ordered by class."""
    fig, ax = figure(height=3.9)
    matrix(ax, outcome, epoch, layer=layer)
    return fig


def fewer(outcome: experiment.Outcome, count: int = SHOWN) -> experiment.Outcome:
    """The same outcome with the first `count` images of each class in its matrices."""
    each = len(outcome.labels) // experiment.CLASSES
    rows = torch.arange(len(outcome.labels)).reshape(-1, each)[:, :count].flatten()
    kernels = outcome.kernels[..., rows, :][..., rows]
    return replace(outcome, kernels=kernels, labels=outcome.labels[rows])


def words(outcome: experiment.Outcome, epoch: int, layer: int) -> str:
    """What is to be seen, in numbers of the images shown."""
    within, across = experiment.class_means(outcome.kernels[epoch, 0, layer], outcome.labels)
    fitted = outcome.accuracy[0, epoch, 0]
    text = (
        f"Two of these images have a normalised kernel of {within:.2f} on average if they are of "
        f"one class and {across:.2f} if they are not: a contrast of {within - across:.2f}. "
    )
    if layer:
        share = outcome.share[0, epoch, 0, layer - 1]
        text += f"This layer has {share:.0%} of the whole network's trace. "
    return text + f"Training accuracy is {fitted:.0%}."


def image_kernels(result: experiment.Result | None = None) -> Explorer:
    """Epoch and layer: the normalised kernel of forty training digits, ordered by class.

    Shows the first seed of ``result``, a run of `pkbook.experiments.image_kernels` with MNIST.
    Without one the quick preset for MNIST runs here with a single seed, a few seconds. TypeError
    for anything else, ValueError for a result without MNIST.
    """
    if result is None:
        quick = experiment.Config.quick()
        result = experiment.run(replace(quick, tasks=quick.tasks[:1], seeds=quick.seeds[:1]))
    if not isinstance(result, experiment.Result):
        raise TypeError(
            "result must be what pkbook.experiments.image_kernels.run returns, got "
            f"{type(result).__name__}"
        )
    if "MNIST" not in result.outcomes:
        raise ValueError(f"result must hold MNIST, got {', '.join(result.outcomes)}")
    outcome = fewer(result.outcomes["MNIST"])
    (epochs,) = (task.epochs for task in result.config.tasks if task.source == "MNIST")
    layers = (WHOLE, *outcome.layers)

    def places(epoch: int, layer: str) -> tuple[int, int]:
        return epochs.index(epoch), layers.index(layer)

    return Explorer(
        {"epoch": Control("epoch", epochs), "layer": Control("part of the kernel", layers)},
        draw=lambda epoch, layer: draw(outcome, *places(epoch, layer)),
        alt=lambda epoch, layer: words(outcome, *places(epoch, layer)),
    )
