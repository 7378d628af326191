r"""Watching a forward pass: which parameter met which activation, and where the gradient returns.

A :class:`Watch` sees every call of ``torch.nn.functional`` made while it is active.  A call of a
known kind with one of the watched parameters (linear, convolution, embedding, normalisation)
becomes a :class:`Use`: the activation that went in and the *gradient edge* of what came out.  What
is made of parameters alone (a part of a packed matrix, a normalised weight, the embedding of the
positions) is :class:`Made`: a parameter of its own, whose gradients are carried back to those that
it was made of.  A parameter that is met anywhere else is noted as *other*: no shortcut is known.

The edge, not the output tensor, is what a later backward pass asks for: an in-place activation
after the layer changes the tensor, never the edge.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import get_gradient_edge
from torch.overrides import TorchFunctionMode

from pkbook.basics.parameters import Tree
from pkbook.kernels.layers import LAYERS, Use
from pkbook.kernels.recurrent import CELLS, written_out
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


@dataclass
class Made:
    """A tensor that was made of parameters alone."""

    value: Tensor
    roots: frozenset[str]
    """The parameters that it was made of."""
    meeting: int
    """The number of the call that made it."""


@dataclass(frozen=True)
class Seen:
    """What is known of the calls that meet parameters, by their numbers, counted from 0."""

    constant: frozenset[int] = frozenset()
    """Layers whose input is the same whatever the model's inputs are."""
    moving: frozenset[int] = frozenset()
    """Calls that seem to see parameters alone, and depend on the model's inputs all the same."""


NOTHING = Seen()


def tensors_in(values: Any) -> Iterator[Tensor]:
    """The tensors among the arguments of a call, also those in lists and dictionaries.

    Asked at every call: `basics.nested` knows more kinds of structures, and takes longer.
    """
    for value in values.values() if isinstance(values, dict) else values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple | dict):
            yield from tensors_in(value)


class Watch(TorchFunctionMode):
    """Collects the uses of the watched parameters ``{name: tensor}`` while active.

    ``seen`` is what :func:`~pkbook.kernels.plan.plan` has found out by comparing several passes.
    """

    def __init__(self, parameters: Tree, seen: Seen = NOTHING) -> None:
        super().__init__()
        self.leaves = parameters
        self.names = {id(p): name for name, p in parameters.items()}
        self.seen = seen
        self.uses: list[Use] = []
        self.made: dict[str, Made] = {}
        self.met: Counter[str] = Counter()
        """How often each parameter was met by what made something of it."""
        self.meetings = 0
        self.other: set[str] = set()
        self.looked = False
        self.rows: Rows | None = None
        self.coarsest = 0.0
        """Relative rounding of the least precise numbers that an operation gave."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        self.looked |= func in LOOKS
        met = self._met(args) | self._met(kwargs)
        if not met:
            return self._followed(func, args, kwargs)
        if func in COMPOSITES:  # what it calls inside is seen in its turn
            with self:
                return COMPOSITES[func](*args, **kwargs)
        if func in CELLS and not kwargs:
            with self:
                written = written_out(func, args)
            if written is not NotImplemented:
                return written
        meeting, self.meetings = self.meetings, self.meetings + 1
        known = meeting not in self.seen.constant and not _transformed()
        use = self._read(func, args, kwargs, met) if known else None
        out = self._followed(func, args, kwargs)
        if use is None and self._carries_gradient(out):  # not so for p.shape or p.detach()
            if meeting in self.seen.moving or not self._make(out, args, kwargs, meeting):
                self.other |= met
        elif use is not None and out.requires_grad:
            use.edge, use.out, use.meeting = get_gradient_edge(out), out.numel(), meeting
            self.uses.append(use)
        return out

    def _make(self, out: Any, args: tuple, kwargs: dict, meeting: int) -> bool:
        """Take down what was made of parameters alone; False where something else took part."""
        found = list(tensors_in((args, kwargs)))
        met = [self.names.get(id(t)) for t in found if t.requires_grad]
        new = [out] if isinstance(out, Tensor) else out
        if None in met or _transformed() or not all(isinstance(t, Tensor) for t in new):
            return False
        if any(id(t) in self.names for t in new):  # changed in place
            return False
        names = [name for name in met if name is not None]
        self.met.update(names)
        roots = frozenset().union(*(self.roots(name) for name in names))
        for t in new:
            name = f"{len(self.made)} made of {', '.join(sorted(roots))}"
            self.made[name], self.names[id(t)] = Made(t, roots, meeting), name
        return True

    def roots(self, name: str) -> frozenset[str]:
        """The parameters behind a name: itself, or those that it was made of."""
        return self.made[name].roots if name in self.made else frozenset({name})

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
        return {self.names[id(t)] for t in tensors_in(values) if id(t) in self.names}

    def _read(self, func, args, kwargs, met: set[str]) -> Use | None:
        layer = LAYERS.get(func)
        if layer is not None and layer.either and len(args) == 2 and id(args[0]) in self.names:
            args = args[::-1]
        call = layer.read(*args, **kwargs) if layer else None
        if layer is None or call is None:
            return None
        x = call.inputs
        w, b = (self.names.get(id(p)) if p is not None else None for p in (call.weight, call.bias))
        if {w, b} - {None} != met or id(x) in self.names:
            return None  # composites are looked into, anything else is "other"
        return Use(layer, w, b, x.detach(), call.options, version=x._version)
