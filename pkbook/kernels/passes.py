r"""One side of a Gram matrix: the per-sample gradients of a batch, parameter by parameter.

One forward pass under a :class:`~pkbook.kernels.watch.Watch` and one backward pass per output,
through layer outputs only, give for every use of a parameter its activation and output gradient.
What the samples of the batch are in those tensors is found by comparing with single samples.
"""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pkbook.basics.parameters import Tree
from pkbook.basics.randomness import kept
from pkbook.basics.replaced import call_with
from pkbook.kernels.factors import (
    Dense,
    Factor,
    Layout,
    Lookup,
    Outer,
    leading_dimensions,
    merge,
    unfold,
)
from pkbook.kernels.watch import Use, Watch

Side = dict[str, Factor]


class PathChanged(ValueError):
    """A forward pass met the parameters in another order than the planned one."""


@dataclass(frozen=True)
class Plan:
    """What a model does with its parameters: found once, by :func:`plan`, for all batches."""

    layouts: list[Layout]
    """One for each use, in the order of the forward pass."""
    kinds: list[tuple]
    covered: frozenset[str]
    """Parameters met in known ways only; the others go through per-sample autograd."""
    twins: dict[str, str]
    """Weight to bias, where both belong to one linear layer that is used once."""
    outputs: int
    activations: int
    """Entries of all activations of one sample."""
    looked: bool
    """Whether the model asks about values, so that its path may depend on the batch."""
    gradients: int
    """Entries of all layer outputs of one sample: the gradients of one network output."""
    ends: Tensor
    """Outputs ``[2, C]`` of the first and the last sample, each alone."""
    term: float
    """Largest term of the sums that the outputs are made of, as far as it is known."""

    def entries(self, outputs: int) -> int:
        """Numbers held per sample while a side with so many outputs is made and used."""
        return 2 * self.activations + (outputs + 2) * self.gradients


class _Inside(nn.Module):
    """Runs a model and hands its outputs on while its parameters are still replaced.

    What follows the forward pass may run parts of the model again (activation checkpointing), and
    must then find the same parameters.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, watch: Watch | None, then: Callable):
        if watch is None:
            return then(self.model(x))
        with watch:
            f = self.model(x)
        return then(f)


Forward = Callable[[Tree, Watch | None, Callable], object]
"""Runs a forward pass with given parameters, watched, and hands the outputs to a function."""


def calling(model: nn.Module, x: Tensor) -> Forward:
    """The forward pass of a model on ``x``; buffers are copies, so that none can be moved."""

    def forward(leaves: Tree, watch: Watch | None, then: Callable):
        state = leaves | {name: b.detach().clone() for name, b in model.named_buffers()}
        inside = {f"model.{name}": t for name, t in state.items()}
        return call_with(_Inside(model), inside, x, watch, then)

    return forward


def watched(forward: Forward, parameters: Tree, then: Callable) -> object:
    """``then(outputs [n, C], watch)`` after a forward pass, with gradients on."""
    leaves = {name: p.detach().requires_grad_() for name, p in parameters.items()}
    watch = Watch(leaves)
    with torch.inference_mode(False), torch.enable_grad():
        return forward(leaves, watch, lambda f: then(f.reshape(len(f), -1), watch))


def _outline(f: Tensor, watch: Watch) -> tuple[Tensor, Watch]:
    """What a plan needs from one pass; parameters met behind the watch's back become *other*."""
    met = Counter(n for use in watch.uses for n in (use.weight, use.bias) if n is not None)
    real = _arrivals(f, watch.names)
    watch.other |= {name for name, count in real.items() if count > met[name]}
    return f.detach(), watch


def _arrivals(f: Tensor, names: dict[int, str]) -> Counter:
    """How often the backward graph of ``f`` arrives at each parameter."""
    found: Counter = Counter()
    todo, seen = [f.grad_fn], set()
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        for following, _ in node.next_functions:
            variable = getattr(following, "variable", None)
            if variable is not None and id(variable) in names:
                found[names[id(variable)]] += 1
            todo.append(following)
    return found


