"""Full sets without a network: the parsers on files written here, and a server on this machine."""

import functools
import gc
import gzip
import hashlib
import http.server
import io
import socket
import struct
import tarfile
import threading

import numpy as np
import pooch
import pytest
import torch

from pkbook.problems import data
from pkbook.problems.data import download, images


def write_idx(path, array):
    """MNIST's format by the letter: 0, 0, type, axes, big-endian sizes, bytes."""
    header = struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(
        f">{array.ndim}i", *array.shape
    )
    path.write_bytes(gzip.compress(header + array.tobytes()))


def write_cifar(path, batches):
    """CIFAR-10's binary archive: records of one label and 3072 bytes."""
    with tarfile.open(path, "w:gz") as archive:
        for name, (x, y) in batches.items():
            content = b"".join(
                bytes([label]) + image.tobytes() for image, label in zip(x, y, strict=True)
            )
            entry = tarfile.TarInfo(f"cifar-10-batches-bin/{name}.bin")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def md5(path):
    return "md5:" + hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


@pytest.fixture
def random():
    return np.random.default_rng(0)


@pytest.fixture
def closed_address():
    """An address of this machine where nobody listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}/"


@pytest.fixture
def server(tmp_path):
    """A folder served by http on this machine: (folder, address, list of paths asked for)."""
    folder, asked = tmp_path / "served", []
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            asked.append(self.path)

    handler = functools.partial(Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True).start()
        yield folder, f"http://127.0.0.1:{running.server_port}/", asked
        running.shutdown()


@pytest.fixture
def small_mnist(server, random, monkeypatch):
    """Stand-ins for MNIST's four files, served here, with their own checksums."""
    folder, address, asked = server
    held = {}
    for prefix, n in (("train", 40), ("t10k", 20)):
        x = random.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        y = (np.arange(n) % 10).astype(np.uint8)
        write_idx(folder / f"{prefix}-images-idx3-ubyte.gz", x)
        write_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", y)
        held[prefix] = x, y
    sums = {name: md5(folder / name) for name in download.mnist_checksums}
    monkeypatch.setattr(download, "mnist_checksums", sums)
    monkeypatch.setattr(download, "mnist_addresses", (address,))
    return held, asked


def test_idx_of_any_number_of_axes(tmp_path, random):
    for shape in ((5,), (3, 4), (2, 3, 4)):
        array = random.integers(0, 256, shape, dtype=np.uint8)
        write_idx(tmp_path / "a.gz", array)
        assert np.array_equal(download.read_idx(tmp_path / "a.gz"), array)


@pytest.mark.parametrize("content", [b"", b"\x00\x00\x0d\x01\x00\x00\x00\x01\x00", b"PK\x03\x04"])
def test_idx_of_another_kind_is_refused(tmp_path, content):
    (tmp_path / "a.gz").write_bytes(gzip.compress(content))
    with pytest.raises(ValueError, match=r"a\.gz: expected an IDX file.*fetch it again"):
        download.read_idx(tmp_path / "a.gz")


def test_idx_cut_short_is_refused(tmp_path):
    header = struct.pack(">BBBBi", 0, 0, 8, 1, 9)
    (tmp_path / "a.gz").write_bytes(gzip.compress(header + bytes(8)))
    with pytest.raises(ValueError, match=r"expected 9 bytes.*came 8"):
        download.read_idx(tmp_path / "a.gz")


def test_cifar_archive(tmp_path, random):
    batches = {
        name: (random.integers(0, 256, (2, 3, 32, 32), dtype=np.uint8), random.integers(0, 10, 2))
        for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    }
    write_cifar(tmp_path / "c.tar.gz", batches)
    x, y = download.read_cifar10(tmp_path / "c.tar.gz", "train")
    train = [batches[f"data_batch_{i}"] for i in range(1, 6)]
    assert np.array_equal(x, np.concatenate([b[0] for b in train]))
    assert y.tolist() == np.concatenate([b[1] for b in train]).tolist()
    x, y = download.read_cifar10(tmp_path / "c.tar.gz", "test")
    assert np.array_equal(x, batches["test_batch"][0])
    assert y.dtype == np.int64


def test_cifar_archive_of_broken_records_is_refused(tmp_path, random):
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    images = random.integers(0, 256, (2, 3, 32, 31), dtype=np.uint8)
    write_cifar(tmp_path / "c.tar.gz", dict.fromkeys(names, (images, random.integers(0, 10, 2))))
    with pytest.raises(ValueError, match=r"expected records of 3073 bytes, came 5954 .*fetch it"):
        download.read_cifar10(tmp_path / "c.tar.gz", "test")


def test_cifar_archive_without_its_files_is_refused(tmp_path):
    with tarfile.open(tmp_path / "c.tar.gz", "w:gz") as archive:
        entry = tarfile.TarInfo("cifar-10-batches-bin/test_batch.bin")
        entry.type = tarfile.DIRTYPE
        archive.addfile(entry)
    with pytest.raises(ValueError, match=r"expected a file cifar-10.*test_batch.bin, came a fold"):
        download.read_cifar10(tmp_path / "c.tar.gz", "test")


def test_mnist_full_fetches_once(small_mnist, tmp_path):
    held, asked = small_mnist
    for split, prefix in (("train", "train"), ("test", "t10k")):
        for _ in range(2):
            x, y = data.mnist_full(split, tmp_path / "kept", progress=False)
            assert torch.equal(x, torch.from_numpy(held[prefix][0])[:, None].float() / 255)
            assert y.tolist() == held[prefix][1].tolist()
            assert y.dtype == torch.int64
    assert len(asked) == 4
    chosen = data.mnist_full("train", str(tmp_path / "kept"), per_class=2, classes=(3, 1))
    assert chosen.y.tolist() == [3, 3, 1, 1]
    with pytest.raises(ValueError, match="at most 4, the number of samples of class 0"):
        data.mnist_full("train", tmp_path / "kept", per_class=5)


