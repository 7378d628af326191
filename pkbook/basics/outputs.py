"""What a model returns, whatever its inputs and outputs are kept in."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from pkbook.basics.nested import tensors_in


def outputs_of(model: nn.Module, inputs: Any) -> Any:
    """What a model returns: dictionaries go in by keyword, tuples and lists by place."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    if isinstance(inputs, list | tuple):
        return model(*inputs)
    return model(inputs)


def the_tensor(outputs: Any) -> Tensor:
    """The outputs in what a model returned; refused by name where it is not clear which."""
    if isinstance(outputs, Tensor):
        return outputs
    if isinstance(outputs, Mapping):
        if isinstance(outputs.get("logits"), Tensor):
            return outputs["logits"]
        named = {str(k): v for k, v in outputs.items()}
    else:
        named = {str(i): v for i, v in enumerate(tensors_in(outputs))}
    found = {k: v for k, v in named.items() if isinstance(v, Tensor) and v.is_floating_point()}
    found = {k: v for k, v in found.items() if v.ndim}  # a loss is no output
    if len(found) != 1:
        raise TypeError(
            f"model must return one tensor, or a dict with 'logits', got {type(outputs).__name__} "
            f"with {', '.join(found) or 'no tensor'}; say which one with "
            "of=lambda model, x: model(x)[...], or wrap the model in a module that returns it"
        )
    return next(iter(found.values()))
