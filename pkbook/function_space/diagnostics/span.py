r"""How much of a tangent feature lies outside the span of the training features."""

from typing import overload

import torch
from torch import Tensor, nn

from pkbook.basics.checks import is_finite_number, require_finite, require_tensor
from pkbook.function_space.kernel_matrix import as_gram, require_not_negative
from pkbook.kernels import feature_norms
from pkbook.kernels.asked import both_asked
from pkbook.kernels.gram import gram
from pkbook.kernels.weight import Weight


@overload
def outside_span(
    kernel_train: Tensor, kernel_cross: Tensor, kernel_diag: Tensor, *, tolerance: float = 1e-6
) -> Tensor: ...


@overload
def outside_span(
    kernel_train: nn.Module,
    kernel_cross: Tensor,
    kernel_diag: Tensor,
    *,
    weight: Weight | None = None,
    tolerance: float = 1e-6,
) -> Tensor: ...


def outside_span(
    kernel_train: Tensor | nn.Module,
    kernel_cross: Tensor,
    kernel_diag: Tensor,
    *,
    weight: Weight | None = None,
    tolerance: float = 1e-6,
) -> Tensor:
    r"""The graded rank gap: share of each input's tangent feature that no training input excites.

    .. math::

       \omega(x)=1-\frac{\|\Pi\,\varphi_\theta(x)\|^2}{\|\varphi_\theta(x)\|^2}
       =1-\frac{1}{K_{x,x}}\sum_{j}\frac{(u_j^\top K_{X,x})^2}{\lambda_j}

    where :math:`\Pi` projects on the span of the training features (Definition 5.1 of
    arXiv 2603.13872) and :math:`\lambda_j,u_j` are eigenpairs of :math:`K_{X,X}`.  It is 0 where
    the training features span the input's, and 1 where they are orthogonal to it.  It is also the
    posterior variance over the prior variance of a Gaussian process with this kernel and
    observations without noise.  The formula is linear algebra; as a diagnostic it goes beyond
    the paper.  :math:`\omega` is a share of *squared* length: :math:`\omega=0.9` leaves
    :math:`\sqrt{0.1}=32\,\%` of the length inside.

    A step :math:`\Delta=-D_kg` of RMSprop or Adam leaves that span.  What bounds its effect is
    the share in its own geometry, with :math:`k_x=K^D_{X,x}` (Definition 3.3):

    .. math:: \omega_D(x)=1-\frac{k_x^\top K^D(X,X)^{-1}k_x}{K^D_{x,x}},\qquad
       |\langle\varphi_\theta(x),Dg\rangle|\le\sqrt{1-\omega_D(x)}\,
       \|\varphi_\theta(x)\|_D\,\|g\|_D .

    Write ``outside_span(model, x, other, weight=run.weight(k))``, or give the blocks of
    :func:`pkbook.weighted_kernel` in place of the plain ones.

    Parameters
    ----------
    kernel_train
        :math:`K_{X,X}`, ``[N, N]``, or ``[N, N, C, C]`` (``reduce="full"``) for C outputs.
    kernel_cross
        :math:`K_{x,X}` of m inputs, ``[m, N]`` or ``[m, N, C, C]``.
    kernel_diag
        :math:`K_{x,x}`, ``[m]``, for C outputs their sum: ``feature_norms(model, x).square()``.
        In place of the three blocks: the model, training inputs ``[N, ...]`` and the inputs asked
        for ``[m, ...]``; the span is then that of the features of all outputs.
    weight
        with a model: the diagonal :math:`D` as for :func:`pkbook.weighted_kernel`, default 1;
        blocks of a kernel bring theirs along.
    tolerance
        directions count as spanned where :math:`\sqrt{\lambda_j}`, the singular value of the
        tangent matrix, exceeds it, relative to the largest.

    Returns
    -------
    Tensor
        :math:`\omega`, ``[m]`` in [0, 1], float64.  For C outputs numerator and denominator are
        summed over them.

    Raises
    ------
    TypeError, ValueError
        for kernels that do not fit together, are not finite or, on the training inputs, not
        symmetric and positive semi-definite; for an input without gradient; for a tolerance
        outside (0, 1) or below the rounding of the kernel; for a ``weight`` beside blocks.

    >>> x, other = torch.tensor([[1.0, 0.0]]).double(), torch.tensor([[1.0, 1.0]]).double()
    >>> outside_span(x @ x.T, other @ x.T, torch.tensor([2.0]).double())
    tensor([0.5000], dtype=torch.float64)
    >>> line = torch.nn.Linear(2, 1, bias=False).double()          # features (x_1, x_2)
    >>> outside_span(line, x, other, weight={"weight": torch.tensor([[3.0, 1.0]])})
    tensor([0.2500], dtype=torch.float64)
    """
    if isinstance(kernel_train, nn.Module):
        k, cross, diag = _blocks(kernel_train, kernel_cross, kernel_diag, weight)
        return _share(k, cross, diag, tolerance)
    if weight is not None:
        raise ValueError(
            "weight must come with a model, got it beside the blocks of a kernel, which bring "
            "theirs along; write outside_span(model, x, other, weight=...)"
        )
    return _share(kernel_train, kernel_cross, kernel_diag, tolerance)


