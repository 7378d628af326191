r"""The guard: what the engine computes by structure, compared with plain autograd.

That row *i* of an activation is sample *i*, and that a parameter was met in the seen ways only, are
conclusions. They hold for most networks, and where they do not, sums are given to other samples
without a sign. So for weights :math:`r_{ik}` that differ by sample and by output,

.. math:: \nabla_\theta\sum_{i,k}r_{ik}f_k(x_i)\;=\;\sum_{i,k}r_{ik}\,\nabla_\theta f_k(x_i)

is checked for each parameter and on every batch: the left side by one more backward pass in the
model's own graph, the right side from the factors. What disagrees is computed by another way. Only
where each operation keeps the rows (:mod:`pkbook.kernels.rows`) there is nothing to check.
"""

import math
from functools import cached_property

import torch
from torch import Tensor

from pkbook.basics.parameters import Tree
from pkbook.kernels.factors import Factor, some_rows, weighted_sum

SEED = 20260313
ROWS = 8
ROUNDING = 32  # units in the last place of the largest gradient that are always forgiven


def sample_weights(n: int, k: int, like: Tensor) -> Tensor:
    """Numbers ``[n, k]`` of size about one that differ by sample and output, always the same."""
    generator = torch.Generator().manual_seed(SEED)
    size = torch.rand(n, k, generator=generator, dtype=torch.float64) + 0.5
    sign = torch.randint(2, (n, k), generator=generator) * 2 - 1
    return (size * sign).to(like)


class Guard:
    """The left side for one batch, and what to compare with it."""

    def __init__(
        self, f: Tensor, leaves: Tree, seeds: list[Tensor] | None, coarsest: float = 0.0
    ) -> None:
        """``seeds`` are weights of outputs ``[n, C]``; None stands for every output by itself.

        ``coarsest`` is the relative rounding of the least precise numbers inside the model.
        """
        self.eps = max(coarsest, torch.finfo(f.dtype).eps)
        self.r = sample_weights(len(f), f.shape[1] if seeds is None else len(seeds), f)
        total = self.r
        if seeds is not None:
            total = torch.einsum("nk,knc->nc", self.r, torch.stack(seeds))
        got: tuple[Tensor | None, ...] = (None,) * len(leaves)
        if f.requires_grad:
            wanted = list(leaves.values())
            got = torch.autograd.grad(f, wanted, total, retain_graph=True, allow_unused=True)
        self.wanted = {
            name: g if g is None or not g.is_sparse else g.to_dense()
            for name, g in zip(leaves, got, strict=True)
        }

    def untouched(self, name: str) -> bool:
        """Whether the outputs do not depend on this parameter at all."""
        return self.wanted[name] is None

    def agrees(self, name: str, factor: Factor) -> bool:
        """Whether factors give autograd's sum, up to rounding."""
        wanted = self.wanted[name]
        if factor.samples != len(self.r) or wanted is None or factor.width != wanted.numel():
            return False
        # Rows of a weight share its activations and their order: a few tell as much as all.
        factor, place = some_rows(factor, ROWS)
        wanted = wanted.flatten()[place]
        near, gap = self.near, (weighted_sum(factor, self.r) - wanted).norm()
        if gap <= near * wanted.norm() or gap <= ROUNDING * self.eps * self.largest:
            return True
        # Where terms cancel, rounding has their size: a bias before a normalisation, say.
        return bool(gap <= near * weighted_sum(factor.absolute(), self.r.abs()).norm())

    def refutes(self, name: str, factor: Factor) -> bool:
        """Whether gradients computed sample by sample do not add up to the batch's.

        Up to rounding of the largest gradient, for a model is refused by it.
        """
        wanted, ours = self.wanted[name], weighted_sum(factor, self.r)
        gap = float((ours if wanted is None else ours - wanted.flatten()).norm())
        if not (math.isfinite(gap) and math.isfinite(self.largest)):
            return False  # overflow is told elsewhere
        if wanted is not None and self.agrees(name, factor):
            return False
        return gap > self.near * self.largest

    @cached_property
    def largest(self) -> float:
        """Norm of the largest parameter's gradient."""
        return max((float(w.norm()) for w in self.wanted.values() if w is not None), default=0.0)

    @property
    def near(self) -> float:
        """How near is near enough: far above rounding, far below what a wrong row does."""
        if self.eps < 1e-12:
            return 1e-9
        return 2e-3 if self.eps < 1e-5 else 16 * self.eps
