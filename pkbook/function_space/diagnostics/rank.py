r"""Tangent matrices, their numerical rank, and the rank gap (Definition 5.1)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pkbook.basics.checks import (
    is_finite_number,
    require_choice,
    require_deterministic,
    require_finite,
    require_inputs,
    require_module,
    require_tensor,
)
from pkbook.basics.parameters import trainable
from pkbook.function_space.kernel_matrix import as_gram, require_not_negative
from pkbook.kernels.features import tangent_features
from pkbook.kernels.gram import gram
from pkbook.kernels.inputs import evaluate
from pkbook.kernels.weight import Weight, row

LARGE = 2**28  # bytes of a tangent matrix above which its Gram matrix is taken instead
VIA = ("auto", "features", "kernel")


def tangent_matrix(model: nn.Module, x: Tensor) -> Tensor:
    r""":math:`\Phi_X=[\varphi_\theta(x_1),\dots,\varphi_\theta(x_N)]`, ``[P, NC]``.

    One column for each output of each input.  Errors as for :func:`~pkbook.tangent_features`.

    >>> line = torch.nn.Linear(1, 1)                    # gradients (x, 1)
    >>> tangent_matrix(line, torch.tensor([[2.0], [3.0]]))
    tensor([[2., 3.],
            [1., 1.]])
    """
    return tangent_features(model, x).flatten(0, 1).T


@dataclass(frozen=True)
class Rank:
    """The numerical rank of a matrix: singular values above a tolerance."""

    singular_values: Tensor
    """Decreasing, float64."""
    tolerance: float
    """Relative to ``scale``."""
    scale: float
    """The largest singular value; in a rank gap that of the mixture, for both matrices."""

    @property
    def value(self) -> int:
        """How many singular values exceed ``tolerance`` times the scale."""
        return self.at(self.tolerance)

    def at(self, tolerance: float) -> int:
        """The rank at another tolerance, relative to the same scale."""
        return int((self.singular_values > _tolerance(tolerance) * self.scale).sum())


def numerical_rank(matrix: Tensor, tolerance: float = 1e-6) -> Rank:
    """The rank of a matrix ``[a, b]`` by its singular values.

    Raises TypeError or ValueError for a matrix that is empty or not finite, and for a tolerance
    outside (0, 1) or below the rounding of the matrix's dtype.

    >>> numerical_rank(torch.tensor([[1.0, 2.0], [2.0, 4.0]])).value
    1
    """
    matrix = require_finite(require_tensor(matrix, "matrix"), "matrix")
    if matrix.ndim != 2 or not matrix.numel():
        raise ValueError(f"matrix must be [a, b] and not empty, got {list(matrix.shape)}")
    rounding = max(matrix.shape) * torch.finfo(matrix.dtype).eps
    _require_above(_tolerance(tolerance), rounding, matrix.dtype, "a tangent matrix")
    values = torch.linalg.svdvals(matrix.detach().double())
    return Rank(values, tolerance, values[0].item())


@dataclass(frozen=True)
class RankGap:
    r"""Ranks of :math:`\Phi_X` and of the mixture :math:`[\Phi_X,\Phi_{X'}]`."""

    training: Rank
    mixture: Rank
    via: str
    """``"features"`` (singular values) or ``"kernel"`` (roots of the kernel's eigenvalues)."""

    @property
    def value(self) -> int:
        """Directions that the other inputs excite and no training input does."""
        return self.mixture.value - self.training.value

    def at(self, tolerance: float) -> int:
        """The gap at another tolerance, relative to the mixture's largest singular value."""
        return self.mixture.at(tolerance) - self.training.at(tolerance)


def rank_gap(
    model: nn.Module,
    x: Tensor,
    other: Tensor,
    *,
    weight: Weight | None = None,
    tolerance: float = 1e-6,
    via: str = "auto",
) -> RankGap:
    r"""The rank gap of Definition 5.1, arXiv 2603.13872:

    .. math:: \operatorname{rank}[\Phi_X,\Phi_{X'}]-\operatorname{rank}\Phi_X .

    Parameters
    ----------
    model
        any ``nn.Module`` returning ``[n, C]``, best in float64.
    x, other
        training inputs :math:`X` ``[N, ...]`` and other inputs :math:`X'` ``[M, ...]``.
    weight
        a diagonal :math:`D` as for :func:`pkbook.weighted_kernel`: the ranks of
        :math:`D^{1/2}\Phi`, whose inner products are :math:`K^D`.  Without a tolerance they are
        those of :math:`\Phi` for every :math:`D\succ0`; which singular values lie above a
        tolerance depends on it.
    tolerance
        singular values below it, relative to the largest **of the mixture**, count as zero; both
        ranks use this one bound.
    via
        ``"features"`` builds the tangent matrix, ``"kernel"`` only inner products, whose
        eigenvalues are squares, so that the tolerance must lie above the root of the rounding;
        ``"auto"`` takes the features while they fit in 256 MiB.

    Raises
    ------
    TypeError, ValueError
        for tolerances outside (0, 1) or too fine for the dtype, and as
        :func:`~pkbook.gradient_kernel`.

    >>> line = torch.nn.Linear(2, 1, bias=False).double()
    >>> x, other = torch.tensor([[1.0, 0.0]]).double(), torch.tensor([[1.0, 1.0]]).double()
    >>> rank_gap(line, x, other).value                  # the second coordinate was never seen
    1
    """
    require_choice(via, "via", VIA)
    _tolerance(tolerance)
    x = require_inputs(require_deterministic(require_module(model)), x, "x")
    both = torch.cat([x, require_inputs(model, other, "other")])
    if via == "auto":
        outputs = evaluate(model, x[:1], trainable(model), None).numel()
        numbers = sum(p.numel() for p in trainable(model).values()) * outputs * len(both)
        via = "features" if numbers * both.element_size() <= LARGE else "kernel"
    spectra = _by_features if via == "features" else _by_kernel
    training, mixture = spectra(model, both, len(x), weight, tolerance)
    # One scale for both: a scale of its own would let the training matrix's rank rise only because
    # its largest singular value is smaller.
    scale = mixture[0].item()
    return RankGap(Rank(training, tolerance, scale), Rank(mixture, tolerance, scale), via)


def _by_features(model, both: Tensor, n: int, weight, tolerance: float) -> tuple[Tensor, Tensor]:
    features = tangent_features(model, both).flatten(2)
    if weight is not None:
        features = features * row(weight, trainable(model)).sqrt()
    _require_above(tolerance, 1e2 * torch.finfo(features.dtype).eps, features.dtype, "features")
    features = features.double()
    parts = features[:n], features
    return tuple(torch.linalg.svdvals(f.flatten(0, 1)) for f in parts)


def _by_kernel(model, both: Tensor, n: int, weight, tolerance: float) -> tuple[Tensor, Tensor]:
    kernel = gram(model, both, reduce="full", weight=weight)
    rounding = (1e2 * torch.finfo(kernel.dtype).eps) ** 0.5
    _require_above(tolerance, rounding, kernel.dtype, "the kernel")
    found = []
    for part in (kernel[:n, :n], kernel):
        values = torch.linalg.eigvalsh(as_gram(part)).flip(0)
        require_not_negative(values, kernel.dtype)
        found.append(values.clamp_min(0).sqrt().cpu())
    return tuple(found)


def _tolerance(value: float) -> float:
    if not is_finite_number(value) or not 0 < value < 1:
        raise ValueError(
            f"tolerance must lie in (0, 1), relative to the largest singular value, got {value!r}"
        )
    return value


def _require_above(tolerance: float, rounding: float, dtype: torch.dtype, what: str) -> None:
    if tolerance < rounding:
        raise ValueError(
            f"tolerance must be at least {rounding:.1e}, the rounding of {what} in {dtype}, got "
            f"{tolerance:g}; write model.double() and x.double(), or a larger tolerance"
        )
