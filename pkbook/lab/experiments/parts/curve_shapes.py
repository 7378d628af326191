"""What a curve over training does: when it has come down, how low it gets, how far it comes back.

Appendix D of arXiv 2603.13872 says such things of Figure 10, optimizer by optimizer.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from pkbook.basics.checks import require_tensor


def first_below(values: Tensor, times: Sequence[float], level: float) -> Tensor:
    """When curves ``values [..., E]`` first reach ``level`` from above, ``[...]``; NaN if never.

    Between two times a curve is taken to be straight.  ``ValueError`` unless there is one time for
    each value and the times increase.

    >>> import torch
    >>> first_below(torch.tensor([1.0, 0.6, 0.2]), (0, 1, 5), 0.4)
    tensor(3.)
    """
    require_tensor(values, "values")
    t = torch.tensor([float(time) for time in times], dtype=values.dtype)
    if values.ndim < 1 or values.shape[-1] != len(t):
        raise ValueError(
            f"times must name one time for each of the {values.shape[-1:]} values, got {len(t)}"
        )
    if (t.diff() <= 0).any():
        raise ValueError(f"times must increase, got {list(times)}")
    below = values <= level
    end = below.int().argmax(-1, keepdim=True)
    start = (end - 1).clamp_min(0)
    (high, low), (t0, t1) = (
        [curve.gather(-1, place) for place in (start, end)]
        for curve in (values, t.expand_as(values))
    )
    share = torch.where(end > 0, (high - level) / (high - low), torch.zeros_like(high))
    return (t0 + share * (t1 - t0)).squeeze(-1).masked_fill(~below.any(-1), torch.nan)


def largest_rise(values: Tensor) -> Tensor:
    """How far curves ``values [..., E]`` come up again from their lowest so far, ``[...]``.

    Zero for a curve that only falls.

    >>> import torch
    >>> largest_rise(torch.tensor([1.0, 0.25, 0.75, 0.0, 0.125]))
    tensor(0.5000)
    """
    require_tensor(values, "values")
    return (values - values.cummin(-1).values).amax(-1)
