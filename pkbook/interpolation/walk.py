"""A recorded run walked backwards: the query's averaged gradient meets every batch."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from pkbook.basics.checks import (
    evaluating,
    require_deterministic,
)
from pkbook.basics.parameters import Tree, sum_of, trainable
from pkbook.interpolation.batches import Step, plan_of_batches, shared_plan
from pkbook.interpolation.optimizer_memory import Memory, Pull, own_terms
from pkbook.interpolation.options import Options
from pkbook.interpolation.quadrature import Average, Query, Segment
from pkbook.interpolation.result import Interpolation
from pkbook.interpolation.shares import Batch, Pulls, batch_gradient, meet
from pkbook.interpolation.statistics import Statistics, Updates, watching
from pkbook.kernels.asked import Asked, Inputs
from pkbook.kernels.gradients import require_apart
from pkbook.kernels.inputs import evaluate, require_fit, require_queries
from pkbook.kernels.plan import Plan, plan
from pkbook.runs.copies import copied
from pkbook.runs.optimizers import StepState
from pkbook.runs.recording import Recording, Replayed
from pkbook.runs.sources import as_tensor
from pkbook.runs.steps import parts_of, put_buffers


def require_walk(run: Recording, x: Inputs) -> None:
    """Refuse a run without steps, and queries that its model cannot take."""
    if len(run) == 0:
        raise ValueError("run has no step yet: call run.step(batch) before interpolate")
    require_queries(run.model, x, "x")
    with evaluating(run.model):
        require_deterministic(run.model)
        require_fit(run.model, x, trainable(run.model), "x")


def _moved(before: StepState, after: StepState) -> bool:
    """Whether a step changed a buffer."""
    return any(not torch.equal(b, after.buffers[n]) for n, b in before.buffers.items())


NOISE = 3.0  # residuals below so many times the rounding known of earlier steps are not halved


class Walk:
    """Walks a run backwards and collects the contributions."""

    def __init__(self, run: Recording, x: Inputs, chosen, options: Options) -> None:
        self.run, self.rules, self.options = run, options.rules, options
        self.statistics = Statistics() if options.statistics else None
        first = run.model_at(0)
        self.first_buffers = {name: b.clone() for name, b in first.named_buffers()}
        own = {name: p for name, p in trainable(first).items() if name in run.names}
        self.batch_plan = plan_of_batches(run.problem, first, own)
        self.query = Query(x, chosen, self._plan_of_queries(first, x, own))
        self.memory = Memory()
        self.initial = self.query.value(first, trainable(first))
        (last,) = copied(run.model)  # the replay checks that it is the recorded one
        last.eval()
        self.final = self.query.value(last, trainable(last))
        every = self.final if chosen is None else evaluate(last, x, trainable(last), None)
        if self.query.plan is not None:
            require_apart(last, x, trainable(last), every, self.query.plan.term)
        self.after: Tensor | None = self.final  # outputs after the step at hand, where known
        zero = torch.zeros_like(self.final, dtype=torch.float64)
        self.remainder = zero.clone()
        self.contributions = zero.new_zeros(run.samples, *zero.shape)
        self.by_parameter = (
            {n: self.contributions.clone() for n in run.names} if options.by_parameter else {}
        )
        self.tokens = options.by_token
        self.by_token = zero.new_zeros(run.samples, 0, *zero.shape)  # as long as the longest
        wanted = options.entries_among(run.names)
        self.entries = {n: zero.new_zeros(*zero.shape, *own[n].shape) for n in wanted}
        self.masks = options.masks({name: own[name] for name in run.names})
        self.by_part = {label: self.contributions.clone() for label in self.masks}
        self.other: dict[str, Tensor] = {}
        self.by_step: list = [None] * len(run)
        self.pieces = torch.ones(len(run), dtype=torch.int64)
        self.noise, self.scaled = zero.clone(), False
        self.budget = None
        if self.rules.tolerance is not None:
            size = (self.final.double() - self.initial.double()).norm(dim=1, keepdim=True)
            self.budget = (self.rules.tolerance * size / 3).square().expand_as(zero).clone()

    def _plan_of_queries(self, first: nn.Module, x: Inputs, own: Tree) -> Plan | None:
        """How the model treats the queries; None for a single one that has no rows."""
        if shared_plan(self.run.problem, x):
            return self.batch_plan
        return None if isinstance(x, Asked) and x.whole else plan(first, x, own)

    def _add_other(self, name: str, value: Tensor) -> None:
        self.other[name] = self.other.get(name, 0) + value

    def backwards(self, progress: bool = False, step: Callable[..., None] | None = None) -> None:
        """Take all steps, the last one first; ``step`` in place of the walk's own."""
        step = step or self.step
        with tqdm(total=len(self.run), disable=not progress, desc="steps taken apart") as bar:
            for part in self.run.segments_backwards():
                self.arrive(part)
                for offset in reversed(range(len(part.states) - 1)):
                    before, after = part.states[offset : offset + 2]
                    step(part.start + offset, before, after, part.model)
                    bar.update()
                del part  # not held while the next part is replayed

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
        average = self.average(k, before, after, model)
        pulls: Pulls = {}
        for name, c in before.coefficients.items():
            nodes = average.nodes[name]
            pull = self.memory.pull(name, c, nodes)
            self.scaled |= isinstance(c.inner, Tensor) or isinstance(c.outer, Tensor)
            own = own_terms(c, pull, nodes, before.parameters[name])
            if own is not None:
                self._add_other("weight decay", own.T)
            if pull is not None:
                pulls[name] = (c, pull)
        parts = self.batches(k, before, model)
        met = (
            [meet(batch, pulls, self.options.by_parameter, self.tokens) for batch in parts]
            if pulls
            else []
        )
        values = self._met(self._tokens_added(k, met) if self.tokens else met)
        numbers = as_tensor(self.run.store.steps[k].batch, self.run.device)
        total = sum_of(values.values()) if values else self._nothing(len(numbers))
        shares = self._statistics(k, before, after, model, parts)
        if shares is not None:
            total = total + shares
            self._add_other("running statistics", -shares.sum(0))
        self.contributions.index_add_(0, numbers, total)
        for name in self.by_parameter.keys() & values.keys():
            self.by_parameter[name].index_add_(0, numbers, values[name])
        self.by_step[k] = (numbers, total)
        self._add_parts(numbers, parts, pulls)
        self._add_entries(parts, pulls)

    def _statistics(
        self, k: int, before: StepState, after: StepState, model: nn.Module, batches: list[Batch]
    ) -> Tensor | None:
        """The samples' shares of what moved the running statistics, ``[B, m, C]``."""
        if self.statistics is None or not _moved(before, after):
            return None
        parts: list[Updates] = []
        for part, batch in zip(parts_of(self.run.store.steps[k]), batches, strict=True):
            seen = watching(model, before.buffers, len(part.numbers), parts)
            with seen as found, torch.no_grad(), batch.forward(before.parameters):
                parts.append(found)
        model.eval()
        buffers = before.buffers, after.buffers
        return self.statistics.shares(self.query, model, after.parameters, buffers, parts)

    def _nothing(self, n: int) -> Tensor:
        return self.remainder.new_zeros(n, *self.remainder.shape)

    def average(
        self, k: int, before: StepState, after_step: StepState, model: nn.Module
    ) -> Average:
        """The query's gradient averaged over step k, and what its buffers moved."""
        model.eval()
        put_buffers(model, before.buffers)
        segment = Segment(self.query, model, before.parameters, after_step.parameters)
        moved = _moved(before, after_step)
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
            allowed = torch.maximum((self.budget / (k + 1)).sqrt(), NOISE * self.noise)
        average = self.rules.average(segment, ends, allowed)
        if average.noise is not None:
            self.noise = torch.maximum(self.noise, average.noise)
        self.pieces[k] = average.pieces
        missed = average.residual
        if self.budget is not None and missed is not None:
            # What a step did not use is left for the steps before it.
            self.remainder += missed
            self.budget = (self.budget - missed.square()).clamp_min(0.0)
        return average

    def batches(self, k: int, before: StepState, model: nn.Module) -> list[Batch]:
        """The forward passes of step k."""
        record = self.run.store.steps[k]
        return Step(self.run.problem, record, before, model, self.batch_plan).batches()

    def _tokens_added(self, k: int, met: list[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
        """Note the tokens' shares ``[C, m, T, n]`` of each part; returns their sums over tokens."""
        for part, found in zip(parts_of(self.run.store.steps[k]), met, strict=False):
            shares = sum_of(found.values()).permute(3, 2, 1, 0)  # [n, T, m, C]
            missing = shares.shape[1] - self.by_token.shape[1]
            if missing > 0:  # a batch of longer sequences
                wider = self.by_token.new_zeros(self.run.samples, missing, *shares.shape[2:])
                self.by_token = torch.cat([self.by_token, wider], 1)
            numbers = as_tensor(part.numbers, self.run.device)
            self.by_token[:, : shares.shape[1]].index_add_(0, numbers, shares)
        return [{name: t.sum(2) for name, t in found.items()} for found in met]

    @staticmethod
    def _met(found: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Put the parts of a step together, ``[B, m, C]``."""
        names = found[0] if found else ()
        return {n: torch.cat([f[n] for f in found], 2).permute(2, 1, 0) for n in names}

    def _add_parts(self, numbers: Tensor, batches: list[Batch], pulls: Pulls) -> None:
        """The contributions through parts of parameters: a query that sees nothing else."""
        for label, masks in self.masks.items():
            masked: Pulls = {}
            for name in masks.keys() & pulls.keys():
                c, pull = pulls[name]
                masked[name] = c, Pull(pull.scale, pull.formed() * masks[name].flatten())
            if masked:
                values = self._met([meet(batch, masked) for batch in batches])
                self.by_part[label].index_add_(0, numbers, values[""])

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
        if self.statistics is not None:
            held = self.statistics.initial(self.first_buffers)
            if held is not None:
                self._add_other("initial statistics", held)
                self._add_other("running statistics", -held)
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
            self._doubt(),
            self.by_token if self.tokens else None,
            by_part=self.by_part,
        )

    def _doubt(self) -> str:
        """What most likely keeps a sum from closing, if one does not."""
        if bool((self.noise > 0).any()):
            return "precision"
        return "scales" if self.scaled else "rounding"
