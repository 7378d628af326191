r"""A kernel that is never written out: its products with vectors.

With :math:`J=\nabla_\theta f` a product :math:`Kv=J_1(A(J_2^\top v))` is a backward pass over one
set of inputs and a forward derivative over the other.  :mod:`pkbook.kernels.gram` writes kernels
out instead.
"""

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from pkbook.basics.budget import budget
from pkbook.basics.checks import (
    require_choice,
    require_deterministic,
    require_finite,
    require_tensor,
)
from pkbook.basics.extras import needs_lab
from pkbook.basics.parameters import Tree
from pkbook.kernels.apart import require_sums_apart
from pkbook.kernels.asked import Inputs, both_asked, stacked, tensors_of
from pkbook.kernels.factors import widen
from pkbook.kernels.features import pushforward
from pkbook.kernels.gram import both_ends
from pkbook.kernels.inputs import Which
from pkbook.kernels.passes import calling, pull_back_sum
from pkbook.kernels.weight import Weight, diagonal

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator

CHUNK = 4096  # inputs whose activations are alive at once, at most
REDUCTIONS = ("trace", "full")
Term = tuple[int, int | None]
"""A column, and the output that it stands for; None where it holds all outputs."""


def kernel_operator(
    model: nn.Module,
    x1: Any,
    x2: Any = None,
    *,
    of: Any = None,
    outputs: int | Tensor | None = None,
    reduce: str = "trace",
    weight: Weight | None = None,
    parameters: Which = None,
    memory: int | None = None,
) -> "KernelOperator":
    r"""The gradient kernel as an operator, for inputs that are too many for its matrix:

    .. math:: Kv=J_1\,\big(A\,(J_2^\top v)\big), \qquad J=\nabla_\theta f .

    A product is one pass forward and one backward over ``x2``, and one forward and two backward
    over ``x1``, in batches: neither :math:`n_1\times n_2` nor :math:`n\times P` numbers are held.
    The trace is a sum over outputs, :math:`\sum_cJ_{1,c}\,A\,J_{2,c}^\top v`: its products cost
    :math:`C` times as many backward passes.  Numbers are those of the model's dtype.

    Parameters
    ----------
    model, x1, x2, of, outputs
        as for :func:`gradient_kernel`.  Parameters and weight are taken as they are now.
    reduce
        ``"trace"`` for the matrix ``[n1, n2]``; ``"full"`` for ``[n1 C, n2 C]``, with the outputs
        of one sample side by side: row :math:`iC+c` is output :math:`c` of sample :math:`i`.
    weight
        a diagonal :math:`A`, as for :func:`weighted_kernel`; default 1.
    parameters
        the point :math:`\theta` as ``{name: tensor}``, or names; default the model's own.
    memory
        bytes that a product may use beside ``v`` and the result; default a quarter of what is
        free, at most 1 GiB.

    Returns
    -------
    KernelOperator
        ``k @ v`` for ``v [n2]`` or ``[n2, k]`` (``"full"``: ``[n2 C]``, ``[n2 C, k]``), ``k.T``,
        ``k.shape``, ``k.dtype``, ``k.device`` and ``k.aslinearoperator()`` for scipy.

    Raises
    ------
    TypeError, ValueError
        as :func:`gradient_kernel`.  That outputs and gradients do not depend on the rest of a
        batch is checked once, by passes over the halves of each batch.

    References
    ----------
    arXiv 2603.13872, eqs. (2) and (10).  Products in place of matrices: Pearlmutter 1994, *Fast
    exact multiplication by the Hessian*, Neural Computation 6.

    Examples
    --------
    >>> line = torch.nn.Linear(2, 1)
    >>> x = torch.tensor([[1.0, 2.0], [3.0, 0.0]])
    >>> k = kernel_operator(line, x)                 # [[6, 4], [4, 10]], never formed
    >>> k.shape, k @ torch.tensor([1.0, 0.0])
    ((2, 2), tensor([6., 4.]))
    """
    require_choice(reduce, "reduce", REDUCTIONS)
    x1, x2 = both_asked(x1, x2, of, outputs)
    with torch.inference_mode(False):
        ends = both_ends(model, x1, x2, (parameters, None))
        one, two = ends[0], ends[-1]
        weights = {n: w for n, w in diagonal(weight, one.parameters).items() if w is not None}
        size = _Size.of(ends, budget(memory, x1.device))
        for end in ends:
            for rows in size.batches(len(end.x)):
                require_sums_apart(end, rows)
    return KernelOperator(
        model, one.x, two.x, one.parameters, weights, reduce, one.plan.outputs, size
    )


