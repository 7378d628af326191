"""Networks of one shape that train at once: their parameters are the rows of a matrix.

A small network keeps a processor waiting. Ten of them together take little longer than one.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters


def rows_of(nets: Sequence[nn.Module]) -> nn.Parameter:
    """The parameters of M networks as a matrix ``[M, P]``, whose rows the networks follow.

    An optimizer that works entry by entry (SGD, Adam and their kin) trains every row as if alone.
    """
    rows = torch.stack([parameters_to_vector(net.parameters()) for net in nets])
    matrix = nn.Parameter(rows.detach())
    for net, row in zip(nets, matrix.data, strict=True):
        vector_to_parameters(row, net.parameters())
    return matrix


def outputs(net: nn.Sequential, rows: Tensor, a: Tensor) -> Tensor:
    """Outputs ``[M, n, C]`` at ``a [M, n, d]`` of the networks ``rows [M, P]``, shaped like `net`.

    Of linear layers, and of layers without parameters.
    """
    left = iter(rows.split([parameter.numel() for parameter in net.parameters()], 1))
    for layer in net:
        if isinstance(layer, nn.Linear):
            weight, bias = next(left).unflatten(1, layer.weight.shape), next(left)
            a = torch.baddbmm(bias.unsqueeze(1), a, weight.mT)
        else:
            a = layer(a)
    return a
