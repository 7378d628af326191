"""A model's trainable parameters by name."""

from collections.abc import Iterable
from functools import reduce
from operator import add

from torch import Tensor, nn

Tree = dict[str, Tensor]
"""One tensor for each parameter name."""


def trainable(model: nn.Module) -> Tree:
    """The trainable parameters by name (detached views; tied weights appear once)."""
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def sum_of(tensors: Iterable[Tensor]) -> Tensor:
    """The sum of one tensor or more, in their order; a single one is returned as it is.

    ``sum`` begins with the number 0, so it may return a number; this is always a tensor.

    >>> import torch
    >>> sum_of(torch.ones(2) for _ in range(3))
    tensor([3., 3.])
    """
    return reduce(add, tensors)
