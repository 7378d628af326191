r"""Both sides of Domingos' formula, exactly, for a recorded run.

A run moved the prediction at :math:`x` from :math:`f(x,\theta_0)` to :math:`f(x,\theta_K)`.
:func:`interpolate` says how much of that each training sample did:

.. math::
   f(x,\theta_K)-f(x,\theta_0)=\sum_i c_i(x),\qquad
   c_i(x)=-\sum_{s:\,i\in\mathcal B_s}\Big\langle u_s(x),
   \nabla f(x_i,\theta_s)^{\!\top}\tfrac1B\,\ell'_i(\theta_s)\Big\rangle .

It is the discrete form of arXiv 2603.13872, Theorem 2.2, eq. (4).  It holds at any learning rate
because the query's gradient is averaged over each step (fundamental theorem of calculus) instead
of being taken at its left end.
"""

import copy
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from pkbook.basics.checks import (
    as_matrix,
    batch_loss,
    evaluating,
    is_finite_number,
    require_choice,
    require_deterministic,
    require_inputs,
    require_tensor,
    require_whole,
)
from pkbook.basics.parameters import Tree, trainable
from pkbook.kernels.features import gram, require_fit, selection, try_plan
from pkbook.kernels.passes import calling
from pkbook.meeting import Batch, Pulls, batch_gradient, meet
from pkbook.memory import Memory, own_terms
from pkbook.quadrature import Average, Query, Segment, gauss, left_end, refined
from pkbook.runs.optimizers import StepState
from pkbook.runs.recording import Recording, Replayed
from pkbook.runs.steps import mixes_samples, parts_of, put_buffers, run_part, set_modes

RULES = ("gauss", "riemann")


@dataclass(frozen=True)
class Interpolation:
    """The change of a prediction sample by sample: ``m`` queries, ``C`` outputs, ``N`` samples."""

    initial: Tensor
    r""":math:`f(x,\theta_0)`, ``[m, C]``."""
    final: Tensor
    r""":math:`f(x,\theta_K)`, ``[m, C]``."""
    contributions: Tensor
    r""":math:`c_i(x)`, ``[N, m, C]``, in float64."""
    by_step: list[tuple[Tensor, Tensor]]
    """For each step its batch ``[B]`` and the contributions made there ``[B, m, C]``."""
    other: dict[str, Tensor]
    """Changes that belong to no sample, ``{name: [m, C]}``: *weight decay*, *initial momentum*,
    *running statistics* (BatchNorm), *replay difference* (another machine's rounding)."""
    remainder: Tensor
    """What the quadrature rule left out, ``[m, C]``: the sum of the steps' own residuals where a
    tolerance was asked for, else the gap of the whole sum."""
    pieces: Tensor
    """Sub-intervals used at each step ``[K]`` by the query that needed most: more than one where
    the path had kinks."""
    by_parameter: dict[str, Tensor] = field(default_factory=dict)
    """With ``layers=True``: the contributions by parameter tensor, ``{name: [N, m, C]}``."""
    entries: dict[str, Tensor] = field(default_factory=dict)
    """What moved through single entries of the parameters asked for, all samples together,
    ``{name: [m, C, *shape]}``."""
    tolerance: float | None = None
    """What was asked of ``completeness``."""

    @property
    def change(self) -> Tensor:
        r""":math:`f(x,\theta_K)-f(x,\theta_0)`, ``[m, C]``."""
        return self.final.double() - self.initial.double()

    @property
    def explained(self) -> Tensor:
        """Sum of all contributions and of the terms that belong to no sample, ``[m, C]``."""
        return self.contributions.sum(0) + sum(self.other.values())

    @property
    def completeness(self) -> Tensor:
        r"""The relative gap of the sum, one number per query ``[m]``:

        :math:`\|f_K-f_0-\sum_i c_i-\text{other}\|/\|f_K-f_0\|`, norms over the outputs.
        Zero is perfect.  For a query that did not change at all it is 0 if the gap is 0, else inf.
        """
        gap = (self.change - self.explained).norm(dim=1)
        size = self.change.norm(dim=1)
        return torch.where(gap == 0, 0.0, gap / size)

    @property
    def reached(self) -> Tensor:
        """Whether each query's sum closes to the tolerance asked for, bool ``[m]``."""
        return self.completeness <= (0.0 if self.tolerance is None else self.tolerance)

    def by_group(self, labels: Tensor) -> dict:
        """Contributions summed over the samples of each label ``[N]``: ``{label: [m, C]}``."""
        labels = require_tensor(labels, "labels")
        if labels.shape != self.contributions.shape[:1]:
            raise ValueError(
                f"labels must give one label per sample [{len(self.contributions)}], got shape "
                f"{tuple(labels.shape)}"
            )
        labels = labels.to(self.contributions.device)
        return {v.item(): self.contributions[labels == v].sum(0) for v in labels.unique()}

    @cached_property
    def by_time(self) -> Tensor:
        """Contribution of each step's batch, ``[K, m, C]``."""
        return torch.stack([values.sum(0) for _, values in self.by_step])

    def top(self, k: int, query: int = 0, output: int = 0) -> tuple[Tensor, Tensor]:
        """The ``k`` samples that moved an output of a query most, up or down, largest first.

        Returns their numbers ``[k]`` and their contributions ``[k]``.
        """
        n, m, c = self.contributions.shape
        require_whole(k, "k")
        for name, value, size in (("query", query, m), ("output", output, c)):
            if not -size <= value < size:
                raise ValueError(f"{name} must lie in 0..{size - 1}, got {value}")
        values = self.contributions[:, query, output]
        order = values.abs().argsort(descending=True, stable=True)[: min(k, n)]
        return order, values[order]


