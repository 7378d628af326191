r"""Regression with the tangent kernel around a network: means and variances at new inputs.

What a network linearised in its parameters would predict, :mod:`pkbook.function_space.lazy` tells
for a kernel that is there already and for any training time.
"""

from collections.abc import Callable

import torch
from scipy.linalg import lapack
from torch import Tensor, nn

from pkbook.basics.budget import budget
from pkbook.basics.checks import (
    is_finite_number,
    require_choice,
    require_finite,
    require_tensor,
)
from pkbook.basics.parameters import Tree
from pkbook.function_space.kernel_matrix import as_gram
from pkbook.kernels import gradient_kernel, kernel_operator
from pkbook.kernels.inputs import checked, evaluate, require_fit

REDUCTIONS = ("full", "trace")
SOLVERS = ("auto", "direct", "cg")
DIRECT = 4000  # rows; up to this size a factorisation takes a second
CHUNK = 1024  # inputs whose outputs are computed at once
MOST_STEPS = 5000


def ntk_regression(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    x_query: Tensor,
    *,
    ridge: float = 0.0,
    reduce: str = "full",
    parameters: Tree | None = None,
    solver: str = "auto",
    tolerance: float | None = None,
    memory: int | None = None,
) -> Tensor:
    r"""Kernel regression on what the network misses, with its own tangent kernel:

    .. math:: \bar f(x_*)=f(x_*)+K_{x_*,X}\,(K_{X,X}+\rho\,I)^{-1}\,(y-f(X)) .

    With :math:`\rho=0` it is where training to the end by gradient flow on the squared loss would
    lead if the kernel stood still.

    Parameters
    ----------
    model
        any ``nn.Module``, as for :func:`pkbook.gradient_kernel`.
    x, y
        training inputs ``[n, ...]`` and targets ``[n, C]`` (``[n]`` for one output).
    x_query
        ``[m, ...]``.
    ridge
        :math:`\rho\ge0`, the variance of the targets' noise in the scale of the kernel.
    reduce
        ``"full"``: blocks of :math:`C\times C`, outputs speak to each other; ``"trace"``: one
        ``[n, n]`` kernel, the sum over outputs, for each output by itself.
    parameters
        the point :math:`\theta`; default the model's own.
    solver
        ``"direct"``, a Cholesky factorisation of ``[nC, nC]``; ``"cg"``, conjugate gradients with
        :func:`pkbook.kernel_operator`, which holds no matrix; ``"auto"``, direct up to 4000 rows
        where ``memory`` holds them.
    tolerance
        of ``"cg"``: its residual over the right side's norm; default 1e-8 in float64, 1e-4 in
        float32.
    memory
        bytes, as for :func:`pkbook.gradient_kernel`.

    Returns
    -------
    Tensor ``[m, C]``, ``[m]`` where ``y`` is ``[n]``; float64 on the CPU.

    Raises
    ------
    TypeError, ValueError
        for wrong arguments, a kernel that is singular with this ridge, and models as
        :func:`pkbook.gradient_kernel`.
    RuntimeError
        where ``"cg"`` does not reach its tolerance.

    References
    ----------
    Jacot, Gabriel, Hongler 2018, *Neural Tangent Kernel*; Lee et al. 2019, *Wide Neural Networks of
    Any Depth Evolve as Linear Models*, Section 2.2; Rasmussen and Williams 2006, *Gaussian
    Processes for Machine Learning*, eq. (2.25).

    Examples
    --------
    >>> line = torch.nn.Linear(1, 1)                     # K = x x' + 1: a line through two points
    >>> x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([1.0, 3.0])
    >>> ntk_regression(line, x, y, torch.tensor([[2.0]])).round(decimals=4)
    tensor([5.], dtype=torch.float64)
    """
    require_choice(solver, "solver", SOLVERS)
    options = _options(model, x, ridge, reduce, parameters, memory)
    f, query = _outputs(model, x, parameters, "x"), _outputs(model, x_query, parameters, "x_query")
    missed = _targets(y, f) - f.double().cpu()
    right = missed.reshape(-1, 1) if reduce == "full" else missed
    if solver == "auto":
        small = len(right) <= DIRECT and 24 * len(right) ** 2 <= budget(memory, x.device)
        solver = "direct" if small else "cg"
    if solver == "direct":
        weights = torch.cholesky_solve(right, _factor(model, x, ridge, options))
        moved = _across(model, x_query, x, options, lambda k, _: k @ weights)
    else:
        weights = _by_cg(model, x, ridge, options, right, tolerance)
        between = kernel_operator(model, x_query, x, **options)
        moved = (between @ weights.to(between.device, between.dtype)).double().cpu()
    found = query.double().cpu() + moved.reshape(query.shape)
    return found.squeeze(1) if y.ndim == 1 else found