@dataclass(frozen=True, eq=False, repr=False)
class KernelOperator:
    """A kernel known by its products; made by :func:`kernel_operator`."""

    model: nn.Module
    x1: Inputs
    x2: Inputs
    parameters: Tree
    weight: dict[str, Tensor | float]
    reduce: str
    outputs: int
    size: "_Size"

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        c = self.outputs if self.reduce == "full" else 1
        return len(self.x1) * c, len(self.x2) * c

    @property
    def dtype(self) -> torch.dtype:
        """Of vectors and products: the model's, float32 for half precision."""
        return widen(self._like.new_empty(0)).dtype

    @property
    def device(self) -> torch.device:
        """Of vectors and products: the model's."""
        return self._like.device

    @property
    def _like(self) -> Tensor:
        return next(iter(self.parameters.values()))

    @property
    def T(self) -> "KernelOperator":
        """The kernel between ``x2`` and ``x1``, ``[n2, n1]``."""
        return replace(self, x1=self.x2, x2=self.x1)

    def __repr__(self) -> str:
        rows, columns = self.shape
        return f"KernelOperator({rows} x {columns}, {self.reduce}, {self.dtype})"

    def __matmul__(self, v: Tensor) -> Tensor:
        """``[n1]`` for a vector ``[n2]``, ``[n1, k]`` for columns ``[n2, k]``."""
        columns = self._checked(v).detach().reshape(self.shape[1], -1)
        require_deterministic(self.model)
        with torch.inference_mode(False):
            columns = columns.clone() if columns.is_inference() else columns
            result = columns.new_zeros(self.shape[0], columns.shape[1])
            for terms in self._groups(columns.shape[1]):
                self._push(self._pull(columns, terms), terms, result)
        if not torch.isfinite(result).all():
            raise ValueError(
                "the product is not finite: a gradient of the model overflowed or is NaN"
            )
        return result.reshape(-1, *v.shape[1:])

    def aslinearoperator(self) -> "LinearOperator":
        """The same for ``scipy.sparse.linalg``: eigenvalues, solvers; arrays on the CPU.

        ``ImportError`` where scipy is not installed; it comes with ``pkbook[lab]``.
        """
        with needs_lab("kernel_operator(...).aslinearoperator"):
            from scipy.sparse.linalg import LinearOperator

        def times(operator: KernelOperator):
            def product(v):
                # A copy: torch views no negative strides, and warns of what is not writable.
                tensor = torch.from_numpy(np.array(v, order="C"))
                tensor = tensor.to(operator.device, operator.dtype)
                return (operator @ tensor).cpu().numpy()

            return product

        there, back = times(self), times(self.T)
        return LinearOperator(
            self.shape,
            matvec=there,
            rmatvec=back,
            matmat=there,
            rmatmat=back,
            dtype=torch.empty(0, dtype=self.dtype).numpy().dtype,
        )

    def _checked(self, v: object) -> Tensor:
        v, n = require_tensor(v, "v"), self.shape[1]
        if v.ndim not in (1, 2) or len(v) != n or not v.numel():
            raise ValueError(
                f"v must be [{n}] or [{n}, k] for this kernel of {self.shape[0]} x {n}, got "
                f"{list(v.shape)}"
            )
        if v.dtype != self.dtype or v.device != self.device:
            raise TypeError(
                f"v must be {self.dtype} on {self.device}, as the kernel is, got {v.dtype} on "
                f"{v.device}; write v.to(k.device, k.dtype)"
            )
        return require_finite(v, "v")

    def _groups(self, columns: int) -> list[list[Term]]:
        """What is computed by one forward pass: as many directions as the memory holds."""
        outputs = range(self.outputs) if self.reduce == "trace" else [None]
        terms: list[Term] = [(j, c) for j in range(columns) for c in outputs]
        step = self.size.directions
        return [terms[i : i + step] for i in range(0, len(terms), step)]

    def _pull(self, columns: Tensor, terms: list[Term]) -> Tree:
        r""":math:`A\,J_2^\top v` for each term, ``{name: [terms, *shape]}``."""
        c = self.outputs
        total = {n: widen(p.new_zeros(len(terms), *p.shape)) for n, p in self.parameters.items()}
        for rows in self.size.batches(len(self.x2)):
            seeds = columns.new_zeros(len(terms), rows.stop - rows.start, c)
            for seed, (j, output) in zip(seeds, terms, strict=True):
                if output is None:
                    seed.copy_(columns[rows.start * c : rows.stop * c, j].reshape(-1, c))
                else:
                    seed[:, output] = columns[rows, j]
            pull_back_sum(calling(self.model, self.x2[rows]), self.parameters, seeds, total)
        for name, w in self.weight.items():
            total[name] *= w
        return {name: t.to(self._like.dtype) for name, t in total.items()}

    def _push(self, directions: Tree, terms: list[Term], result: Tensor) -> None:
        r"""Add :math:`J_1u` of each term's direction to its column."""
        c = self.outputs
        for rows in self.size.batches(len(self.x1)):
            call = calling(self.model, self.x1[rows])
            _, pushed = pushforward(call, self.parameters, directions)
            for part, (j, output) in zip(pushed, terms, strict=True):
                if output is None:
                    result[rows.start * c : rows.stop * c, j] += part.flatten()
                else:
                    result[rows, j] += part[:, output]


