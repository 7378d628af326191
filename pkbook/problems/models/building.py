"""What all networks are built with: named activations and pools, a seed, checks of arguments."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from pkbook.basics.randomness import seeded

activations: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "softplus": nn.Softplus,
    "silu": nn.SiLU,
}
pools: dict[str, Callable[[int], nn.Module]] = {"max": nn.MaxPool2d, "average": nn.AvgPool2d}


@contextmanager
def initialised(seed: int | None) -> Iterator[None]:
    """Layers made inside start from ``seed``; the global random state comes out as it went in."""
    if seed is None:
        with torch.device("cpu"):
            yield
        return
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"seed: expected a whole number or None, came {seed!r}; write seed=0")
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed: expected 0 up to 2**63 - 1, came {seed}; write seed=0")
    cpu = torch.device("cpu")
    with seeded(seed, cpu), cpu:
        yield


def named(argument: str, name: object, known: dict[str, Callable]) -> Callable:
    """The entry of ``known`` under a name; ``ValueError`` lists the names."""
    if not isinstance(name, str) or name not in known:
        raise ValueError(
            f"{argument}: expected one of {', '.join(known)}, came {name!r}; "
            f'write {argument}="{next(iter(known))}", or build your own nn.Module, which works too'
        )
    return known[name]


def check_widths(widths: tuple, bias: object, example: str) -> None:
    """At least two widths, each a whole number above zero, and whether there is a bias."""
    if len(widths) < 2:
        raise ValueError(
            f"widths: expected at least two, inputs and outputs, came {widths}; write {example}"
        )
    for width in widths:
        check_count("widths", width, example)
    if not isinstance(bias, bool):
        raise TypeError(f"bias: expected True or False, came {bias!r}; write bias=True")


def check_count(argument: str, value: object, example: str) -> None:
    """A whole number above zero."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(
            f"{argument}: expected whole numbers, came {value!r}; write for example {example}"
        )
    if value < 1:
        raise ValueError(f"{argument}: expected at least 1, came {value}; write {example}")


def check_dropout(dropout: object) -> None:
    """A probability below one."""
    if isinstance(dropout, bool) or not isinstance(dropout, int | float):
        raise TypeError(f"dropout: expected a probability, came {dropout!r}; write dropout=0.3")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout: expected 0 <= dropout < 1, came {dropout}; write dropout=0.3")
