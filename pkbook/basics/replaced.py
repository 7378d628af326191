"""A model called with other parameters than its own.

``torch.func.functional_call`` ties weights by replacing a tensor under each of its names. Where
one *layer* stands at two places of a model, that replaces the same attribute twice and puts a
foreign tensor back. Here every attribute is replaced once, under each name that is one.
"""

from collections.abc import Mapping
from itertools import chain

from torch import Tensor, nn
from torch.func import functional_call


def call_with(model: nn.Module, tensors: Mapping[str, Tensor], *arguments: object) -> object:
    """``model(*arguments)`` with ``tensors`` in place of its parameters and buffers.

    Names are those of ``named_parameters()`` and ``named_buffers()``; tensors that are tied, or
    layers that are used twice, go by their first name. The model is left as it was.

    >>> import torch
    >>> layer = nn.Linear(1, 1, bias=False)
    >>> twice = nn.Sequential(layer, layer)
    >>> call_with(twice, {"0.weight": torch.tensor([[3.0]])}, torch.ones(1, 1))
    tensor([[9.]])
    >>> layer.weight.item() == 3
    False
    """
    return functional_call(model, _by_attribute(model, tensors), arguments, tie_weights=False)


def _by_attribute(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under the name of every attribute that holds them, each attribute once."""
    first = {id(t): name for name, t in chain(model.named_parameters(), model.named_buffers())}
    found = {}
    for place, module in model.named_modules():  # each module once, however often it is used
        own = chain(
            module.named_parameters(recurse=False, remove_duplicate=False),
            module.named_buffers(recurse=False, remove_duplicate=False),
        )
        for name, t in own:
            if first[id(t)] in tensors:
                found[f"{place}.{name}" if place else name] = tensors[first[id(t)]]
    return found
