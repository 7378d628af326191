"""What every data function returns."""

from typing import NamedTuple

import torch


class Samples(NamedTuple):
    """Inputs and targets, one row a sample.

    ``x`` has shape [n, ...]. ``y`` is float [n, 1] for regression and for labels +1/-1, and
    int64 [n] for classes. It unpacks like a pair: ``x, y = pk.data.sine()``.

    >>> from pkbook.data import ring_and_disk
    >>> x, y = ring_and_disk(4)
    >>> x.shape, y.flatten().tolist()
    (torch.Size([4, 2]), [1.0, -1.0, 1.0, -1.0])
    """

    x: torch.Tensor
    y: torch.Tensor
