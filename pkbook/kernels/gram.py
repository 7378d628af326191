r"""Blocks of inner products of tangent features, computed in pieces that fit in memory."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from pkbook.basics.budget import LARGEST_DEFAULT, free_memory
from pkbook.basics.checks import require_choice, require_whole
from pkbook.basics.parameters import Tree, sum_of
from pkbook.kernels.asked import Inputs, row_shapes
from pkbook.kernels.contraction import Sum, contract, squares, write_out
from pkbook.kernels.factors import Factor, widen
from pkbook.kernels.gradients import batch_side
from pkbook.kernels.inputs import Which, checked, require_finite_layers, require_fit
from pkbook.kernels.plan import Plan, plan
from pkbook.kernels.side import Side

Weight = dict[str, Tensor] | dict[str, float]
"""A diagonal weight: a number for each parameter, or one for each of its entries."""
T = TypeVar("T")
REDUCTIONS = ("trace", "full", "diagonal")
SLICE = 2**28  # bytes; buffers of this size are used again, larger ones are fresh pages each time


def gram(
    model: nn.Module,
    x1: Inputs,
    x2: Inputs | None = None,
    *,
    reduce: str = "trace",
    weight: Weight | None = None,
    parameters1: Which = None,
    parameters2: Which = None,
    memory: int | None = None,
) -> Tensor:
    r"""Inner products :math:`\nabla f(x_1,\theta_1)\,A\,\nabla f(x_2,\theta_2)^\top`.

    The general form behind every kernel of :mod:`pkbook.kernels`: two inputs, two parameter
    states, a diagonal weight :math:`A`.  ``x2=None`` means ``x1`` again.  No Jacobian is formed
    where the product can be had from activations and output gradients
    (:mod:`pkbook.kernels.contraction`).
    The work is split by rows so that it stays within ``memory`` bytes, default a quarter of what is
    free and at most 1 GiB.  Shapes and errors: see :func:`pkbook.gradient_kernel`.
    """
    parts = gram_by_group(
        model,
        x1,
        x2,
        group=lambda _: "",
        reduce=reduce,
        weight=weight,
        parameters1=parameters1,
        parameters2=parameters2,
        memory=memory,
    )
    return parts[""]


def gram_by_group(
    model: nn.Module,
    x1: Inputs,
    x2: Inputs | None = None,
    *,
    group: Callable[[str], str],
    reduce: str = "trace",
    weight: Weight | None = None,
    parameters1: Which = None,
    parameters2: Which = None,
    memory: int | None = None,
) -> dict[str, Tensor]:
    """:func:`gram` in parts, one for each ``group`` of parameter names; their sum is the whole.

    All parts come from the same forward and backward passes.
    """
    require_choice(reduce, "reduce", REDUCTIONS)
    with torch.inference_mode(False):
        return _gram(model, x1, x2, reduce, weight, (parameters1, parameters2), memory, group)


def squared_lengths(
    model: nn.Module, x: Inputs, *, parameters: Which = None, memory: int | None = None
) -> Tensor:
    r"""The diagonal of the kernel alone, :math:`K_{x,x}` with the trace over outputs, ``[n]``."""
    with torch.inference_mode(False):
        p = checked(model, x, parameters, "x")
        end = End(model, _plain(x), _copied(p), _planned(model, _plain(x), p, "x"))
        memory = _budget(memory, x.device)

        def lengths() -> Tensor:
            sides = (end.side(i) for i in end.slices(memory))
            return torch.cat([sum_of(map(squares, side.values())) for side in sides])

        found = _once_settled(lengths)
        if not torch.isfinite(found).all():
            require_finite_layers(model, end.x, p, "x")
            raise ValueError("the kernel is not finite: a gradient of the model overflowed")
        return found


def _budget(memory: int | None, device: torch.device) -> int:
    if memory is None:
        return min(free_memory(device) // 4, LARGEST_DEFAULT)
    return require_whole(memory, "memory")


def _gram(
    model: nn.Module, x1, x2, reduce: str, weight, parameters, memory, group
) -> dict[str, Tensor]:
    symmetric = x2 is None and parameters[1] is None
    p1 = checked(model, x1, parameters[0], "x1")
    asked = [("x1", _plain(x1), _copied(p1))]
    if not symmetric:
        x2 = x1 if x2 is None else x2
        p2 = checked(model, x2, p1 if parameters[1] is None else parameters[1], "x2")
        asked.append(("x2", _plain(x2), _copied(p2)))
    weights = _weights(weight, p1)
    memory = _budget(memory, x1.device)
    ends = [End(model, *asked[0][1:], _planned(model, *asked[0][1:], "x1"))]
    if not symmetric:
        ends.append(_other_end(ends[0], *asked[1][1:]))
    groups: dict[str, set[str]] = {}
    for name in p1:
        groups.setdefault(group(name), set()).add(name)
    parts = _blocks(Kind(reduce, weights, list(groups.values())), ends, memory)
    # A sum passes over the result once, and shows every NaN and infinity.
    if not all(torch.isfinite(o.sum()) or torch.isfinite(o).all() for o in parts):
        for name, x, p in asked:
            require_finite_layers(model, x, p, name)
        raise ValueError("the kernel is not finite: a gradient of the model overflowed or is NaN")
    return dict(zip(groups, parts, strict=True))


def _other_end(one: "End", x: Inputs, parameters: Tree) -> "End":
    """Inputs of the same shape are treated alike; others may be laid out otherwise."""
    if row_shapes(x) == row_shapes(one.x):
        require_fit(one.model, x, parameters, "x2")
        return End(one.model, x, parameters, one.plan, planned=False)
    made = _planned(one.model, x, parameters, "x2")
    if made.outputs != one.plan.outputs:
        raise ValueError(
            "x1 and x2 must give the same number of outputs, got "
            f"{one.plan.outputs} and {made.outputs}; use inputs of one size"
        )
    return End(one.model, x, parameters, made)


def _planned(model: nn.Module, x: Inputs, parameters: Tree, name: str) -> Plan:
    try:
        return plan(model, x, parameters)
    except Exception:
        require_fit(model, x, parameters, name)  # says it better, where it is the inputs' fault
        raise


def _weights(weight: Weight | None, parameters: Tree) -> dict[str, Tensor | float | None]:
    """The diagonal weight by name; a number where it is the same for a whole parameter."""
    if weight is None:
        return dict.fromkeys(parameters)
    if not isinstance(weight, dict) or set(weight) != set(parameters):
        raise ValueError(
            "weight must be a dict with one entry per trainable parameter "
            f"({', '.join(parameters)}), got "
            f"{list(weight) if isinstance(weight, dict) else weight!r}"
        )
    found: dict[str, Tensor | float | None] = {}
    for name, p in parameters.items():
        w = torch.as_tensor(weight[name], dtype=p.dtype, device=p.device)
        if w.shape not in ((), p.shape):
            raise ValueError(
                f"weight[{name!r}] must be a scalar or have shape {tuple(p.shape)}, "
                f"got {tuple(w.shape)}"
            )
        if not torch.isfinite(w).all() or (w < 0).any():
            raise ValueError(f"weight[{name!r}] must be finite and not negative")
        found[name] = float(w) if w.ndim == 0 else w
    return found


def _plain(x: Inputs) -> Inputs:
    """Inputs without a gradient of their own, usable with gradients on."""
    return x.clone() if x.is_inference() else x.detach()


def _copied(parameters: Tree) -> Tree:
    """Copies, for a layer may change its weights in place (an embedding with ``max_norm``)."""
    return {name: p.clone() for name, p in parameters.items()}


class _MoreWrittenOut(Exception):
    """The guard found that parameters have no factors: their gradients need more memory."""


class End:
    """One of the two inputs of a kernel, with its point in parameter space."""

    def __init__(
        self, model: nn.Module, x: Inputs, parameters: Tree, made: Plan, planned: bool = True
    ) -> None:
        """``planned``: the plan was made with these very samples."""
        self.model, self.x, self.parameters, self.plan = model, x, parameters, made
        self.planned = planned

    def bytes_per_sample(self) -> int:
        """What the gradients of one sample take while they are made and used."""
        c = self.plan.outputs
        rest = (p.numel() for name, p in self.parameters.items() if name not in self.plan.covered)
        return (self.plan.entries(c) + c * sum(rest)) * max(4, self.like.dtype.itemsize)

    @property
    def like(self) -> Tensor:
        """Some tensor of the parameters' type and device."""
        return next(iter(self.parameters.values()))

    def slices(self, memory: int) -> list[slice]:
        """Slices of the samples whose gradients fit in half of the memory (of two ends at once)."""
        n, each = len(self.x), max(1, self.bytes_per_sample())
        rows = memory // (2 * each)
        if rows == 0:
            raise ValueError(
                f"memory must hold the gradients of one sample on each side, at least {2 * each} "
                f"bytes for this model, got {memory}"
            )
        return [slice(i, min(i + rows, n)) for i in range(0, n, rows)]

    def side(self, some: slice) -> Side:
        """The gradients of some samples."""
        x, whole = self.x[some], some.stop - some.start == len(self.x)
        found, settled = batch_side(
            self.model, x, self.parameters, self.plan, planned=self.planned and whole
        )
        if self.plan.covered - settled:
            self.plan = replace(self.plan, covered=self.plan.covered & settled)
            raise _MoreWrittenOut
        return found


