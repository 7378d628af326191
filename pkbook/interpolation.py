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

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from pkbook.checks import (
    as_matrix,
    batch_loss,
    evaluating,
    is_finite_number,
    require_choice,
    require_deterministic,
    require_inputs,
    require_whole,
)
from pkbook.optimizers import StepState, memory_of
from pkbook.quadrature import average_features, left_features
from pkbook.recording import Recording, set_modes
from pkbook.sides import calling
from pkbook.tangent import (
    Tree,
    _selection,
    evaluate,
    gram,
    products,
    trainable,
    try_plan,
)

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
    """Changes that belong to no sample (weight decay, initial momentum), ``{name: [m, C]}``."""
    remainder: Tensor
    """What the quadrature rule left out, summed over the steps, ``[m, C]``."""
    pieces: Tensor
    """Sub-intervals used at each step ``[K]``: more than one where the path had kinks."""

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
        that query, or until the step has ``most_pieces`` pieces.  Residuals at kinks have random
        signs, so their sum then stays below ``tolerance`` (three standard deviations); what it
        really is stands in ``remainder`` and ``completeness``.  ``None``: never bisect.
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
    if len(run) == 0:
        raise ValueError("run has no step yet: call run.step(batch) before interpolate")
    require_inputs(run.model, x, "x")
    with evaluating(run.model):
        require_deterministic(run.model)
    recursion = _Recursion(run, x, outputs, rule, nodes, tolerance, most_pieces)
    with tqdm(total=len(run), disable=not progress, desc="steps taken apart") as bar:
        for start, states, model in run.segments_backwards():
            for offset in reversed(range(len(states) - 1)):
                recursion.step(start + offset, states[offset], states[offset + 1], model)
                bar.update()
    return recursion.result()


class _Recursion:
    """Walks a run backwards and collects the contributions (THEORY: u_s in terms of u_{s+1})."""

    def __init__(self, run, x, outputs, rule, nodes, tolerance, most_pieces) -> None:
        self.run, self.x = run, x
        self.rule, self.nodes, self.most_pieces = rule, nodes, most_pieces
        self.chosen = _selection(outputs, len(x), x.device)
        self.memory = memory_of(run.optimizer)
        first = run.model_at(0)
        moving = {name: p for name, p in trainable(first).items() if name in run.names}
        self.plan = try_plan(first, run.x[:2], moving)
        self.initial = self._predict(first)
        self.final = self._predict(run.model_at(len(run)))
        self.remainder = torch.zeros_like(self.final, dtype=torch.float64)
        self.contributions = self.remainder.new_zeros(len(run.x), *self.final.shape)
        self.other: dict[str, Tensor] = {}
        self.by_step: list = [None] * len(run)
        self.pieces = torch.ones(len(run), dtype=torch.int64)
        self.budget = None
        if tolerance is not None and rule == "gauss":
            size = (self.final.double() - self.initial.double()).norm(dim=1, keepdim=True)
            self.budget = (tolerance * size / 3).square().expand_as(self.remainder).clone()

    def _predict(self, model: nn.Module) -> Tensor:
        return evaluate(model, self.x, trainable(model), self.chosen)

    def step(self, k: int, before: StepState, after: StepState, model: nn.Module) -> None:
        """Step k: average the query's gradient, pull it through the optimizer, meet the batch."""
        average, residual = self._average(k, before.parameters, after.parameters, model)
        self.remainder += residual
        u = self.memory.pull(before, average)
        for name, value in self.memory.own_terms(before, u).items():
            self.other[name] = self.other.get(name, 0) + value.double()
        values = self._meet(k, before, u, model)
        batch = torch.tensor(self.run.store.steps[k].batch, device=self.x.device)
        self.contributions.index_add_(0, batch, values)
        self.by_step[k] = (batch, values)

    def _average(self, k: int, start: Tree, end: Tree, model: nn.Module) -> tuple[Tree, Tensor]:
        model.eval()
        if self.rule == "riemann":
            return left_features(model, self.x, start, end, self.chosen)
        allowed = None if self.budget is None else (self.budget / (k + 1)).sqrt()
        average, residual, self.pieces[k] = average_features(
            model, self.x, start, end, self.chosen, self.nodes, allowed, self.most_pieces
        )
        if self.budget is not None:  # what a step did not use is left for the steps before it
            self.budget = (self.budget - residual.square()).clamp_min(0.0)
        return average, residual

    def _meet(self, k: int, before: StepState, u: Tree, model: nn.Module) -> Tensor:
        r"""Contributions of the batch, ``[B, m, C]``: :math:`\mp\partial_f L\cdot\nabla f_i\,u`."""
        record = self.run.store.steps[k]
        set_modes(model, record)
        m, c = next(iter(u.values())).shape[:2]
        directions = {
            name: self.memory.sign(before, name) * value.flatten(0, 1) for name, value in u.items()
        }
        seen = {}

        def forward(parameters: Tree, watch, then):
            def then_with_shape(f: Tensor):
                seen["shape"] = f.shape
                return then(as_matrix(f, len(record.batch)))

            def call(xb: Tensor):
                return calling(model, xb)(parameters, watch, then_with_shape)

            batch = torch.tensor(record.batch, device=self.run.x.device)
            seen["targets"] = self.run.y[batch]
            return self.run.forward(record, call)[0]

        def slope(f: Tensor) -> Tensor:
            with torch.enable_grad():
                f = f.detach().reshape(seen["shape"]).requires_grad_()
                loss = batch_loss(self.run.loss, f, seen["targets"])
            return torch.autograd.grad(loss, f)[0].reshape(len(record.batch), -1)

        values = products(forward, slope, before.parameters, directions, self.plan)
        return values.T.reshape(-1, m, c)

    def result(self) -> Interpolation:
        for name, value in self.memory.initial_terms(self.run.initial_buffers()).items():
            self.other[name] = value.double()
        return Interpolation(
            self.initial,
            self.final,
            self.contributions,
            self.by_step,
            self.other,
            self.remainder,
            self.pieces,
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
    for _, states, model in run.segments_backwards():
        model.eval()
        for state in states[:-1]:
            own = trainable(model)
            rates = {n: state.settings[n]["lr"] if n in state.settings else 0.0 for n in own}
            here = own | state.parameters
            k = gram(model, x1, x2, reduce=reduce, weight=rates, parameters1=here)
            total = k if total is None else total + k
    return total