def _signature(watch: Watch) -> list[tuple]:
    return [(use.kind, use.weight, use.bias) for use in watch.uses]


def plan(model: nn.Module, x: Tensor, parameters: Tree) -> Plan:
    """Find where the samples are in every activation; ``ValueError`` if the model mixes samples."""
    two = x[[0, -1]] if len(x) > 1 else torch.cat([x, x])
    with kept(x.device):
        before = _random_state(x.device)
        (f1, first), (f2, second), (f, both) = (
            watched(calling(model, part), parameters, _outline) for part in (two[:1], two[1:], two)
        )
        if not torch.equal(before, _random_state(x.device)):
            raise ValueError(
                "model draws random numbers in its forward pass, so the kernel between two inputs "
                "is not defined; make it deterministic in eval mode"
            )
    term = _largest_term(both.uses, parameters)
    require_alone(f, torch.cat([f1, f2]), term)
    other = first.other | both.other
    layouts = []
    same = _signature(first) == _signature(second) == _signature(both)
    for one, two_, pair in zip(first.uses, second.uses, both.uses, strict=True) if same else ():
        layout = _layout(one, two_, pair)
        layouts.append(layout or Layout(0, 1, True))
        if layout is None:
            other |= {pair.weight, pair.bias}
    met = {name for use in both.uses for name in (use.weight, use.bias)}
    looked = first.looked or both.looked
    covered = frozenset(met - other - {None}) if same else frozenset()
    patches = [
        use.inputs.numel() * (math.prod(use.options["kernel"]) if use.kind == "conv" else 1)
        for use in first.uses
    ]
    return Plan(
        layouts,
        _signature(both),
        covered,
        _twins(both.uses, covered),
        f.shape[1],
        sum(patches),
        looked,
        sum(use.out for use in first.uses),
        torch.cat([f1, f2]),
        term,
    )


def _random_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _twins(uses: list[Use], covered: frozenset[str]) -> dict[str, str]:
    count = Counter(name for use in uses for name in (use.weight, use.bias))
    return {
        use.weight: use.bias
        for use in uses
        if use.kind == "linear"
        and {use.weight, use.bias} <= covered
        and count[use.weight] == count[use.bias] == 1
    }


def _largest_term(uses: list[Use], parameters: Tree) -> float:
    """Where terms cancel, as in an output trained to zero, rounding has the size of the terms."""

    def size(values: Tensor | None) -> float:
        return float(values.abs().max()) if values is not None and values.numel() else 0.0

    found = [0.0]
    for use in uses:
        weight, bias = (parameters.get(name) for name in (use.weight, use.bias))
        size_in = size(use.inputs) if use.inputs.is_floating_point() else 1.0
        found += [size_in * size(weight), size(bias)]
    return max(found)


def require_alone(f: Tensor, alone: Tensor, term: float) -> None:
    """``ValueError`` if outputs in a batch differ from those of the same samples alone.

    ``term`` is the plan's.
    """
    scale = alone.abs().max().clamp_min(max(term, torch.finfo(f.dtype).tiny))
    gap = (f - alone).abs().max()
    if gap > _rounding(f.dtype) * scale:
        raise ValueError(
            "model mixes the samples of a batch: its output for one input changes with the others "
            f"(by {gap.item():.2g}), so the kernel between two inputs is not defined"
        )


def _layout(first: Use, second: Use, both: Use) -> Layout | None:
    """The one way to find two single samples in their batch; None if there is none, or several."""
    lead = leading_dimensions(both)
    one, two = first.inputs, both.inputs
    grown = [d for d in range(lead) if one.shape[d] != two.shape[d]]
    if len(grown) != 1 or two.shape[grown[0]] != 2 * one.shape[grown[0]]:
        return None
    inner = one.shape[grown[0]]
    found = []
    for sample_first in (True, False) if inner > 1 else (True,):
        layout = Layout(grown[0], inner, sample_first)
        split = layout.split(two, lead)
        single = Layout(grown[0], inner, sample_first)
        wanted = [single.split(u.inputs, lead)[0] for u in (first, second)]
        if all(_close(a, b) for a, b in zip(split, wanted, strict=True)):
            found.append(layout)
    return found[0] if len(found) == 1 else None


