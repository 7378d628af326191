"""From stored bytes to the samples asked for: classes, number per class, scaling to [0, 1]."""

from collections.abc import Sequence

import numpy as np
import torch

from pkbook.problems.data import arguments as check
from pkbook.problems.data.samples import Samples

Stored = tuple[np.ndarray, np.ndarray]  # uint8 [n, channels, height, width] and int64 [n]


def check_split(split: object) -> None:
    """One of the two splits."""
    if split not in ("train", "test"):
        raise ValueError(f'split: expected "train" or "test", came {split!r}; write split="train"')


def check_choice(per_class: object, classes: object, generator: object, dtype: object) -> None:
    """The options that ``select`` takes, before any file is read."""
    check.check_generator(generator)
    check.check_dtype(dtype)
    if per_class is not None:
        check.check_count("per_class", per_class)
    elif generator is not None:
        raise ValueError(
            "generator: expected None unless per_class is given, since nothing is drawn without "
            "it; came a generator; write per_class=... as well, or leave the generator out"
        )
    if classes is not None:
        _check_classes(classes)


def select(
    stored: Stored,
    *,
    per_class: int | None,
    classes: Sequence[int] | None,
    generator: torch.Generator | None,
    dtype: torch.dtype,
    remedy: str,
) -> Samples:
    """The samples asked for, pixels divided by 255."""
    images, labels = stored
    wanted = range(10) if classes is None else classes
    if per_class is None:
        rows = np.flatnonzero(np.isin(labels, wanted))
    else:
        rows = np.concatenate(
            [_rows_of_class(labels, c, per_class, generator, remedy) for c in wanted]
        )
    x = torch.from_numpy(images[rows]).to(dtype) / 255
    return Samples(x, torch.from_numpy(labels[rows]))


def _rows_of_class(
    labels: np.ndarray, c: int, per_class: int, generator: torch.Generator | None, remedy: str
) -> np.ndarray:
    rows = np.flatnonzero(labels == c)
    if per_class > len(rows):
        raise ValueError(
            f"per_class: expected at most {len(rows)}, the number of samples of class {c} in this "
            f"split, came {per_class}; {remedy}"
        )
    if generator is None:
        return rows[:per_class]
    return rows[torch.randperm(len(rows), generator=generator)[:per_class].numpy()]


def _check_classes(classes: object) -> None:
    remedy = "write for example classes=(0, 1, 2)"
    if isinstance(classes, str) or not isinstance(classes, Sequence):
        raise TypeError(f"classes: expected whole numbers from 0 to 9, came {classes!r}; {remedy}")
    for c in classes:
        if isinstance(c, bool) or not isinstance(c, int):
            raise TypeError(f"classes: expected whole numbers from 0 to 9, came {c!r}; {remedy}")
        if not 0 <= c <= 9:
            raise ValueError(f"classes: expected whole numbers from 0 to 9, came {c}; {remedy}")
    if len(classes) == 0 or len(set(classes)) < len(classes):
        raise ValueError(
            f"classes: expected at least one class and none twice, came {list(classes)}; {remedy}"
        )
