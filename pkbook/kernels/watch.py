r"""Watching a forward pass: which parameter met which activation, and where the gradient returns.

A :class:`Watch` sees every call of ``torch.nn.functional`` made while it is active.  A call of a
known kind with one of the watched parameters (linear, convolution, embedding, normalisation)
becomes a :class:`Use`: the activation that went in and the *gradient edge* of what came out.  A
parameter that is met anywhere else is noted as *other*: no shortcut is known for it.

The edge, not the output tensor, is what a later backward pass asks for: an in-place activation
after the layer changes the tensor, never the edge.
"""

from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import get_gradient_edge
from torch.overrides import TorchFunctionMode

from pkbook.basics.parameters import Tree
from pkbook.kernels.layers import LAYERS, Use
from pkbook.kernels.rows import Rows

# Questions about values: a model that asks them may take another path for another batch.
LOOKS = {
    Tensor.__bool__, Tensor.__int__, Tensor.__float__, Tensor.__index__, Tensor.item, Tensor.tolist,
}  # fmt: skip


def _opened(func: Callable) -> Callable:
    """A function of torch.nn.functional without its own hand-over to an active mode.

    Such functions first ask whether somebody overrides them, and a mode always does; without that
    question the calls they make inside reach the mode one by one.
    """
    own = func.__globals__ | {"has_torch_function": lambda *_: False}
    opened = FunctionType(func.__code__, own, func.__name__, func.__defaults__, func.__closure__)
    opened.__kwdefaults__ = func.__kwdefaults__
    return opened


COMPOSITES = {F.multi_head_attention_forward: _opened(F.multi_head_attention_forward)}


def _transformed() -> bool:
    """Whether a transform of ``torch.func`` is at work, whose tensors mean nothing outside it."""
    stack = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue]  # not in the stubs
    return stack.peek_interpreter_stack() is not None


class Watch(TorchFunctionMode):
    """Collects the uses of the watched parameters ``{name: tensor}`` while active."""

    def __init__(self, parameters: Tree) -> None:
        super().__init__()
        self.leaves = parameters
        self.names = {id(p): name for name, p in parameters.items()}
        self.uses: list[Use] = []
        self.other: set[str] = set()
        self.looked = False
        self.rows: Rows | None = None
        self.coarsest = 0.0
        """Relative rounding of the least precise numbers that an operation gave."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        self.looked |= func in LOOKS
        met = self._met(args) | self._met(kwargs.values())
        if not met:
            return self._followed(func, args, kwargs)
        if func in COMPOSITES:  # what it calls inside is seen in its turn
            with self:
                return COMPOSITES[func](*args, **kwargs)
        use = None if _transformed() else self._read(func, args, kwargs, met)
        out = self._followed(func, args, kwargs)
        if use is None and self._carries_gradient(out):  # not so for p.shape or p.detach()
            self.other |= met
        elif use is not None and out.requires_grad:
            use.edge, use.out = get_gradient_edge(out), out.numel()
            self.uses.append(use)
        return out

    def _followed(self, func: Callable, args: tuple, kwargs: dict) -> Any:
        out = func(*args, **kwargs)
        if self.rows is not None:
            self.rows.see(func, args, kwargs, out)
        if isinstance(out, Tensor) and out.is_floating_point():
            self.coarsest = max(self.coarsest, torch.finfo(out.dtype).eps)
        return out

    @classmethod
    def _carries_gradient(cls, out) -> bool:
        if isinstance(out, Tensor):
            return out.requires_grad
        return isinstance(out, list | tuple) and any(map(cls._carries_gradient, out))

    def _met(self, values) -> set[str]:
        found = set()
        for value in values:
            if isinstance(value, Tensor):
                if id(value) in self.names:
                    found.add(self.names[id(value)])
            elif isinstance(value, list | tuple):
                found |= self._met(value)
            elif isinstance(value, dict):
                found |= self._met(value.values())
        return found

    def _read(self, func, args, kwargs, met: set[str]) -> Use | None:
        layer = LAYERS.get(func)
        call = layer.read(*args, **kwargs) if layer else None
        if layer is None or call is None:
            return None
        x = call.inputs
        w, b = (self.names.get(id(p)) if p is not None else None for p in (call.weight, call.bias))
        if {w, b} - {None} != met or id(x) in self.names:
            return None  # composites are looked into, anything else is "other"
        return Use(layer, w, b, x.detach(), call.options, version=x._version)
