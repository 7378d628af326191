r"""Functions of a model: what can be asked beside its outputs.

Each has a gradient by the parameters, hence a kernel and an interpolation formula: a margin, a
log-probability, the loss of a labelled query.  Any function of your own ``f(model, queries)`` that
returns ``[n]`` or ``[n, q]``, row by row, does as well.

>>> import torch
>>> import pkbook as pk
>>> line = torch.nn.Linear(1, 3, bias=False)
>>> pk.gradient_kernel(line, torch.tensor([[2.0]]), of=pk.of.margin(2, 0))
tensor([[8.]])
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pkbook.basics.outputs import outputs_of, the_tensor

Function = Callable[..., Tensor]
"""``f(model, queries)``, or with rows of its own, ``f(model, queries, *rows)``."""


class Of:
    """A function of a model and queries, with tensors that hold one row for each query.

    ``call(model, queries, *rows)`` returns ``[n]`` or ``[n, q]``.
    """

    def __init__(self, name: str, call: Function, *rows: Tensor) -> None:
        self.name, self.call, self.rows = name, call, rows

    def __call__(self, model: nn.Module, queries: Any) -> Tensor:
        """What is asked, of the queries that it was made for."""
        return self.call(model, queries, *self.rows)

    def __repr__(self) -> str:
        return self.name


def plain(model: nn.Module, queries: Any) -> Tensor:
    """The one tensor that a model returns; of a dictionary its ``logits``, or its only tensor."""
    return the_tensor(outputs_of(model, queries))


def output(*place: int) -> Of:
    """One entry of each query's output, ``f[:, t, v]`` for ``output(t, v)``."""
    if not place or not all(isinstance(i, int) and not isinstance(i, bool) for i in place):
        raise TypeError(f"of must be a tuple of whole numbers, got {place!r}")

    def entry(model: nn.Module, queries: Any) -> Tensor:
        f = plain(model, queries)
        bounds = f.shape[1:]
        fits = len(place) == len(bounds) and all(
            -size <= i < size for i, size in zip(place, bounds, strict=True)
        )
        if not fits:
            raise ValueError(
                f"of must be an index of an output of shape {tuple(bounds)}, got {place}"
            )
        return f[(slice(None), *place)]

    return Of(f"output{place}", entry)


def column(number: int | Tensor) -> Of:
    """One of :math:`C` outputs, counted over the flat outputs; or one for each query ``[n]``."""
    rows, all_of = _per_query(number)

    def call(model: nn.Module, queries: Any, *got: Tensor) -> Tensor:
        f = plain(model, queries)
        f = f.reshape(len(f), -1)
        (chosen,) = all_of(got)
        if not isinstance(chosen, Tensor) and not -f.shape[1] <= chosen < f.shape[1]:
            raise ValueError(
                f"outputs must lie in 0..{f.shape[1] - 1} for this model, got {chosen}"
            )
        return f.gather(1, _of_each(chosen, f, "outputs") % f.shape[1])[:, 0]

    return Of("outputs", call, *rows)


def _of_each(labels: int | Tensor, f: Tensor, name: str) -> Tensor:
    """A column number for each row of ``f [n, C]``."""
    if f.ndim != 2:
        raise ValueError(
            f"{name} needs outputs [n, C], got shape {tuple(f.shape)}; choose among them first: "
            "of=lambda model, queries: ..."
        )
    chosen = torch.as_tensor(labels, device=f.device)
    chosen = chosen.expand(len(f)) if chosen.ndim == 0 else chosen
    if chosen.shape != f.shape[:1] or chosen.is_floating_point():
        raise ValueError(
            f"{name} needs one whole number for all queries or one for each [{len(f)}], got "
            f"{chosen.dtype}, shape {tuple(chosen.shape)}"
        )
    return chosen.long()[:, None]


def _per_query(*labels: int | Tensor | None) -> tuple[list[Tensor], Callable]:
    """Tensors travel with the queries; numbers are the same for all."""
    rows = [t for t in labels if isinstance(t, Tensor) and t.ndim]

    def all_of(got: tuple[Tensor, ...]) -> list[Any]:
        following = iter(got)
        return [next(following) if isinstance(t, Tensor) and t.ndim else t for t in labels]

    return rows, all_of