def interpolate(
    run: Recording,
    x: Tensor,
    *,
    outputs: int | Tensor | None = None,
    rule: str = "gauss",
    nodes: int = 3,
    tolerance: float | None = 1e-3,
    most_pieces: int = 64,
    layers: bool = False,
    entries: Sequence[str] = (),
    progress: bool = False,
) -> Interpolation:
    r"""Take the predictions at ``x`` apart into the training samples of a recorded run.

    Parameters
    ----------
    run
        the recorded training.
    x
        queries ``[m, ...]``, on the model's device.
    outputs
        None for all :math:`C` outputs, one index, or one index per query ``[m]``.
    rule
        ``"gauss"`` averages the query's gradient over each step with ``nodes``
        Gauss-Legendre nodes, error :math:`O(\eta^{2\,\text{nodes}})` on smooth networks.
        ``"riemann"`` takes it at the left end, the plain sum of Theorem 2.2, error
        :math:`O(\eta)`.
    tolerance
        with ``"gauss"``, a step whose own residual is too large is bisected, until three
        times the root sum of squares of all residuals is at most ``tolerance`` times the change of
        that query, or until it has ``most_pieces`` pieces in that step.  Residuals at kinks have
        random signs, so their sum then stays below ``tolerance`` (three standard deviations); what
        it really is stands in ``remainder`` and ``completeness``; a query that stays above it is
        named in a warning and in ``reached``.  ``None``: never bisect, and measure no residual by
        step, which saves a forward pass of the queries each.
    layers
        also give the contributions by parameter tensor (``by_parameter``).
    entries
        names of parameters of which every single entry's part is wanted (``entries``).
    progress
        show a bar over the steps.

    Returns
    -------
    Interpolation

    Raises
    ------
    TypeError, ValueError
        for queries that are empty, not finite, on another device or of another dtype, a run
        without steps, and unknown rules.
    ReplayError
        if the replay does not reproduce the recorded run bit for bit.

    References
    ----------
    arXiv 2603.13872, Theorem 2.2 and eq. (4); exact form after Bell et al. 2023.
    """
    require_choice(rule, "rule", RULES)
    require_whole(nodes, "nodes")
    require_whole(most_pieces, "most_pieces")
    if tolerance is not None and (not is_finite_number(tolerance) or tolerance <= 0):
        raise ValueError(f"tolerance must be a positive number or None, got {tolerance!r}")
    require_walk(run, x)
    unknown = set(entries) - set(run.names)
    if isinstance(entries, str) or unknown:
        raise ValueError(
            f"entries must be a list of trained parameters ({', '.join(run.names)}), "
            f"got {entries!r}"
        )
    if rule == "riemann":
        tolerance = None
    rules = Rules(rule, nodes, tolerance, most_pieces)
    told = Walk(run, x, selection(outputs, len(x), x.device), rules, layers, tuple(entries))
    told.backwards(progress)
    return _warned(told.result())


def require_walk(run: Recording, x: Tensor) -> None:
    """Refuse a run without steps, and queries that its model cannot take."""
    if len(run) == 0:
        raise ValueError("run has no step yet: call run.step(batch) before interpolate")
    require_inputs(run.model, x, "x")
    with evaluating(run.model):
        require_deterministic(run.model)
        require_fit(run.model, x, trainable(run.model), "x")


def _warned(told: Interpolation) -> Interpolation:
    if told.tolerance is not None and not told.reached.all():
        gap = (told.change - told.explained).norm(dim=1)
        missed = ~told.reached
        if (told.remainder.norm(dim=1) < gap / 2)[missed].any():
            advice = (
                "not in the quadrature but in the gradients of the training steps: an optimizer "
                "with per-entry scales magnifies gradients that are nothing but rounding (a bias "
                "before a normalisation, say); leave such parameters out, or train in float64"
            )
        else:
            advice = "see remainder; allow more pieces or nodes"
        warnings.warn(
            f"the tolerance {told.tolerance:g} was not reached for queries "
            f"{missed.nonzero().flatten().tolist()[:8]}: up to {told.completeness.max():.2g} of "
            f"the change remains ({advice})",
            stacklevel=3,
        )
    return told