def ntk_variance(
    model: nn.Module,
    x: Tensor,
    x_query: Tensor,
    *,
    ridge: float = 0.0,
    reduce: str = "full",
    parameters: Tree | None = None,
    memory: int | None = None,
) -> Tensor:
    r"""The posterior variance of a Gaussian process whose covariance is the tangent kernel:

    .. math:: K_{x_*,x_*}-K_{x_*,X}\,(K_{X,X}+\rho\,I)^{-1}\,K_{X,x_*} .

    It is of the function itself; for noisy targets add :math:`\rho`.  Arguments and errors as for
    :func:`ntk_regression`; the matrix of the training inputs is factorised, so it must fit in
    memory.

    Returns
    -------
    Tensor ``[m, C]``, the variance of each output, or ``[m]`` with ``reduce="trace"``; float64 on
    the CPU, never negative.

    References
    ----------
    Rasmussen and Williams 2006, *Gaussian Processes for Machine Learning*, eq. (2.26).

    >>> line, x = torch.nn.Linear(1, 1, bias=False), torch.ones(1, 1)      # K = x x'
    >>> ntk_variance(line, x, 2 * x, ridge=1.0).round(decimals=4)
    tensor([[2.]], dtype=torch.float64)
    """
    options = _options(model, x, ridge, reduce, parameters, memory)
    checked(model, x_query, parameters, "x_query")
    lower = _factor(model, x, ridge, options)

    def variance(k: Tensor, rows: Tensor) -> Tensor:
        own = as_gram(gradient_kernel(model, rows, **options)).cpu().diagonal()
        explained = torch.linalg.solve_triangular(lower, k.T, upper=False).square().sum(0)
        return (own - explained).clamp_min(0)

    found = _across(model, x_query, x, options, variance, most=64)
    return found if reduce == "trace" else found.reshape(len(x_query), -1)


def _options(model, x, ridge: float, reduce: str, parameters, memory) -> dict:
    """Checks what both functions share; the arguments of a kernel."""
    require_choice(reduce, "reduce", REDUCTIONS)
    if not is_finite_number(ridge) or ridge < 0:
        raise ValueError(f"ridge must be a finite number of at least zero, got {ridge!r}")
    checked(model, x, parameters, "x")
    return {"reduce": reduce, "parameters": parameters, "memory": memory}


def _outputs(model: nn.Module, x: Tensor, parameters: Tree | None, name: str) -> Tensor:
    point = checked(model, x, parameters, name)
    require_fit(model, x, point, name)
    return torch.cat([evaluate(model, part, point, None) for part in x.split(CHUNK)])


def _targets(y: object, f: Tensor) -> Tensor:
    y = require_finite(require_tensor(y, "y"), "y")
    if not y.is_floating_point():
        raise TypeError(
            f"y must hold real numbers, got {y.dtype}; write y.double(), or for classes "
            "torch.nn.functional.one_hot(y).double()"
        )
    if tuple(y.shape) != tuple(f.shape) and not (f.shape[1] == 1 and tuple(y.shape) == (len(f),)):
        raise ValueError(f"y must be {list(f.shape)}, as the outputs are, got {list(y.shape)}")
    return y.detach().double().cpu().reshape(f.shape)