@dataclass(frozen=True)
class _Size:
    """How much is computed at once."""

    rows: int
    directions: int

    @classmethod
    def of(cls, ends: list, memory: int) -> "_Size":
        """A half of the memory for activations, a half for directions in parameter space."""
        like = ends[0].like
        whole = sum(p.numel() for p in ends[0].parameters.values()) * max(4, like.dtype.itemsize)
        sample = max(_bytes_per_sample(end.model, end.x, end.parameters) for end in ends)
        # Beside each direction in both precisions stand those of one pass and its derivative.
        rows, directions = memory // (2 * sample), memory // 2 // whole // 2 - 2
        if rows < 1 or directions < 1:
            raise ValueError(
                "memory must hold one sample's activations and one direction in parameter space, "
                f"at least {max(2 * sample, 12 * whole)} bytes for this model, got {memory}"
            )
        return cls(min(rows, CHUNK), directions)

    def batches(self, n: int) -> list[slice]:
        return [slice(i, min(i + self.rows, n)) for i in range(0, n, self.rows)]


def _bytes_per_sample(model: nn.Module, x: Inputs, parameters: Tree) -> int:
    """What one more sample in a batch takes: what autograd keeps of it, and as much for results."""
    none = {name: torch.zeros_like(p).unsqueeze(0) for name, p in parameters.items()}

    def kept(some: Inputs) -> int:
        found = []

        def keep(t: Tensor) -> Tensor:
            found.append(t.numel() * t.element_size())
            return t

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            pushforward(calling(model, some), parameters, none)
        return sum(found)

    one = x[:1]
    more = kept(stacked(one, one)) - kept(one)
    own = sum(math.prod(t.shape[1:]) * t.element_size() for t in tensors_of(x))
    return 2 * max(more, own, 1)
