r"""One side of a Gram matrix: the per-sample gradients of a batch, parameter by parameter.

One forward pass under a :class:`~pkbook.kernels.watch.Watch` and one backward pass per output,
through layer outputs only, give for every use of a parameter its activation and output gradient.
A :class:`~pkbook.kernels.guard.Guard` compares the result with plain autograd.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pkbook.basics.parameters import Tree
from pkbook.kernels.factors import Dense, Factor, Layout, dense, merge
from pkbook.kernels.guard import Guard
from pkbook.kernels.layers import Use
from pkbook.kernels.passes import Forward, pull_back, watched
from pkbook.kernels.plan import Plan, require_alone, signature
from pkbook.kernels.watch import Watch

Side = dict[str, Factor]


class PathChanged(ValueError):
    """A forward pass met the parameters in another order than the planned one."""


@dataclass(frozen=True)
class Found:
    """What one pass found."""

    side: Side
    """The factors that agree with autograd."""
    settled: frozenset[str]
    """Parameters that need nothing more: those in ``side``, and those without any influence."""
    guard: Guard | None
    """To check what is computed for the others; None where the rows are known."""
    outputs: Tensor
    """``[n, C]``."""


def side(
    forward: Forward,
    parameters: Tree,
    made: Plan,
    seeds: Callable[[Tensor], list[Tensor]] | None = None,
    alone: tuple[list[int], Tensor] | None = None,
) -> Found:
    """The gradients of the covered parameters for the batch of one forward pass.

    ``seeds`` maps the outputs ``[n, C]`` to what is differentiated: tensors ``[n, C]``, each the
    weights of one linear combination of the outputs.  Default: every output by itself.
    ``alone`` are row numbers and the outputs ``[k, C]`` of those samples by themselves, to be
    compared.
    """
    with watched(forward, parameters, made.seen) as (f, watch):
        if alone is not None:
            require_alone(f.detach()[alone[0]], alone[1], made.term)
        uses = _checked_uses(watch, made)
        asked = _each_output(f) if seeds is None else seeds(f)
        guard = None
        if not _by_construction(watch, uses):
            guard = Guard(f, watch.leaves, None if seeds is None else asked, watch.coarsest)
        gradients = pull_back(f, [use.edge for use, _ in uses], asked)
        found, misfits = _merged(uses, gradients, watch, made.covered)
        if guard is None:
            return Found(found, made.covered - misfits, None, f.detach())
        agreed = {n: factor for n, factor in found.items() if guard.agrees(n, factor)}
        unmoved = {name for name in made.covered if guard.untouched(name)}
        return Found(agreed, frozenset(agreed) | unmoved, guard, f.detach())


def _by_construction(watch: Watch, uses: list[tuple[Use, Layout]]) -> bool:
    """Whether row i of every activation, and of the outputs, is known to be sample i."""
    plain = all(layout == Layout(0, 1, True) for _, layout in uses)
    return watch.rows is not None and watch.rows.kept and plain


def _merged(
    uses: list[tuple[Use, Layout]], gradients: list, watch: Watch, covered: frozenset[str]
) -> tuple[Side, set[str]]:
    """One factor for each parameter, and the parameters with a use that does not fit its layout."""
    pieces: dict[str, list[Factor]] = {}
    misfits: set[str] = set()
    tensors = watch.leaves | {name: made.value for name, made in watch.made.items()}
    for (use, layout), g in zip(uses, gradients, strict=True):
        if g is None:  # the output does not depend on this use
            continue
        try:
            for name, factor in use.layer.factors(use, layout, g, tensors):
                if name is not None and watch.roots(name) & covered:
                    pieces.setdefault(name, []).append(factor)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, IndexError):  # rows of another length than in the plan, say
            misfits |= {n for n in (use.weight, use.bias) if n is not None}
    for name in watch.made.keys() & pieces.keys():
        try:
            for root, factor in _carried_back(watch, name, pieces.pop(name)):
                pieces.setdefault(root, []).append(factor)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, NotImplementedError):  # an operation that vmap does not know
            misfits.add(name)
    misfits = {root for name in misfits for root in watch.roots(name)}
    merged = {n: merge(found) for n, found in pieces.items() if n in covered - misfits}
    return merged, misfits


def _carried_back(watch: Watch, name: str, pieces: list[Factor]) -> Iterator[tuple[str, Factor]]:
    """Gradients by what was made of parameters, as gradients by those parameters."""
    made, rows = watch.made[name], dense(merge(pieces)).rows  # [C, n, P]
    leaves = {root: watch.leaves[root] for root in sorted(made.roots)}
    along = rows.flatten(0, 1).reshape(-1, *made.value.shape).to(made.value.dtype)
    got = torch.autograd.grad(
        made.value,
        list(leaves.values()),
        along,
        is_grads_batched=True,
        retain_graph=True,
        allow_unused=True,
    )
    for root, g in zip(leaves, got, strict=True):
        if g is not None:
            yield root, Dense(g.reshape(*rows.shape[:2], -1).to(rows.dtype))


def _checked_uses(watch: Watch, made: Plan) -> list[tuple[Use, Layout]]:
    """The uses of covered parameters, if the model took the planned path."""
    if signature(watch) != made.kinds:
        raise PathChanged(
            "model takes another path for these inputs than for the first ones, so its layers "
            "cannot be followed; compute the kernel in groups of inputs that take the same path"
        )
    uses = [
        (use, layout)
        for use, layout in zip(watch.uses, made.layouts, strict=True)
        if _behind(use, made) & made.covered
    ]
    for use, _ in uses:
        moved = use.layer.looks_at_inputs and use.inputs._version != use.version
        if use.weight is not None and moved:
            raise ValueError(
                f"the input of the layer with {use.weight!r} is changed in place after that layer "
                "has used it; make that operation out of place"
            )
    return uses


def _behind(use: Use, made: Plan) -> frozenset[str]:
    """The parameters that a use depends on."""
    names = (name for name in (use.weight, use.bias) if name is not None)
    return frozenset().union(*(made.made.get(name, {name}) for name in names))


def _each_output(f: Tensor) -> list[Tensor]:
    # One tensor each, never reused: the gradient of the last layer is the seed itself.
    eye = torch.eye(f.shape[1], dtype=f.dtype, device=f.device)
    return [row.expand(len(f), -1).contiguous() for row in eye]
