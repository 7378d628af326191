r"""Where the query meets a batch: each sample's share of the loss gradient, along ``u``.

.. math:: \Big\langle u(x),\;\nabla f(x_i,\theta)^{\top}\,\partial_{f_i}L\Big\rangle

One forward and one backward pass serve all samples of the batch and all queries.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pkbook.basics.parameters import Tree, sum_of
from pkbook.interpolation.optimizer_memory import Pull
from pkbook.kernels.contraction import Sum, Weights, cheapest, contract, project
from pkbook.kernels.factors import Dense, Factor, outputs_as_samples
from pkbook.kernels.features import pushforward
from pkbook.kernels.passes import Forward
from pkbook.kernels.plan import Plan
from pkbook.kernels.side import PathChanged, Side, side
from pkbook.runs.optimizers import Coefficients

Pulls = dict[str, tuple[Coefficients, Pull]]


@dataclass(frozen=True)
class Batch:
    """A training batch at one step: how to run it, how its loss depends on its outputs."""

    forward: Forward
    slope: Callable[..., Tensor]
    r"""From outputs ``[n, C]`` to :math:`\partial_f L` ``[n, C]``; with ``graph=True`` one that can
    be differentiated in turn."""
    parameters: Tree
    plan: Plan | None
    by_token: Callable[[Tensor], list[Tensor]] | None = None
    """The slope in parts, one for each token: tensors ``[n, C]`` that add up to it."""


def meet(
    batch: Batch, pulls: Pulls, apart: bool = False, tokens: bool = False
) -> dict[str, Tensor]:
    """Contributions ``[C, m, n]`` in float64, summed over parameters (``{"": ...}``).

    ``apart``: one entry for each parameter instead.  ``tokens``: ``[C, m, T, n]``, token by token.
    """
    made = batch.plan
    covered = made.covered if made else frozenset()
    seen: dict[str, list[Tensor]] = {}
    found: Side = {}
    if made is not None and covered & set(pulls):

        def seeds(f: Tensor) -> list[Tensor]:
            seen["slopes"] = _slopes(batch, f, tokens)
            return seen["slopes"]

        try:
            got = side(batch.forward, batch.parameters, made, seeds)
            found, covered = got.side, got.settled
        except PathChanged:  # a path drawn at random, say: autograd follows it
            covered = frozenset()
    if tokens:  # each token of a sample as if it were a sample, the first tokens of all first
        found = {name: outputs_as_samples(factor) for name, factor in found.items()}
    met = {name: pulls[name] for name in found if name in pulls}
    parts = _by_factors(met, found, {} if made is None else made.twins, apart)
    rest = {name: pull for name, pull in pulls.items() if name not in covered}
    if rest:
        groups = [{name: pull} for name, pull in rest.items()] if apart else [rest]
        parts += [(next(iter(g)), _by_autograd(batch, g, seen, tokens)) for g in groups]
    if tokens:
        each = len(seen["slopes"])
        parts = [(name, part.unflatten(2, (each, -1))) for name, part in parts]
    if apart:
        return dict(parts)
    return {"": sum_of(part for _, part in parts)}


def _slopes(batch: Batch, f: Tensor, tokens: bool) -> list[Tensor]:
    """What the outputs are weighted with: the slope, or its part for each token."""
    if not tokens:
        return [batch.slope(f)]
    if batch.by_token is None:
        raise ValueError(
            "by_token needs a loss that is one number of outputs [n, T, ...], got one value per "
            "sample; return the mean over the tokens of a batch, with reduction= their number"
        )
    return batch.by_token(f)


def _factor_of(c: Coefficients, pull: Pull) -> float:
    """The number between ``rows`` and the contribution (a clip by value is in the rows)."""
    return -c.sign * pull.scale * (1.0 if isinstance(c.clip, Tensor) else c.clip)


def _rows(c: Coefficients, pull: Pull) -> Tensor:
    rows = pull.formed()
    return rows * c.clip.flatten() if isinstance(c.clip, Tensor) else rows


def _by_factors(
    pulls: Pulls, found: Side, twins: dict[str, str], apart: bool
) -> list[tuple[str, Tensor]]:
    """The covered parameters: products of gradients that need not be written out."""
    parts, open_ = [], {}
    for name, (c, pull) in pulls.items():
        if pull.rows is None and not isinstance(c.clip, Tensor) and _stay(pull, found[name]):
            open_[name] = (c, pull)
            continue
        rows = _rows(c, pull)
        met = project(found[name], rows.flatten(0, 1))[..., 0].unflatten(0, rows.shape[:2])
        parts.append((name, _factor_of(c, pull) * met.double()))
    groups = [{name: pair} for name, pair in open_.items()] if apart else [open_]
    parts += [(next(iter(g)), _contracted(g, found, twins)) for g in groups if g]
    return parts


def _stay(pull: Pull, batch: Factor) -> bool:
    """Whether both sides best stay factors.

    With one output always.  With several not where the batch's gradients would be written out, for
    that would be done again at each node, while the query's are written once for all of them.
    """
    query = pull.nodes[0][1]
    if query.outputs == 1 or (isinstance(query, Dense) and isinstance(batch, Dense)):
        return True
    return cheapest(outputs_as_samples(query), batch, "trace", False, False) != "gradients"


def _contracted(pulls: Pulls, found: Side, twins: dict[str, str]) -> Tensor:
    """The query's gradients against the batch's, both as factors, ``[C, m, n]``."""
    first = next(iter(pulls))
    query, two = pulls[first][1].nodes[0][1], found[first]
    c, m = query.outputs, query.samples
    total = Sum("trace", c * m, two.samples, 1, two.like, False)
    twins = {w: b for w, b in twins.items() if w in pulls and b in pulls}
    for k in range(max(len(pull.nodes) for _, pull in pulls.values())):
        here = {name: (c, pull) for name, (c, pull) in pulls.items() if k < len(pull.nodes)}
        weights: Weights = {
            n: _factor_of(c, pull) * pull.nodes[k][0] for n, (c, pull) in here.items()
        }
        one = {name: outputs_as_samples(pull.nodes[k][1]) for name, (_, pull) in here.items()}
        contract(total, one, {name: found[name] for name in one}, weights, twins)
    return total.result().double().unflatten(0, (c, m))


def _by_autograd(batch: Batch, pulls: Pulls, seen: dict[str, list[Tensor]], tokens: bool) -> Tensor:
    """The other parameters: derivatives of the outputs along the rows, ``[C, m, n]``."""
    directions: Tree = {}
    shape = torch.Size()  # [C, m], for all the same
    for name, (c, pull) in pulls.items():
        rows = _rows(c, pull) * _factor_of(c, pull)
        shape = rows.shape[:2]
        directions[name] = rows.reshape(-1, *batch.parameters[name].shape)
    fixed = {name: p for name, p in batch.parameters.items() if name not in pulls}
    moving = {name: batch.parameters[name] for name in pulls}

    def call(leaves: Tree):
        return batch.forward(fixed | leaves)

    f, pushed = pushforward(call, moving, directions)
    if "slopes" not in seen:
        seen["slopes"] = _slopes(batch, f, tokens)
    slopes = torch.stack(seen["slopes"]).double()
    met = torch.einsum("anc,tnc->atn", pushed.double(), slopes)
    return met.flatten(1).unflatten(0, shape)


def batch_gradient(batch: Batch, names: list[str]) -> Tree:
    r"""The gradient of the batch's loss, :math:`\sum_i\nabla f_i^\top\partial_{f_i}L`, by name."""
    leaves = {name: batch.parameters[name].detach().requires_grad_() for name in names}
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        batch.forward(batch.parameters | leaves) as f,
    ):
        f = f.reshape(len(f), -1)
        if not f.requires_grad:
            return {name: torch.zeros_like(p) for name, p in leaves.items()}
        wanted = list(leaves.values())
        found = torch.autograd.grad(f, wanted, batch.slope(f), materialize_grads=True)
        return dict(zip(names, found, strict=True))
