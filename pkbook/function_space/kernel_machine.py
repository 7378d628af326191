r"""Is a trained network a kernel machine?  Coefficients, fits and norms that answer it.

A kernel machine is :math:`f(x)=b+\sum_ia_iK(x,x_i)` with numbers :math:`a_i,b` that know nothing of
:math:`x`.  Equation (4) of arXiv 2603.13872 has a contribution :math:`c_i(x)` in each place of
:math:`a_iK(x,x_i)`; what follows measures how far one is from the other.
"""

import math

import torch
from torch import Tensor

from pkbook.basics.checks import is_finite_number, require_finite, require_tensor
from pkbook.function_space.kernel_matrix import as_gram, require_not_negative

IN_THE_SPACE = 1e-6  # of the values' norm; what a kernel's modes miss beyond it is not rounding


def path_coefficients(contributions: Tensor, kernel: Tensor, *, floor: float = 1e-9) -> Tensor:
    r"""The coefficient that turns the path kernel into a contribution, one for each query:

    .. math:: a_i(x)=\frac{c_i(x)}{\int_0^TK_{x,x_i}\,dt}
        =-\frac1N\,\frac{\int\ell'_iK_{x,x_i}\,dt}{\int K_{x,x_i}\,dt} .

    Parameters
    ----------
    contributions
        :math:`c_i(x)`, ``[N, m]``, such as ``run.interpolate(x).contributions[..., 0]``.
    kernel
        path kernel of queries and samples, ``[m, N]``, such as ``run.path_kernel(x, x_train)``.
    floor
        NaN stands where the kernel is below this share of its largest value for the same sample.

    Returns
    -------
    Tensor ``[N, m]``, float64.

    Raises
    ------
    TypeError, ValueError
        for shapes that do not fit and values that are not finite.

    References
    ----------
    Domingos 2020, *Every Model Learned by Gradient Descent Is Approximately a Kernel Machine*.

    >>> path_coefficients(torch.tensor([[2.0, 1.0]]), torch.tensor([[4.0], [0.0]]))
    tensor([[0.5000,    nan]], dtype=torch.float64)
    """
    c, k = _pair(contributions, kernel)
    small = k.abs() <= floor * k.abs().amax(1, keepdim=True)
    return torch.where(small, math.nan, c / torch.where(small, 1.0, k))


def fixed_coefficients(contributions: Tensor, kernel: Tensor) -> Tensor:
    r"""For each sample the one number that serves all queries best, ``[N]``:

    .. math:: a_i=\frac{\sum_xc_i(x)\,k_i(x)}{\sum_xk_i(x)^2},\qquad
        k_i(x)=\int_0^TK_{x,x_i}\,dt ,

    the least squares fit of :math:`c_i` by a multiple of :math:`k_i`.  Zero for a sample whose
    kernel is zero.  Arguments and errors as for :func:`path_coefficients`.

    >>> fixed_coefficients(torch.tensor([[2.0, 1.0]]), torch.tensor([[1.0], [1.0]]))
    tensor([1.5000], dtype=torch.float64)
    """
    c, k = _pair(contributions, kernel)
    square = k.square().sum(1)
    return (c * k).sum(1) / torch.where(square > 0, square, 1.0)


def coefficient_spread(contributions: Tensor, kernel: Tensor) -> Tensor:
    r"""How far the coefficients depend on the query, for each sample ``[N]`` in [0, 1]:

    .. math:: \sqrt{\frac{\sum_x\big(c_i(x)-a_ik_i(x)\big)^2}{\sum_xc_i(x)^2}}
        =\sqrt{\frac{\sum_xk_i^2\,(a_i(x)-a_i)^2}{\sum_xk_i^2\,a_i(x)^2}},

    with :math:`a_i` of :func:`fixed_coefficients`.  The second form is the spread of
    :math:`a_i(x)` over its size, with weights :math:`k_i^2`; the first has no quotient that might
    not be there.  Zero if and only if one number serves all queries.  Arguments and errors as for
    :func:`path_coefficients`.

    >>> coefficient_spread(torch.tensor([[2.0, 4.0]]), torch.tensor([[1.0], [2.0]]))
    tensor([0.], dtype=torch.float64)
    """
    c, k = _pair(contributions, kernel)
    size = c.norm(dim=1)
    left = (c - fixed_coefficients(contributions, kernel).unsqueeze(1) * k).norm(dim=1)
    return left / torch.where(size > 0, size, 1.0)


