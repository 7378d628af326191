r"""Blocks of inner products of tangent features, computed in pieces that fit in memory."""

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from pkbook.basics.budget import budget
from pkbook.basics.checks import require_choice
from pkbook.basics.parameters import Tree, sum_of
from pkbook.kernels.asked import Inputs, row_shapes
from pkbook.kernels.contraction import squares
from pkbook.kernels.factors import widen
from pkbook.kernels.gradients import batch_side
from pkbook.kernels.inputs import Which, checked, require_finite_layers, require_fit
from pkbook.kernels.kind import Kind, NotFinite
from pkbook.kernels.out import Out, as_given, room
from pkbook.kernels.plan import Plan, plan
from pkbook.kernels.side import Side
from pkbook.kernels.weight import Weight, diagonal

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
    out: Out | None = None,
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
        out=out,
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
    out: Out | None = None,
) -> dict[str, Tensor]:
    """:func:`gram` in parts, one for each ``group`` of parameter names; their sum is the whole.

    All parts come from the same forward and backward passes.  ``out`` takes the only group.
    """
    require_choice(reduce, "reduce", REDUCTIONS)
    parameters, out = (parameters1, parameters2), as_given(out)
    with torch.inference_mode(False):
        return _gram(model, x1, x2, reduce, weight, parameters, memory, group, out)


def squared_lengths(
    model: nn.Module,
    x: Inputs,
    *,
    weight: Weight | None = None,
    parameters: Which = None,
    memory: int | None = None,
) -> Tensor:
    r"""The diagonal of the kernel alone, :math:`K_{x,x}` with the trace over outputs, ``[n]``."""
    with torch.inference_mode(False):
        p = checked(model, x, parameters, "x")
        weights = diagonal(weight, p)
        end = End(model, _plain(x), _copied(p), _planned(model, _plain(x), p, "x"))
        memory = budget(memory, x.device)

        def lengths() -> Tensor:
            sides = (end.side(i) for i in end.slices(memory))
            return torch.cat([sum_of(squares(s[n], weights[n]) for n in s) for s in sides])

        found = _once_settled(lengths)
        if not torch.isfinite(found).all():
            require_finite_layers(model, end.x, p, "x")
            raise ValueError("the kernel is not finite: a gradient of the model overflowed")
        return found


def _gram(
    model: nn.Module, x1, x2, reduce: str, weight, parameters, memory, group, out
) -> dict[str, Tensor]:
    ends = both_ends(model, x1, x2, parameters)
    p1 = ends[0].parameters
    weights = diagonal(weight, p1)
    memory = budget(memory, x1.device)
    groups: dict[str, set[str]] = {}
    for name in p1:
        groups.setdefault(group(name), set()).add(name)
    kind = Kind(reduce, weights, list(groups.values()))
    try:
        with room(out, kind.shape(ends), widen(ends[0].like.new_empty(0))) as given:
            parts = _blocks(kind, ends, memory, None if given is None else [given])
    except NotFinite:
        for end, name in zip(ends, ("x1", "x2"), strict=False):
            require_finite_layers(model, end.x, end.parameters, name)
        raise ValueError(
            "the kernel is not finite: a gradient of the model overflowed or is NaN"
        ) from None
    return dict(zip(groups, parts, strict=True))


def both_ends(model: nn.Module, x1, x2, parameters: tuple[Which, Which]) -> list["End"]:
    """The two checked ends of a kernel; one stands for both of a symmetric kernel."""
    symmetric = x2 is None and parameters[1] is None
    p1 = checked(model, x1, parameters[0], "x1")
    first = _plain(x1), _copied(p1)
    if symmetric:
        return [End(model, *first, _planned(model, *first, "x1"))]
    x2 = x1 if x2 is None else x2
    p2 = checked(model, x2, p1 if parameters[1] is None else parameters[1], "x2")
    one = End(model, *first, _planned(model, *first, "x1"))
    return [one, _other_end(one, _plain(x2), _copied(p2))]


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

    def slices(self, memory: int, most: int | None = None) -> list[slice]:
        """Slices of the samples whose gradients fit in half of the memory (of two ends at once).

        ``most`` rows where a block of the result takes of the memory, too: a quarter of it.
        """
        n, each = len(self.x), max(1, self.bytes_per_sample())
        rows = memory // (2 * each)
        if rows == 0:
            raise ValueError(
                f"memory must hold the gradients of one sample on each side, at least {2 * each} "
                f"bytes for this model, got {memory}"
            )
        if most is not None:
            rows = min(max(1, 3 * rows // 4), most)
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


def _once_settled(compute: Callable[[], T]) -> T:
    """The result of ``compute``, begun again where more must be written out than was planned."""
    while True:
        try:
            return compute()
        except _MoreWrittenOut:  # which happens as often as there are parameters, at most
            continue


def _blocks(
    kind: Kind, ends: list[End], memory: int, given: list[Tensor] | None = None
) -> list[Tensor]:
    """The Gram matrix of each group of parameters; one end stands for both of a symmetric one.

    Where room is ``given``, what is computed at once is small against it.
    """
    way = _symmetric if len(ends) == 1 else _pairs
    most = None if given is None else kind.most(ends, memory)
    return _once_settled(lambda: way(kind, ends, memory, given, most))


def _symmetric(
    kind: Kind, ends: list[End], memory: int, given: list[Tensor] | None, most: int | None
) -> list[Tensor]:
    """Blocks above the diagonal, mirrored."""
    (end,) = ends
    slices = end.slices(memory, most)
    if len(slices) == 1 and given is None:
        side = end.side(slices[0])
        return kind.products(side, side, ends, (len(end.x), len(end.x)), same=True)
    outs = given or kind.empty(ends)
    for a, i in enumerate(slices):
        left = end.side(i)
        for j in slices[a:]:
            right = left if i == j else end.side(j)
            blocks = kind.products(left, right, ends, _size(i, j), i == j)
            kind.put(outs, i, j, blocks)
            if i != j:
                kind.put(outs, j, i, map(kind.mirrored, blocks))
    return outs


def _pairs(
    kind: Kind, ends: list[End], memory: int, given: list[Tensor] | None, most: int | None
) -> list[Tensor]:
    """All blocks of two different ends."""
    one, two = ends
    columns = two.slices(memory, most)
    held = None
    if len(columns) == 1:  # held whole, so that small slices repeat no work
        held = two.side(columns[0])
        memory = min(memory, max(SLICE, 2 * two.bytes_per_sample() * len(two.x)))
    rows = one.slices(memory, most)
    outs = given or kind.empty(ends)
    for i in rows:
        left = one.side(i)
        if held is not None and len(rows) > 1 and i == rows[0]:
            held = {n: kind.written(left[n], held[n], n) for n in held}
        for j in columns:
            right = two.side(j) if held is None else held
            blocks = kind.products(left, right, ends, _size(i, j), same=False)
            if len(rows) == len(columns) == 1 and given is None:
                return blocks
            kind.put(outs, i, j, blocks)
    return outs


def _size(i: slice, j: slice) -> tuple[int, int]:
    return i.stop - i.start, j.stop - j.start
