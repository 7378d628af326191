"""Forward passes with other parameters than the model's own, watched or not, and backward passes.

A pass is a block: ``with calling(model, x)(leaves) as f: ...``.  Inside it the parameters stand in
the model, for what follows the forward pass may run parts of the model again (activation
checkpointing) and must then find the same ones.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn

from pkbook.basics.parameters import Tree
from pkbook.basics.replaced import replaced
from pkbook.kernels.asked import Inputs, applied, tensors_of
from pkbook.kernels.rows import Rows
from pkbook.kernels.watch import NOTHING, Seen, Watch

Forward = Callable[..., AbstractContextManager[Tensor]]
"""``with forward(leaves, watch=None) as f``: the outputs with given parameters, watched."""


def calling(model: nn.Module, x: Inputs) -> Forward:
    """The forward pass of a model on ``x``, or what is asked of it there.

    Inputs and buffers are copies: a model may work in place on both, and neither is moved.
    """

    @contextmanager
    def forward(leaves: Tree, watch: Watch | None = None) -> Iterator[Tensor]:
        buffers = {name: b.detach().clone() for name, b in model.named_buffers()}
        own = {}
        if watch is not None:
            own = {id(p): name for name, p in model.named_parameters() if name in leaves}
        with replaced(model, buffers | leaves), _one_path():
            inputs = x.clone()
            if watch is not None:
                constants = [*leaves.values(), *buffers.values(), *model.parameters()]
                watch.rows = Rows(tensors_of(inputs), constants)
            with watch or nullcontext():
                f = applied(model, inputs)
            if watch is not None and watch.rows is not None:
                watch.rows.kept &= watch.rows.has(f)
                _require_replaced(f, own)
            yield f

    return forward


@contextmanager
def _one_path() -> Iterator[None]:
    """No second implementation for passes without gradients (``nn.TransformerEncoder`` has one)."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


class NotReplaced(ValueError):
    """A model's outputs depend on its own parameters where others stand in their place."""


def _require_replaced(f: object, own: dict[int, str]) -> None:
    for name in arrivals(f, own) if isinstance(f, Tensor) else ():
        raise NotReplaced(
            f"model reaches its parameter {name!r} by another way than as an attribute of a module "
            "(a python list, a closure, a stored view), so it cannot be asked for its outputs at "
            "other values; keep parameters in nn.Parameter attributes, nn.ParameterList or modules "
            "and look them up in forward"
        )


@contextmanager
def watched(
    forward: Forward, parameters: Tree, seen: Seen = NOTHING
) -> Iterator[tuple[Tensor, Watch]]:
    """Outputs ``[n, C]`` and the watch of a forward pass, with gradients on."""
    leaves = {name: p.detach().requires_grad_() for name, p in parameters.items()}
    watch = Watch(leaves, seen)
    with torch.inference_mode(False), torch.enable_grad(), forward(leaves, watch) as f:
        yield f.reshape(len(f), -1), watch


def arrivals(f: Tensor, names: dict[int, str]) -> Counter:
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


def pull_back(f: Tensor, edges: list, seeds: list[Tensor]) -> list[list[Tensor] | None]:
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


def pull_back_sum(forward: Forward, parameters: Tree, seeds: Tensor, total: Tree) -> None:
    r"""Add :math:`\sum_iv_i\,\nabla f(x_i)` of a whole batch, for each seed ``v [n, C]``.

    ``total`` is ``{name: [M, *shape]}`` for ``seeds [M, n, C]``.
    """
    leaves = {name: p.detach().requires_grad_() for name, p in parameters.items()}
    with torch.inference_mode(False), torch.enable_grad(), forward(leaves) as f:
        f = f.reshape(len(f), -1)
        for m, seed in enumerate(seeds.to(f)) if f.requires_grad else ():
            got = torch.autograd.grad(
                f, list(leaves.values()), seed, retain_graph=m < len(seeds) - 1, allow_unused=True
            )
            for name, g in zip(leaves, got, strict=True):
                if g is not None:
                    total[name][m] += g