def _close(a: Tensor, b: Tensor) -> bool:
    if not a.is_floating_point():
        return torch.equal(a, b)
    rounding = _rounding(a.dtype)
    return torch.allclose(a, b, rtol=rounding, atol=rounding * float(a.abs().max()))


def _rounding(dtype: torch.dtype) -> float:
    """By how much two ways to the same number may differ, relatively."""
    eps = torch.finfo(dtype).eps
    return 1e3 * eps if eps < 1e-4 else 4 * eps


def side(
    forward: Forward,
    parameters: Tree,
    made: Plan,
    seeds: Callable[[Tensor], list[Tensor]] | None = None,
    alone: tuple[list[int], Tensor] | None = None,
) -> Side:
    """The gradients of all covered parameters for the batch of one forward pass.

    ``seeds`` maps the outputs ``[n, C]`` to what is differentiated: tensors ``[n, C]``, each the
    weights of one linear combination of the outputs.  Default: every output by itself.
    ``alone`` are row numbers and the outputs ``[k, C]`` of those samples by themselves, to be
    compared.
    """

    def collect(f: Tensor, watch: Watch) -> Side:
        if alone is not None:
            require_alone(f.detach()[alone[0]], alone[1], made.term)
        uses = _checked_uses(watch, made)
        made_seeds = _each_output(f) if seeds is None else seeds(f)
        gradients = _pull_back(f, [use.edge for use, _ in uses], made_seeds)
        pieces: dict[str, list[Factor]] = {}
        for (use, layout), g in zip(uses, gradients, strict=True):
            for name, factor in _factors(use, layout, g, parameters):
                if name in made.covered:
                    pieces.setdefault(name, []).append(factor)
        return {name: merge(found) for name, found in pieces.items()}

    return watched(forward, parameters, collect)


def _checked_uses(watch: Watch, made: Plan) -> list[tuple[Use, Layout]]:
    """The uses of covered parameters, if the model took the planned path."""
    if _signature(watch) != made.kinds:
        raise PathChanged(
            "model takes another path for these inputs than for the first ones, so its layers "
            "cannot be followed; compute the kernel in groups of inputs that take the same path"
        )
    uses = [
        (use, layout)
        for use, layout in zip(watch.uses, made.layouts, strict=True)
        if {use.weight, use.bias} & made.covered
    ]
    for use, _ in uses:
        if use.weight is not None and use.inputs._version != use.version:
            raise ValueError(
                f"the input of the layer with {use.weight!r} is changed in place after that layer "
                "has used it; make that operation out of place"
            )
    return uses


def _each_output(f: Tensor) -> list[Tensor]:
    # One tensor each, never reused: the gradient of the last layer is the seed itself.
    eye = torch.eye(f.shape[1], dtype=f.dtype, device=f.device)
    return [row.expand(len(f), -1).contiguous() for row in eye]


def _pull_back(f: Tensor, edges: list, seeds: list[Tensor]) -> list[list[Tensor] | None]:
    """For every edge its gradients, one for each seed; None where nothing returns."""
    if not edges or not f.requires_grad:
        return [None] * len(edges)
    if f.is_cuda and len(seeds) > 1:  # one batched pass; on a CPU a loop is faster
        got = torch.autograd.grad(
            f, edges, torch.stack(seeds), is_grads_batched=True, allow_unused=True
        )
        return [None if g is None else list(g) for g in got]
    last = len(seeds) - 1
    rows = [
        torch.autograd.grad(f, edges, seed, retain_graph=k < last, allow_unused=True)
        for k, seed in enumerate(seeds)
    ]
    return [None if column[0] is None else list(column) for column in zip(*rows, strict=True)]