def _factor(model: nn.Module, x: Tensor, ridge: float, options: dict) -> Tensor:
    r"""The Cholesky factor of :math:`K+\rho I`; ``ValueError`` where no digit of it is certain."""
    matrix = as_gram(gradient_kernel(model, x, **options)).cpu()
    matrix.diagonal().add_(ridge)
    lower, failed = torch.linalg.cholesky_ex(matrix)
    eps, norm = _eps(model), float(matrix.abs().sum(0).max())
    certain = 0.0 if failed else lapack.dpocon(lower.numpy().T, norm)[0]
    if certain < eps:
        raise ValueError(
            f"the kernel of x must not be singular, got a reciprocal condition number {certain:.1e}"
            f" with ridge={ridge:g}, below the rounding {eps:.1e} of the model's dtype; "
            f"write ridge={1e3 * eps * norm:.0e}, or model.double(), or leave repeated inputs out "
            "(lazy_training(kernel, residual, math.inf) leaves out what cannot be resolved)"
        )
    return lower


def _eps(model: nn.Module) -> float:
    dtype = next(p.dtype for p in model.parameters() if p.requires_grad)
    return torch.finfo(dtype).eps


def _across(
    model: nn.Module,
    x_query: Tensor,
    x: Tensor,
    options: dict,
    use: Callable[[Tensor, Tensor], Tensor],
    most: int | None = None,
) -> Tensor:
    """What ``use`` makes of the kernel's rows ``[qC, nC]``, some queries at a time."""
    first = gradient_kernel(model, x_query[:1], x[:1], **options)
    step = budget(options["memory"], x.device) // (16 * first.numel() * len(x))
    step = max(1, step if most is None else min(step, most))
    found = []
    for rows in x_query.split(step):
        k = gradient_kernel(model, rows, x, **options).double().cpu()
        if k.ndim == 4:
            k = k.permute(0, 2, 1, 3).flatten(2).flatten(0, 1)
        found.append(use(k, rows))
    return torch.cat(found)


def _by_cg(
    model: nn.Module, x: Tensor, ridge: float, options: dict, right: Tensor, tolerance: float | None
) -> Tensor:
    kernel = kernel_operator(model, x, **options)
    eps = _eps(model)
    tolerance = max(1e-8, 1e3 * eps) if tolerance is None else tolerance
    if not is_finite_number(tolerance) or not 10 * eps <= tolerance < 1:
        raise ValueError(
            f"tolerance must lie in [{10 * eps:.1e}, 1), above the rounding of the model's dtype, "
            f"got {tolerance!r}; write model.double(), or take a larger one"
        )

    def times(v: Tensor) -> Tensor:
        return (kernel @ v.to(kernel.device, kernel.dtype)).double().cpu() + ridge * v

    return conjugate_gradients(times, right, tolerance)


def conjugate_gradients(
    times: Callable[[Tensor], Tensor], right: Tensor, tolerance: float
) -> Tensor:
    r""":math:`A^{-1}b` for each column of ``right [s, k]``, by products with :math:`A` alone.

    Hestenes and Stiefel 1952.  ``RuntimeError`` where the residual stays above ``tolerance`` times
    the right side.
    """
    found, left = torch.zeros_like(right), right.clone()
    direction, size = left.clone(), left.square().sum(0)
    wanted = tolerance**2 * right.square().sum(0)
    for _ in range(min(2 * len(right) + 10, MOST_STEPS)):
        live = size > wanted
        if not live.any():
            break
        product = times(direction)
        curve = (direction * product).sum(0)
        if (curve[live] <= 0).any():  # rounding has made a zero eigenvalue negative
            break
        step = torch.where(live, size / curve, 0.0)
        found += step * direction
        left -= step * product
        before, size = size, left.square().sum(0)
        direction = left + torch.where(live, size / before, 0.0) * direction
    off = (right - times(found)).norm(dim=0) / right.norm(dim=0).clamp_min(1e-300)
    if not off.max() <= 10 * tolerance:
        raise RuntimeError(
            f'"cg" did not converge: a residual is {off.max():.1e} of its right side, wanted '
            f"{tolerance:.1e}; take a larger ridge or tolerance, or write model.double()"
        )
    return found
