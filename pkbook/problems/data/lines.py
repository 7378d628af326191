"""Targets on a line: the sine and the square wave of the paper's Figure 2."""

import math

import torch

from pkbook.problems.data import arguments as check
from pkbook.problems.data.samples import Samples


def sine(
    n: int = 100,
    *,
    interval: tuple[float, float] = (-math.pi, math.pi),
    frequency: float = 1.0,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
) -> Samples:
    r"""The smooth target :math:`y = \sin(\omega x)` of the paper's Figure 2.

    Without a generator the inputs are the midpoints of n equal parts of the interval,
    :math:`x_i = a + (i + 1/2)(b - a)/n`, in increasing order. With a generator they are n
    independent uniform draws, in the order drawn.

    Returns x [n, 1] and y [n, 1].

    Args:
        n: number of points.
        interval: :math:`(a, b)` with :math:`a < b`.
        frequency: :math:`\omega > 0`.
        generator: None for the midpoints, or a source of randomness on the CPU.
        dtype: floating dtype of both tensors.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: no point, an empty interval, a frequency that is not positive.

    >>> import math
    >>> x, y = sine(2, interval=(0, math.pi))
    >>> [round(v, 4) for v in (x / math.pi).flatten().tolist()]
    [0.25, 0.75]
    """
    x, phase = _inputs(n, interval, frequency, generator, dtype)
    return Samples(x, phase.sin().to(dtype))


def square_wave(
    n: int = 100,
    *,
    interval: tuple[float, float] = (-math.pi, math.pi),
    frequency: float = 1.0,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
) -> Samples:
    r"""The target with jumps, paper's Figure 2: :math:`y = \operatorname{sign}\sin(\omega x)`.

    +1 on :math:`[2k\pi, (2k+1)\pi)/\omega` and -1 on :math:`[(2k+1)\pi, (2k+2)\pi)/\omega`.
    On the interval given here the one jump inside is at 0; a wider interval or a larger
    frequency has more.
    The midpoints never touch the ends of the interval, so no sample sits on a jump there.

    Returns, arguments and errors as for ``sine``.

    >>> square_wave(4).y.flatten().tolist()
    [-1.0, -1.0, 1.0, 1.0]
    """
    x, phase = _inputs(n, interval, frequency, generator, dtype)
    half_period = (phase / math.pi).floor()
    return Samples(x, (1 - 2 * half_period.remainder(2)).to(dtype))


def _inputs(
    n: int,
    interval: tuple[float, float],
    frequency: float,
    generator: torch.Generator | None,
    dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor]:
    """x [n, 1] in ``dtype`` and the phase of the rounded x in float64."""
    check.check_count("n", n)
    low, high = check.check_increasing("interval", interval)
    frequency = check.check_positive("frequency", frequency)
    check.check_generator(generator)
    check.check_dtype(dtype)
    if generator is None:
        share = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    else:
        share = torch.rand(n, generator=generator, dtype=torch.float64)
    x = (low + (high - low) * share)[:, None].to(dtype)
    return x, frequency * x.double()
