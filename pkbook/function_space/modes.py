r"""Eigenfunctions of an integral operator, and functions taken apart in them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from scipy.linalg import subspace_angles
from scipy.sparse.linalg import LinearOperator, lobpcg
from torch import Tensor

from pkbook.basics.checks import (
    is_finite_number,
    require_choice,
    require_finite,
    require_tensor,
    require_whole,
)
from pkbook.function_space.kernel_matrix import as_gram, require_not_negative

METHODS = ("auto", "dense", "lobpcg")
DENSE = 1500  # up to this size all eigenpairs take a second
CONVERGED = 1e-6  # residual of an eigenpair, relative to the largest eigenvalue


class Operator(Protocol):
    """What modes are found of; see :class:`~pkbook.function_space.IntegralOperator`."""

    @property
    def name(self) -> str: ...

    @property
    def nodes(self) -> Tensor: ...

    @property
    def weights(self) -> Tensor: ...

    @property
    def outputs(self) -> int: ...

    @property
    def matrix(self) -> Tensor | None: ...

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def times(self) -> Callable[[Tensor], Tensor]:
        """The kernel times columns."""
        ...


@dataclass(frozen=True)
class Modes:
    r"""Eigenpairs :math:`\lambda_1\ge\lambda_2\ge\dots` of an operator, orthonormal in
    :math:`L^2(\mu)`.

    With all modes, the functions span everything on the nodes, and what is below a tolerance is
    the numerical null space.  With the first few only, the rest counts as one more part.
    """

    values: Tensor
    """``[r]``, float64, decreasing."""
    functions: Tensor
    r""":math:`\phi_j` at the nodes, ``[r, n]`` or ``[r, n, C]``."""
    weights: Tensor
    """``[n]``."""
    name: str
    """Of the operator: ``"population"`` or ``"empirical"``."""
    nodes: Tensor
    """``[n, ...]``."""
    rounding: float
    """Of the kernel: eigenvalues below it, relative to the largest, are nothing else."""

    @cached_property
    def _rows(self) -> Tensor:
        r""":math:`W^{1/2}\phi_j`, orthonormal rows ``[r, nC]``."""
        return self.functions.reshape(len(self.values), -1) * self._roots

    @property
    def _outputs(self) -> int:
        return self.functions[0].numel() // len(self.weights)

    @property
    def _roots(self) -> Tensor:
        return self.weights.sqrt().repeat_interleave(self._outputs)

    def _flat(self, g: Tensor) -> tuple[Tensor, torch.Size]:
        shape = self.functions.shape[1:]
        g = require_finite(require_tensor(g, "g"), "g").detach().double().cpu()
        if g.shape[-len(shape) :] != shape:
            wanted = ", ".join(map(str, shape))
            raise ValueError(
                f"g must hold values at the nodes, [..., {wanted}], got {list(g.shape)}"
            )
        return g.reshape(-1, self._roots.numel()) * self._roots, g.shape[: -len(shape)]

    def coefficients(self, g: Tensor) -> Tensor:
        r""":math:`\langle g,\phi_j\rangle_{L^2(\mu)}` for ``g [..., n]``, ``[..., r]``."""
        flat, shape = self._flat(g)
        return (flat @ self._rows.T).reshape(*shape, -1)

    def energy(self, g: Tensor) -> Tensor:
        r""":math:`\langle g,\phi_j\rangle^2`, ``[..., r]``; with all modes it sums to
        :math:`\|g\|^2`."""
        return self.coefficients(g).square()

    def norm(self, g: Tensor) -> Tensor:
        r""":math:`\|g\|^2_{L^2(\mu)}`, ``[...]``."""
        flat, shape = self._flat(g)
        return flat.square().sum(1).reshape(shape)

    def learnable(self, tolerance: float) -> Tensor:
        r"""Which modes have :math:`\lambda_j>` ``tolerance`` :math:`\lambda_1`, ``[r]`` bools."""
        if not is_finite_number(tolerance) or not self.rounding <= tolerance < 1:
            raise ValueError(
                f"tolerance must lie in [{self.rounding:.1e}, 1), relative to the largest "
                f"eigenvalue and above the kernel's rounding, got {tolerance!r}; write 1e-6, or "
                "compute the kernel in float64"
            )
        return self.values > tolerance * self.values[0]

    def project(self, g: Tensor, tolerance: float) -> Tensor:
        r"""The part of ``g [..., n]`` in the learnable modes; ``g`` minus it is the null part."""
        keep = self._rows[self.learnable(tolerance)]
        flat, _ = self._flat(g)
        return ((flat @ keep.T) @ keep / self._roots).reshape(g.shape)

    def null_share(self, g: Tensor, tolerance: float) -> Tensor:
        r"""Share of :math:`\|g\|^2` outside the learnable modes, ``[...]`` in [0, 1].

        Theorem 3.8 of arXiv 2603.13872: for the residual at the end of training it is near one.
        ``ValueError`` where ``g`` is zero.
        """
        total = self.norm(g)
        if (total == 0).any():
            raise ValueError("g must not be zero everywhere: a share of nothing is not defined")
        kept = self.energy(g)[..., self.learnable(tolerance)].sum(-1)
        return (1 - kept / total).clamp(0, 1)

    def rkhs_norm(self, g: Tensor, tolerance: float) -> Tensor:
        r"""The squared norm in the kernel's RKHS of what ``g [..., n]`` has there, ``[...]``:

        .. math:: \|g\|_{\mathcal H}^2=\sum_j\langle g,\phi_j\rangle^2/\lambda_j

        over the learnable modes.
        """
        keep = self.learnable(tolerance)
        return (self.energy(g)[..., keep] / self.values[keep]).sum(-1)

    def extend(self, kernel: Tensor, tolerance: float = 1e-6) -> Tensor:
        r"""Learnable modes at other points, by Nystroem's formula, ``[r', m]``:

        .. math:: \phi_j(x)=\frac1{\lambda_j}\sum_iw_iK_{x,x_i}\phi_j(x_i) .

        ``kernel [m, n]`` holds the kernel between the points and the nodes (one output).
        """
        if self._outputs > 1:
            raise ValueError("extend works for one output; extend the outputs one by one")
        kernel = require_finite(require_tensor(kernel, "kernel"), "kernel").double().cpu()
        if kernel.ndim != 2 or kernel.shape[1] != len(self.weights):
            raise ValueError(
                f"kernel must be [m, {len(self.weights)}], points by nodes, got "
                f"{list(kernel.shape)}"
            )
        keep = self.learnable(tolerance)
        functions = self.functions[keep].reshape(int(keep.sum()), -1)
        return (functions * self.weights) @ kernel.T / self.values[keep].unsqueeze(1)

    def mercer(self, kernel: Tensor) -> float:
        r"""How far :math:`\sum_j\lambda_j\phi_j(x)\phi_j(x')` is from the kernel on the nodes.

        The relative error in :math:`L^2(\mu\times\mu)`: rounding with all modes, what the missing
        modes hold otherwise.
        """
        matrix = self._roots.unsqueeze(1) * as_gram(kernel).cpu() * self._roots
        rebuilt = (self._rows.T * self.values) @ self._rows
        return ((matrix - rebuilt).norm() / matrix.norm()).item()


def find_modes(operator: Operator, count: int | None, method: str, seed: int) -> Modes:
    """Eigenpairs of an operator; see :meth:`IntegralOperator.modes`."""
    size = len(operator.weights) * operator.outputs
    wanted = size if count is None else require_whole(count, "count")
    if wanted > size:
        raise ValueError(
            f"count must be at most {size}, as there are {len(operator.weights)} nodes, got {count}"
        )
    method = require_choice(method, "method", METHODS)
    if method == "auto":
        few = 5 * wanted <= size  # LOBPCG's own condition
        method = "lobpcg" if few and (operator.matrix is None or size > DENSE) else "dense"
    roots = operator.weights.sqrt().repeat_interleave(operator.outputs)
    solve = _dense if method == "dense" else _lobpcg
    values, rows = solve(operator, roots, wanted, seed)
    shape = (wanted, len(operator.weights), operator.outputs)
    functions = (rows / roots).reshape(shape[:2] if operator.outputs == 1 else shape)
    rounding = 4 * torch.finfo(operator.dtype).eps
    return Modes(
        values, _signed(functions), operator.weights, operator.name, operator.nodes, rounding
    )


def _signed(functions: Tensor) -> Tensor:
    """Each mode with a positive value where it is first about as large as anywhere.

    So that pictures do not depend on the solver; an odd function is largest at two places.
    """
    flat = functions.flatten(1)
    large = flat.abs() >= 0.99 * flat.abs().amax(1, keepdim=True)
    largest = flat.gather(1, large.int().argmax(1, keepdim=True))
    return functions * torch.where(largest < 0, -1.0, 1.0).reshape(-1, *[1] * (functions.ndim - 1))


def _dense(operator: Operator, roots: Tensor, wanted: int, seed: int) -> tuple[Tensor, Tensor]:
    if operator.matrix is None:
        raise ValueError(
            "a matrix-free operator has no dense modes; ask for at most a fifth of the nodes "
            f"(count <= {len(roots) // 5}), or use function_space.population"
        )
    values, vectors = torch.linalg.eigh(roots.unsqueeze(1) * operator.matrix * roots)
    require_not_negative(values, operator.dtype)
    return values.flip(0)[:wanted], vectors.flip(1)[:, :wanted].T


def _lobpcg(operator: Operator, roots: Tensor, wanted: int, seed: int) -> tuple[Tensor, Tensor]:
    size = len(roots)
    if 5 * wanted > size:
        raise ValueError(
            f'"lobpcg" finds at most a fifth of the modes, {size // 5} of {size}, got '
            f'count={wanted}; write method="dense"'
        )

    def times(columns: np.ndarray) -> np.ndarray:
        block = torch.from_numpy(np.ascontiguousarray(columns)).reshape(size, -1)
        return (roots.unsqueeze(1) * operator.times(roots.unsqueeze(1) * block)).numpy()

    symmetric = LinearOperator((size, size), matvec=times, matmat=times, dtype=np.float64)
    start = np.random.default_rng(seed).standard_normal((size, wanted))
    values, vectors = lobpcg(symmetric, start, largest=True, maxiter=200, tol=None)
    order = np.argsort(-values)
    values, vectors = values[order], vectors[:, order]
    left = np.linalg.norm(times(vectors) - vectors * values, axis=0).max() / values[0]
    if left > max(CONVERGED, 10 * torch.finfo(operator.dtype).eps * size**0.5):
        raise RuntimeError(
            f'"lobpcg" did not converge: an eigenpair is off by {left:.1e} of the largest '
            'eigenvalue; ask for fewer modes or write method="dense"'
        )
    values = torch.from_numpy(values.copy())
    require_not_negative(values, operator.dtype)
    return values, torch.from_numpy(vectors.T.copy())


def principal_angles(one: Modes, two: Modes, *, tolerance: float) -> Tensor:
    r"""Angles between the learnable spaces of two moments of training, in radians, ascending.

    Both spaces hold the modes above ``tolerance`` times their own largest eigenvalue; angles of
    zero are directions that both share, :math:`\pi/2` one that the smaller space has alone.
    As many angles as the smaller space has dimensions.

    ``ValueError`` for modes on different nodes.

    >>> from pkbook.function_space import population, uniform
    >>> at = uniform(torch.tensor([[0.0], [1.0]]))
    >>> a, b = (population(torch.outer(v, v), at).modes() for v in torch.tensor([[1., 0], [1., 1]]))
    >>> principal_angles(a, b, tolerance=1e-6) * 180 / torch.pi
    tensor([45.0000], dtype=torch.float64)
    """
    if not (torch.equal(one.weights, two.weights) and torch.equal(one.nodes, two.nodes)):
        raise ValueError(
            "principal angles need modes on the same nodes with the same weights; "
            "build both operators with one measure"
        )
    spaces = [m._rows[m.learnable(tolerance)].T.numpy() for m in (one, two)]
    return torch.from_numpy(subspace_angles(*spaces)[::-1].copy())
