r"""The expected kernel :math:`\mathbb E[K^s_{x,x'}(t)]` over independent runs."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pkbook.kernels import gradient_kernel


@dataclass(frozen=True)
class ExpectedKernel:
    """A mean over runs with its standard error, ``[n1, n2]`` or with outputs as asked for."""

    mean: Tensor
    error: Tensor
    runs: int


def expected_kernel(
    models: Iterable[nn.Module],
    x1: Tensor,
    x2: Tensor | None = None,
    *,
    reduce: str = "trace",
    memory: int | None = None,
) -> ExpectedKernel:
    r""":math:`\mathbb E[K^s_{x,x'}(t)]` of eq. (25), arXiv 2603.13872, from one model a run.

    ``models`` are the networks of independent runs at one time :math:`t`, for recorded runs
    ``(run.model_at(k) for run in runs)``; they are read one after the other.  Other arguments,
    shapes and errors as for :func:`~pkbook.gradient_kernel`; ``ValueError`` for fewer than two.

    >>> twice = [torch.nn.Linear(1, 1, bias=False) for _ in range(2)]
    >>> expected_kernel(twice, torch.tensor([[1.0], [2.0]])).mean
    tensor([[1., 2.],
            [2., 4.]], dtype=torch.float64)
    """
    mean = square = None
    runs = 0
    for runs, model in enumerate(models, start=1):
        kernel = gradient_kernel(model, x1, x2, reduce=reduce, memory=memory).double()
        if mean is None or square is None:
            mean, square = torch.zeros_like(kernel), torch.zeros_like(kernel)
        if kernel.shape != mean.shape:
            raise ValueError(
                f"models must have equally many outputs, got kernels {list(mean.shape)} and "
                f"{list(kernel.shape)}"
            )
        off = kernel - mean
        mean += off / runs
        square += off * (kernel - mean)
    if mean is None or square is None or runs < 2:
        raise ValueError(f"models must hold at least two runs, got {runs}: a mean needs a spread")
    return ExpectedKernel(mean, (square / (runs - 1) / runs).sqrt(), runs)