def interpolating_machine(
    kernel: Tensor, values: Tensor, *, tolerance: float | None = None
) -> Tensor:
    r"""Coefficients :math:`a=K^+v` of the kernel machine that passes through ``values``.

    Of all functions in the kernel's RKHS with these values it has the smallest norm;
    ``query @ a`` are its values elsewhere, for a kernel ``query [m, n]``.

    Parameters
    ----------
    kernel
        ``[n, n]``, symmetric and without negative eigenvalues.
    values
        ``[n]`` or ``[n, C]``.
    tolerance
        modes below it, relative to the largest, are left out; default n times the rounding of the
        kernel's dtype.

    Returns
    -------
    Tensor of the shape of ``values``, float64.

    Raises
    ------
    TypeError, ValueError
        for kernels that are none, shapes that do not fit, a tolerance outside [0, 1).

    References
    ----------
    Schölkopf, Herbrich and Smola 2001, *A Generalized Representer Theorem*.

    >>> interpolating_machine(torch.eye(2) * 2, torch.tensor([2.0, 4.0]))
    tensor([1., 2.], dtype=torch.float64)
    """
    values, eigen, vectors = _parts(kernel, values, tolerance)
    return vectors @ (vectors.T @ values / (eigen if values.ndim == 1 else eigen.unsqueeze(1)))


def rkhs_norm(kernel: Tensor, values: Tensor, *, tolerance: float | None = None) -> float:
    r"""The least :math:`\|g\|_{\mathcal H}^2=v^\top K^+v` of a function with these values.

    Points bound the norm of a whole function from below, and more points bound it better.
    ``math.inf`` where no function of the kernel's RKHS has these values.  Arguments and errors as
    for :func:`interpolating_machine`, with values ``[n]``.

    References
    ----------
    Aronszajn 1950, *Theory of Reproducing Kernels*.

    >>> rkhs_norm(torch.tensor([[1.0, 2.0], [2.0, 4.0]]), torch.tensor([3.0, 6.0]))  # K = x x'
    9.0
    """
    values, eigen, vectors = _parts(kernel, values, tolerance)
    if values.ndim != 1:
        raise ValueError(f"values must be [n], of one function, got {list(values.shape)}")
    held = vectors.T @ values
    if (values - vectors @ held).norm() > IN_THE_SPACE * values.norm():
        return math.inf
    return round_off((held.square() / eigen).sum().item())


def round_off(number: float) -> float:
    """Without the last digits of float64, which are rounding."""
    return float(f"{number:.13g}")


def _parts(kernel: Tensor, values: Tensor, tolerance: float | None) -> tuple[Tensor, ...]:
    """Values in float64, and the eigenpairs of the kernel that count."""
    matrix = as_gram(kernel).cpu()
    n = len(matrix)
    values = require_finite(require_tensor(values, "values"), "values").detach().double().cpu()
    if kernel.ndim != 2 or values.ndim not in (1, 2) or len(values) != n:
        raise ValueError(
            f"values must be [n] or [n, C] for a kernel [n, n], got {list(values.shape)} and "
            f"{list(kernel.shape)}"
        )
    tolerance = n * torch.finfo(kernel.dtype).eps if tolerance is None else tolerance
    if not is_finite_number(tolerance) or not 0 <= tolerance < 1:
        raise ValueError(f"tolerance must lie in [0, 1), got {tolerance!r}; write tolerance=1e-12")
    eigen, vectors = torch.linalg.eigh(matrix)
    require_not_negative(eigen, kernel.dtype)
    live = eigen > max(tolerance * eigen[-1].item(), 0.0)
    return values, eigen[live], vectors[:, live]


def _pair(contributions: Tensor, kernel: Tensor) -> tuple[Tensor, Tensor]:
    """Contributions and kernel in float64, both ``[N, m]``."""
    c, k = (
        require_finite(require_tensor(t, name), name).detach().double()
        for name, t in (("contributions", contributions), ("kernel", kernel))
    )
    if c.ndim != 2 or k.ndim != 2 or c.shape != k.T.shape or not c.numel():
        raise ValueError(
            "contributions must be [N, m] and kernel [m, N], got "
            f"{list(c.shape)} and {list(k.shape)}; write told.contributions[..., 0] and "
            "run.path_kernel(x, x_train)"
        )
    return c, k.T
