r"""Running statistics, given to the samples whose activations they are means of.

In eval mode a prediction depends on BatchNorm's running mean and variance :math:`b`, too, and each
forward pass of training moves them, :math:`b'=(1-m)b+m\,s` with the batch's statistics :math:`s`.
With the prediction's gradient :math:`\bar g_k` by the buffers, averaged over step k's move, their
part in the change is

.. math:: \sum_k\langle\bar g_k,\,b_{k+1}-b_k\rangle
   =\langle P_0,b_0\rangle+\sum_k m\,\langle\bar g_k+P_{k+1},\,s_k\rangle,\qquad
   P_k=(1-m)(\bar g_k+P_{k+1})-\bar g_k ,

one pass backwards, as for the optimizer's memory. Mean and variance of a batch are sums over its
samples, so each term is, too.  Beyond the paper.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pkbook.basics.parameters import Tree
from pkbook.interpolation.quadrature import Query, gauss_legendre
from pkbook.kernels.features import features

FEW, MANY = 3, 12  # nodes for a move that is small beside what is moved, and for any other


@dataclass(frozen=True)
class Update:
    """One call of a layer: by how much it moved its statistics, and each sample's part of it."""

    momentum: float
    mean: Tensor
    """The samples' parts of the batch's mean, ``[n, channels]``."""
    var: Tensor
    """Their parts of the unbiased variance."""


Updates = dict[str, list[Update]]
"""By layer, in the order of the calls."""


@contextmanager
def watching(
    model: nn.Module, buffers: Tree, n: int, earlier: list[Updates], graph: bool = False
) -> Iterator[Updates]:
    """What BatchNorm layers in train mode add to their statistics within the block.

    ``buffers`` are those before the step, ``earlier`` the updates of its passes so far; with
    ``graph`` they can be differentiated.
    """
    found: Updates = {}
    handles = []
    for name, module in model.named_modules():
        tracks = isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training
        if tracks and module.running_mean is not None:
            tracked = buffers.get(f"{name}.num_batches_tracked")
            before = 0 if tracked is None else int(tracked)
            before += sum(len(updates.get(name, [])) for updates in earlier)
            hook = _hook(name, before, n, found, graph)
            handles.append(module.register_forward_pre_hook(hook))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _hook(name: str, before: int, n: int, found: Updates, graph: bool) -> Callable:
    def hook(module: nn.modules.batchnorm._BatchNorm, arguments: tuple) -> None:
        h = arguments[0].double() if graph else arguments[0].detach().double()
        calls = found.setdefault(name, [])
        m = module.momentum
        if m is None:  # a plain mean over all batches so far
            m = 1.0 / (before + len(calls) + 1)
        if len(h) != n and not graph:  # rows that are not the samples: nobody's
            calls.append(Update(m, h.new_zeros(n, h.shape[1]), h.new_zeros(n, h.shape[1])))
            return
        h = h.flatten(2) if h.ndim > 2 else h.unsqueeze(2)  # [n, channels, positions]
        count = h.shape[0] * h.shape[2]
        mean = h.sum(2) / count
        var = (h - mean.sum(0)[:, None]).square().sum(2) / max(1, count - 1)
        calls.append(Update(m, mean, var))

    return hook


class Statistics:
    """Runs the backward recursion over the running statistics of a run."""

    def __init__(self) -> None:
        self.carried: dict[str, Tensor] = {}

    def shares(
        self, query: Query, model: nn.Module, after: Tree, moved: tuple[Tree, Tree], parts: list
    ) -> Tensor | None:
        """Each sample's share of one step, ``[B, m, C]`` in float64.

        ``after`` are the parameters after the step, ``moved`` the buffers before and after it,
        ``parts`` the updates of each of its forward passes.
        """
        names = [
            f"{layer}.{kind}"
            for layer in dict.fromkeys(layer for part in parts for layer in part)
            for kind in ("running_mean", "running_var")
        ]
        if not names:
            return None
        gradients = _averaged(query, model, after, moved, names)
        total: list[Tensor | float] = [0.0] * len(parts)
        for name in names:
            layer, _, kind = name.rpartition(".")
            g = gradients[name]
            seen = g + self.carried.get(name, torch.zeros_like(g))
            keep = 1.0
            for j in reversed(range(len(parts))):
                for update in reversed(parts[j].get(layer, [])):
                    part = update.mean if kind == "running_mean" else update.var
                    weight = update.momentum * keep
                    total[j] = total[j] + weight * torch.einsum("mcp,np->nmc", seen, part)
                    keep *= 1.0 - update.momentum
            self.carried[name] = keep * seen - g
        return torch.cat([t for t in total if isinstance(t, Tensor)])

    def initial(self, buffers: Tree) -> Tensor | None:
        """The part ``[m, C]`` of the statistics that were there before the first step."""
        found = [torch.einsum("mcp,p->mc", p, buffers[n].double()) for n, p in self.carried.items()]
        return torch.stack(found).sum(0) if found else None


def _near(before: Tree, after: Tree, names: list[str]) -> bool:
    return all((after[n] - before[n]).norm() <= 0.2 * before[n].norm() for n in names)


class WrittenOut(TorchFunctionMode):
    """``F.batch_norm`` in eval mode by its formula: torch's has no derivative by the statistics."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.batch_norm:
            return _batch_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _batch_norm(x, mean, var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5):
    if training or mean is None:
        return F.batch_norm(x, mean, var, weight, bias, training, momentum, eps)
    shape = (1, -1, *[1] * (x.ndim - 2))
    found = (x - mean.reshape(shape)) * torch.rsqrt(var + eps).reshape(shape)
    if weight is not None:
        found = found * weight.reshape(shape)
    return found if bias is None else found + bias.reshape(shape)


def _averaged(
    query: Query, model: nn.Module, parameters: Tree, moved: tuple[Tree, Tree], names: list[str]
) -> Tree:
    """The queries' gradients by the buffers, averaged over their move, ``{name: [m, C, p]}``."""
    before, after = moved
    total: Tree = {}
    for tau, weight in gauss_legendre(FEW if _near(before, after, names) else MANY):
        here = {n: torch.lerp(before[n], after[n], tau) for n in names}
        with WrittenOut():
            rows = features(model, query.x, parameters | here, query.chosen, names)
        for name, g in rows.items():
            total[name] = total.get(name, torch.zeros_like(g).double()) + weight * g.double()
    return total
