r"""The optimizer's memory, walked backwards.

A change of the prediction is a sum over steps of :math:`\langle\bar\varphi_k,\theta_{k+1}-\theta_k
\rangle`.  With the steps of :mod:`pkbook.runs.optimizers` it is linear in the gradients, and the
factor of :math:`G_s` is

.. math::
   u_s=d_sD_s\bar\varphi_s+\tau_sE_s\,p_s,\qquad
   p_s=h_sD_s\bar\varphi_s+\beta_{s+1}\,p_{s+1} .

So one pass from the last step to the first serves all pairs of steps: :math:`O(K)` instead of
:math:`O(K^2)`.  Beyond the paper; for gradient descent see Bell et al. 2023, *An Exact Kernel
Equivalence for Finite Classification Models*.
"""

from dataclasses import dataclass, field

from torch import Tensor

from pkbook.basics.parameters import sum_of
from pkbook.kernels.contraction import project
from pkbook.kernels.factors import Dense, Factor, Outer, dense
from pkbook.runs.optimizers import Coefficients

Nodes = list[tuple[float, Factor]]
r"""The query's averaged gradient :math:`\bar\varphi` as weighted gradients ``[C, m, P]``."""


@dataclass
class Pull:
    """The factor of one parameter's gradient: ``scale * rows``, or the query's gradient itself."""

    scale: float
    rows: Tensor | None = None
    """``[C, m, P]``; None where it is ``scale`` times the nodes' sum, which need not be formed."""
    nodes: Nodes = field(default_factory=list)
    """At least one where there are no rows."""

    def formed(self) -> Tensor:
        """``[C, m, P]`` without the scale."""
        return self.rows if self.rows is not None else written(self.nodes)


@dataclass
class _Carried:
    r""":math:`p` is ``scale * rows``: the decay is kept aside, which saves a pass over memory."""

    rows: Tensor
    scale: float

    def rescaled(self) -> "_Carried":
        """Before the scale gets lost among the smallest numbers, it is multiplied in."""
        if self.scale < 2.0**-20:
            self.rows *= self.scale
            self.scale = 1.0
        return self


def written(nodes: Nodes) -> Tensor:
    """The averaged gradient written out, ``[C, m, P]``."""
    (weight, first), *others = nodes
    total = dense(first).rows
    if weight != 1.0 or isinstance(first, Dense):  # what is returned may be changed in place
        total = total * weight
    for weight, factor in others:
        _accumulate(total, factor, weight)
    return total


def _accumulate(total: Tensor, factor: Factor, alpha: float) -> None:
    """``total += alpha * factor`` in one pass where the factors allow it."""
    if not isinstance(factor, Outer):
        total.add_(dense(factor).rows, alpha=alpha)
        return
    shape = (total.shape[1], factor.g[0].shape[1], factor.a.shape[2])
    for rows, g in zip(total, factor.g, strict=True):
        rows.view(shape).baddbmm_(g, factor.a, alpha=alpha)


def _flat(scale: float | Tensor) -> float | Tensor:
    return scale.flatten() if isinstance(scale, Tensor) else scale


class Memory:
    """Runs the backward recursion for all parameters of a run."""

    def __init__(self) -> None:
        self.carried: dict[str, _Carried] = {}

    def pull(self, name: str, c: Coefficients, nodes: Nodes) -> Pull | None:
        """The factor :math:`u_k` of one parameter at step k, given that of later steps.

        ``nodes`` may be empty (the query does not depend on the parameter).  None means zero.  The
        rows are valid until the next call for this parameter.
        """
        if name not in self.carried and (c.held == 0 or not nodes):
            if not nodes or c.direct == 0:
                return None
            if not isinstance(c.outer, Tensor):
                return Pull(c.direct * c.outer, nodes=nodes)
            return Pull(c.direct, written(nodes).mul_(_flat(c.outer)))
        phi = None
        if nodes and c.direct:  # needed twice, so written out once
            phi = written(nodes).mul_(_flat(c.outer))
            carried = self._add(name, c.held, [(1.0, Dense(phi))], 1.0)
        else:
            carried = self._add(name, c.held, nodes, _flat(c.outer))
        rows, scale = carried.rows, carried.scale * c.take
        if isinstance(c.inner, Tensor):
            rows = rows * _flat(c.inner)
        else:
            scale *= c.inner
        if c.direct and phi is not None:
            rows, scale = phi.mul_(c.direct).add_(rows, alpha=scale), 1.0
        carried.scale *= c.keep
        if c.keep == 0:  # the memory began here
            del self.carried[name]
        return Pull(scale, rows)

    def _add(self, name: str, held: float, nodes: Nodes, outer: float | Tensor) -> _Carried:
        r"""Add this step's part, :math:`h_kD_k\bar\varphi_k`, to what later steps take."""
        if name not in self.carried:
            self.carried[name] = _Carried(written(nodes).mul_(held * outer), 1.0)
            return self.carried[name]
        carried = self.carried[name].rescaled()
        for w, factor in nodes if held else ():
            alpha = w * held / carried.scale
            if isinstance(outer, Tensor):
                carried.rows.addcmul_(dense(factor).rows, outer, value=alpha)
            else:
                _accumulate(carried.rows, factor, alpha * outer)
        return carried

    def initial(self, buffers: dict[str, Tensor]) -> Tensor | None:
        """The part ``[C, m]`` owed to a memory that was there before the first recorded step."""
        total = None
        for name, buffer in buffers.items():
            if name in self.carried:
                kept = self.carried[name]
                part = -kept.scale * (kept.rows @ buffer.flatten().to(kept.rows.dtype)).double()
                total = part if total is None else total + part
        return total


def own_terms(c: Coefficients, pull: Pull | None, nodes: Nodes, theta: Tensor) -> Tensor | None:
    r"""Weight decay, which belongs to no sample, ``[C, m]``.

    :math:`-\lambda\langle u,\theta\rangle-s\langle\bar\varphi,\theta\rangle`.
    """
    if c.decay and pull is not None:
        return -c.decay * pull.scale * (pull.formed() @ theta.flatten()).double()
    if c.shrink and nodes:
        along = theta.unsqueeze(0)
        met = sum_of(w * project(factor, along)[0].double() for w, factor in nodes)  # [m, C]
        return -c.shrink * met.T
    return None
