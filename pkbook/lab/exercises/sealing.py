"""Answers that can be compared and not read: the hash of a number rounded to its tolerance.

With the step $s$, an answer $a$ is kept as the hash of $n=\\mathrm{round}(a/s)$, and a number $v$
is right if $\\lfloor v/s\\rfloor$ or $\\lceil v/s\\rceil$ has that hash, that is if $|v-ns|<s$.
Whoever tries numbers until one fits will find it; whoever reads a notebook will not.
"""

import hashlib
import math
from collections.abc import Iterable


def seal(exercise: str, place: int, cell: int) -> str:
    """The hash of one rounded entry; exercise and place make equal answers look different."""
    words = f"pkbook exercise {exercise}, entry {place}: {cell}"
    return hashlib.sha256(words.encode()).hexdigest()[:16]


def sealed(exercise: str, answer: Iterable[float], step: float) -> list[str]:
    """The hashes of an answer's entries.

    Raises ValueError for a step that is not positive, or an entry that is not finite.

    >>> len(sealed("domingos.2", [1.5], 0.1)[0])
    16
    """
    if not (step > 0 and math.isfinite(step)):
        raise ValueError(f"step must be a positive number, got {step!r}")
    entries = list(answer)
    if not all(math.isfinite(entry) for entry in entries):
        raise ValueError(f"answer must be finite, got {entries}")
    return [seal(exercise, place, round(entry / step)) for place, entry in enumerate(entries)]


def opens(exercise: str, place: int, value: float, step: float, kept: str) -> bool:
    """Whether a value lies within the tolerance of the sealed entry.

    >>> kept = sealed("domingos.2", [1.5], 0.1)[0]
    >>> [opens("domingos.2", 0, value, 0.1, kept) for value in (1.45, 1.62, float("nan"))]
    [True, False, False]
    """
    if not math.isfinite(value):
        return False
    cells = {math.floor(value / step), math.ceil(value / step)}
    return any(seal(exercise, place, cell) == kept for cell in cells)