@dataclass(frozen=True)
class Kind:
    """What is asked of the products: over the outputs, by which weights, for which groups."""

    reduce: str
    weights: dict[str, Tensor | float | None]
    groups: list[set[str]]

    def products(
        self, left: Side, right: Side, ends: list[End], size: tuple[int, int], same: bool
    ) -> list[Tensor]:
        """One block of each group's matrix."""
        like = widen(ends[0].like.new_empty(0))
        both = ends[0].plan.covered & ends[-1].plan.covered
        twins = {w: b for w, b in ends[0].plan.twins.items() if {w, b} <= both}
        blocks = []
        for names in self.groups:
            c = ends[0].plan.outputs
            total = Sum(self.reduce, *size, c, like, same)
            contract(total, _of(left, names), _of(right, names), self.weights, twins)
            blocks.append(total.result())
        return blocks

    def empty(self, ends: list[End]) -> list[Tensor]:
        """Room for the whole matrices."""
        c, like = ends[0].plan.outputs, ends[0].like
        dtype = widen(like.new_empty(0)).dtype
        shape = {"trace": (), "diagonal": (c,), "full": (c, c)}[self.reduce]
        size = len(ends[0].x), len(ends[-1].x)
        return [torch.empty(*size, *shape, dtype=dtype, device=like.device) for _ in self.groups]

    def mirrored(self, block: Tensor) -> Tensor:
        """The block on the other side of the diagonal."""
        block = block.transpose(0, 1)
        return block.transpose(2, 3) if self.reduce == "full" else block


