r"""Alignment of a kernel with the labels (Sections 1 and 6 of arXiv 2603.13872)."""

import torch
from torch import Tensor

from pkbook.basics.checks import require_tensor
from pkbook.function_space.diagnostics.neighbours import as_labels
from pkbook.function_space.kernel_matrix import as_gram


def label_kernel(y: Tensor) -> Tensor:
    r""":math:`YY^\top` of one-hot labels: one for pairs of a class, zero for others, ``[n, n]``.

    >>> import torch
    >>> label_kernel(torch.tensor([3, 5, 3]))
    tensor([[1., 0., 1.],
            [0., 1., 0.],
            [1., 0., 1.]], dtype=torch.float64)
    """
    y = require_tensor(y, "y")
    if y.ndim == 0 or not len(y):
        raise ValueError(f"y must hold at least two labels, [n], got {list(y.shape)}")
    labels = as_labels(y, len(y))
    return (labels[:, None] == labels).double()


def cka(k: Tensor, l: Tensor, *, debiased: bool = False) -> float:  # noqa: E741
    r"""Centred kernel alignment of two kernels ``[n, n]`` on the same samples.

    .. math:: \mathrm{CKA}(K,L)=\frac{\langle HKH,HLH\rangle}{\|HKH\|\,\|HLH\|},
       \qquad H=I-\tfrac1n\mathbf 1\mathbf 1^\top

    It is 1 where the kernels are equal up to a factor.  With few samples the plain value is too
    large even for unrelated kernels; ``debiased=True`` puts the unbiased estimate of each
    Hilbert-Schmidt independence criterion in its place (Song et al. 2012), which needs n > 3 and
    may come out below zero.

    Raises TypeError or ValueError for kernels that are not symmetric and finite, of two sizes, or
    constant after centring, as the label kernel of one class is.

    >>> import torch
    >>> k = torch.tensor([[2.0, 1.0], [1.0, 2.0]])
    >>> round(cka(k, 3 * k), 12)
    1.0
    """
    roundings = [rounding_of(k, "k"), rounding_of(l, "l")]
    k, l = as_gram(k, "k").cpu(), as_gram(l, "l").cpu()  # noqa: E741
    if k.shape != l.shape:
        raise ValueError(
            f"k and l must be on the same samples, got {list(k.shape)} and {list(l.shape)}"
        )
    if debiased and len(k) < 4:
        raise ValueError(f"debiased CKA needs at least 4 samples, got {len(k)}")
    centre = _u_centred if debiased else _centred
    one, two = centre(k), centre(l)
    for name, centred, raw, rounding in zip(("k", "l"), (one, two), (k, l), roundings, strict=True):
        if centred.norm() <= rounding * raw.norm():
            raise ValueError(
                f"{name} must vary over the samples, got a kernel that is constant after centring; "
                "take samples of at least two classes"
            )
    return ((one * two).sum() / one.norm() / two.norm()).item()


def rounding_of(k: object, name: str) -> float:
    """Below this share of a kernel, what centring leaves is rounding; refuses blocks of outputs."""
    k = require_tensor(k, name)
    if k.ndim == 4:
        raise ValueError(
            f"{name} must be one number a pair, [n, n], got {list(k.shape)}; "
            'write gradient_kernel(model, x, reduce="trace")'
        )
    return 10 * torch.finfo(k.dtype).eps if k.is_floating_point() else 0.0


def _centred(k: Tensor) -> Tensor:
    rows = k.mean(0)
    return k - rows - rows.unsqueeze(1) + rows.mean()


def _u_centred(k: Tensor) -> Tensor:
    """Centred so that inner products estimate the independence criterion without bias.

    Szekely and Rizzo's U-centring (2014), equal to the estimate of Song et al. up to a factor
    that cancels in CKA.
    """
    n = len(k)
    k = k.clone().fill_diagonal_(0)
    rows = k.sum(0) / (n - 2)
    centred = k - rows - rows.unsqueeze(1) + k.sum() / ((n - 1) * (n - 2))
    return centred.fill_diagonal_(0)