def _at_place(f: Tensor, place: int | Tensor | None, name: str) -> Tensor:
    """The outputs ``[n, C]``; of a sequence's, ``[n, T, C]``, those at one place of each."""
    if place is None:
        if f.ndim == 3:
            raise ValueError(
                f"{name} of outputs [n, T, C] needs a place, got shape {tuple(f.shape)} and "
                "at=None; write at=-1 for the last token, or one place for each query"
            )
        return f
    if f.ndim != 3:
        raise ValueError(f"at needs outputs [n, T, C], got shape {tuple(f.shape)}; leave at out")
    if not isinstance(place, Tensor) and not -f.shape[1] <= place < f.shape[1]:
        raise ValueError(f"at must lie in 0..{f.shape[1] - 1} for these outputs, got {place}")
    chosen = _of_each(place, f[:, :, 0], "at")
    chosen = torch.where(chosen < 0, chosen + f.shape[1], chosen)  # gather refuses what is beyond
    return f.gather(1, chosen[:, :, None].expand(-1, 1, f.shape[2]))[:, 0]


def margin(winner: int | Tensor, rival: int | Tensor, at: int | Tensor | None = None) -> Of:
    r""":math:`f_a-f_b`, one pair of outputs for all queries or one for each ``[n]``.

    ``at`` is the place in a sequence, one for all queries or one for each, where the outputs are
    ``[n, T, C]``: ``at=-1`` compares two next words after the last one.

    >>> from pkbook.kernels.features import tangent_features
    >>> line = nn.Linear(1, 3, bias=False)
    >>> tangent_features(line, torch.ones(2, 1), of=margin(torch.tensor([2, 1]), 0))
    tensor([[[-1.,  0.,  1.]],
    <BLANKLINE>
            [[-1.,  1.,  0.]]])
    """
    rows, all_of = _per_query(winner, rival, at)

    def call(model: nn.Module, queries: Any, *got: Tensor) -> Tensor:
        *labels, place = all_of(got)
        f = _at_place(plain(model, queries), place, "margin")
        a, b = (_of_each(t, f, "margin") for t in labels)
        return (f.gather(1, a) - f.gather(1, b))[:, 0]

    return Of("margin", call, *rows)


def log_probability(label: int | Tensor, at: int | Tensor | None = None) -> Of:
    r""":math:`\log\mathrm{softmax}(f)_y`, of one label for all queries or one for each ``[n]``.

    ``at`` is the place in a sequence where the outputs are ``[n, T, C]``, as in `margin`.
    """
    rows, all_of = _per_query(label, at)

    def call(model: nn.Module, queries: Any, *got: Tensor) -> Tensor:
        y, place = all_of(got)
        f = _at_place(plain(model, queries), place, "log_probability")
        return F.log_softmax(f, 1).gather(1, _of_each(y, f, "log_probability"))[:, 0]

    return Of("log_probability", call, *rows)


def log_odds(label: int | Tensor, at: int | Tensor | None = None) -> Of:
    r""":math:`f_y-\log\sum_{c\ne y}e^{f_c}=\log\frac{p_y}{1-p_y}`, a label against all others.

    Unlike :math:`\log p_y` it does not flatten where the model is sure.  ``label`` and ``at`` as in
    `log_probability`.  With two outputs it is their `margin`.

    >>> two = nn.Linear(1, 2)
    >>> torch.allclose(log_odds(0)(two, torch.ones(3, 1)), margin(0, 1)(two, torch.ones(3, 1)))
    True

    Source: Park et al. 2023 (TRAK), Section 3.2.
    """
    rows, all_of = _per_query(label, at)

    def call(model: nn.Module, queries: Any, *got: Tensor) -> Tensor:
        y, place = all_of(got)
        f = _at_place(plain(model, queries), place, "log_odds")
        if f.ndim == 2 and f.shape[1] < 2:
            raise ValueError(f"log_odds needs two outputs at least, got shape {tuple(f.shape)}")
        chosen = _of_each(y, f, "log_odds")
        others = f.scatter(1, chosen, -torch.inf)
        return (f.gather(1, chosen) - others.logsumexp(1, keepdim=True))[:, 0]

    return Of("log_odds", call, *rows)


def loss_of(loss: Callable[[Tensor, Tensor], Tensor], y: Tensor) -> Of:
    """The loss of labelled queries, with a loss of outputs and targets ``[n, ...]`` per sample."""

    def call(model: nn.Module, queries: Any, targets: Tensor) -> Tensor:
        f = plain(model, queries)
        value = loss(f, targets)
        if value.shape[:1] != f.shape[:1]:
            raise ValueError(
                f"loss must return one value per query [{len(f)}], got shape "
                f"{tuple(value.shape)}; write reduction='none'"
            )
        return value

    return Of("loss", call, y)