def widen(t: Tensor) -> Tensor:
    """Half precision as float32: products of gradients are formed and summed there."""
    return t.float() if t.dtype in (torch.bfloat16, torch.float16) else t


def _split(parts: list[Tensor], layout: Layout, leading: int) -> list[Tensor]:
    """Output gradients of C outputs, each as ``[n, T, *rest]``."""
    return [widen(layout.split(g, leading)) for g in parts]


def _factors(use: Use, layout: Layout, g: list[Tensor] | None, parameters: Tree):
    """Pairs (name, factor) for the weight and the bias of one use."""
    if g is None:  # the output does not depend on this use
        return []
    if use.kind == "conv":
        return _conv_factors(use, layout, g)
    lead = leading_dimensions(use)
    x = layout.split(widen(use.inputs), lead)
    g = _split(g, layout, lead)
    if use.kind == "linear":
        bias = Dense(torch.stack([part.sum(1) for part in g]))
        return [(use.weight, Outer(x, [part.transpose(1, 2) for part in g])), (use.bias, bias)]
    if use.kind == "embedding":
        size, skip = parameters[use.weight].shape[0], use.options["padding_idx"]
        tokens = x if skip is None else x.masked_fill(x == skip % size, -1)
        return [(use.weight, Lookup(tokens, [part.transpose(1, 2) for part in g], size))]
    hat = layout.split(widen(_normalised(use, use.inputs)), lead)
    last = use.kind in ("layer_norm", "rms_norm")  # otherwise channels first, then space
    total = _over_positions if last else _over_positions_and_space
    return [
        (use.weight, Dense(torch.stack([total(part * hat) for part in g]))),
        (use.bias, Dense(torch.stack([total(part) for part in g]))),
    ]


def _over_positions(t: Tensor) -> Tensor:
    return t.sum(1).flatten(1)


def _over_positions_and_space(t: Tensor) -> Tensor:
    return t.flatten(3).sum((1, 3)) if t.ndim > 3 else t.sum(1)


def _normalised(use: Use, x: Tensor) -> Tensor:
    o = use.options
    with torch.no_grad():
        if use.kind == "layer_norm":
            return F.layer_norm(x, o["shape"], eps=o["eps"])
        if use.kind == "rms_norm":
            return F.rms_norm(x, o["shape"], eps=o["eps"])
        if use.kind == "group_norm":
            return F.group_norm(x, o["groups"], eps=o["eps"])
        return F.batch_norm(x, o["mean"], o["var"], training=False, eps=o["eps"])


def _conv_factors(use: Use, layout: Layout, g: list[Tensor]):
    patches = unfold(widen(use.inputs), use.options)  # [B, c, k, L]
    patches = layout.split(patches, 1).movedim(4, 2).flatten(1, 2)  # [n, T L, c, k]
    g = [part.flatten(2) for part in g]  # [B, o, L]
    g = [_positions_last(part) for part in _split(g, layout, 1)]  # [n, o, T L]
    bias = Dense(torch.stack([part.sum(2) for part in g]))
    groups = use.options["groups"]
    if groups == 1:
        return [(use.weight, Outer(patches.flatten(2), g)), (use.bias, bias)]
    a = patches.unflatten(2, (groups, -1)).flatten(3).movedim(2, 1)  # [n, G, L, i k]
    rows = [(part.unflatten(1, (groups, -1)) @ a).flatten(1) for part in g]  # [n, G, o/G, i k]
    return [(use.weight, Dense(torch.stack(rows))), (use.bias, bias)]


def _positions_last(g: Tensor) -> Tensor:
    """From ``[n, T, o, L]`` to ``[n, o, T L]``."""
    return g.squeeze(1) if g.shape[1] == 1 else g.transpose(1, 2).flatten(2)
