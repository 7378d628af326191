r"""The integral operator of a kernel, eq. (25) of arXiv 2603.13872.

.. math:: T_tg(x)=\int\mathbb E\big[K^s_{x,x'}(t)\big]\,g(x')\,d\mu(x')

Two operators share this form and are kept apart by name.  The *population* operator integrates
over the distribution of inputs; the *empirical* operator :math:`T_N` sums over the training set,
:math:`T_Ng(x)=\frac1N\sum_iK_{x,x_i}g(x_i)`.  Gradient descent applies the empirical one.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from pkbook.basics.checks import (
    require_deterministic,
    require_finite,
    require_inputs,
    require_module,
    require_tensor,
)
from pkbook.function_space.kernel_matrix import as_gram
from pkbook.function_space.measure import Measure, uniform
from pkbook.function_space.modes import Modes, find_modes
from pkbook.kernels import gradient_kernel, kernel_operator


@dataclass(frozen=True)
class IntegralOperator:
    """A kernel with weights of its nodes; made by :func:`population` or :func:`empirical`."""

    name: str
    """``"population"`` or ``"empirical"``."""
    nodes: Tensor
    """``[n, ...]``."""
    weights: Tensor
    """``[n]``, float64."""
    outputs: int
    """:math:`C`, the number of values of a function at a node."""
    matrix: Tensor | None
    """The kernel ``[nC, nC]``, float64; None where only products are computed."""
    times: Callable[[Tensor], Tensor] = field(repr=False)
    """The kernel times columns ``[nC, k]``."""
    dtype: torch.dtype = torch.float64
    """What the kernel was computed in: its rounding decides what counts as zero."""

    def __call__(self, g: Tensor) -> Tensor:
        r""":math:`Tg` at the nodes, for ``g [..., n]`` or, with several outputs, ``[..., n, C]``.

        ``ValueError`` for functions on other nodes.
        """
        flat, shape = flatten_functions(g, len(self.weights), self.outputs)
        weights = self.weights.repeat_interleave(self.outputs)
        return self.times((flat * weights).T).T.reshape(shape)

    def modes(self, count: int | None = None, *, method: str = "auto", seed: int = 0) -> Modes:
        r"""Eigenpairs :math:`T\phi_j=\lambda_j\phi_j`, largest first, orthonormal in :math:`L^2`.

        They solve the symmetric problem of :math:`W^{1/2}KW^{1/2}`.  ``count`` is how many
        (default all); ``method`` is ``"dense"`` (all of them are computed), ``"lobpcg"`` (the
        largest, by products alone) or ``"auto"``.  ``seed`` starts ``"lobpcg"``.

        Raises ``ValueError`` for more modes than nodes and for a kernel with negative eigenvalues,
        ``RuntimeError`` where ``"lobpcg"`` does not converge.
        """
        return find_modes(self, count, method, seed)


def population(kernel: nn.Module | Tensor, measure: Measure) -> IntegralOperator:
    r""":math:`Tg(x)=\int K_{x,x'}\,g(x')\,d\mu(x')`, the operator of Theorem 3.8.

    ``kernel`` is a model, whose gradient kernel is taken, or a kernel on the measure's nodes
    ``[n, n]`` or ``[n, n, C, C]``, such as a mean over runs.

    Raises ``TypeError`` or ``ValueError`` for a kernel that is not symmetric and finite or does
    not fit the nodes, and for models as :func:`~pkbook.gradient_kernel` does.

    >>> from pkbook.function_space import interval
    >>> line = torch.nn.Linear(1, 1, bias=False)        # K = x x', one mode: g(x) = x
    >>> population(line, interval(-1.0, 1.0, 8)).modes(1).values      # the mean of x^2
    tensor([0.3333], dtype=torch.float64)
    """
    if not isinstance(measure, Measure):
        raise TypeError(
            f"measure must be a Measure, got {type(measure).__name__}; "
            "write function_space.interval(-1.0, 1.0, 64) or function_space.uniform(x)"
        )
    return _operator("population", kernel, measure)


def empirical(kernel: nn.Module | Tensor, x: Tensor) -> IntegralOperator:
    r""":math:`T_Ng(x)=\frac1N\sum_iK_{x,x_i}\,g(x_i)` over the training inputs ``x [N, ...]``.

    Arguments and errors as for :func:`population`.
    """
    return _operator("empirical", kernel, uniform(x))


def _operator(name: str, kernel: nn.Module | Tensor, measure: Measure) -> IntegralOperator:
    dtype = None
    if isinstance(kernel, nn.Module):
        x = require_inputs(require_module(kernel), measure.nodes, "nodes")
        dtype = x.dtype if x.is_floating_point() else torch.float32
        kernel = gradient_kernel(kernel, x, reduce="full")
    matrix = as_gram(kernel).cpu()
    outputs, left = divmod(len(matrix), len(measure))
    if left or len(kernel) != len(measure):
        raise ValueError(f"kernel must have one row a node, {len(measure)}, got {len(kernel)} rows")
    return IntegralOperator(
        name,
        measure.nodes,
        measure.weights,
        outputs,
        matrix,
        lambda columns: matrix @ columns,
        kernel.dtype if dtype is None else dtype,
    )


def matrix_free(model: nn.Module, measure: Measure) -> IntegralOperator:
    r"""The population operator of a model's kernel where :math:`n\times n` numbers are too many.

    Its products are those of :func:`pkbook.kernel_operator`, :math:`Kv=J(J^\top v)` with
    :math:`J=\nabla_\theta f`, so that memory grows with :math:`n+P`; parameters are taken as they
    are now.  Its modes are found by ``"lobpcg"``.  Errors as for :func:`population`.

    >>> from pkbook.function_space import interval
    >>> line = torch.nn.Linear(1, 1, bias=False)
    >>> matrix_free(line, interval(-1.0, 1.0, 300)).modes(1).values
    tensor([0.3333], dtype=torch.float64)
    """
    nodes = require_inputs(require_deterministic(require_module(model)), measure.nodes, "nodes")
    kernel = kernel_operator(model, nodes, reduce="full")

    def times(columns: Tensor) -> Tensor:
        return (kernel @ columns.to(kernel.device, kernel.dtype)).double().cpu()

    dtype = next(iter(kernel.parameters.values())).dtype
    return IntegralOperator(
        "population", nodes, measure.weights, kernel.outputs, None, times, dtype
    )


def flatten_functions(g: Tensor, n: int, outputs: int) -> tuple[Tensor, torch.Size]:
    """Functions at n nodes as rows ``[k, nC]`` in float64, and their shape for the way back."""
    g = require_finite(require_tensor(g, "g"), "g").detach().double().cpu()
    shape = (n,) if outputs == 1 and g.shape[-1:] == (n,) else (n, outputs)
    if tuple(g.shape[-len(shape) :]) != shape:
        wanted = f"[..., {n}]" if outputs == 1 else f"[..., {n}, {outputs}]"
        raise ValueError(f"g must hold values at the nodes, {wanted}, got {list(g.shape)}")
    return g.reshape(-1, n * outputs), g.shape
