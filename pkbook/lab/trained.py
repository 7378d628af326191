"""``pk.trained``: one line that names what is trained, read from the objects that train it.

A reader should not have to open a configuration to learn the network's width or the learning rate.
The line is made from the model and the optimizer themselves, so it cannot go stale.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pkbook.basics.words import counted

OPTIONS = {  # what a line calls an option, where it differs from torch's own default
    "momentum": "momentum",
    "dampening": "dampening",
    "nesterov": "Nesterov",
    "weight_decay": "weight decay",
    "alpha": "smoothing ρ",
    "betas": "betas",
    "eps": "ε",
}


@dataclass(frozen=True)
class Trained:
    """What is trained, as one line; a notebook shows it as text of the page."""

    words: str

    def __str__(self) -> str:
        return f"Trained here: {self.words}."

    __repr__ = __str__

    def _repr_markdown_(self) -> str:
        return f"**Trained here:** {self.words}."


def trained(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Callable | str,
    *,
    data: str = "",
    steps: int | None = None,
    epochs: int | None = None,
    batch: int | None = None,
    seeds: int | Iterable[int] | None = None,
    also: str = "",
) -> Trained:
    """The line that names a training: network, data, loss, optimizer, steps, batch, seeds.

    As the last line of a cell it is shown. ``loss`` is one of `pkbook.losses`, another function or
    its name; ``batch`` None stands for the whole training set; ``seeds`` is one seed or several;
    ``also`` is a sentence part for what nothing here knows, such as a schedule.

    Raises TypeError for a model or an optimizer that is none, ValueError where neither ``steps``
    nor ``epochs`` is given, or both.

    >>> net = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))
    >>> adam = torch.optim.Adam(net.parameters(), lr=0.01)
    >>> trained(net, adam, "squared loss", data="12 points of a sine", steps=40, batch=4, seeds=0)
    Trained here: network 1–8–1, tanh, 25 parameters; 12 points of a sine; squared loss; Adam,
    learning rate 0.01; 40 steps, batches of 4; seed 0.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"optimizer must be a torch optimizer, got {type(optimizer).__name__}")
    if (steps is None) == (epochs is None):
        raise ValueError(f"expected steps= or epochs=, one of them, got {steps!r} and {epochs!r}")
    length = counted(steps, "step") if steps is not None else counted(epochs or 0, "epoch")
    drawn = "all samples in each step" if batch is None else f"batches of {batch}"
    parts = [network(model), data, _loss(loss), _optimizer(optimizer), f"{length}, {drawn}"]
    return Trained("; ".join(filter(None, [*parts, _seeds(seeds), also])))


def network(model: nn.Module) -> str:
    """A network in words: its widths and activation, or its class, and its parameters.

    >>> network(nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 10)))
    'convolutions 1–8, layers 72–10, ReLU, 810 parameters'
    """
    leaves = [m for m in model.modules() if not list(m.children())]
    straight = [m for m in leaves if any(True for _ in m.parameters(recurse=False))]
    known = all(isinstance(m, nn.Linear | nn.Conv2d) for m in straight)
    count = counted(sum(p.numel() for p in model.parameters()), "parameter")
    if not straight or not known:
        return f"{type(model).__name__}, {count}"
    convolved = _widths([m for m in straight if isinstance(m, nn.Conv2d)])
    flat = _widths([m for m in straight if isinstance(m, nn.Linear)])
    words = {_ACTIVATIONS[type(m)] for m in leaves if type(m) in _ACTIVATIONS}
    names = [f"convolutions {convolved}" if convolved else ""]
    names.append(f"{'layers' if convolved else 'network'} {flat}" if flat else "")
    return ", ".join([*filter(None, names), *sorted(words), count])


_ACTIVATIONS: dict[type, str] = {
    nn.ReLU: "ReLU",
    nn.Tanh: "tanh",
    nn.GELU: "GELU",
    nn.Softplus: "softplus",
    nn.SiLU: "SiLU",
    nn.Sigmoid: "sigmoid",
}


def _widths(layers: list[Any]) -> str:
    """Widths from input to output, such as 1–8–1."""
    if not layers:
        return ""
    flat = isinstance(layers[0], nn.Linear)
    first, last = ("in_features", "out_features") if flat else ("in_channels", "out_channels")
    return "–".join(
        str(v) for v in [getattr(layers[0], first), *(getattr(m, last) for m in layers)]
    )


def _loss(loss: Callable | str) -> str:
    if isinstance(loss, str):
        return loss
    name = getattr(loss, "__name__", type(loss).__name__).replace("_", "-")
    return name if name.endswith("loss") else f"{name} loss"


def _optimizer(optimizer: torch.optim.Optimizer) -> str:
    """Its name, rate, and whatever is not torch's default; groups that differ are counted."""
    kind: Any = type(optimizer)
    groups = optimizer.param_groups
    usual = kind([torch.zeros(1, requires_grad=True)]).defaults
    first = groups[0]
    rate = first["lr"]
    said = [kind.__name__, f"learning rate {float(rate):g}"]
    for key, word in OPTIONS.items():
        if key not in first or first[key] == usual.get(key):
            continue
        value = first[key]
        said.append(word if value is True else f"{word} {_number(value)}")
    more = f" in the first of {len(groups)} groups" if len(groups) > 1 else ""
    return ", ".join(said) + more


def _number(value: Any) -> str:
    values = value if isinstance(value, tuple) else (value,)
    return " and ".join(f"{float(v):g}" for v in values)


def _seeds(seeds: int | Iterable[int] | None) -> str:
    if seeds is None:
        return ""
    found = [seeds] if isinstance(seeds, int) else list(seeds)
    if len(found) == 1:
        return f"seed {found[0]}"
    if found == list(range(found[0], found[-1] + 1)) and len(found) > 2:
        return f"seeds {found[0]} to {found[-1]}"
    return "seeds " + ", ".join(map(str, found))
