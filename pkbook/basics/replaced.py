"""A model with other parameters than its own, for as long as a block lasts.

``torch.func.functional_call`` ties weights by replacing a tensor under each of its names. Where
one *layer* stands at two places of a model, that replaces the same attribute twice and puts a
foreign tensor back. Here every attribute is replaced once, under each name that is one.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any

from torch import Tensor, nn


@contextmanager
def replaced(model: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Within the block, ``tensors`` stand in place of the model's parameters and buffers.

    Names are those of ``named_parameters()`` and ``named_buffers()``; tensors that are tied, or
    layers that are used twice, go by their first name. Afterwards the model is as it was, also
    where it has put a new tensor into a buffer.

    >>> import torch
    >>> layer = nn.Linear(1, 1, bias=False)
    >>> twice = nn.Sequential(layer, layer)
    >>> with replaced(twice, {"0.weight": torch.tensor([[3.0]])}):
    ...     twice(torch.ones(1, 1))
    tensor([[9.]])
    >>> layer.weight.item() == 3
    False
    """
    places = list(_places(model, tensors))
    own = [holder[name] for holder, name, _ in places]
    try:
        for holder, name, tensor in places:
            holder[name] = tensor
        yield
    finally:
        for (holder, name, _), tensor in zip(places, own, strict=True):
            holder[name] = tensor


def _places(
    model: nn.Module, tensors: Mapping[str, Tensor]
) -> Iterator[tuple[dict[str, Any], str, Tensor]]:
    """Every attribute that holds one of the tensors, once: ``(its dict, its name, tensor)``.

    ``Any``: torch types a module's dict as one of ``Parameter``, where here any tensor goes.
    """
    first = {id(t): name for name, t in chain(model.named_parameters(), model.named_buffers())}
    for module in model.modules():  # each once, however often it is used
        for holder in (module._parameters, module._buffers):
            for name, t in holder.items():
                if t is not None and first[id(t)] in tensors:
                    yield holder, name, tensors[first[id(t)]]
