r"""What training would do if the kernel stood still (Remark 3.9 of arXiv 2603.13872)."""

import math

import torch
from torch import Tensor

from pkbook.basics.checks import is_finite_number, require_finite, require_tensor
from pkbook.function_space.kernel_matrix import as_gram, require_not_negative


def lazy_training(
    kernel: Tensor,
    residual: Tensor,
    time: float,
    *,
    query: Tensor | None = None,
    tolerance: float | None = None,
) -> Tensor:
    r"""The change of the network under gradient flow on the squared loss with a fixed kernel.

    .. math:: f_t(x)-f_0(x)=-K_{x,X}\,K^{+}\big(1-e^{-Kt/N}\big)\,r_0

    Mode by mode of :math:`T_N=K/N`, a residual decays like :math:`e^{-\lambda_jt}`;
    ``time=math.inf`` is kernel regression on the residual.

    Parameters
    ----------
    kernel
        of the training inputs, ``[N, N]``.
    residual
        :math:`r_0=f_0(X)-y` at the training inputs, ``[N]`` or ``[N, C]``.
    time
        :math:`t=k\eta`, at least zero.
    query
        kernel between queries and training inputs ``[m, N]``; default the training inputs.
    tolerance
        modes below it, relative to the largest, do not move; default the rounding of the kernel,
        N times that of its dtype.

    Returns
    -------
    Tensor
        ``[m]`` or ``[m, C]``, float64.

    Raises
    ------
    TypeError, ValueError
        for kernels that are not symmetric, finite and positive or have blocks of outputs, shapes
        that do not fit, a negative time, a tolerance below the rounding of the kernel.

    >>> one = torch.ones(1, 1)                              # K = 1: residual 2 exp(-t)
    >>> lazy_training(one, torch.tensor([2.0]), math.log(2))
    tensor([-1.], dtype=torch.float64)
    """
    matrix = as_gram(kernel).cpu()
    if kernel.ndim != 2:
        raise ValueError(
            f"kernel must be [N, N], of one output, got {list(kernel.shape)}; pass the block "
            "kernel[:, :, c, c] of each output in turn"
        )
    n = len(matrix)
    rounding = n * torch.finfo(kernel.dtype).eps
    tolerance = rounding if tolerance is None else tolerance
    if not is_finite_number(tolerance) or not rounding <= tolerance < 1:
        raise ValueError(
            f"tolerance must lie in [{rounding:.1e}, 1), above the rounding of the kernel, got "
            f"{tolerance!r}; compute the kernel in float64, or take a larger one"
        )
    residual = require_finite(require_tensor(residual, "residual"), "residual").double().cpu()
    if residual.ndim not in (1, 2) or len(residual) != n:
        raise ValueError(
            f"residual must be [{n}] or [{n}, C], one row a training input, got "
            f"{list(residual.shape)}"
        )
    if time != math.inf and (not is_finite_number(time) or time < 0):
        raise ValueError(f"time must be at least zero, or math.inf, got {time!r}")
    query = matrix if query is None else require_finite(require_tensor(query, "query"), "query")
    if query.ndim != 2 or query.shape[1] != n:
        raise ValueError(f"query must be [m, {n}], got {list(query.shape)}")
    values, vectors = torch.linalg.eigh(matrix)
    require_not_negative(values, kernel.dtype)
    live = values > tolerance * values[-1]
    values, vectors = values[live], vectors[:, live]
    # (1 - exp(-lambda t / N)) / lambda, without cancellation where lambda t is small
    share = -torch.expm1(-values * time / n) / values
    return -(query.double().cpu() @ vectors * share) @ (vectors.T @ residual)


def kernel_drift(start: Tensor, now: Tensor) -> float:
    r""":math:`\|K_t-K_0\|_F/\|K_0\|_F`: how far training is from the lazy regime.

    ``ValueError`` for kernels of different shapes or a zero start.

    >>> kernel_drift(torch.eye(2), 2 * torch.eye(2))
    1.0
    """
    start, now = (
        require_finite(require_tensor(k, name), name).double()
        for name, k in (("start", start), ("now", now))
    )
    if start.shape != now.shape:
        raise ValueError(
            f"start and now must have one shape, got {list(start.shape)} and {list(now.shape)}"
        )
    if start.norm() == 0:
        raise ValueError("start must not be zero: the drift is relative to it")
    return ((now - start).norm() / start.norm()).item()
