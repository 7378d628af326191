"""Who is near whom under a kernel, and whether neighbours share a class (Section 5.1)."""

import torch
from torch import Tensor

from pkbook.basics.checks import require_finite, require_tensor, require_whole
from pkbook.function_space.kernel_matrix import as_gram


def as_labels(y: object, n: int, name: str = "y") -> Tensor:
    """Labels ``[n]`` of at least two classes, on the CPU.

    ``[n, 1]`` is taken too. Raises TypeError or ValueError for other shapes and for constant
    labels.
    """
    y = require_finite(require_tensor(y, name), name).detach().cpu()
    if y.shape not in ((n,), (n, 1)):
        raise ValueError(f"{name} must be [{n}], one label a sample, got {list(y.shape)}")
    y = y.flatten()
    if (y == y[0]).all():
        raise ValueError(f"{name} must hold at least two classes, got {y[0].item()} everywhere")
    return y


def nearest(similarity: Tensor, count: int) -> Tensor:
    """Places of the ``count`` most similar others, ``[n, count]``; none is its own neighbour.

    >>> nearest(torch.tensor([[1.0, 0.9, 0.1], [0.9, 1.0, 0.2], [0.1, 0.2, 1.0]]), 1).tolist()
    [[1], [0], [1]]
    """
    similarity = require_finite(require_tensor(similarity, "similarity"), "similarity")
    if similarity.ndim != 2 or similarity.shape[0] != similarity.shape[1]:
        raise ValueError(f"similarity must be [n, n], got {list(similarity.shape)}")
    if not similarity.is_floating_point():
        raise TypeError(
            f"similarity must hold real numbers, got {similarity.dtype}; write similarity.float()"
        )
    if require_whole(count, "count") >= len(similarity):
        raise ValueError(
            f"count must be below the {len(similarity)} points, got {count}: "
            "no point is its own neighbour"
        )
    return similarity.clone().fill_diagonal_(-torch.inf).topk(count, dim=1).indices


def overlap(near: Tensor, other: Tensor) -> Tensor:
    """Mean share of entries in common of two tables of neighbours ``[n, count]``, row by row.

    ValueError for tables of different shapes.

    >>> overlap(torch.tensor([[1, 2], [0, 2]]), torch.tensor([[2, 3], [2, 0]]))
    tensor(0.7500)
    """
    if near.shape != other.shape or near.ndim != 2:
        raise ValueError(
            f"other: expected a table like near, {list(near.shape)}, came {list(other.shape)}"
        )
    return (near[:, :, None] == other[:, None, :]).any(2).float().mean()


def homogeneity(similarity: Tensor, y: Tensor, count: int) -> Tensor:
    """Share of the ``count`` nearest that carry a point's own label, ``[n]``.

    ``similarity [n, n]`` is a normalised kernel, or minus a distance; ``y`` is ``[n]`` or
    ``[n, 1]``.  Raises ValueError for constant labels and for a count of n or more.

    >>> x = torch.tensor([[0.0], [1.0], [5.0]])
    >>> homogeneity(-torch.cdist(x, x), torch.tensor([1, 1, 2]), 1)
    tensor([1., 1., 0.])
    """
    near = nearest(similarity, count).cpu()
    labels = as_labels(y, len(near))
    return (labels[near] == labels[:, None]).float().mean(1)


def silhouette(kernel: Tensor, y: Tensor) -> Tensor:
    r"""How much closer a tangent feature is to its own class than to the next, ``[n]`` in [-1, 1].

    The silhouette under the distance of unit tangent features,
    :math:`\|\hat\varphi(x)-\hat\varphi(x')\|=\sqrt{2-2\hat K_{x,x'}}`, by scikit-learn.
    ``kernel [n, n]`` is plain or normalised.

    Raises ValueError for a kernel that is not symmetric and finite, with a diagonal that is not
    positive, constant labels, or as many classes as samples.
    """
    from sklearn.metrics import silhouette_samples  # takes seconds to import

    distances = distance(kernel)
    labels = as_labels(y, len(distances))
    if len(labels.unique()) == len(labels):
        raise ValueError("y must have a class with two samples, got a class of its own for each")
    found = silhouette_samples(distances.numpy(), labels.numpy(), metric="precomputed")
    return torch.from_numpy(found)


def distance(kernel: Tensor) -> Tensor:
    r""":math:`\sqrt{2-2\hat K_{x,x'}}`, the distance of unit tangent features, ``[n, n]``.

    >>> distance(torch.tensor([[1.0, 0.0], [0.0, 4.0]]))
    tensor([[0.0000, 1.4142],
            [1.4142, 0.0000]], dtype=torch.float64)
    """
    return (2 - 2 * unit_diagonal(kernel)).clamp_min(0).sqrt().fill_diagonal_(0)


def unit_diagonal(kernel: Tensor) -> Tensor:
    r""":math:`\hat K` of a kernel ``[n, n]``; ``ValueError`` where its diagonal is not positive."""
    matrix = as_gram(kernel).cpu()
    roots = matrix.diagonal()
    if (roots <= 0).any():
        place = int((roots <= 0).nonzero()[0])
        raise ValueError(
            f"kernel must have a positive diagonal, got {roots[place].item():.3g} at [{place}, "
            f"{place}]: that input has no gradient; leave it out"
        )
    return matrix / roots.sqrt() / roots.sqrt().unsqueeze(1)
