"""The kinds of layers whose per-sample gradients come from activations, one file each."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from pkbook.kernels.layers.convolution import Convolution
from pkbook.kernels.layers.einsum import Einsum
from pkbook.kernels.layers.embedding import Embedding
from pkbook.kernels.layers.layer import Layer, Reading, Use
from pkbook.kernels.layers.linear import Linear
from pkbook.kernels.layers.normalisation import BatchNorm, GroupNorm, LayerNorm, RMSNorm
from pkbook.kernels.layers.product import Product, ProductWithBias
from pkbook.kernels.layers.spread import Added, Multiplied, Repeated
from pkbook.kernels.layers.transposed_convolution import TransposedConvolution

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
    F.conv_transpose1d: TransposedConvolution(1),
    F.conv_transpose2d: TransposedConvolution(2),
    F.conv_transpose3d: TransposedConvolution(3),
}
PRODUCT, WITH_BIAS, ADDED, MULTIPLIED, REPEATED = (
    Product(), ProductWithBias(), Added(), Multiplied(), Repeated(),
)  # fmt: skip
LAYERS |= dict.fromkeys((torch.matmul, torch.mm, Tensor.matmul, Tensor.mm), PRODUCT)
LAYERS |= {Tensor.__matmul__: PRODUCT, torch.addmm: WITH_BIAS, Tensor.addmm: WITH_BIAS}
LAYERS |= dict.fromkeys((torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__), ADDED)
LAYERS |= dict.fromkeys((torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__), MULTIPLIED)
LAYERS |= {Tensor.expand: REPEATED, torch.einsum: Einsum()}

__all__ = ["LAYERS", "Layer", "Reading", "Use"]
