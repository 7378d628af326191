"""Model and optimizer copied, also where the model keeps things that cannot be."""

import copy
from collections import defaultdict
from collections.abc import Iterable
from types import BuiltinFunctionType, CellType, FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pkbook.runs.records import same_bits


def copied(*originals: object, shared: Iterable[nn.Parameter] = ()) -> tuple:
    """Deep copies made together, so that the copy of an optimizer moves the copy of its model.

    A tensor that a model keeps from a forward pass (an activation, a pruned or normed weight) is
    copied without its graph, which no copy can have.  What cannot be copied at all, such as a
    lock, a generator or an open file, is shared.  The copy of an optimizer has no state yet:
    whoever copies one puts a recorded state in place.

    The parameters ``shared`` become parameters of the copy with the numbers of the original, which
    are not to be written to; see :func:`write`.

    >>> model = nn.Linear(1, 1)
    >>> model.seen = model(torch.ones(1, 1))
    >>> other, = copied(model)
    >>> bool(other.seen == model.seen), other.seen.grad_fn
    (True, None)
    """
    memo = _uncopyable(originals)
    memo |= {id(p): _sharing(p) for p in shared}
    copies = copy.deepcopy(originals, memo)
    for made in copies:
        for module in made.modules() if isinstance(made, nn.Module) else ():
            if isinstance(vars(module).get("forward"), FunctionType):
                module.forward = _rebound(module.forward, memo, {})
    return copies


def frozen(model: nn.Module, optimizer: Optimizer) -> list[nn.Parameter]:
    """The parameters that no step of the optimizer can move."""
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    return [
        p
        for p in model.parameters()
        if type(p) is nn.Parameter and not p.requires_grad and id(p) not in held
    ]


_SHARED = "_numbers_of_another_model"


def _sharing(p: nn.Parameter) -> nn.Parameter:
    own = nn.Parameter(p.detach(), requires_grad=False)
    vars(own)[_SHARED] = True
    return own


def write(p: nn.Parameter, value: Tensor) -> None:
    """Bring a parameter to a value; one that is shared gets numbers of its own before it moves."""
    if not p.requires_grad and same_bits(p, value):
        return
    with torch.no_grad():
        if vars(p).pop(_SHARED, False):
            p.data = torch.empty_like(p)
        p.copy_(value)


def _rebound(value: Any, memo: dict[int, Any], seen: dict[int, Any]) -> Any:
    """A function that closes over a module (a patched ``forward``), made to close over its copy.

    ``copy.deepcopy`` shares functions: the copy would go on computing with the original's weights.
    """
    if id(value) in seen:
        return seen[id(value)]
    if isinstance(value, nn.Module):
        return memo.get(id(value), value)
    if isinstance(value, MethodType):
        owner = _rebound(value.__self__, memo, seen)
        return MethodType(_rebound(value.__func__, memo, seen), owner)
    if isinstance(value, FunctionType) and value.__closure__:
        cells = tuple(CellType() for _ in value.__closure__)
        made = FunctionType(
            value.__code__, value.__globals__, value.__name__, value.__defaults__, cells
        )
        made.__kwdefaults__, seen[id(value)] = value.__kwdefaults__, made
        for cell, old in zip(cells, value.__closure__, strict=True):
            cell.cell_contents = _rebound(old.cell_contents, memo, seen)
        made.__dict__.update({k: _rebound(v, memo, seen) for k, v in vars(value).items()})
        return made
    if callable(value) and not isinstance(value, _WHOLE) and hasattr(value, "__dict__"):
        made = seen[id(value)] = copy.copy(value)  # a decorator that is an object
        vars(made).update({k: _rebound(v, memo, seen) for k, v in vars(value).items()})
        return made
    return value


def _uncopyable(originals: object) -> dict[int, object]:
    """What ``copy.deepcopy`` would stumble over, at any depth, and what stands for it."""
    memo: dict[int, object] = {}
    met: dict[int, object] = {}  # holds what is met, so that no number is given twice
    waiting = [originals]
    while waiting:
        value = waiting.pop()
        if id(value) in met or isinstance(value, _WHOLE):
            continue
        met[id(value)] = value
        if isinstance(value, Optimizer):
            memo[id(value.state)] = defaultdict(dict)
            met[id(value.state)] = value.state
        if isinstance(value, Tensor):
            if not value.is_leaf:
                memo[id(value)] = value.detach().clone()
            continue
        inside = _inside(value)
        if inside is None:
            memo[id(value)] = value
        else:
            waiting.extend(inside)
    return memo


_WHOLE = (
    type(None), bool, int, float, complex, str, bytes, type, torch.dtype, torch.device,
    FunctionType, BuiltinFunctionType,
)  # fmt: skip


def _inside(value: object) -> list | None:
    """What a copy of ``value`` copies in turn; None where it cannot be copied."""
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    if isinstance(value, list | tuple | set | frozenset):
        return list(value)
    if isinstance(value, nn.Module):
        if hasattr(value, "__deepcopy__"):  # of parametrized ones, which have no state to pickle
            return list(vars(value).values())
        state = value.__getstate__()  # without a trainer that a module leaves out of its copies
        return list(state.values()) if isinstance(state, dict) else [state]
    if isinstance(value, MethodType):
        return [value.__self__]
    if hasattr(value, "__deepcopy__"):
        return []
    try:
        reduced = value.__reduce_ex__(4)
    except TypeError:
        return None
    if isinstance(reduced, str):
        return []
    _, made_of, state, entries, items = [*reduced, None, None, None][:5]
    return [made_of, state, list(entries or ()), list(items or ())]
