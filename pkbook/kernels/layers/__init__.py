"""The kinds of layers whose per-sample gradients come from activations, one file each."""

from collections.abc import Callable

import torch.nn.functional as F

from pkbook.kernels.layers.convolution import Convolution
from pkbook.kernels.layers.embedding import Embedding
from pkbook.kernels.layers.layer import Layer, Use
from pkbook.kernels.layers.linear import Linear
from pkbook.kernels.layers.normalisation import BatchNorm, GroupNorm, LayerNorm, RMSNorm

LAYERS: dict[Callable, Layer] = {
    F.linear: Linear(),
    F.conv1d: Convolution(1),
    F.conv2d: Convolution(2),
    F.conv3d: Convolution(3),
    F.embedding: Embedding(),
    F.layer_norm: LayerNorm(),
    F.rms_norm: RMSNorm(),
    F.group_norm: GroupNorm(),
    F.batch_norm: BatchNorm(),
}

__all__ = ["LAYERS", "Layer", "Use"]
