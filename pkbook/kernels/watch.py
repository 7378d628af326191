r"""Watching a forward pass: which parameter met which activation, and where the gradient returns.

A :class:`Watch` sees every call of ``torch.nn.functional`` made while it is active.  A call of a
known kind with one of the watched parameters (linear, convolution, embedding, normalisation)
becomes a :class:`Use`: the activation that went in and the *gradient edge* of what came out.  A
parameter that is met anywhere else is noted as *other*: no shortcut is known for it.

The edge, not the output tensor, is what a later backward pass asks for: an in-place activation
after the layer changes the tensor, never the edge.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from types import FunctionType

import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.overrides import TorchFunctionMode

from pkbook.basics.parameters import Tree


@dataclass
class Use:
    """One meeting of parameters and an activation."""

    kind: str
    weight: str | None
    """Name of the weight, None if it is not a watched parameter."""
    bias: str | None
    inputs: Tensor
    """The activation (token numbers for an embedding)."""
    options: dict = field(default_factory=dict)
    edge: GradientEdge | None = None
    """Where the gradient of what came out returns."""
    out: int = 0
    """Number of entries of what came out."""
    version: int = 0
    """The activation's in-place counter when it was used."""


def _linear(input, weight, bias=None):
    return "linear", input, weight, bias, {}


def _conv(dimensions: int) -> Callable:
    def read(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
        options = {
            "dimensions": dimensions,
            "kernel": tuple(weight.shape[2:]),
            "stride": stride,
            "padding": padding,
            "dilation": dilation,
            "groups": groups,
        }
        kind = "conv" if input.ndim == dimensions + 2 else "other"
        return kind, input, weight, bias, options

    return read


def _embedding(input, weight, padding_idx=None, max_norm=None, norm_type=2.0,
               scale_grad_by_freq=False, sparse=False):  # fmt: skip
    plain = max_norm is None and not scale_grad_by_freq and not sparse
    kind = "embedding" if plain else "other"
    return kind, input, weight, None, {"padding_idx": padding_idx}


def _layer_norm(input, normalized_shape, weight=None, bias=None, eps=1e-5):
    options = {"shape": tuple(normalized_shape), "eps": eps}
    return "layer_norm", input, weight, bias, options


def _rms_norm(input, normalized_shape, weight=None, eps=None):
    return "rms_norm", input, weight, None, {"shape": tuple(normalized_shape), "eps": eps}


def _group_norm(input, num_groups, weight=None, bias=None, eps=1e-5):
    return "group_norm", input, weight, bias, {"groups": num_groups, "eps": eps}


def _batch_norm(input, running_mean, running_var, weight=None, bias=None, training=False,
                momentum=0.1, eps=1e-5):  # fmt: skip
    options = {"mean": running_mean, "var": running_var, "eps": eps}
    return ("other" if training else "batch_norm"), input, weight, bias, options


# Questions about values: a model that asks them may take another path for another batch.
LOOKS = {
    Tensor.__bool__, Tensor.__int__, Tensor.__float__, Tensor.__index__, Tensor.item, Tensor.tolist,
}  # fmt: skip

READERS: dict[Callable, Callable] = {
    F.linear: _linear,
    F.conv1d: _conv(1),
    F.conv2d: _conv(2),
    F.conv3d: _conv(3),
    F.embedding: _embedding,
    F.layer_norm: _layer_norm,
    F.rms_norm: _rms_norm,
    F.group_norm: _group_norm,
    F.batch_norm: _batch_norm,
}


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


class Watch(TorchFunctionMode):
    """Collects the uses of the watched parameters ``{name: tensor}`` while active."""

    def __init__(self, parameters: Tree) -> None:
        super().__init__()
        self.names = {id(p): name for name, p in parameters.items()}
        self.uses: list[Use] = []
        self.other: set[str] = set()
        self.looked = False

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        self.looked |= func in LOOKS
        met = self._met(args) | self._met(kwargs.values())
        if not met:
            return func(*args, **kwargs)
        if func in COMPOSITES:  # what it calls inside is seen in its turn
            with self:
                return COMPOSITES[func](*args, **kwargs)
        use = self._read(func, args, kwargs, met)
        out = func(*args, **kwargs)
        if use is None and self._carries_gradient(out):  # not so for p.shape or p.detach()
            self.other |= met
        elif use is not None and out.requires_grad:
            use.edge, use.out = get_gradient_edge(out), out.numel()
            self.uses.append(use)
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
        reader = READERS.get(func)
        if reader is None:
            return None
        kind, x, weight, bias, options = reader(*args, **kwargs)
        w, b = (self.names.get(id(p)) if p is not None else None for p in (weight, bias))
        if kind == "other" or {w, b} - {None} != met or id(x) in self.names:
            return None  # composites are looked into, anything else is "other"
        return Use(kind, w, b, x.detach(), options, version=x._version)
