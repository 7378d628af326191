"""A recorded run walked backwards: the query's averaged gradient meets every batch."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from pkbook.basics.checks import (
    as_matrix,
    batch_loss,
    evaluating,
    require_deterministic,
    require_inputs,
)
from pkbook.basics.parameters import Tree, sum_of, trainable
from pkbook.basics.randomness import seeded
from pkbook.basics.replaced import replaced
from pkbook.interpolation.optimizer_memory import Memory, own_terms
from pkbook.interpolation.quadrature import Average, Query, Segment, gauss, left_end, refined
from pkbook.interpolation.result import Interpolation
from pkbook.interpolation.shares import Batch, Pulls, batch_gradient, meet
from pkbook.interpolation.statistics import Statistics, Updates, watching
from pkbook.kernels.gradients import require_apart
from pkbook.kernels.inputs import evaluate, require_fit
from pkbook.kernels.passes import calling
from pkbook.kernels.plan import plan
from pkbook.kernels.watch import Watch
from pkbook.runs.copies import copied
from pkbook.runs.optimizers import StepState
from pkbook.runs.recording import Recording, Replayed
from pkbook.runs.steps import (
    as_tensor,
    buffers_of,
    mixes_samples,
    parts_of,
    put_buffers,
    set_modes,
)


def require_walk(run: Recording, x: Tensor) -> None:
    """Refuse a run without steps, and queries that its model cannot take."""
    if len(run) == 0:
        raise ValueError("run has no step yet: call run.step(batch) before interpolate")
    require_inputs(run.model, x, "x")
    with evaluating(run.model):
        require_deterministic(run.model)
        require_fit(run.model, x, trainable(run.model), "x")


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


def _moved(before: StepState, after: StepState) -> bool:
    """Whether a step changed a buffer."""
    return any(not torch.equal(b, after.buffers[n]) for n, b in before.buffers.items())


NOISE = 3.0  # residuals below so many times the rounding known of earlier steps are not halved


class Walk:
    """Walks a run backwards and collects the contributions."""

    def __init__(
        self, run: Recording, x: Tensor, chosen, rules: Rules, layers, entries, statistics=False
    ) -> None:
        self.run, self.rules, self.layers = run, rules, layers
        self.statistics = Statistics() if statistics else None
        first = run.model_at(0)
        self.first_buffers = {name: b.clone() for name, b in first.named_buffers()}
        own = {name: p for name, p in trainable(first).items() if name in run.names}
        self.plan = plan(first, run.x[:2], own)
        self.query = Query(x, chosen, self.plan)
        self.memory = Memory()
        self.initial = self.query.value(first, trainable(first))
        (last,) = copied(run.model)  # the replay checks that it is the recorded one
        last.eval()
        self.final = self.query.value(last, trainable(last))
        every = self.final if chosen is None else evaluate(last, x, trainable(last), None)
        require_apart(last, x, trainable(last), every, self.plan.term)
        self.after: Tensor | None = self.final  # outputs after the step at hand, where known
        zero = torch.zeros_like(self.final, dtype=torch.float64)
        self.remainder = zero.clone()
        self.contributions = zero.new_zeros(len(run.x), *zero.shape)
        self.by_parameter = {n: self.contributions.clone() for n in run.names} if layers else {}
        self.entries = {n: zero.new_zeros(*zero.shape, *own[n].shape) for n in entries}
        self.other: dict[str, Tensor] = {}
        self.by_step: list = [None] * len(run)
        self.pieces = torch.ones(len(run), dtype=torch.int64)
        self.noise, self.scaled = zero.clone(), False
        self.budget = None
        if rules.tolerance is not None:
            size = (self.final.double() - self.initial.double()).norm(dim=1, keepdim=True)
            self.budget = (rules.tolerance * size / 3).square().expand_as(zero).clone()

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
        values = self._met([meet(batch, pulls, self.layers) for batch in parts] if pulls else [])
        numbers = as_tensor(self.run.store.steps[k].batch, self.run.x.device)
        total = sum_of(values.values()) if values else self._nothing(len(numbers))
        shares = self._statistics(k, before, after, model, parts)
        if shares is not None:
            total = total + shares
            self._add_other("running statistics", -shares.sum(0))
        self.contributions.index_add_(0, numbers, total)
        for name in self.by_parameter.keys() & values.keys():
            self.by_parameter[name].index_add_(0, numbers, values[name])
        self.by_step[k] = (numbers, total)
        self._add_entries(parts, pulls)

    def _statistics(
        self, k: int, before: StepState, after: StepState, model: nn.Module, batches: list[Batch]
    ) -> Tensor | None:
        """The samples' shares of what moved the running statistics, ``[B, m, C]``."""
        if self.statistics is None or not _moved(before, after):
            return None
        parts: list[Updates] = []
        for (numbers, _), batch in zip(parts_of(self.run.store.steps[k]), batches, strict=True):
            seen = watching(model, before.buffers, len(numbers), parts)
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
        parts = parts_of(self.run.store.steps[k])
        buffers = self._buffers_met(k, before, model, parts)
        return [
            self._batch(k, part, before, model, met)
            for part, met in zip(parts, buffers, strict=True)
        ]

    def _buffers_met(self, k: int, before: StepState, model: nn.Module, parts) -> list[Tree]:
        """The buffers that each part of a step met: the parts before it may have moved them."""
        found = [before.buffers]
        if len(parts) == 1 or not before.buffers:
            return found * len(parts)
        set_modes(model, self.run.store.steps[k])
        put_buffers(model, before.buffers)
        for numbers, seed in parts[:-1]:
            xb = self.run.x[as_tensor(numbers, self.run.x.device)]
            with torch.no_grad(), seeded(seed, xb.device), replaced(model, before.parameters):
                model(xb)
            found.append(buffers_of(model))
        return found

    def _batch(
        self, k: int, part: tuple[Sequence[int], int], before: StepState, model, buffers: Tree
    ) -> Batch:
        """One forward pass of step k, in the modes and with the random numbers it had then."""
        run, record = self.run, self.run.store.steps[k]
        set_modes(model, record)
        share = 1 / max(1, len(record.parts))
        numbers, seed = part
        n, seen = len(numbers), {}

        @contextmanager
        def forward(parameters: Tree, watch: Watch | None = None) -> Iterator[Tensor]:
            xb = run.x[as_tensor(numbers, run.x.device)]
            put_buffers(model, buffers)
            with seeded(seed, xb.device), calling(model, xb)(parameters, watch) as f:
                seen["shape"] = f.shape
                yield as_matrix(f, n)

        def slope(f: Tensor) -> Tensor:
            targets = run.y[as_tensor(numbers, run.y.device)]
            with torch.enable_grad():
                f = f.detach().reshape(seen["shape"]).requires_grad_()
                loss = batch_loss(run.loss, f, targets) * share
            return torch.autograd.grad(loss, f)[0].reshape(n, -1)

        # Batch statistics mix the samples: a sample's share is then that of its own loss.
        made = None if mixes_samples(model) else self.plan
        return Batch(forward, slope, before.parameters, made)

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
        )

    def _doubt(self) -> str:
        """What most likely keeps a sum from closing, if one does not."""
        if bool((self.noise > 0).any()):
            return "precision"
        return "scales" if self.scaled else "rounding"
