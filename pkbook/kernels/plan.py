r"""What a model does with its parameters, found once for all batches.

Where the samples of a batch are in an activation is found by comparing with single samples.
"""

from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pkbook.basics.parameters import Tree
from pkbook.basics.randomness import kept
from pkbook.kernels.asked import Inputs, stacked
from pkbook.kernels.factors import Layout
from pkbook.kernels.layers import Use
from pkbook.kernels.layers.linear import Linear
from pkbook.kernels.passes import arrivals, calling, watched
from pkbook.kernels.watch import NOTHING, Seen, Watch


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
    rough: bool
    """Whether some operation gave numbers of less precision than the parameters have."""
    made: dict[str, frozenset[str]]
    """Tensors made of parameters alone, and of which."""
    seen: Seen
    """Calls that need a closer look than one pass gives."""
    term: float
    """Largest term of the sums that the outputs are made of, as far as it is known."""

    def entries(self, outputs: int) -> int:
        """Numbers held per sample while a side with so many outputs is made and used."""
        return 2 * self.activations + (outputs + 2) * self.gradients


def plan(model: nn.Module, x: Inputs, parameters: Tree) -> Plan:
    """Find where the samples are in every activation; ``ValueError`` if the model mixes samples."""
    two = x[[0, -1]] if len(x) > 1 else stacked(x, x)
    with kept(x.device):
        before = _random_state(x.device)
        ((f1, first), (f2, second), (f, both)), seen = _three_passes(model, two, parameters)
        if not torch.equal(before, _random_state(x.device)):
            raise ValueError(
                "model draws random numbers in its forward pass, so the kernel between two inputs "
                "is not defined; make it deterministic in eval mode"
            )
    term = _largest_term(both.uses, parameters)
    require_alone(f, torch.cat([f1, f2]), term)
    other = first.other | both.other
    layouts = []
    same = signature(first) == signature(second) == signature(both)
    for one, two_, pair in zip(first.uses, second.uses, both.uses, strict=True) if same else ():
        layout = _layout(one, two_, pair)
        layouts.append(layout or Layout(0, 1, True))
        if layout is None:
            other |= {pair.weight, pair.bias}
    met = {name for use in both.uses for name in (use.weight, use.bias) if name is not None}
    met = {root for name in met for root in both.roots(name)}
    other = {root for name in other if name is not None for root in both.roots(name)}
    looked = first.looked or both.looked
    covered = frozenset(met - other) if same else frozenset()
    return Plan(
        layouts,
        signature(both),
        covered,
        _twins(both.uses, covered),
        f.shape[1],
        sum(use.layer.entries(use) for use in first.uses),
        looked,
        sum(use.out for use in first.uses),
        torch.cat([f1, f2]),
        first.coarsest > min(torch.finfo(p.dtype).eps for p in parameters.values()),
        {name: made.roots for name, made in both.made.items()},
        seen,
        term,
    )


Outline = tuple[Tensor, Watch]


def _three_passes(
    model: nn.Module, two: Inputs, parameters: Tree
) -> tuple[tuple[Outline, Outline, Outline], Seen]:
    """One sample, another, and the two together, until nothing new is seen in comparing them.

    What was made of what has turned out to move, say, shows at the next look only.
    """
    seen = NOTHING
    while True:
        one, other, both = (
            _outline(model, part, parameters, seen) for part in (two[:1], two[1:], two)
        )
        found = _seen(one[1], other[1], both[1], seen)
        if found == seen:
            return (one, other, both), seen
        seen = found


def _seen(first: Watch, second: Watch, both: Watch, known: Seen) -> Seen:
    """What three passes tell: of one sample, of another, and of the two together."""
    constant, moving = set(known.constant), set(known.moving)
    if signature(first) == signature(second) == signature(both):
        for one, other, two in zip(first.uses, second.uses, both.uses, strict=True):
            if torch.equal(one.inputs, two.inputs) and torch.equal(other.inputs, two.inputs):
                constant.add(one.meeting)
    for name, made in both.made.items():
        twins = [watch.made.get(name) for watch in (first, second)]
        if not all(t is not None and torch.equal(t.value, made.value) for t in twins):
            moving.add(made.meeting)
    return Seen(frozenset(constant), frozenset(moving))


def _outline(model: nn.Module, x: Inputs, parameters: Tree, seen: Seen) -> Outline:
    """What a plan needs from one pass; parameters met behind the watch's back become *other*."""
    with watched(calling(model, x), parameters, seen) as (f, watch):
        met = Counter(n for use in watch.uses for n in (use.weight, use.bias) if n is not None)
        met += watch.met
        real = arrivals(f, watch.names)
        watch.other |= {name for name, count in real.items() if count > met[name]}
        return f.detach(), watch


def signature(watch: Watch) -> list[tuple]:
    """The path that a model took: which layers met which parameters, in order."""
    return [use.kind for use in watch.uses]


def _random_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _twins(uses: list[Use], covered: frozenset[str]) -> dict[str, str]:
    count = Counter(name for use in uses for name in (use.weight, use.bias))
    return {
        use.weight: use.bias
        for use in uses
        if isinstance(use.layer, Linear)
        and use.weight is not None
        and use.bias is not None
        and {use.weight, use.bias} <= covered
        and count[use.weight] == count[use.bias] == 1
    }


def _largest_term(uses: list[Use], parameters: Tree) -> float:
    """Where terms cancel, as in an output trained to zero, rounding has the size of the terms."""

    def size(values: Tensor | None) -> float:
        return float(values.abs().max()) if values is not None and values.numel() else 0.0

    found = [0.0]
    for use in uses:
        weight, bias = (parameters.get(name) if name else None for name in (use.weight, use.bias))
        size_in = size(use.inputs) if use.inputs.is_floating_point() else 1.0
        found += [size_in * size(weight), size(bias)]
    return max(found)


class MixesSamples(ValueError):
    """A model's output for one input depends on the others of its batch."""


def require_alone(f: Tensor, alone: Tensor, term: float) -> None:
    """:class:`MixesSamples` if outputs in a batch differ from those of the same samples alone.

    ``term`` is the plan's.
    """
    scale = alone.abs().max().clamp_min(max(term, torch.finfo(f.dtype).tiny))
    gap = (f - alone).abs().max()
    if gap > rounding(f.dtype) * scale:
        raise MixesSamples(
            "model mixes the samples of a batch: its output for one input changes with the others "
            f"(by {gap.item():.2g}), so the kernel between two inputs is not defined"
        )


def _layout(first: Use, second: Use, both: Use) -> Layout | None:
    """The one way to find two single samples in their batch; None if there is none, or several."""
    lead = both.layer.leading(both)
    one, two = first.inputs, both.inputs
    grown = [d for d in range(lead) if one.shape[d] != two.shape[d]]
    if second.inputs.shape != one.shape:  # as many rows as a sample has different tokens, say
        return None
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
    near = rounding(a.dtype)
    return torch.allclose(a, b, rtol=near, atol=near * float(a.abs().max()))


def rounding(dtype: torch.dtype) -> float:
    """By how much two ways to the same number may differ, relatively."""
    eps = torch.finfo(dtype).eps
    return 1e3 * eps if eps < 1e-4 else 4 * eps
