"""The gradients of all parameters for a batch: some as factors, the others sample by sample."""

import torch
from torch import Tensor, nn

from pkbook.basics.parameters import Tree
from pkbook.kernels.asked import Inputs
from pkbook.kernels.factors import Dense, widen
from pkbook.kernels.features import features
from pkbook.kernels.inputs import evaluate
from pkbook.kernels.passes import calling
from pkbook.kernels.plan import Plan, require_alone
from pkbook.kernels.side import Found, PathChanged, Side, side


def batch_side(
    model: nn.Module, x: Inputs, parameters: Tree, made: Plan, planned: bool = False
) -> tuple[Side, frozenset[str]]:
    """All parameters' gradients of every output, and which of them the factors settle.

    ``planned``: the plan was made with these samples, so their ends are known alone.
    """
    rows = list(range(len(x))) if made.looked else [0, len(x) - 1]
    alone = made.ends
    if made.looked or not planned:
        alone = torch.cat([evaluate(model, x[i : i + 1], parameters, None) for i in rows])
    found = _by_factors(model, x, parameters, made, alone=(rows, alone))
    if found is not None:
        outputs = found.outputs
    else:
        outputs = evaluate(model, x, parameters, None)
        require_alone(outputs[rows], alone, made.term)
    if not made.looked and (found is None or found.guard is not None):
        require_apart(model, x, parameters, outputs, made.term)
    factors = {} if found is None else dict(found.side)
    settled = frozenset() if found is None else found.settled
    rest = _sample_by_sample(model, x, parameters, settled, None)
    _require_agreement(found, rest)
    return factors | rest, settled


def require_apart(
    model: nn.Module, x: Inputs, parameters: Tree, outputs: Tensor, term: float = 0.0
) -> None:
    """:class:`~pkbook.kernels.plan.MixesSamples` if outputs change with the rest of the batch.

    Two halves tell it of every sample: the ends of a batch may be the only ones left alone.
    """
    if len(x) > 1:
        other = torch.empty_like(outputs)
        for some in (slice(0, None, 2), slice(1, None, 2)):
            other[some] = evaluate(model, x[some], parameters, None)
        require_alone(outputs, other, term)


def query_side(
    model: nn.Module, x: Inputs, parameters: Tree, made: Plan | None, chosen: Tensor | None
) -> Side:
    """Gradients of all outputs, or of one chosen output for each input ``[n]``, unchecked.

    ``parameters`` are those that are differentiated; the model's others stay as they are.
    ``made`` is a plan, or None for a model that has none.
    """
    seeds = None if chosen is None else lambda f: [_one_output(f, chosen)]
    found = None if made is None else _by_factors(model, x, parameters, made, seeds=seeds)
    settled = frozenset() if found is None else found.settled
    rest = _sample_by_sample(model, x, parameters, settled, chosen)
    _require_agreement(found, rest)
    return rest if found is None else found.side | rest


def _by_factors(
    model: nn.Module, x: Inputs, parameters: Tree, made: Plan, **options
) -> Found | None:
    """What :func:`side` finds; None where the model takes another path than planned.

    It may take its batch in parts, for example: as many as the batch is long.
    """
    if not made.covered:
        return None
    try:
        return side(calling(model, x), parameters, made, **options)
    except PathChanged:
        return None


def _one_output(f: Tensor, chosen: Tensor) -> Tensor:
    """The weights ``[n, C]`` that pick one output of each sample."""
    return torch.zeros_like(f).scatter_(1, (chosen % f.shape[1])[:, None], 1.0)


def _sample_by_sample(
    model: nn.Module, x: Inputs, parameters: Tree, settled: frozenset[str], chosen: Tensor | None
) -> Side:
    names = [name for name in parameters if name not in settled]
    if not names:
        return {}
    rows = features(model, x, parameters, chosen, names)
    return {name: Dense(widen(_by_output(g))) for name, g in rows.items()}


def _by_output(g: Tensor) -> Tensor:
    """From ``[n, C, *shape]`` to ``[C, n, P]``."""
    return g.detach().reshape(*g.shape[:2], -1).transpose(0, 1)


def _require_agreement(found: Found | None, rest: Side) -> None:
    guard = None if found is None else found.guard
    if guard is None:
        return
    for name, factor in rest.items():
        if guard.refutes(name, factor):
            raise mixed_gradient(name)


def mixed_gradient(name: str) -> ValueError:
    """What to say of a parameter whose gradients of a batch are not those of its samples."""
    return ValueError(
        f"the gradient of {name!r} for a batch is not the sum of those of its samples "
        "alone, so the model's backward pass mixes samples and the kernel between two "
        "inputs is not defined; look for detach, hooks or own autograd functions that "
        "depend on the batch"
    )
