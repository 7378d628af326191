"""Graphs of ``torch_geometric`` as structures of tensors, without importing that library.

A ``Data``, ``HeteroData`` or ``Batch`` holds its tensors in stores: one for all, or one for each
kind of node and edge.  What a ``Batch`` knows of its graphs stands beside them.
"""

import copy
import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

LIBRARY = "torch_geometric.data"
OF_A_BATCH = ("_num_graphs", "_slice_dict", "_inc_dict")


def is_graph(value: object) -> bool:
    """Whether it is a graph of ``torch_geometric``, or a batch of them.

    >>> is_graph({"x": 1})
    False
    """
    return _is_a(type(value), "BaseData")


def is_batch(value: object) -> bool:
    """Whether it is several graphs joined into one."""
    return _is_a(type(value), "Batch")


@cache  # it is asked of every word of every sample
def _is_a(kind: type, name: str) -> bool:
    return any(k.__name__ == name and k.__module__.startswith(LIBRARY) for k in kind.__mro__)


def graphs_of(value: Any) -> int:
    """How many graphs it is; 0 for what is none.

    >>> graphs_of([1])
    0
    """
    return value.num_graphs if is_batch(value) else int(is_graph(value))


def changed(graph: Any, change: Callable[[Any], Any]) -> Any:
    """The same graph with every entry of its stores changed."""
    other = copy.copy(graph)
    for store in other.stores:
        for key, value in store.items():
            store[key] = change(value)
    return other


def entries(graph: Any) -> Iterator[tuple[Any, Any]]:
    """What its stores hold, each under its key, in the order of :func:`changed`."""
    for store in graph.stores:
        for key, value in store.items():
            yield (store._key, key), value


def taken_apart(graph: Any) -> dict[str, Any]:
    """A graph as dictionaries of tensors and plain values, for :func:`put_together`."""
    kind = type(graph)
    batched = is_batch(graph)
    own = kind.__bases__[-1] if batched else kind
    return {
        "kind": [own.__module__, own.__qualname__, batched],
        "stores": [[store._key, dict(store.items())] for store in graph.stores],
        "batch": {name: getattr(graph, name, None) for name in OF_A_BATCH} if batched else {},
    }


def put_together(parts: Mapping[str, Any]) -> Any:
    """The graph that :func:`taken_apart` took apart."""
    module, name, batched = parts["kind"]
    own = _kind(module, name)
    data = importlib.import_module(LIBRARY)
    graph = data.Batch(_base_cls=own) if batched else own()
    for key, held in parts["stores"]:
        store = graph if key is None else graph[key]
        for entry, value in held.items():
            setattr(store, entry, value)
    for entry, value in parts["batch"].items():
        setattr(graph, entry, value)
    return graph


def _kind(module: str, name: str) -> type:
    """A class of graphs, of the library or of a module that is imported already."""
    if module.startswith(LIBRARY):
        importlib.import_module(module)
    found = getattr(sys.modules.get(module), name, None)
    if not isinstance(found, type):
        raise ValueError(
            f"a recorded batch holds graphs of {module}.{name}, which is not there; import {module}"
            " before the record is opened"
        )
    return found
