"""Tensors in dictionaries, tuples, lists, data classes and graphs, as data sets give them."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor

from pkbook.basics import graphs


def mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same structure with every tensor changed; what is no tensor stays as it is.

    >>> import torch
    >>> mapped({"x": torch.ones(2), "name": "two"}, lambda t: 3 * t)
    {'x': tensor([3., 3.]), 'name': 'two'}
    """
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return _like(value, {key: mapped(entry, change) for key, entry in value.items()})
    if isinstance(value, tuple) and hasattr(value, "_fields"):  # a named tuple
        return type(value)(*(mapped(entry, change) for entry in value))
    if isinstance(value, list | tuple):
        return type(value)(mapped(entry, change) for entry in value)
    if _is_data(value):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return dataclasses.replace(value, **{n: mapped(v, change) for n, v in fields.items()})
    if graphs.is_graph(value):
        return graphs.changed(value, lambda entry: mapped(entry, change))
    return value


def _like(value: Mapping, entries: dict) -> Mapping:
    """A mapping of the same kind, where that kind can be made of a plain one."""
    try:
        return type(value)(entries)  # pyright: ignore[reportCallIssue]
    except (TypeError, ValueError):
        return entries


def _is_data(value: object) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def tensors_in(value: object) -> list[Tensor]:
    """All tensors of a structure, in its order.

    >>> import torch
    >>> len(tensors_in([torch.ones(1), {"a": (torch.ones(2), 3)}]))
    2
    """
    return [leaf for leaf in leaves(value) if isinstance(leaf, Tensor)]


def leaves(value: Any) -> Iterator[Any]:
    """All that is in a structure and is none itself, in its order, and the keys of dictionaries."""
    if isinstance(value, Mapping):
        for key, entry in value.items():
            yield key
            yield from leaves(entry)
    elif isinstance(value, list | tuple) or _is_data(value):
        for entry in _inside(value):
            yield from leaves(entry)
    elif graphs.is_graph(value):
        for key, entry in graphs.entries(value):
            yield str(key)
            yield from leaves(entry)
    else:
        yield value


def _inside(value: Any) -> Iterable:
    if isinstance(value, Mapping):
        return value.values()
    if isinstance(value, list | tuple):
        return value
    if _is_data(value):
        return [getattr(value, f.name) for f in dataclasses.fields(value)]
    return ()


def rebuilt(value: Any, tensors: Iterable[Tensor]) -> Any:
    """The same structure with other tensors, in the order of :func:`tensors_in`."""
    following = iter(tensors)
    return mapped(value, lambda _: next(following))


def rows_of(value: object, name: str) -> int:
    """How many samples a structure holds: the length of all its tensors.

    ``TypeError`` where there is no tensor, ``ValueError`` where their lengths differ.
    """
    tensors = tensors_in(value)
    if not tensors:
        raise TypeError(f"{name} must hold tensors, got {type(value).__name__} without one")
    sizes = [len(t) if t.ndim else None for t in tensors]
    if None in sizes or len(set(sizes)) > 1:
        raise ValueError(
            f"{name} must hold tensors with one row per sample each, got shapes "
            f"{', '.join(str(tuple(t.shape)) for t in tensors)}"
        )
    return int(sizes[0] or 0)


PLAIN = ("int", "float", "bool", "str")


def outline(value: object) -> object:
    """What two samples must have in common: keys, order, types, and the rest of a tensor's shape.

    >>> import torch
    >>> outline({"x": torch.ones(3, 2), "y": 1})
    {'x': 'torch.float32', 'y': 'int'}
    >>> outline([4, 2, 7]) == outline([5])
    True
    """
    if isinstance(value, Tensor):
        return str(value.dtype)
    if isinstance(value, Mapping):
        return {key: outline(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        inside = [outline(entry) for entry in value]
        if inside and all(entry == inside[0] and entry in PLAIN for entry in inside):
            inside = inside[:1]  # the words of a sentence, whose number may differ
        return [type(value).__name__, *inside]
    if _is_data(value):
        return [type(value).__name__, *map(outline, _inside(value))]
    if graphs.is_graph(value):
        return {str(key): outline(entry) for key, entry in graphs.entries(value)}
    return type(value).__name__
