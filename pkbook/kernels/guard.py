r"""The guard: what the engine computes by structure, compared with plain autograd on every batch.

That row *i* of an activation is sample *i*, and that a parameter was met in the seen ways only, are
conclusions. They hold for most networks, and where they do not, sums are given to other samples
without a sign. So for weights :math:`r_i` that differ from sample to sample,

.. math:: \nabla_\theta\sum_ir_if(x_i)\;=\;\sum_ir_i\,\nabla_\theta f(x_i)

is checked for each parameter: the left side by autograd in the model's own graph, the right side
from the factors. What disagrees is computed by another way.

It costs little: the last of the backward passes is made with the weights in its seed and asked for
the parameters' gradients, too; afterwards the weights are divided out of its factors.
"""

import math
from functools import cached_property

import torch
from torch import Tensor

from pkbook.kernels.factors import Factor, last_sum, some_rows

SEED = 20260313
ROWS = 8
ROUNDING = 32  # units in the last place of the largest gradient that are always forgiven


def sample_weights(n: int, like: Tensor) -> Tensor:
    """Numbers ``[n]`` of size about one that differ from sample to sample, always the same."""
    generator = torch.Generator().manual_seed(SEED)
    size = torch.rand(n, generator=generator, dtype=torch.float64) + 0.5
    sign = torch.randint(2, (n,), generator=generator) * 2 - 1
    return (size * sign).to(like)


class Guard:
    """The left side for one batch, and what to compare with it."""

    def __init__(self, r: Tensor, wanted: dict[str, Tensor | None]) -> None:
        """``wanted`` are autograd's sums by parameter; None where there is no influence."""
        self.r, self.wanted = r, wanted

    def untouched(self, name: str) -> bool:
        """Whether the outputs do not depend on this parameter at all."""
        return self.wanted[name] is None

    def agrees(self, name: str, factor: Factor, r: Tensor | None = None) -> bool:
        """Whether factors give autograd's sum, up to rounding.

        ``r``: weights by sample, where they are not in the factors.
        """
        wanted = self.wanted[name]
        if factor.samples != len(self.r) or wanted is None or factor.width != wanted.numel():
            return False
        # Rows of a weight share its activations and their order: a few tell as much as all.
        factor, place = some_rows(factor, ROWS)
        wanted = wanted.flatten()[place]
        near, gap = _near(wanted.dtype), (last_sum(factor, r) - wanted).norm()
        eps = torch.finfo(wanted.dtype).eps
        if gap <= near * wanted.norm() or gap <= ROUNDING * eps * self.largest:
            return True
        # Where terms cancel, rounding has their size: a bias before a normalisation, say.
        terms = last_sum(factor.absolute(), None if r is None else r.abs())
        return bool(gap <= near * terms.norm())

    def refutes(self, name: str, factor: Factor) -> bool:
        """Whether gradients computed sample by sample do not add up to the batch's.

        Up to rounding of the largest gradient, for a model is refused by it.
        """
        wanted, ours = self.wanted[name], last_sum(factor, self.r)
        gap = float((ours if wanted is None else ours - wanted.flatten()).norm())
        if not (math.isfinite(gap) and math.isfinite(self.largest)):
            return False  # overflow is told elsewhere
        if wanted is not None and self.agrees(name, factor, self.r):
            return False
        return gap > _near(self.r.dtype) * self.largest

    @cached_property
    def largest(self) -> float:
        """Norm of the largest parameter's gradient."""
        return max((float(w.norm()) for w in self.wanted.values() if w is not None), default=0.0)


def _near(dtype: torch.dtype) -> float:
    """How near is near enough: far above rounding, far below what a wrong row does."""
    return {torch.float64: 1e-9, torch.float32: 2e-3}.get(dtype, 16 * torch.finfo(dtype).eps)
