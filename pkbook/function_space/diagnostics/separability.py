"""Whether a linear rule on tangent features tells the classes apart (Section 5.2)."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pkbook.basics.checks import is_finite_number, require_whole
from pkbook.function_space.diagnostics.neighbours import as_labels
from pkbook.function_space.kernel_matrix import as_gram


@dataclass(frozen=True)
class Separability:
    """Accuracy of a linear support vector machine on tangent features."""

    training: float
    """On the samples it was fitted to; 1 means linearly separable."""
    held_out: Tensor
    """On each held-out fold, ``[folds]``."""

    @property
    def accuracy(self) -> float:
        """Mean over the folds."""
        return self.held_out.mean().item()


def linear_separability(
    kernel: Tensor, y: Tensor, *, penalty: float = 100.0, folds: int = 5, seed: int = 0
) -> Separability:
    r"""How well a hyperplane in tangent-feature space separates the classes.

    A support vector machine on the kernel ``[n, n]`` *is* the linear one on the features
    :math:`\varphi_\theta(x)`, without forming them (scikit-learn's ``SVC``).  The kernel is
    scaled to a mean diagonal of one, so that ``penalty`` (SVC's ``C``) means the same at every
    moment of training.

    Raises TypeError or ValueError for kernels that are not symmetric and finite, a penalty that
    is not positive, constant labels, or a class with fewer samples than folds.

    >>> x = torch.tensor([[-2.0], [-1.0], [1.0], [2.0]])
    >>> linear_separability(x @ x.T, torch.tensor([0, 0, 1, 1]), folds=2).training
    1.0
    """
    from sklearn.model_selection import StratifiedKFold  # takes seconds to import
    from sklearn.svm import SVC

    matrix = as_gram(kernel).cpu()
    labels = np.unique(as_labels(y, len(matrix)).numpy(), return_inverse=True)[1]
    require_whole(seed, "seed", least=0)
    if not is_finite_number(penalty) or penalty <= 0:
        raise ValueError(f"penalty must be a positive number, got {penalty!r}")
    if np.bincount(labels).min() < require_whole(folds, "folds", least=2):
        raise ValueError(
            f"y must have at least {folds} samples of each class, one a fold, got a class of "
            f"{np.bincount(labels).min()}; write folds=2 or take more samples"
        )
    scale = matrix.diagonal().mean()
    if scale <= 0:
        raise ValueError("kernel must not be zero: there is no feature to separate by")
    matrix = (matrix / scale).numpy()

    def score(fitted: np.ndarray, asked: np.ndarray) -> float:
        machine = SVC(kernel="precomputed", C=penalty).fit(
            matrix[np.ix_(fitted, fitted)], labels[fitted]
        )
        return machine.score(matrix[np.ix_(asked, fitted)], labels[asked])

    split = StratifiedKFold(folds, shuffle=True, random_state=seed).split(matrix, labels)
    everything = np.arange(len(labels))
    return Separability(
        score(everything, everything), torch.tensor([score(*parts) for parts in split])
    )