def test_second_host_where_the_first_is_down(small_mnist, closed_address, tmp_path, monkeypatch):
    addresses = (closed_address, *download.mnist_addresses)
    monkeypatch.setattr(download, "mnist_addresses", addresses)
    assert len(data.mnist_full("test", tmp_path / "kept", progress=False).x) == 20


def test_cifar10_full(server, random, tmp_path, monkeypatch):
    folder, address, _ = server
    x, y = random.integers(0, 256, (4, 3, 32, 32), dtype=np.uint8), [3, 1, 3, 0]
    write_cifar(folder / "cifar-10-binary.tar.gz", {"test_batch": (x, y)})
    sums = {"cifar-10-binary.tar.gz": md5(folder / "cifar-10-binary.tar.gz")}
    monkeypatch.setattr(download, "cifar10_checksums", sums)
    monkeypatch.setattr(download, "cifar10_addresses", (address,))
    got = data.cifar10_full("test", tmp_path / "kept", progress=False)
    assert torch.equal(got.x, torch.from_numpy(x).float() / 255)
    assert got.y.tolist() == y


@pytest.mark.parametrize(
    ("load", "addresses", "embedded"),
    [
        (data.mnist_full, "mnist_addresses", "pk.data.mnist(...)"),
        (data.cifar10_full, "cifar10_addresses", "pk.data.cifar10(...)"),
    ],
)
def test_offline(load, addresses, embedded, closed_address, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(download, addresses, (closed_address,))
    with pytest.raises(ConnectionError, match="could not be fetched") as caught:
        load("train", tmp_path / "kept")
    for word in (closed_address, embedded, str(tmp_path / "kept"), ".gz"):
        assert word in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_missing_at_the_host(server, tmp_path, monkeypatch):
    """pooch leaves the socket of a refused request to the garbage collector, hence the filter."""
    monkeypatch.setattr(download, "cifar10_addresses", (server[1],))
    with pytest.raises(ConnectionError, match="could not be fetched"):
        data.cifar10_full("train", tmp_path / "kept", progress=False)
    gc.collect()


def test_another_file_than_expected(server, tmp_path, monkeypatch):
    folder, address, _ = server
    (folder / "cifar-10-binary.tar.gz").write_bytes(b"a page that asks to log in")
    monkeypatch.setattr(download, "cifar10_addresses", (address,))
    with pytest.raises(
        ValueError, match=r"cifar-10-binary\.tar\.gz: expected a file with checksum"
    ):
        data.cifar10_full("train", tmp_path / "kept", progress=False)
    assert not (tmp_path / "kept" / "cifar-10-binary.tar.gz").exists()


def test_damaged_copy_is_fetched_again(small_mnist, tmp_path):
    data.mnist_full("test", tmp_path / "kept", progress=False)
    kept = tmp_path / "kept" / "t10k-labels-idx1-ubyte.gz"
    kept.write_bytes(kept.read_bytes()[:-3])
    assert len(data.mnist_full("test", tmp_path / "kept", progress=False).y) == 20


def test_says_nothing_and_leaves_the_logger(small_mnist, tmp_path, capfd):
    level = pooch.get_logger().level
    data.mnist_full("test", tmp_path / "kept", progress=False)
    assert capfd.readouterr() == ("", "")
    assert pooch.get_logger().level == level


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """As after an installation from a wheel: no pictures beside the module, an empty cache."""
    held = images.folder
    (tmp_path / "installed").mkdir()
    monkeypatch.setattr(images, "folder", tmp_path / "installed")
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / "cache" / name)
    monkeypatch.delenv("PKBOOK_DATA_URL", raising=False)
    images._digits.cache_clear()
    yield held
    images._digits.cache_clear()


def test_a_wheel_fetches_the_digits_once(wheel, server, monkeypatch, capfd):
    folder, address, asked = server
    (folder / "mnist10k.npz").write_bytes((wheel / "mnist10k.npz").read_bytes())
    monkeypatch.setenv("PKBOOK_DATA_URL", address.rstrip("/"))
    got = data.mnist("test", per_class=1)
    images._digits.cache_clear()
    again = data.mnist("test", per_class=1)
    with np.load(wheel / "mnist10k.npz") as kept:
        first = kept["images"][kept["labels"] == 0][-200]
    assert torch.equal((255 * got.x[0, 0]).round().byte(), torch.from_numpy(first))
    assert torch.equal(again.x, got.x)
    assert asked == ["/mnist10k.npz"]
    assert capfd.readouterr() == ("", "")


def test_a_wheel_without_an_address_says_what_to_do(wheel, closed_address, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"a wheel does not.*in a clone.*PKBOOK_DATA_URL"):
        data.mnist()
    monkeypatch.setenv("PKBOOK_DATA_URL", closed_address)
    with pytest.raises(ConnectionError, match=r"mnist10k.npz: could not be fetched.*PKBOOK_DATA"):
        data.mnist()


def test_a_wheel_refuses_another_file(wheel, server, monkeypatch):
    folder, address, _ = server
    (folder / "mnist10k.npz").write_bytes(b"a page that asks to log in")
    monkeypatch.setenv("PKBOOK_DATA_URL", address)
    with pytest.raises(ValueError, match=r"mnist10k.npz: expected a file with checksum sha256"):
        data.mnist()
