"""The whole of MNIST and CIFAR-10, fetched once from their hosts and checked."""

import gzip
import logging
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from pkbook.basics.extras import needs_lab
from pkbook.problems.data.samples import Samples
from pkbook.problems.data.selection import Stored, check_choice, check_split, select

# The two hosts that mirror the four original files byte for byte.
mnist_addresses = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
mnist_checksums = {
    "train-images-idx3-ubyte.gz": "md5:f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "md5:d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "md5:9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "md5:ec29112dd5afa0611ce80d1b7f02629c",
}
# The binary version: the python version is a pickle, which may run code when it is read.
cifar10_addresses = ("https://www.cs.toronto.edu/~kriz/",)
cifar10_checksums = {"cifar-10-binary.tar.gz": "md5:c32a1d4ab5d03f1284b67883e8d87530"}
MNIST_PART = "write pk.data.mnist(...) for the part that comes with the repository"
CIFAR10_PART = "write pk.data.cifar10(...) for the part that comes with the repository"
CIFAR10_RECORD = 1 + 3 * 32 * 32


def mnist_full(
    split: str = "train",
    folder: str | Path | None = None,
    *,
    per_class: int | None = None,
    classes: Sequence[int] | None = None,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
    progress: bool = True,
) -> Samples:
    """All of MNIST: 60,000 training or 10,000 test digits, in MNIST's own order.

    The files (12 MB) are downloaded at the first call, checked and kept in ``folder``.

    Returns x [n, 1, 28, 28] with values in [0, 1] and y int64 [n]; ordered by class where
    ``per_class`` is given.

    Args:
        folder: where the files are kept; None for the user's cache folder.
        progress: show a progress bar while a file is fetched.
        split, per_class, classes, generator, dtype: as for ``mnist``.

    Raises:
        TypeError, ValueError: as for ``mnist``; ValueError too if every host serves a file whose
            checksum differs.
        ConnectionError: no host could be reached. ``mnist`` needs no network.

    Source: LeCun, Cortes and Burges, CC BY-SA 3.0.
    """
    check_split(split)
    check_choice(per_class, classes, generator, dtype)
    prefix = "train" if split == "train" else "t10k"
    images, labels = (
        fetch(name, mnist_addresses, mnist_checksums[name], folder, progress, MNIST_PART)
        for name in (f"{prefix}-images-idx3-ubyte.gz", f"{prefix}-labels-idx1-ubyte.gz")
    )
    return select(
        (read_idx(images)[:, None], read_idx(labels).astype(np.int64)),
        per_class=per_class,
        classes=classes,
        generator=generator,
        dtype=dtype,
        remedy="lower it",
    )


def cifar10_full(
    split: str = "train",
    folder: str | Path | None = None,
    *,
    per_class: int | None = None,
    classes: Sequence[int] | None = None,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
    progress: bool = True,
) -> Samples:
    """All of CIFAR-10: 50,000 training or 10,000 test photographs, in CIFAR-10's own order.

    The file (162 MB) is downloaded at the first call, checked and kept in ``folder``.

    Returns x [n, 3, 32, 32] with values in [0, 1] and y int64 [n]; ordered by class where
    ``per_class`` is given. Arguments and errors as for ``mnist_full``.

    Source: Krizhevsky (2009).
    """
    check_split(split)
    check_choice(per_class, classes, generator, dtype)
    ((name, checksum),) = cifar10_checksums.items()
    archive = fetch(name, cifar10_addresses, checksum, folder, progress, CIFAR10_PART)
    return select(
        read_cifar10(archive, split),
        per_class=per_class,
        classes=classes,
        generator=generator,
        dtype=dtype,
        remedy="lower it",
    )


def read_idx(path: Path) -> np.ndarray:
    """The bytes of a gzipped IDX file, MNIST's format, in the shape that its header states.

    The header is 0, 0, 8 (unsigned byte), the number of axes, and one big-endian int32 an axis.
    """
    content = gzip.decompress(Path(path).read_bytes())
    if len(content) < 4 or content[:3] != b"\x00\x00\x08":
        raise ValueError(
            f"{path}: expected an IDX file of unsigned bytes, which begins 0, 0, 8; came "
            f"{list(content[:3])}; delete it and fetch it again"
        )
    axes = content[3]
    shape = tuple(np.frombuffer(content, dtype=">i4", count=axes, offset=4).tolist())
    values = np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * axes)
    if values.size != np.prod(shape):
        raise ValueError(
            f"{path}: expected {np.prod(shape)} bytes for the shape {shape}, came {values.size}; "
            "delete it and fetch it again"
        )
    return values.reshape(shape)


def read_cifar10(path: Path, split: str) -> Stored:
    """Images uint8 [n, 3, 32, 32] and labels int64 [n] of one split of the binary archive.

    A record is one byte for the label, then 32 x 32 bytes each of red, green and blue.
    """
    names = [f"data_batch_{i}.bin" for i in range(1, 6)] if split == "train" else ["test_batch.bin"]
    with tarfile.open(path) as archive:
        parts = [_content(archive, f"cifar-10-batches-bin/{name}") for name in names]
    content = np.frombuffer(b"".join(parts), dtype=np.uint8)
    if content.size % CIFAR10_RECORD:
        raise ValueError(
            f"{path}: expected records of {CIFAR10_RECORD} bytes, came {content.size} bytes in "
            "all; delete it and fetch it again"
        )
    records = content.reshape(-1, CIFAR10_RECORD)
    return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0].astype(np.int64)


def _content(archive: tarfile.TarFile, name: str) -> bytes:
    member = archive.extractfile(name)
    if member is None:
        raise ValueError(
            f"{archive.name}: expected a file {name}, came a folder or a link to nothing; "
            "delete it and fetch it again"
        )
    with member:
        return member.read()


def fetch(
    name: str,
    addresses: Sequence[str],
    checksum: str,
    folder: str | Path | None,
    progress: bool,
    instead: str,
) -> Path:
    """The local path of a file, downloaded from the first address that serves it unchanged.

    ``instead``, in words, is what a reader without a network may write.
    """
    with needs_lab(f"fetching {name}"):
        import pooch
        from requests import RequestException

    path = pooch.os_cache("pkbook") if folder is None else Path(folder)
    failures = []
    for address in addresses:
        try:
            with _quiet(pooch.get_logger()):
                url = address + name
                return Path(pooch.retrieve(url, checksum, name, path, progressbar=progress))
        except (RequestException, ValueError) as error:
            failures.append(error)
    if all(isinstance(error, RequestException) for error in failures):
        raise ConnectionError(
            f"{name}: could not be fetched from {' or '.join(addresses)}; {instead}, or put the "
            f"file into {path}"
        ) from failures[-1]
    raise ValueError(
        f"{name}: expected a file with checksum {checksum}, and {' or '.join(addresses)} sent "
        f"another; {instead}, or put the right file into {path}"
    ) from failures[-1]


@contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    """Hold back the notes of a logger for a while: the progress bar says enough."""
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
