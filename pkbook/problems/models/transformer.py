"""A small vision transformer."""

from collections import OrderedDict

import torch
from torch import nn

from pkbook.problems.models.building import activations, check_count, initialised, named


def vit(
    size: int = 28,
    channels: int = 1,
    *,
    patch: int = 7,
    width: int = 32,
    heads: int = 4,
    blocks: int = 2,
    activation: str = "gelu",
    classes: int = 10,
    seed: int | None = None,
) -> nn.Sequential:
    r"""A small vision transformer: patches of an image as tokens (Dosovitskiy et al. 2021).

    The image is cut into ``(size / patch)**2`` patches. A linear map turns each into a token of
    ``width`` numbers, and a trainable vector for its place is added. Then come ``blocks`` of

    .. math::

        z \leftarrow z + \mathrm{attention}(\mathrm{norm}(z)), \qquad
        z \leftarrow z + \mathrm{mlp}(\mathrm{norm}(z)),

    torch's own ``nn.TransformerEncoderLayer`` with ``norm_first``, 2 ``width`` hidden units and no
    dropout; a last norm, the mean over tokens, and one output a class. 19,594 parameters as it
    stands. Layers: patches, places, block1, ..., norm, mean, fc.
    Input [n, channels, size, size], output [n, classes].

    Args:
        size: height and width of the image, a multiple of ``patch``.
        channels: 1 for grey images, 3 for colour.
        patch: height and width of a patch.
        width: numbers in a token, a multiple of ``heads``.
        heads: of the attention in each block.
        blocks: how many of them.
        activation: of the hidden units, as for ``mlp``.
        classes: number of outputs.
        seed: as for ``mlp``.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: an unknown activation, a number below 1, a size that is no multiple of
            ``patch`` or a width that is none of ``heads``.

    >>> import torch
    >>> vit(patch=14, width=8, blocks=1, seed=0)(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """
    counts = {"size": size, "channels": channels, "patch": patch, "width": width}
    counts |= {"heads": heads, "blocks": blocks, "classes": classes}
    for name, value in counts.items():
        check_count(name, value, "vit(28, 1, patch=7, width=32, heads=4)")
    for name, whole, part in (("size", size, "patch"), ("width", width, "heads")):
        if whole % counts[part]:
            raise ValueError(
                f"{name}: expected a multiple of {part}={counts[part]}, came {whole}; write "
                f"{name}={whole - whole % counts[part] or counts[part]}, or another {part}"
            )
    activate = named("activation", activation, activations)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    with initialised(seed):
        layers["patches"] = nn.Conv2d(channels, width, kernel_size=patch, stride=patch)
        layers["places"] = _Places((size // patch) ** 2, width)
        for i in range(1, blocks + 1):
            layers[f"block{i}"] = nn.TransformerEncoderLayer(
                width, heads, 2 * width, 0.0, activate(), batch_first=True, norm_first=True
            )
        layers["norm"] = nn.LayerNorm(width)
        layers["mean"] = _Mean()
        layers["fc"] = nn.Linear(width, classes)
        return nn.Sequential(layers)


class _Places(nn.Module):
    """From maps [n, width, rows, columns] to tokens [n, rows * columns, width] that know where."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.place = nn.Parameter(0.02 * torch.randn(tokens, width))

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return maps.flatten(2).transpose(1, 2) + self.place


class _Mean(nn.Module):
    """The mean over tokens, [n, tokens, width] to [n, width]."""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return tokens.mean(1)