@dataclass(frozen=True)
class Rules:
    """How the query's gradient is averaged over a step."""

    rule: str
    nodes: int
    tolerance: float | None
    most_pieces: int

    def average(self, segment: Segment, ends, allowed: Tensor | None) -> Average:
        if self.rule == "riemann":
            return left_end(segment, ends)
        if allowed is None:
            return gauss(segment, self.nodes, ends)
        return refined(segment, self.nodes, ends, allowed, self.most_pieces)


class Walk:
    """Walks a run backwards and collects the contributions."""

    def __init__(self, run: Recording, x: Tensor, chosen, rules: Rules, layers, entries) -> None:
        self.run, self.rules, self.layers = run, rules, layers
        first = run.model_at(0)
        own = {name: p for name, p in trainable(first).items() if name in run.names}
        self.plan = try_plan(first, run.x[:2], own)
        self.query = Query(x, chosen, self.plan)
        self.memory = Memory()
        self.initial = self.query.value(first, trainable(first))
        last = copy.deepcopy(run.model).eval()  # the replay checks that it is the recorded one
        self.final = self.query.value(last, trainable(last))
        self.after: Tensor | None = self.final  # outputs after the step at hand, where known
        zero = torch.zeros_like(self.final, dtype=torch.float64)
        self.remainder = zero.clone()
        self.contributions = zero.new_zeros(len(run.x), *zero.shape)
        self.by_parameter = {n: self.contributions.clone() for n in run.names} if layers else {}
        self.entries = {n: zero.new_zeros(*zero.shape, *own[n].shape) for n in entries}
        self.other: dict[str, Tensor] = {}
        self.by_step: list = [None] * len(run)
        self.pieces = torch.ones(len(run), dtype=torch.int64)
        self.budget = None
        if rules.tolerance is not None:
            size = (self.final.double() - self.initial.double()).norm(dim=1, keepdim=True)
            self.budget = (rules.tolerance * size / 3).square().expand_as(zero).clone()

    def _add_other(self, name: str, value: Tensor) -> None:
        self.other[name] = self.other.get(name, 0) + value

    def backwards(self, progress: bool = False) -> None:
        """Take all steps, the last one first."""
        with tqdm(total=len(self.run), disable=not progress, desc="steps taken apart") as bar:
            for part in self.run.segments_backwards():
                self.arrive(part)
                for offset in reversed(range(len(part.states) - 1)):
                    self.step(part.start + offset, *part.states[offset : offset + 2], part.model)
                    bar.update()

    def arrive(self, part: Replayed) -> None:
        """At the end of a replayed part: what its end misses of the recorded one."""
        part.model.eval()
        if part.gap == 0:
            return
        end = part.states[-1]
        put_buffers(part.model, end.buffers)
        replayed = self.query.value(part.model, end.parameters)
        recorded = {k.partition("/")[2]: t for k, t in part.end.items()}
        put_buffers(part.model, recorded)
        here = {n: recorded[n].to(p.device) for n, p in end.parameters.items()}
        was = self.query.value(part.model, here)
        self._add_other("replay difference", was.double() - replayed.double())
        self.after = replayed

    def step(self, k: int, before: StepState, after: StepState, model: nn.Module) -> None:
        """Step k: average the query's gradient, pull it through the optimizer, meet the batch."""
        average = self._average(k, before, after, model)
        pulls: Pulls = {}
        for name, c in before.coefficients.items():
            nodes = average.nodes[name]
            pull = self.memory.pull(name, c, nodes)
            own = own_terms(c, pull, nodes, before.parameters[name])
            if own is not None:
                self._add_other("weight decay", own.T)
            if pull is not None:
                pulls[name] = (c, pull)
        parts = self._batches(k, before, model)
        values = self._met([meet(batch, pulls, self.layers) for batch in parts] if pulls else [])
        numbers = torch.tensor(self.run.store.steps[k].batch, device=self.run.x.device)
        total = sum(values.values()) if values else self._nothing(len(numbers))
        self.contributions.index_add_(0, numbers, total)
        for name in self.by_parameter.keys() & values.keys():
            self.by_parameter[name].index_add_(0, numbers, values[name])
        self.by_step[k] = (numbers, total)
        self._add_entries(parts, pulls)

    def _nothing(self, n: int) -> Tensor:
        return self.remainder.new_zeros(n, *self.remainder.shape)

    def _average(
        self, k: int, before: StepState, after_step: StepState, model: nn.Module
    ) -> Average:
        model.eval()
        put_buffers(model, before.buffers)
        segment = Segment(self.query, model, before.parameters, after_step.parameters)
        moved = any(not torch.equal(b, after_step.buffers[n]) for n, b in before.buffers.items())
        ends = allowed = None
        after, self.after = self.after, None
        if moved or self.budget is not None:
            end = segment.value(1.0) if moved or after is None else after
            ends = segment.value(0.0), end
            self.after = ends[0]
        if moved:
            if after is None:
                put_buffers(model, after_step.buffers)
                after = segment.value(1.0)
                put_buffers(model, before.buffers)
            self._add_other("running statistics", after.double() - end.double())
        if self.budget is not None:
            allowed = (self.budget / (k + 1)).sqrt()
        average = self.rules.average(segment, ends, allowed)
        self.pieces[k] = average.pieces
        if self.budget is not None:  # what a step did not use is left for the steps before it
            self.remainder += average.residual
            self.budget = (self.budget - average.residual.square()).clamp_min(0.0)
        return average

    def _batches(self, k: int, before: StepState, model: nn.Module) -> list[Batch]:
        parts = parts_of(self.run.store.steps[k])
        return [self._batch(k, part, before, model) for part in parts]

    def _batch(self, k: int, part: tuple[list[int], int], before: StepState, model) -> Batch:
        """One forward pass of step k, in the modes and with the random numbers it had then."""
        run, record = self.run, self.run.store.steps[k]
        set_modes(model, record)
        share = 1 / max(1, len(record.parts))
        n, seen = len(part[0]), {}

        def forward(parameters: Tree, watch, then):
            def then_with_shape(f: Tensor):
                seen["shape"] = f.shape
                return then(as_matrix(f, n))

            def call(xb: Tensor):
                return calling(model, xb)(parameters, watch, then_with_shape)

            return run_part(run.problem, part, call)[0]

        def slope(f: Tensor) -> Tensor:
            targets = run.y[torch.tensor(part[0], device=run.y.device)]
            with torch.enable_grad():
                f = f.detach().reshape(seen["shape"]).requires_grad_()
                loss = batch_loss(run.loss, f, targets) * share
            return torch.autograd.grad(loss, f)[0].reshape(n, -1)

        # Batch statistics mix the samples: a sample's share is then that of its own loss.
        plan = None if mixes_samples(model) else self.plan
        return Batch(forward, slope, before.parameters, plan)

    @staticmethod
    def _met(found: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Put the parts of a step together, ``[B, m, C]``."""
        names = found[0] if found else ()
        return {n: torch.cat([f[n] for f in found], 2).permute(2, 1, 0) for n in names}

    def _add_entries(self, parts: list[Batch], pulls: Pulls) -> None:
        names = [n for n in self.entries if n in pulls]
        if not names:
            return
        for batch in parts:
            for name, g in batch_gradient(batch, names).items():
                c, pull = pulls[name]
                rows = pull.formed().double() * (g * c.clip).flatten() * (-c.sign * pull.scale)
                self.entries[name] += rows.transpose(0, 1).reshape(self.entries[name].shape)

    def result(self) -> Interpolation:
        initial = self.memory.initial(self.run.initial_memory())
        if initial is not None:
            self._add_other("initial momentum", initial.T)
        if self.budget is None:  # no step told its own
            change = self.final.double() - self.initial.double()
            explained = self.contributions.sum(0) + sum(self.other.values())
            self.remainder = change - explained
        return Interpolation(
            self.initial,
            self.final,
            self.contributions,
            self.by_step,
            self.other,
            self.remainder,
            self.pieces,
            self.by_parameter,
            self.entries,
            self.rules.tolerance,
        )


def path_kernel(
    run: Recording, x1: Tensor, x2: Tensor | None = None, *, reduce: str = "trace"
) -> Tensor:
    r"""The path kernel, eq. (3) of arXiv 2603.13872, as a sum over the steps of a run:

    .. math:: \int_0^T K_{x,x'}(t)\,dt\;\approx\;\sum_k \eta_k\,K_{x,x'}(\theta_k) ,

    with the learning rate of each parameter's group as weight.  Shapes and errors as in
    :func:`pkbook.gradient_kernel`.
    """
    if len(run) == 0:
        raise ValueError("run has no step yet: call run.step(batch) before path_kernel")
    total = None
    for part in run.segments_backwards():
        model = part.model.eval()
        for state in part.states[:-1]:
            own = trainable(model)
            rates = {n: state.rates.get(n, 0.0) for n in own}
            put_buffers(model, state.buffers)
            here = own | state.parameters
            k = gram(model, x1, x2, reduce=reduce, weight=rates, parameters1=here)
            total = k if total is None else total + k
    return total
