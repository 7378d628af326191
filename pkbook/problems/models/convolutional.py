"""The paper's convolutional networks for small images."""

from collections import OrderedDict
from itertools import pairwise

from torch import nn

from pkbook.problems.models.building import (
    activations,
    check_count,
    check_dropout,
    initialised,
    named,
    pools,
)


def mnist_cnn(
    activation: str = "relu",
    pool: str = "max",
    dropout: float = 0.3,
    classes: int = 10,
    seed: int | None = None,
) -> nn.Sequential:
    """The paper's convolutional network for MNIST (Figures 2, 4, 5 and 6).

    Three stages of a 3 x 3 convolution with padding 1 (16, 32 and 64 channels), the activation
    and 2 x 2 pooling; the 64 x 3 x 3 features are flattened, then come a layer of 128 units, the
    activation, dropout, and one output a class. 98,442 parameters for ten classes.
    Input [n, 1, 28, 28], output [n, classes].

    With "tanh" and "average" every step is smooth, as the theorems assume; "relu" and "max" are
    what the paper trained.

    Args:
        activation: as for ``mlp``.
        pool: "max" or "average".
        dropout: probability from 0 up to, not including, 1; 0 leaves the layer out.
        classes: number of outputs.
        seed: as for ``mlp``.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: an unknown activation or pool, a dropout outside [0, 1), no class.

    >>> import torch
    >>> mnist_cnn(seed=0)(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """
    return _cnn((1, 16, 32, 64), (64 * 3 * 3, 128), activation, pool, dropout, classes, seed)


def cifar_cnn(
    activation: str = "relu",
    pool: str = "max",
    dropout: float = 0.3,
    classes: int = 10,
    seed: int | None = None,
) -> nn.Sequential:
    """A convolutional network for CIFAR-10, after the paper's (Figure 2).

    As ``mnist_cnn`` with 32, 64 and 128 channels, a head of 256 and 128 units on the
    128 x 4 x 4 features, and dropout after both. 651,978 parameters for ten classes. The paper
    gives three stages and the head; it gives no numbers of channels, and these are our choice.
    Input [n, 3, 32, 32], output [n, classes]. Arguments and errors as for ``mnist_cnn``.

    >>> import torch
    >>> cifar_cnn(seed=0)(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """
    return _cnn((3, 32, 64, 128), (128 * 4 * 4, 256, 128), activation, pool, dropout, classes, seed)


def _cnn(
    channels: tuple[int, ...],
    head: tuple[int, ...],
    activation: str,
    pool: str,
    dropout: float,
    classes: int,
    seed: int | None,
) -> nn.Sequential:
    """Convolution stages over ``channels``, then fully connected layers over ``head``."""
    activate = named("activation", activation, activations)
    pooling = named("pool", pool, pools)
    check_dropout(dropout)
    check_count("classes", classes, "classes=10")
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    with initialised(seed):
        for i, (inputs, outputs) in enumerate(pairwise(channels), start=1):
            layers[f"conv{i}"] = nn.Conv2d(inputs, outputs, kernel_size=3, padding=1)
            layers[f"act{i}"] = activate()
            layers[f"pool{i}"] = pooling(2)
        layers["flatten"] = nn.Flatten()
        for i, (inputs, outputs) in enumerate(pairwise(head), start=1):
            layers[f"fc{i}"] = nn.Linear(inputs, outputs)
            layers[f"act{len(channels) - 1 + i}"] = activate()
            if dropout > 0:
                layers[f"dropout{i}"] = nn.Dropout(dropout)
        layers[f"fc{len(head)}"] = nn.Linear(head[-1], classes)
        return nn.Sequential(layers)
