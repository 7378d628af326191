"""MNIST and CIFAR-10, the parts that the repository holds (PROVENANCE.md beside this file).

A wheel leaves the two files out.  There they are fetched once from the repository's folder, whose
address stands in the environment variable ``PKBOOK_DATA_URL``.
"""

import hashlib
import io
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from pkbook.problems.data.download import fetch
from pkbook.problems.data.samples import Samples
from pkbook.problems.data.selection import Stored, check_choice, check_split, select

folder = Path(__file__).parent
checksums = {
    "mnist10k.npz": "0217e13bd0668deb198aa7d305edbf0331eb89f8a6e7dd226e03d1aa3a9bd4ef",
    "cifar10_small.npz": "63e9b673074668288b85344a5eed63bd22595c96daa2987da0c705e8145e6674",
}
ADDRESS = "PKBOOK_DATA_URL"
"""The environment variable with the address of the folder that holds the two files."""
cifar10_classes = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
TEST_DIGITS_PER_CLASS = 200


def mnist(
    split: str = "train",
    *,
    per_class: int | None = None,
    classes: Sequence[int] | None = None,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
) -> Samples:
    """Handwritten digits: the first 10,000 training digits of MNIST, held in the repository.

    They are split in two. "test" holds the last 200 of each digit (2,000 in all), "train" the
    other 8,000: between 663 and 927 of a digit. Both are cut from MNIST's *training* digits, so a
    test figure on them is not the customary one; ``mnist_full`` gives that.

    Returns x [n, 1, 28, 28] with values in [0, 1] (byte / 255) and y int64 [n], the digit itself
    even where ``classes`` leaves some out. Without ``per_class`` the digits are interleaved, each
    spread evenly from the first row to the last, so that a slice holds all of them. With
    ``per_class`` they come ordered by class, in the order of ``classes``.

    Args:
        split: "train" or "test".
        per_class: number of samples of each class; None for all of them.
        classes: the digits to keep, each once; None for 0 to 9.
        generator: draws the ``per_class`` samples without replacement, class after class. None
            takes the first ones. Only together with ``per_class``.
        dtype: floating dtype of x.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: an unknown split or class, a class named twice, a generator without
            ``per_class``, more samples asked for than there are, or a damaged data file.
        FileNotFoundError, ConnectionError: pkbook was installed from a wheel, which holds no
            pictures, and ``PKBOOK_DATA_URL`` says nowhere to fetch them, or no place that answers.

    Source: LeCun, Cortes and Burges, CC BY-SA 3.0.

    >>> x, y = mnist("test", per_class=2, classes=(7, 3))
    >>> x.shape, y.tolist()
    (torch.Size([4, 1, 28, 28]), [7, 7, 3, 3])
    """
    check_split(split)
    check_choice(per_class, classes, generator, dtype)
    return select(
        _digits()[split],
        per_class=per_class,
        classes=classes,
        generator=generator,
        dtype=dtype,
        remedy="lower it, or take the 60,000 digits of pk.data.mnist_full",
    )


def cifar10(
    split: str = "train",
    *,
    per_class: int | None = None,
    classes: Sequence[int] | None = None,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
) -> Samples:
    """Small photographs: 250 training and 50 test images a class of CIFAR-10.

    They are the first ones of each class in CIFAR-10's own training and test set, in its order.

    Returns x [n, 3, 32, 32] (red, green, blue) with values in [0, 1] and y int64 [n];
    ``cifar10_classes[label]`` is the name. With ``per_class`` the samples come ordered by class,
    in the order of ``classes``.

    Arguments and errors as for ``mnist``. Source: Krizhevsky (2009).

    >>> x, y = cifar10("test", per_class=1, classes=(8,))
    >>> x.shape, cifar10_classes[y[0]]
    (torch.Size([1, 3, 32, 32]), 'ship')
    """
    check_split(split)
    check_choice(per_class, classes, generator, dtype)
    return select(
        _photographs()[split],
        per_class=per_class,
        classes=classes,
        generator=generator,
        dtype=dtype,
        remedy="lower it, or take the 60,000 photographs of pk.data.cifar10_full",
    )


@lru_cache(maxsize=1)
def _digits() -> dict[str, Stored]:
    """Both splits. The file holds the digits sorted by class, so they are interleaved here."""
    held = _read("mnist10k.npz")
    images, labels = held["images"][:, None], held["labels"].astype(np.int64)
    splits: dict[str, list[np.ndarray]] = {"train": [], "test": []}
    for c in range(10):
        rows = np.flatnonzero(labels == c)
        splits["train"].append(rows[:-TEST_DIGITS_PER_CLASS])
        splits["test"].append(rows[-TEST_DIGITS_PER_CLASS:])
    orders = {name: _interleave(groups) for name, groups in splits.items()}
    return {name: (images[order], labels[order]) for name, order in orders.items()}


@lru_cache(maxsize=1)
def _photographs() -> dict[str, Stored]:
    held = _read("cifar10_small.npz")
    return {
        split: (
            np.ascontiguousarray(held[f"x_{split}"].transpose(0, 3, 1, 2)),
            held[f"y_{split}"].astype(np.int64),
        )
        for split in ("train", "test")
    }


def _interleave(groups: list[np.ndarray]) -> np.ndarray:
    """The rows of all groups, each group spread evenly from beginning to end."""
    place = np.concatenate([(np.arange(len(rows)) + 0.5) / len(rows) for rows in groups])
    return np.concatenate(groups)[np.argsort(place, kind="stable")]


def _path(name: str) -> Path:
    """Where a file is: beside this one, in a clone; fetched once, where a wheel was installed."""
    if (folder / name).exists():
        return folder / name
    address = os.environ.get(ADDRESS)
    if not address:
        raise FileNotFoundError(
            f"{folder / name} must exist, got no such file: a clone of the repository has it "
            "(10 MB), a wheel does not; write pip install -e '.[lab]' in a clone, or copy the "
            f"file there, or set {ADDRESS} to the address of the repository's folder "
            "pkbook/problems/data"
        )
    place, checksum = (f"{address.rstrip('/')}/",), f"sha256:{checksums[name]}"
    return fetch(name, place, checksum, None, False, f"set {ADDRESS} to another address")


def _read(name: str) -> dict[str, np.ndarray]:
    """The arrays of a file, after a look at its checksum."""
    path = _path(name)
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != checksums[name]:
        raise ValueError(
            f"{path}: expected a file with sha256 {checksums[name]}, came one with {found}; "
            "the file was changed or cut short, so delete it and install pkbook again"
        )
    with np.load(io.BytesIO(content), allow_pickle=False) as held:
        return {key: held[key] for key in held.files if key != "classes"}