def _blocks(model: nn.Module, x: Tensor, other: Tensor, weight: Weight | None) -> tuple:
    """The three blocks of a model's kernel, of all pairs of outputs."""
    rows, asked = both_asked(x, other, None, None)
    how = {"reduce": "full", "weight": weight}
    train, cross = gram(model, rows, **how), gram(model, asked, rows, **how)
    return train, cross, feature_norms(model, other, weight=weight).square()


def _share(
    kernel_train: Tensor, kernel_cross: Tensor, kernel_diag: Tensor, tolerance: float
) -> Tensor:
    matrix = as_gram(kernel_train, "kernel_train")
    rounding = torch.finfo(kernel_train.dtype).eps
    _require_tolerance(tolerance, rounding, kernel_train.dtype)
    cross = _cross(kernel_train, kernel_cross).to(matrix.device)
    diag = _diag(kernel_diag, len(kernel_cross)).to(matrix.device)
    values, vectors = torch.linalg.eigh(matrix)
    require_not_negative(values, kernel_train.dtype, "kernel_train")
    if values[-1] <= 0:
        raise ValueError("kernel_train must not be zero: its features span nothing")
    kept = values > tolerance**2 * values[-1]
    energy = (cross @ vectors[:, kept]).square() / values[kept]
    share = energy.reshape(len(diag), -1).sum(1) / diag
    slack = 1e3 * rounding / tolerance  # of a projection on the weakest direction kept
    if share.max() > 1 + slack:
        place = int(share.argmax())
        raise ValueError(
            f"kernel_train, kernel_cross and kernel_diag must be blocks of one kernel, got a "
            f"projection {share[place].item():.3g} times as long as the feature of input {place}; "
            "compute all three at the same parameters, kernel_cross with the inputs asked for "
            "first and the training inputs second"
        )
    return (1 - share).clamp(0, 1)


def _cross(kernel_train: Tensor, kernel_cross: object) -> Tensor:
    """The cross kernel as float64 ``[m C, N C]``, sample after sample."""
    cross = require_finite(require_tensor(kernel_cross, "kernel_cross"), "kernel_cross")
    wanted = kernel_train.shape[1:]
    if cross.shape[1:] != wanted or len(cross) == 0:
        shape = ", ".join(map(str, wanted))
        raise ValueError(
            f"kernel_cross must be [m, {shape}], as kernel_train is {list(kernel_train.shape)}, "
            f"got {list(cross.shape)}; write gradient_kernel(model, x, x_train, ...)"
        )
    if cross.ndim == 4:
        cross = cross.permute(0, 2, 1, 3).flatten(2).flatten(0, 1)
    return cross.detach().double()


def _diag(kernel_diag: object, m: int) -> Tensor:
    diag = require_finite(require_tensor(kernel_diag, "kernel_diag"), "kernel_diag")
    if diag.shape != (m,):
        raise ValueError(
            f"kernel_diag must be [{m}], one squared length an input, got {list(diag.shape)}; "
            "write feature_norms(model, x).square()"
        )
    if (diag <= 0).any():
        place = int((diag <= 0).nonzero()[0])
        raise ValueError(
            f"kernel_diag must be positive, got {diag[place].item():.3g} at [{place}]: that input "
            "has no gradient; leave it out"
        )
    return diag.detach().double()


def _require_tolerance(tolerance: object, rounding: float, dtype: torch.dtype) -> None:
    if not is_finite_number(tolerance) or not 0 < tolerance < 1:
        raise ValueError(
            f"tolerance must lie in (0, 1), relative to the largest singular value, "
            f"got {tolerance!r}; write 1e-6"
        )
    least = (1e2 * rounding) ** 0.5  # eigenvalues are squares of singular values
    if tolerance < least:
        raise ValueError(
            f"tolerance must be at least {least:.1e}, the root of the rounding of {dtype}, got "
            f"{tolerance:g}; write model.double() and x.double(), or a larger tolerance"
        )
