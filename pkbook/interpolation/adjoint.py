r"""The adjoint of recorded steps: how the final answer depends on every state on the way.

A step takes the state :math:`s_k` (parameters :math:`\theta_k`, what the optimizer keeps of them,
running statistics) to :math:`s_{k+1}=F_k(s_k,g_k)` by the batch's gradient :math:`g_k(\theta_k,w)`,
in which sample i has the weight :math:`w_i=1`.  With :math:`\lambda_k` the derivative of the final
answer by :math:`s_k`,

.. math::
   u_k=\Big(\frac{\partial F_k}{\partial g_k}\Big)^{\!\top}\lambda_{k+1},\qquad
   \lambda_k=\Big(\frac{\partial F_k}{\partial s_k}\Big)^{\!\top}\lambda_{k+1}
             +\Big(\frac{\partial g_k}{\partial\theta_k}\Big)^{\!\top}u_k,\qquad
   \frac{\partial}{\partial w_i}\mathrel{+}=\Big\langle u_k,\frac{\partial g_k}{\partial w_i}
   \Big\rangle .

:math:`F_k` is differentiated entry by entry, :math:`g_k` by a second backward pass through the
first: a Hessian-vector product that gives the samples' derivatives as well.  Known as unrolled
differentiation; Ilyas, Engstrom 2025 (MAGIC) walk it backwards from checkpoints.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from pkbook.basics.parameters import Tree, sum_of, trainable
from pkbook.interpolation.shares import Batch
from pkbook.interpolation.statistics import Updates, watching
from pkbook.runs.clipping import clipped
from pkbook.runs.optimizers import Moved, StepState, memory_key, moved
from pkbook.runs.optimizers.evolution import SQUARES
from pkbook.runs.problem import Problem


@dataclass
class Adjoint:
    r"""The derivative of ``Q`` answers by a state, :math:`\lambda`: tensors ``[Q, *shape]``."""

    parameters: Tree
    memories: Tree = field(default_factory=dict)
    squares: dict[str, Tree] = field(default_factory=dict)
    statistics: Tree = field(default_factory=dict)
    """By BatchNorm's running means and variances."""


@dataclass(frozen=True)
class Curved:
    """The gradient of a micro-batch with the graph that it was made by."""

    leaves: Tree
    weights: Tensor
    """The samples' weights ``[n]``, all one."""
    gradient: Tree
    updates: Updates


def backwards(outputs: Sequence[Tensor], by: Sequence[Tensor], seeds: Sequence[Tensor]):
    """Gradients ``[Q, *shape]`` of outputs by each tensor, for seeds ``[Q, *shape]``.

    None where an output does not depend on it.  The graph stays.
    """
    if outputs[0].is_cuda:
        return torch.autograd.grad(
            outputs, by, seeds, retain_graph=True, allow_unused=True, is_grads_batched=True
        )
    rows = [
        torch.autograd.grad(outputs, by, seed, retain_graph=True, allow_unused=True)
        for seed in zip(*seeds, strict=True)
    ]
    columns = zip(*rows, strict=True)
    return [None if column[0] is None else torch.stack(column) for column in columns]


@contextmanager
def curved(
    batch: Batch, parameters: Tree, model: nn.Module, buffers: Tree, n: int, earlier: list[Updates]
) -> Iterator[Curved]:
    r"""The gradient of a micro-batch of ``n`` samples as a function of parameters and weights.

    Its graph is there within the block.  The gradient of sample i's rows has the weight
    :math:`w_i`; with batch statistics that is the gradient of its own loss.
    """
    leaves = {name: p.detach().clone().requires_grad_() for name, p in parameters.items()}
    first = next(iter(leaves.values()))
    weights = torch.ones(n, dtype=first.dtype, device=first.device, requires_grad=True)
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        sdpa_kernel(SDPBackend.MATH),  # the others have no second derivative
        watching(model, buffers, n, earlier, graph=True) as updates,
        batch.forward(leaves) as f,
    ):
        seeds = batch.slope(f, graph=True) * weights.to(f.dtype)[:, None]
        got = torch.autograd.grad(
            f, list(leaves.values()), seeds, create_graph=True, allow_unused=True
        )
        gradient = {name: g for name, g in zip(leaves, got, strict=True) if g is not None}
        for name, g in gradient.items():
            if g.layout != torch.strided:
                raise ValueError(
                    f"the gradient of {name!r} must be dense for influence, got a sparse one; "
                    "write nn.Embedding(..., sparse=False)"
                )
        yield Curved(leaves, weights, gradient, updates)


def clipped_with(problem: Problem, model: nn.Module, names: Sequence[str]) -> Tree:
    """Parameters that do not move, but whose gradients count in the norm that is clipped."""
    if problem.clipped != "all" or problem.clip_norm is None:
        return {}
    return {name: p for name, p in trainable(model).items() if name not in set(names)}


