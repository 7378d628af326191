"""Which steps a run keeps a checkpoint of: every so many, or fewer and fewer as it grows."""

from collections.abc import Callable
from math import isqrt

from pkbook.basics.checks import require_whole

WORDS = ("sqrt", "log")

UNIT = 50
"""Steps from one checkpoint to the next of ``"log"``, before any is dropped."""


def require_every(every: object) -> int | str:
    """A number of steps, or the name of a schedule."""
    if not isinstance(every, str):
        return require_whole(every, "every")
    if every not in WORDS:
        raise ValueError(
            f"every must be a number of steps, 'sqrt' or 'log', got {every!r}; write every='sqrt' "
            "where the number of steps is not known in advance"
        )
    return every


def require_background(background: object, folder: object) -> None:
    """Whether to write checkpoints while training goes on: only where they are written at all."""
    if not isinstance(background, bool):
        kind = type(background).__name__
        raise TypeError(f"background must be True or False, got {kind} {background!r}")
    if background and folder is None:
        raise ValueError(
            "background must be False for a run in memory, got True; write folder=... as well"
        )


def is_due(every: int | str, k: int) -> bool:
    """Whether a checkpoint is made after ``k`` steps."""
    return k % _spacing(every, k) == 0


def is_kept(every: int | str, c: int, k: int) -> bool:
    r"""Whether the checkpoint of step ``c`` is still kept after ``k`` steps.

    ``"sqrt"``: a multiple of the spacing, a power of two of :math:`\sqrt k/2` to :math:`\sqrt k`,
    so every second one is dropped each time that there are more than :math:`2\sqrt k`.
    ``"log"``: the last multiple of :math:`2^i` units for each :math:`i`, so at most
    :math:`2+\log_2(k/50)`, close to one another at the end and far apart at the beginning.

    >>> [c for c in range(100) if is_kept("sqrt", c, 100)]
    [0, 8, 16, 24, 32, 40, 48, 56, 64, 72, 80, 88, 96]
    >>> [c for c in range(0, 1001, UNIT) if is_kept("log", c, 1000)]
    [0, 800, 1000]
    """
    if every != "log":
        return isinstance(every, int) or c % _spacing(every, k) == 0
    if c == 0 or c % UNIT:
        return c == 0
    ends, reached = c // UNIT, k // UNIT
    zeros = (ends & -ends).bit_length() - 1
    return reached >> zeros << zeros == ends


def keeper(every: int | str, k: int) -> Callable[[int], bool] | None:
    """:func:`is_kept` after ``k`` steps; None where none is dropped."""
    return None if isinstance(every, int) else lambda c: is_kept(every, c, k)


def watched_every(every: int | str) -> int:
    """The steps of which one now and then is made again at once."""
    return every if isinstance(every, int) else UNIT


def most_held(every: int | str, steps: int) -> int:
    r"""Steps of a replay whose states are held at once.

    About :math:`\sqrt K`, or as many as the reader has asked for.
    """
    root = isqrt(max(steps, 1) - 1) + 1
    return root if isinstance(every, str) else max(every, root)


def _spacing(every: int | str, k: int) -> int:
    if isinstance(every, int):
        return every
    if every == "log":
        return UNIT
    return 1 << max(0, (isqrt(max(k, 1) - 1) // 2).bit_length())