def _once_settled(compute: Callable[[], T]) -> T:
    """The result of ``compute``, begun again where more must be written out than was planned."""
    while True:
        try:
            return compute()
        except _MoreWrittenOut:  # which happens as often as there are parameters, at most
            continue


def _blocks(kind: Kind, ends: list[End], memory: int) -> list[Tensor]:
    """The Gram matrix of each group of parameters; one end stands for both of a symmetric one."""
    way = _symmetric if len(ends) == 1 else _pairs
    return _once_settled(lambda: way(kind, ends, memory))


def _symmetric(kind: Kind, ends: list[End], memory: int) -> list[Tensor]:
    """Blocks above the diagonal, mirrored."""
    (end,) = ends
    slices = end.slices(memory)
    if len(slices) == 1:
        side = end.side(slices[0])
        return kind.products(side, side, ends, (len(end.x), len(end.x)), same=True)
    outs = kind.empty(ends)
    for a, i in enumerate(slices):
        left = end.side(i)
        for j in slices[a:]:
            right = left if i == j else end.side(j)
            blocks = kind.products(left, right, ends, _size(i, j), i == j)
            for out, block in zip(outs, blocks, strict=True):
                out[i, j] = block
                if i != j:
                    out[j, i] = kind.mirrored(block)
    return outs


def _pairs(kind: Kind, ends: list[End], memory: int) -> list[Tensor]:
    """All blocks of two different ends."""
    one, two = ends
    columns = two.slices(memory)
    held = None
    if len(columns) == 1:  # held whole, so that small slices repeat no work
        held = two.side(columns[0])
        memory = min(memory, max(SLICE, 2 * two.bytes_per_sample() * len(two.x)))
    rows = one.slices(memory)
    outs = kind.empty(ends)
    for i in rows:
        left = one.side(i)
        if held is not None and len(rows) > 1 and i == rows[0]:
            held = {n: _written(left[n], held[n], kind, n) for n in held}
        for j in columns:
            right = two.side(j) if held is None else held
            blocks = kind.products(left, right, ends, _size(i, j), same=False)
            if len(rows) == len(columns) == 1:
                return blocks
            for out, block in zip(outs, blocks, strict=True):
                out[i, j] = block
    return outs


def _size(i: slice, j: slice) -> tuple[int, int]:
    return i.stop - i.start, j.stop - j.start


def _written(one: Factor, other: Factor, kind: Kind, name: str) -> Factor:
    return write_out(one, other, kind.reduce, isinstance(kind.weights[name], Tensor))


def _of(side: Side, names: set[str]) -> Side:
    return {name: factor for name, factor in side.items() if name in names}
