r"""The linear datamodeling score: do scores forecast trainings on subsets of the samples?

A score :math:`\tau_i(x)` forecasts that a training on the subset :math:`S` answers
:math:`\sum_{i\in S}\tau_i(x)`, up to a constant.  The score of the scores is the rank correlation
of forecasts and real answers over many subsets, averaged over queries.

Source: Park et al. 2023, *TRAK: Attributing Model Behavior at Scale*, Definition 2.3; after Ilyas
et al. 2022, *Datamodels*.
"""

import numpy as np
import torch
from torch import Tensor

from pkbook.basics.checks import is_finite_number, require_tensor, require_whole
from pkbook.basics.extras import needs_lab
from pkbook.evaluation.interval import Interval, as_scores, resampled


def subsets(n: int, number: int, fraction: float = 0.5, seed: int = 0) -> Tensor:
    """Random subsets of ``n`` samples, a row of zeros and ones each, ``[number, n]`` in float64.

    Every subset has ``round(fraction * n)`` samples.

    >>> subsets(4, 2, seed=1).sum(1)
    tensor([2., 2.], dtype=torch.float64)
    """
    require_whole(n, "n", least=2)
    require_whole(number, "number")
    if not is_finite_number(fraction) or not 1 <= round(fraction * n) < n:
        raise ValueError(
            f"fraction must leave at least one of {n} samples in and one out, got {fraction!r}"
        )
    generator = torch.Generator().manual_seed(seed)
    found = torch.zeros(number, n, dtype=torch.float64)
    for row in found:
        row[torch.randperm(n, generator=generator)[: round(fraction * n)]] = 1.0
    return found


def linear_datamodeling_score(
    scores: Tensor,
    weights: Tensor,
    answers: Tensor,
    *,
    bootstrap: int = 1000,
    seed: int = 0,
) -> Interval:
    r"""The rank correlation of forecasts and answers over subsets, averaged over queries.

    .. math:: \frac1m\sum_{j}\operatorname{Spearman}_r\Big(\sum_iw_{ri}\,\tau_i(x_j),\
              f_r(x_j)\Big)

    Parameters
    ----------
    scores
        :math:`\tau_i(x_j)`, ``[N, m]``.
    weights
        the weights of the samples in each training ``[R, N]``, such as :func:`subsets`.
    answers
        what those trainings came to, ``[R, m]``; means over training seeds where there are some.
    bootstrap, seed
        drawings of the trainings, for the interval.

    Returns
    -------
    Interval
        1 is a perfect forecast, 0 none.  A query whose forecasts or answers are all the same
        counts 0.

    Raises
    ------
    TypeError, ValueError
        for shapes that do not fit and fewer than three trainings.

    Examples
    --------
    >>> rows = subsets(20, 12)
    >>> tau = torch.linspace(-1, 1, 20, dtype=torch.float64)[:, None]
    >>> linear_datamodeling_score(tau, rows, rows @ tau).value
    1.0
    """
    tau, rows = as_scores(scores), as_scores(weights, "weights")
    real = as_scores(answers, "answers")
    require_tensor(weights, "weights")
    if rows.shape[1] != len(tau) or real.shape != (len(rows), tau.shape[1]):
        raise ValueError(
            f"scores [N, m], weights [R, N] and answers [R, m] must fit, got {tuple(tau.shape)}, "
            f"{tuple(rows.shape)} and {tuple(real.shape)}"
        )
    if len(rows) < 3:
        raise ValueError(f"weights must be those of three trainings at least, got {len(rows)}")
    forecast, real = (rows @ tau).numpy(), real.numpy()

    def mean_over_queries(numbers: np.ndarray) -> float:
        return float(np.mean(rank_correlations(forecast[numbers], real[numbers])))

    return resampled(mean_over_queries, [np.arange(len(rows))], bootstrap, seed)


def rank_correlations(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Spearman's correlation of each column, ``[m]``; 0 for a column that does not vary."""
    with needs_lab("pkbook.evaluation"):
        from scipy.stats import rankdata
    a, b = (rankdata(np.round(t, 12), axis=0) for t in (a, b))
    a, b = a - a.mean(0), b - b.mean(0)
    size = np.sqrt((a**2).sum(0) * (b**2).sum(0))
    return np.divide((a * b).sum(0), size, out=np.zeros_like(size), where=size > 0)
