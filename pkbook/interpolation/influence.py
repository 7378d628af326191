r"""What would have happened: the derivative of a prediction by each sample's weight in training.

Give sample i the weight :math:`w_i` in every batch that it is in.  The derivative of the *final*
prediction at :math:`w=1` is a sum over the same steps as the interpolation formula, with another
factor:

.. math::
   \frac{\partial f(x,\theta_K)}{\partial w_i}
   =\sum_{s:\,i\in\mathcal B_s}\Big\langle u_s(x),\,\partial_{w_i}g_s\Big\rangle ,

where :math:`u_s(x)` is the prediction's gradient at the *end*, carried back through all steps that
followed (:mod:`pkbook.interpolation.adjoint`).  A contribution counts the push when it was made;
this counts what was left of it.  For gradient descent
:math:`u_s=-\eta_s\lambda_{s+1}`, :math:`\lambda_s=(I-\eta_s\nabla^2L_{\mathcal B_s})\lambda_{s+1}`.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from pkbook.basics.inference import outside_inference
from pkbook.basics.parameters import Tree, trainable
from pkbook.interpolation.adjoint import (
    Adjoint,
    Curved,
    Update,
    clipped_with,
    curved,
    met,
    summed,
)
from pkbook.interpolation.batches import Step, plan_of_batches
from pkbook.interpolation.effect import Influence
from pkbook.interpolation.optimizer_memory import Pull
from pkbook.interpolation.shares import Batch, Pulls, meet
from pkbook.interpolation.statistics import Updates, WrittenOut
from pkbook.interpolation.walk import require_walk
from pkbook.kernels.asked import Inputs, asked
from pkbook.kernels.features import features
from pkbook.kernels.inputs import evaluate, selection
from pkbook.kernels.plan import Plan
from pkbook.runs.copies import copied
from pkbook.runs.optimizers import Coefficients, StepState
from pkbook.runs.recording import Recording
from pkbook.runs.sources import as_tensor
from pkbook.runs.steps import parts_of


@outside_inference()
def influence(
    run: Recording,
    x: Any,
    *,
    of: Any = None,
    outputs: int | Tensor | None = None,
    by_parameter: bool = False,
    progress: bool = False,
) -> Influence:
    r"""The derivative of the final prediction by each training sample's weight.

    ``influence.effects[i]`` is :math:`\partial f(x,\theta_K)/\partial w_i` at :math:`w=1`, where
    sample i counts :math:`w_i` times in every batch that it is in, all other things equal: the
    same batches, the same divisor :math:`1/B`, the same random numbers.  To first order, leaving
    the sample out changes the prediction by ``-effects[i]``.

    Parameters
    ----------
    run
        the recorded training.
    x
        the queries ``[m, ...]``, as for :func:`pkbook.interpolate`.
    of, outputs
        what is asked of them, as for :func:`pkbook.interpolate`.
    by_parameter
        also give the parts that go through each parameter tensor's gradient.
    progress
        show a bar over the steps.

    Returns
    -------
    Influence

    Raises
    ------
    TypeError, ValueError
        as :func:`pkbook.interpolate`; for an optimizer whose state is not known to follow from the
        gradients, and where a step moved buffers other than BatchNorm's running statistics.
    ReplayError
        if the replay does not reproduce the recorded run.

    Notes
    -----
    Everything that a step does is differentiated: parameters, the optimizer's memories, clipping,
    weight decay, accumulation, batch statistics and running ones.  Schedules, dropout masks and the
    order of samples are what they were.  The cost is that of about five trainings for the first
    answer and two for each further one; memory is that of a replay, and three times the parameters
    for each answer.

    A derivative is a statement about small changes of weights.  ReLU and max pooling have kinks,
    across which it knows nothing; large learning rates make it grow without bound.  How far it
    holds is measured by :meth:`Trajectory.without` and :meth:`Trajectory.reweighted`.

    Examples
    --------
    >>> import torch, pkbook as pk
    >>> x = torch.tensor([[-1.0], [0.0], [1.0]])
    >>> line = torch.nn.Linear(1, 1)
    >>> sgd = torch.optim.SGD(line.parameters(), lr=0.5)
    >>> run = pk.Trajectory(line, pk.losses.squared, sgd, (x, 2 * x))
    >>> for batch in pk.batches(3, size=2, steps=40, seed=0):
    ...     _ = run.step(batch)
    >>> told = run.influence(torch.tensor([[3.0]]))
    >>> told.effects.shape
    torch.Size([3, 1, 1])

    References
    ----------
    Hara, Nitanda, Maehara 2019 (SGD); Ilyas, Engstrom 2025 (MAGIC).
    """
    x = asked(x, of)
    require_walk(run, x)
    reverse = Reverse(run, x, selection(outputs, len(x), x.device), by_parameter)
    reverse.walk(progress)
    return reverse.result()


class Reverse:
    """Walks a run backwards with the adjoint of its state."""

    def __init__(self, run: Recording, x: Inputs, chosen: Tensor | None, by_parameter: bool):
        self.run = run
        (last,) = copied(run.model)
        last.eval()
        parameters, buffers = trainable(last), statistics_of(last)
        self.final = evaluate(last, x, parameters, chosen)
        with WrittenOut():
            wanted = [*run.names, *buffers]
            rows = features(last, x, parameters | buffers, chosen, wanted)  # [m, C, *shape]
        flat = {name: g.flatten(0, 1) for name, g in rows.items()}
        self.adjoint = Adjoint(
            {name: flat[name] for name in run.names},
            statistics={name: flat[name] for name in buffers},
        )
        self.group = groups_of(run)
        self.plan = self._plan_of_batches() if by_parameter else None
        zero = torch.zeros_like(self.final, dtype=torch.float64)
        self.effects = zero.new_zeros(run.samples, *zero.shape)
        self.by_parameter = {n: self.effects.clone() for n in run.names if by_parameter}
        self.by_step: list = [None] * len(run)
        moving = {name for record in run.store.steps for name in record.training}
        self.moving = {name for name in buffers if name.rpartition(".")[0] in moving}

    def _plan_of_batches(self) -> Plan | None:
        first = self.run.model_at(0)
        own = {name: p for name, p in trainable(first).items() if name in self.run.names}
        return plan_of_batches(self.run.problem, first, own)

    def walk(self, progress: bool) -> None:
        """All steps, the last one first."""
        with tqdm(total=len(self.run), disable=not progress, desc="steps gone back") as bar:
            for part in self.run.segments_backwards(keep=True):
                for offset in reversed(range(len(part.states) - 1)):
                    before, after = part.states[offset : offset + 2]
                    self.step(part.start + offset, before, after, part.model)
                    bar.update()
                del part  # not held while the next part is replayed

    def step(self, k: int, before: StepState, after: StepState, model: nn.Module) -> None:
        """One step back."""
        run, record = self.run, self.run.store.steps[k]
        self._require_known(k, record.training, before, after)
        batches = Step(run.problem, record, before, model, self.plan).batches()
        sizes = [len(part.numbers) for part in parts_of(record)]
        trees = before.parameters | clipped_with(run.problem, model, run.names)
        earlier: list[Updates] = []

        def again(j: int) -> AbstractContextManager[Curved]:
            return curved(batches[j], trees, model, before.buffers, sizes[j], earlier[:j])

        if len(batches) == 1:
            with again(0) as made:
                u = self._pulled(k, before, after, summed([made.gradient]))
                values = [met(made, u, self.adjoint)]
        else:  # the whole gradient first, then each micro-batch once more
            gradients, values = [], []
            for j in range(len(batches)):
                with again(j) as made:
                    gradients.append(summed([made.gradient]))
                    earlier.append({layer: calls[:] for layer, calls in made.updates.items()})
            u = self._pulled(k, before, after, summed(gradients))
            for j in reversed(range(len(batches))):
                with again(j) as made:
                    values.insert(0, met(made, u, self.adjoint))
        self._add(k, record.batch, values)
        if self.by_parameter:
            self._add_parts(record.batch, batches, u)

    def _pulled(self, k: int, before: StepState, after: StepState, gradient: Tree) -> Tree:
        missing = before.coefficients.keys() - gradient.keys()
        gradient |= {name: torch.zeros_like(before.parameters[name]) for name in missing}
        settings = {n: self.run.store.steps[k].settings[g] for n, g in self.group.items()}
        made = Update(self.run.problem, self.run.optimizer, settings, before, gradient)
        made.require_end(k, before, after)
        return made.pulled(self.adjoint)

    def _add(self, k: int, batch: Sequence[int], values: list[Tensor]) -> None:
        numbers = as_tensor(batch, self.run.device)
        found = torch.cat(values, 1).T.unflatten(1, self.final.shape)  # [B, m, C]
        self.effects.index_add_(0, numbers, found)
        self.by_step[k] = (numbers, found)

    def _add_parts(self, batch: Sequence[int], passes: list[Batch], u: Tree) -> None:
        """The same through each parameter's gradient, by the engine of the contributions."""
        pulls: Pulls = {}
        for name in self.by_parameter.keys() & u.keys():
            rows = u[name].flatten(1).unflatten(0, (len(self.final), -1)).transpose(0, 1)
            pulls[name] = Coefficients(), Pull(-1.0, rows.contiguous())  # a step goes downhill
        numbers = as_tensor(batch, self.run.device)
        found = [meet(one, pulls, apart=True) for one in passes]
        for name in pulls:
            part = torch.cat([f[name] for f in found], 2).permute(2, 1, 0)
            self.by_parameter[name].index_add_(0, numbers, part)

    def _require_known(
        self, k: int, training: list[str], before: StepState, after: StepState
    ) -> None:
        """``ValueError`` for buffers that move, or are used, in a way that is not known here."""
        modes = set(training)
        for name, buffer in before.buffers.items():
            layer = name.rpartition(".")[0]
            if name in self.moving and layer not in modes:
                raise ValueError(
                    f"step {k} uses {name!r} in eval mode, and other steps move it; influence "
                    "needs a layer in train mode in all steps, or in none"
                )
            if not buffer.is_floating_point() or name in self.moving:
                continue
            if not torch.equal(buffer, after.buffers[name]):
                raise ValueError(
                    f"step {k} moves the buffer {name!r} in a way whose derivative is not known; "
                    "influence knows BatchNorm's running statistics"
                )

    def result(self) -> Influence:
        return Influence(self.final, self.effects, self.by_step, self.by_parameter)


def statistics_of(model: nn.Module) -> Tree:
    """The running means and variances of BatchNorm layers, by name."""
    return {
        f"{name}.{kind}": getattr(module, kind).detach()
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None
        for kind in ("running_mean", "running_var")
    }


def groups_of(run: Recording) -> dict[str, int]:
    """The optimizer's group of each trained parameter."""
    held = {
        id(p): number
        for number, group in enumerate(run.optimizer.param_groups)
        for p in group["params"]
    }
    return {name: held[id(p)] for name, p in run.model.named_parameters() if name in run.names}
