"""A model's trainable parameters by name."""

from torch import Tensor, nn

Tree = dict[str, Tensor]
"""One tensor for each parameter name."""


def trainable(model: nn.Module) -> Tree:
    """The trainable parameters by name (detached views; tied weights appear once)."""
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
