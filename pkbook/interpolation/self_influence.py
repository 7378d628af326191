r"""What training samples did to their own predictions."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pkbook.basics.checks import require_whole
from pkbook.basics.inference import outside_inference
from pkbook.interpolation.interpolate import take_apart
from pkbook.interpolation.optimizer_memory import Memory
from pkbook.interpolation.options import DEFAULT, Options, Rule
from pkbook.interpolation.quadrature import Query, Segment
from pkbook.interpolation.shares import Pulls, meet
from pkbook.interpolation.unreached import Unreached
from pkbook.interpolation.walk import Walk, require_walk
from pkbook.kernels.asked import Asked, Inputs, asked
from pkbook.kernels.inputs import selection
from pkbook.runs.optimizers import StepState, rule_of
from pkbook.runs.recording import Recording
from pkbook.runs.sources import as_tensor
from pkbook.runs.steps import put_buffers


@outside_inference()
def self_influence(
    run: Recording,
    numbers: Sequence[int] | Tensor | None = None,
    *,
    of: Any = None,
    outputs: int | Tensor | None = None,
    chunk: int = 64,
    rule: Rule = DEFAULT.rule,
    nodes: int = DEFAULT.nodes,
    tolerance: float | None = DEFAULT.tolerance,
    most_pieces: int = DEFAULT.most_pieces,
    progress: bool = False,
) -> Tensor:
    r"""What training samples did to their own predictions, :math:`c_i(x_i)`.

    Large values belong to samples that the network learned from nobody else: rare or mislabelled
    ones.

    Parameters
    ----------
    run
        the recorded training.
    numbers
        training samples ``[n]``; default all.
    of
        what is asked of each sample, a function ``f(model, batch)`` as for
        :func:`pkbook.interpolate`; of data that are a pair ``(x, y)`` it is given ``x``.  Default
        the outputs for ``x``; for a loss of ``(model, batch)``, the sample's own loss.
    outputs
        None for all outputs, one index, or one per sample ``[n]`` (its own class, say).
    chunk
        samples treated in one pass over the run, where an optimizer has a memory.  Without one
        (plain gradient descent, RMSprop, Adagrad) a single pass serves all samples: a sample is
        asked about in the steps that it is part of, and nowhere else.
    rule, nodes, tolerance, most_pieces
        as for :func:`pkbook.interpolate`; a warning names the samples that miss the tolerance.
    progress
        show a bar over the steps of each pass.

    Returns
    -------
    Tensor ``[n, C]`` in float64.

    Raises
    ------
    TypeError, ValueError
        for numbers out of range, and as :func:`pkbook.interpolate`.

    References
    ----------
    Pruthi et al. 2020 name the idea (TracIn); here it is exact.
    """
    require_whole(chunk, "chunk")
    numbers = torch.arange(run.samples) if numbers is None else run.checked_batch(numbers)
    numbers = numbers.to(run.device)
    chosen = selection(outputs, len(numbers), run.device)
    options = Options(rule, nodes, tolerance, most_pieces)
    if len(numbers) and forgets(run):
        return OnePass(run, numbers, chosen, of, options).of_all(progress)
    own, unreached = [], Unreached("samples")
    for start in range(0, len(numbers), chunk):
        here = slice(start, start + chunk)
        some = numbers[here]
        its_output = None if chosen is None else chosen[here]
        part = take_apart(run, own_queries(run, some, of), its_output, options, progress)
        unreached.add(part, some.tolist())
        own.append(part.contributions[some, torch.arange(len(some), device=some.device)])
    unreached.warn(stacklevel=2)
    return torch.cat(own)


def forgets(run: Recording) -> bool:
    """Whether no step uses the gradient of an earlier one, other than by its scales."""
    memory = rule_of(run.optimizer).memory
    groups = [group for record in run.store.steps for group in record.settings]
    kind = type(run.optimizer)
    if kind in (torch.optim.SGD, torch.optim.RMSprop):
        return not any(group.get("momentum") for group in groups)
    return kind is torch.optim.Adagrad or memory is None


class OnePass:
    r"""All samples in one pass: :math:`c_i(x_i)` is a sum over the steps that sample i is part of.

    Without a memory, :math:`u_s` is made of the query's gradient in step s alone, so the samples of
    a step's batch are the only queries that its batch must meet.
    """

    def __init__(self, run: Recording, numbers: Tensor, chosen, of: Any, options: Options) -> None:
        self.run, self.of, self.rules = run, of, options.rules
        first = own_queries(run, numbers[:1], of)
        require_walk(run, first)
        self.walk = Walk(run, first, None if chosen is None else chosen[:1], options)
        self.numbers = numbers
        self.place = torch.full((run.samples,), -1, device=run.device)
        self.place[numbers] = torch.arange(len(numbers), device=run.device)
        self.chosen = chosen
        width = self.walk.final.shape[1]
        self.own = torch.zeros(len(numbers), width, dtype=torch.float64, device=run.device)

    def of_all(self, progress: bool) -> Tensor:
        """``[n, C]``."""
        self.walk.backwards(progress, self.step)
        return self.own[self.place[self.numbers]]

    def step(self, k: int, before: StepState, after: StepState, model: nn.Module) -> None:
        """The samples of one step that are asked about, as queries of that step alone."""
        samples = as_tensor(self.run.store.steps[k].batch, self.run.device)
        some = samples.unique()
        some = some[self.place[some] >= 0]
        if len(some) == 0:
            return
        at = self.place[some]
        chosen = None if self.chosen is None else self.chosen[at]
        query = Query(own_queries(self.run, some, self.of), chosen, self.walk.query.plan)
        model.eval()
        put_buffers(model, before.buffers)
        segment = Segment(query, model, before.parameters, after.parameters)
        ends = allowed = None
        if self.rules.tolerance is not None:
            ends = segment.value(0.0), segment.value(1.0)
            moved = (ends[1] - ends[0]).double().norm(dim=1, keepdim=True)
            allowed = (self.rules.tolerance / 3 * moved).expand(ends[0].shape).clone()
        average = self.rules.average(segment, ends, allowed)
        pulls: Pulls = {}
        for name, c in before.coefficients.items():
            pull = Memory().pull(name, c, average.nodes[name])
            if pull is not None:
                pulls[name] = c, pull
        if not pulls:
            return
        parts = [meet(batch, pulls)[""] for batch in self.walk.batches(k, before, model)]
        met = torch.cat(parts, 2)  # [C, m, B]
        same = some[:, None] == samples[None]  # a sample may be in a batch more than once
        self.own.index_add_(0, at, torch.einsum("cmb,mb->mc", met, same.to(met)))


def own_queries(run: Recording, numbers: Tensor, of: Any = None) -> Inputs:
    """Training samples as queries: their inputs, or batches of which their own losses are asked."""
    batch = run.batch(numbers)
    if not run.problem.of_batch:
        return asked(batch[0], of)
    return Asked(batch, of or run.problem.loss)