class Update:
    """An optimizer's step as a differentiable function of state and gradients."""

    def __init__(
        self,
        problem: Problem,
        optimizer: torch.optim.Optimizer,
        settings: dict[str, dict],
        before: StepState,
        gradients: Tree,
    ) -> None:
        """``settings`` by parameter name; ``gradients`` before they are clipped."""
        key = memory_key(optimizer) or ""
        self.names = [name for name in before.coefficients if name in gradients]
        with torch.inference_mode(False), torch.enable_grad():
            self.gradients = {n: g.detach().clone().requires_grad_() for n, g in gradients.items()}
            self.parameters = {n: _leaf(before.parameters[n]) for n in self.names}
            self.memories = {
                n: _leaf(before.kept[n].get(key, torch.zeros_like(before.parameters[n])))
                for n in self.names
            }
            self.squares = {
                n: {s: _leaf(t) for s, t in before.kept[n].items() if s in SQUARES}
                for n in self.names
            }
            entering = clipped(problem, self.gradients)
            self.after: dict[str, Moved] = {
                n: moved(
                    optimizer,
                    settings[n],
                    before.coefficients[n],
                    (self.parameters[n], self.memories[n], before.kept[n] | self.squares[n]),
                    entering[n],
                )
                for n in self.names
            }

    def require_end(self, k: int, before: StepState, after: StepState) -> None:
        """``ValueError`` where the formula ends elsewhere than the optimizer did.

        By more than rounding: a gradient that is zero but for rounding may be scaled up by it.
        """
        start, end = before.parameters, after.parameters
        moved_by = max(float((end[n] - start[n]).abs().max()) for n in self.names)
        for name in self.names:
            gap = float((self.after[name].parameter.detach() - end[name]).abs().max())
            rounding = 64 * torch.finfo(end[name].dtype).eps * float(end[name].abs().max())
            if gap > 1e-3 * moved_by + rounding:
                raise ValueError(
                    f"step {k} moves {name!r} differently from the formula of its optimizer (by "
                    f"{gap:.2g}), so the formula's derivative would be wrong; influence needs an "
                    "unchanged optimizer of torch.optim"
                )

    def pulled(self, adjoint: Adjoint) -> Tree:
        r""":math:`u_k` by name, ``[Q, *shape]``; turns ``adjoint`` into its part through the state.

        Parameters that the step left alone keep theirs.
        """
        outputs, seeds = [], []
        for name in self.names:
            made = self.after[name]
            pairs = [(made.parameter, adjoint.parameters[name])]
            if name in adjoint.memories:
                pairs.append((made.memory, adjoint.memories[name]))
            pairs += [(made.state[s], t) for s, t in adjoint.squares.get(name, {}).items()]
            pairs = [(out, seed) for out, seed in pairs if out.requires_grad]
            outputs += [out for out, _ in pairs]
            seeds += [seed for _, seed in pairs]
        places = [(self.gradients, n) for n in self.gradients]
        places += [(tree, n) for tree in (self.parameters, self.memories) for n in self.names]
        places += [(self.squares[n], s) for n in self.names for s in self.squares[n]]
        got = backwards(outputs, [tree[n] for tree, n in places], seeds)
        found = iter(got)
        u = {n: g for n, g in zip(self.gradients, found, strict=False) if g is not None}
        for tree, into in (
            (self.parameters, adjoint.parameters),
            (self.memories, adjoint.memories),
        ):
            for n in tree:
                g = next(found)
                into[n] = torch.zeros_like(adjoint.parameters[n]) if g is None else g
        for n in self.names:
            kept = {s: next(found) for s in self.squares[n]}
            adjoint.squares[n] = {s: g for s, g in kept.items() if g is not None}
        return u


def _leaf(t: Tensor) -> Tensor:
    return t.detach().clone().requires_grad_()


def met(made: Curved, u: Tree, adjoint: Adjoint) -> Tensor:
    """Meet a micro-batch: its samples' derivatives ``[Q, n]`` in float64.

    Adds what goes through its gradient and its batch statistics to ``adjoint``.
    """
    outputs = [g for name, g in made.gradient.items() if name in u]
    seeds = [u[name] for name in made.gradient if name in u]
    for out, seed in _through_statistics(made.updates, adjoint):
        outputs.append(out)
        seeds.append(seed)
    names = [name for name in made.leaves if name in adjoint.parameters]
    by = [made.weights, *(made.leaves[name] for name in names)]
    first, *others = backwards(outputs, by, seeds) if outputs else [None] * len(by)
    for name, g in zip(names, others, strict=True):
        if g is not None:
            adjoint.parameters[name] = adjoint.parameters[name] + g
    if first is None:
        queries = len(next(iter(adjoint.parameters.values())))
        first = made.weights.detach().new_zeros(queries, len(made.weights))
    return first.double()


def _through_statistics(updates: Updates, adjoint: Adjoint) -> list[tuple[Tensor, Tensor]]:
    """Batch statistics that running ones took in, with their seeds; the last call first."""
    pairs = []
    for layer, calls in updates.items():
        for kind in ("running_mean", "running_var"):
            name = f"{layer}.{kind}"
            if name not in adjoint.statistics:
                continue
            seen = adjoint.statistics[name]
            for update in reversed(calls):
                part = update.mean if kind == "running_mean" else update.var
                total = part.sum(0)
                if total.requires_grad:
                    pairs.append((total, (seen * update.momentum).to(total.dtype)))
                seen = seen * (1.0 - update.momentum)
            adjoint.statistics[name] = seen
    return pairs


def summed(parts: Sequence[Tree]) -> Tree:
    """The gradient of a step from those of its micro-batches."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {n: sum_of(part[n].detach() for part in parts if n in part) for n in names}
