r"""A batch's loss cut where its samples are apart.

A step descends one number :math:`L`.  Which sample did what is seen at tensors whose row :math:`i`
belongs to sample :math:`i`, and on which :math:`L` depends: with :math:`r_i` such a row,

.. math:: \nabla_\theta L=\sum_i\nabla_\theta r_i^{\top}\,\partial_{r_i}L .

A loss of outputs and targets is cut at the outputs.  One of ``(model, batch)`` that gives a value
per sample is cut at these values; one that gives a single number, at what the model returned.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from pkbook.basics.nested import tensors_in
from pkbook.basics.outputs import the_tensor
from pkbook.runs.problem import Problem

CAST = "ToCopyBackward0"


class LossRows:
    """The rows of the losses of a batch, ``[n, C]``, and the slope of the step's number by them."""

    def __init__(self, problem: Problem, parts: float = 1, items: Any = (1.0,), j: int = 0) -> None:
        """``parts``, ``items``, ``j``: of how many micro-batches the batch is which one."""
        self.problem, self.place = problem, (parts, items, j)
        self.value: Tensor | None = None
        """The loss where it is a single number."""
        self.rows: list[Tensor] = []
        """What the model returned then."""

    def of_batch(self, model: nn.Module, batch: Any) -> Tensor:
        """The rows of a loss of ``(model, batch)``."""
        with returned_by(model) as outputs:
            losses = self.problem.loss(model, batch)
        if not isinstance(losses, Tensor) or losses.ndim:
            self.value = None
            return losses
        self.value, self.rows = losses, chosen_rows(outputs)
        return torch.cat([row.flatten(1) for row in self.rows], 1)

    def shape_of_row(self) -> Sequence[int]:
        """The shape of what the loss is cut at, if that is one tensor."""
        return () if self.value is None or len(self.rows) != 1 else self.rows[0].shape

    def slope_of_batch(self, f: Tensor, graph: bool = False) -> Tensor:
        r""":math:`\partial_r L`, ``[n, C]``, within the graph of the last call.

        ``graph``: it can be differentiated in turn.
        """
        if self.value is None:
            with torch.enable_grad():
                losses = f.detach().requires_grad_()
                total = self.problem.reduced(losses.flatten(), *self.place)
            return torch.autograd.grad(total, losses)[0]
        total = self.problem.reduced(self.value, *self.place)
        if not total.requires_grad:
            return torch.zeros_like(f)
        edges: list[Any] = [before_casts(row) for row in self.rows]
        got = torch.autograd.grad(
            total, edges, retain_graph=True, create_graph=graph, allow_unused=True
        )
        pairs = zip(got, self.rows, strict=True)
        slopes = [torch.zeros_like(r) if g is None else g.to(r.dtype) for g, r in pairs]
        return torch.cat([s.flatten(1) for s in slopes], 1)


def before_casts(row: Tensor) -> Tensor | GradientEdge:
    """The tensor that an output was cast from, if it was, as a place to differentiate by.

    Under autocast a model may cast what it returns, and have made its loss of what was before.
    """
    if row.grad_fn is None or row.grad_fn.name() != CAST:
        return row
    edge = get_gradient_edge(row)
    while edge.node.name() == CAST:
        node, place = edge.node.next_functions[0]
        if node is None:
            break
        edge = GradientEdge(node, place)
    return edge


@contextmanager
def returned_by(model: nn.Module) -> Iterator[list[Any]]:
    """What the model returns within the block, call by call."""
    found: list[Any] = []
    hook = model.register_forward_hook(lambda _module, _inputs, outputs: found.append(outputs))
    try:
        yield found
    finally:
        hook.remove()


def chosen_rows(outputs: list[Any]) -> list[Tensor]:
    """The tensors to cut a loss at: the outputs of each call."""
    found = []
    for returned in outputs:
        try:
            found.append(the_tensor(returned))
        except TypeError:
            found += [t for t in tensors_in(returned) if t.ndim and t.is_floating_point()]
    n = {len(t) for t in found if t.ndim}
    if len(n) != 1:
        raise ValueError(
            "loss must return one value per sample [n], or call the model so that each output has "
            f"one row per sample, got a scalar and {len(outputs)} calls with outputs of "
            f"{sorted(n)} rows"
        )
    return found


def require_cut(total: Tensor, rows: Tensor, slope: Tensor, parameters: Sequence[Tensor]) -> None:
    """``ValueError`` where a loss depends on parameters by another way than through its rows.

    Plain autograd's gradient of the number against the one through the rows.
    """
    whole = torch.autograd.grad(total, parameters, retain_graph=True, materialize_grads=True,
                                allow_unused=True)  # fmt: skip
    cut = torch.autograd.grad(rows, parameters, slope, retain_graph=True, materialize_grads=True,
                              allow_unused=True)  # fmt: skip
    size = max(float(g.norm()) for g in whole)
    gap = max(float((a - b).norm()) for a, b in zip(whole, cut, strict=True))
    coarse = max(torch.finfo(rows.dtype).eps, torch.finfo(whole[0].dtype).eps)
    if gap > (1e-3 if coarse < 1e-5 else 16 * coarse) * size:
        raise ValueError(
            "loss must depend on the parameters through the outputs of the model alone, got a "
            f"gradient that differs by {gap / size:.2g} from the one through the outputs (a "
            "penalty, an auxiliary loss, or outputs that are computed from one another); return "
            "one value per sample, [n]"
        )
