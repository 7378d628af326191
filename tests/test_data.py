"""The data sets: geometry counted anew, bytes compared with the files, bad input refused."""

import gzip
import hashlib
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from pkbook.problems import data
from pkbook.problems.data import images, text as texts


def seeded(seed):
    return torch.Generator().manual_seed(seed)


PLANAR = {"ring": data.ring_and_disk, "ellipse": data.ellipse, "circle": data.circle}
LINES = {"sine": data.sine, "square": data.square_wave}
everywhere = pytest.mark.parametrize("make", [*PLANAR.values(), *LINES.values()])


@everywhere
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("generator", [None, 1])
def test_shapes_dtypes_and_the_global_state(make, dtype, generator):
    torch.manual_seed(11)
    before = torch.get_rng_state()
    x, y = make(7, generator=generator and seeded(generator), dtype=dtype)
    assert x.shape == (7, 2 if make in PLANAR.values() else 1)
    assert y.shape == (7, 1)
    assert x.dtype == y.dtype == dtype
    assert torch.equal(torch.get_rng_state(), before)


@everywhere
def test_same_seed_same_samples(make):
    first, again = make(9, generator=seeded(1)), make(9, generator=seeded(1))
    assert torch.equal(first.x, again.x)
    assert torch.equal(make(9).x, make(9).x)
    assert not torch.equal(first.x, make(9, generator=seeded(2)).x)
    double = make(9, generator=seeded(1), dtype=torch.float64)
    torch.testing.assert_close(first.x, double.x.float(), rtol=0, atol=0)


@pytest.mark.parametrize("n", [600, 7, 2])
def test_ring_and_disk_geometry_and_balance(n):
    x, y = data.ring_and_disk(n, disk_radius=0.5, ring_radii=(0.8, 1.1), generator=seeded(0))
    radius, ring = x.double().norm(dim=1), y[:, 0] > 0
    assert radius[~ring].max() <= 0.5 + 1e-7
    assert radius[ring].min() >= 0.8 - 1e-7
    assert radius[ring].max() <= 1.1 + 1e-7
    assert abs(int(y.sum())) == n % 2
    assert y.unique().tolist() == [-1.0, 1.0]


def test_ring_and_disk_are_uniform_in_area():
    """Share of points inside the radius that halves the area: 1/2, standard error 0.005."""
    x, y = data.ring_and_disk(20_000, disk_radius=0.5, ring_radii=(0.6, 1.0), generator=seeded(3))
    square, ring = x.square().sum(1), y[:, 0] > 0
    assert (square[~ring] < 0.5**2 / 2).double().mean() == pytest.approx(0.5, abs=0.02)
    assert (square[ring] < (0.6**2 + 1.0**2) / 2).double().mean() == pytest.approx(0.5, abs=0.02)
    for quadrant in (x > 0).unbind(1):
        assert quadrant.double().mean() == pytest.approx(0.5, abs=0.015)


def test_euclidean_neighbourhoods_mix_the_classes():
    """Plain loops' answer to E1's question: of the 100 nearest of 600, about 0.75 agree."""
    shares = []
    for seed in range(3):
        x, y = (t.numpy() for t in data.ring_and_disk(generator=seeded(seed)))
        for i in range(600):
            order = np.argsort(((x - x[i]) ** 2).sum(1), kind="stable")
            shares.append((y[order[order != i][:100], 0] == y[i, 0]).mean())
    assert np.mean(shares) == pytest.approx(0.75, abs=0.02)


@pytest.mark.parametrize(("a", "b"), [(1.0, 0.5), (0.4, 1.2)])
def test_ellipse_labels_and_share(a, b):
    x, y = data.ellipse(20_000, axes=(a, b), half_width=1.5, generator=seeded(0))
    assert x.abs().max() <= 1.5
    assert x.abs().amax(0).min() > 1.49
    for (u, v), label in zip(x[:500].tolist(), y[:500, 0].tolist(), strict=True):
        assert label == (1.0 if math.hypot(u / a, v / b) >= 1 else -1.0)
    inside = (y < 0).double().mean().item()
    assert inside == pytest.approx(math.pi * a * b / 3.0**2, abs=0.02)


def test_circle_is_the_round_ellipse():
    x, y = data.circle(300, radius=0.7, generator=seeded(4))
    assert torch.equal(y[:, 0] < 0, x.norm(dim=1) < 0.7)
    assert (data.circle(20_000).y < 0).double().mean() == pytest.approx(0.5, abs=0.02)


def test_sine_values_and_midpoints():
    x, y = data.sine(8, interval=(-1.0, 3.0), frequency=2.0, dtype=torch.float64)
    assert x[:, 0].tolist() == [-0.75, -0.25, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75]
    assert y[:, 0].tolist() == pytest.approx([math.sin(2 * t) for t in x[:, 0].tolist()])


def test_square_wave_is_the_sign_of_the_sine():
    options = {"interval": (-7.0, 9.0), "frequency": 3.0, "generator": seeded(0)}
    x, y = data.square_wave(500, **options)
    assert torch.equal(y, torch.sign(torch.sin(3.0 * x.double())).float())
    assert x.min() >= -7
    assert x.max() <= 9
    assert x.max() - x.min() > 15
    at_zero = data.square_wave(3)
    assert at_zero.x[1] == 0
    assert at_zero.y[1] == 1


def original(name):
    folder = Path(data.__file__).parent
    return np.load(folder / name, allow_pickle=False)


def test_embedded_digits_are_the_files_bytes():
    """Every digit of the file is in one split, once, with its label; the last 200 are the test."""
    held = original("mnist10k.npz")
    train, test = data.mnist("train"), data.mnist("test")
    assert train.x.shape == (8000, 1, 28, 28)
    assert test.x.shape == (2000, 1, 28, 28)
    assert train.y.dtype == torch.int64
    for c in range(10):
        stored = held["images"][held["labels"] == c]
        kept = [(255 * s.x[s.y == c, 0]).round().numpy().astype(np.uint8) for s in (train, test)]
        assert np.array_equal(kept[0], stored[:-200])
        assert np.array_equal(kept[1], stored[-200:])
    assert train.x.min() == 0
    assert train.x.max() == 1


def test_digits_are_interleaved():
    """A slice of the embedded training digits has the classes in the proportions of the whole."""
    y = data.mnist("train").y
    whole = y.bincount(minlength=10)
    for start in (0, 3100, 7500):
        part = y[start : start + 500].bincount(minlength=10)
        assert (part - whole / 16).abs().max() <= 1


def test_embedded_photographs_are_the_files_bytes():
    held = original("cifar10_small.npz")
    for split, n in (("train", 2500), ("test", 500)):
        x, y = data.cifar10(split)
        assert x.shape == (n, 3, 32, 32)
        bytes_again = (255 * x).round().numpy().astype(np.uint8)
        assert np.array_equal(bytes_again.transpose(0, 2, 3, 1), held[f"x_{split}"])
        assert y.tolist() == held[f"y_{split}"].tolist()
        assert y.bincount().tolist() == [n // 10] * 10
    assert list(data.cifar10_classes) == held["classes"].tolist()


@pytest.mark.parametrize("load", [data.mnist, data.cifar10])
def test_choosing_classes_and_a_number_of_each(load):
    everything = load("train")
    first = load("train", per_class=3, classes=(7, 2))
    assert first.y.tolist() == [7, 7, 7, 2, 2, 2]
    assert torch.equal(first.x[3:], everything.x[everything.y == 2][:3])
    drawn = load("train", per_class=40, generator=seeded(0))
    assert drawn.y.tolist() == [c for c in range(10) for _ in range(40)]
    assert len({row.numpy().tobytes() for row in drawn.x}) == 400
    again = load("train", per_class=40, generator=seeded(0))
    assert torch.equal(drawn.x, again.x)
    assert not torch.equal(drawn.x, load("train", per_class=40, generator=seeded(1)).x)
    kept = load("test", classes=[9, 0], dtype=torch.float64)
    expected = load("test", dtype=torch.float64)
    mask = (expected.y == 0) | (expected.y == 9)
    assert torch.equal(kept.x, expected.x[mask])
    assert torch.equal(kept.y, expected.y[mask])


def test_changing_samples_does_not_change_the_next_ones():
    x, y = data.cifar10("test")
    x.zero_(), y.zero_()
    assert data.cifar10("test").x.max() == 1
    assert data.cifar10("test").y.max() == 9


@pytest.mark.parametrize("name", ["mnist10k.npz", "cifar10_small.npz"])
def test_checksum_of_embedded_files(name, tmp_path, monkeypatch):
    content = (images.folder / name).read_bytes()
    assert hashlib.sha256(content).hexdigest() == images.checksums[name]
    assert images.checksums[name] in (images.folder / "PROVENANCE.md").read_text()
    (tmp_path / name).write_bytes(content[:-1])
    monkeypatch.setattr(images, "folder", tmp_path)
    with pytest.raises(ValueError, match="sha256") as caught:
        images._read(name)
    assert str(tmp_path / name) in str(caught.value)
    assert "install pkbook again" in str(caught.value)


def test_alice_is_the_file_in_passages():
    """Counted anew from the bytes by other means than the tokeniser's."""
    text = gzip.decompress((texts.folder / "alice.txt.gz").read_bytes()).decode()
    assert hashlib.sha256(text.encode()).hexdigest() == (
        "9bd467759250b887bdf5c4420662aa1f0880f5f852ca4319a2158916f2affd76"
    )
    told = data.alice(16)
    assert told.x.shape == told.y.shape == (len(told.chapter), 16)
    assert told.chapter.unique().tolist() == list(range(1, 13))
    assert torch.equal(told.x[:, 1:], told.y[:, :-1])
    same = told.chapter[1:] == told.chapter[:-1]
    assert torch.equal(told.y[:-1, -1][same], told.x[1:, 0][same])
    assert len(told.words) == len(set(told.words)) == 2643
    count = told.x.flatten().bincount(minlength=2643)
    assert told.words[0] == ","
    assert 0 <= text.count(",") - int(count[0]) < 30  # what is left at the ends of chapters
    assert 0 <= 34_088 - len(told.x) * 16 <= 12 * 16
    first = "".join(told.words[v] for v in told.x[0].tolist())
    assert "".join(text.lower().split()).startswith(first)


def test_passages_are_read_encoded_and_taken_apart():
    told = data.alice(12, chapters=(7, 2))
    assert told.chapter[0] == 7
    assert told.chapter[-1] == 2
    row = told.encode("'Twinkle,  twinkle -- little BAT!'")
    assert [told.words[v] for v in row] == [
        "'", "twinkle", ",", "twinkle", "--", "little", "bat", "!", "'",
    ]  # fmt: skip
    assert told.read(row[1:-1]) == "twinkle, twinkle-- little bat!"
    part = told.part(66, 162)
    assert part.x.shape == (96, 12)
    for mine, whole in zip((*part.x, *part.y), (*told.x[66:162], *told.y[66:162]), strict=True):
        assert [part.words[v] for v in mine] == [told.words[v] for v in whole]
    often = [int((part.y == v).sum()) + int(part.x[0, 0] == v) for v in range(len(part.words))]
    assert often == sorted(often, reverse=True)
    assert set(part.words) == {part.words[v] for v in (*part.x.flatten(), *part.y.flatten())}
    with pytest.raises(ValueError, match="text must be made of words of these passages, got 'zeb"):
        told.encode("a zebra")
    for wrong in ((0, 0), (-1, 3), (0, len(told.x) + 1)):
        with pytest.raises(ValueError, match="expected 0 <= first < last"):
            told.part(*wrong)


def test_checksum_of_the_text(tmp_path, monkeypatch):
    content = (texts.folder / "alice.txt.gz").read_bytes()
    assert hashlib.sha256(content).hexdigest() == texts.checksum
    assert texts.checksum in (texts.folder / "PROVENANCE.md").read_text()
    (tmp_path / "alice.txt.gz").write_bytes(content[:-1])
    monkeypatch.setattr(texts, "folder", tmp_path)
    texts._chapters.cache_clear()
    with pytest.raises(ValueError, match="install pkbook again"):
        data.alice()


REFUSED = [
    (lambda: data.alice(0), ValueError, ["length", "at least 1"]),
    (lambda: data.alice(12.0), TypeError, ["length", "12.0"]),
    (lambda: data.alice(4000, chapters=(7,)), ValueError, ["length", "came 4000", "length=16"]),
    (lambda: data.alice(chapters=7), TypeError, ["chapters", "came 7", "chapters=(7,)"]),
    (lambda: data.alice(chapters=(0,)), ValueError, ["chapters", "1 to 12", "came 0"]),
    (lambda: data.alice(chapters=(1, 1)), ValueError, ["chapters", "none twice"]),
    (lambda: data.alice(chapters=(1.0,)), TypeError, ["chapters", "1.0"]),
    (lambda: data.ring_and_disk(0), ValueError, ["n:", "at least 1", "came 0"]),
    (lambda: data.ring_and_disk(1), ValueError, ["n:", "at least 2", "n=600"]),
    (lambda: data.ring_and_disk(6.0), TypeError, ["n:", "6.0", "n=100"]),
    (lambda: data.ring_and_disk(disk_radius=1.0), ValueError, ["ring_radii", "1.0, 0.85, 0.95"]),
    (lambda: data.ring_and_disk(ring_radii=(2, 1)), ValueError, ["ring_radii", "inner <= outer"]),
    (lambda: data.ring_and_disk(ring_radii=1.0), TypeError, ["ring_radii", "pair"]),
    (lambda: data.ring_and_disk(ring_radii=(1, 2, 3)), ValueError, ["ring_radii", "came 3"]),
    (lambda: data.ring_and_disk(disk_radius=-1), ValueError, ["disk_radius", "above 0"]),
    (lambda: data.ring_and_disk(generator=0), TypeError, ["generator", "manual_seed(0)"]),
    (lambda: data.ring_and_disk(dtype=torch.int64), TypeError, ["dtype", "int64", "float32"]),
    (lambda: data.ring_and_disk(dtype="float32"), TypeError, ["dtype", "'float32'"]),
    (lambda: data.ellipse(axes=(2, 1)), ValueError, ["half_width", "2.0", "half_width=2.5"]),
    (lambda: data.ellipse(axes=(1, float("nan"))), ValueError, ["axes", "nan"]),
    (lambda: data.ellipse(half_width="1"), TypeError, ["half_width", "'1'"]),
    (lambda: data.circle(radius=0), ValueError, ["radius", "above 0"]),
    (lambda: data.sine(0), ValueError, ["n:", "at least 1"]),
    (lambda: data.sine(interval=(1, 1)), ValueError, ["interval", "low < high"]),
    (lambda: data.sine(interval=(0, math.inf)), ValueError, ["interval", "finite"]),
    (lambda: data.square_wave(frequency=0.0), ValueError, ["frequency", "above 0"]),
    (lambda: data.square_wave(frequency=True), TypeError, ["frequency", "True"]),
    (lambda: data.mnist("valid"), ValueError, ["split", '"train" or "test"', "'valid'"]),
    (
        lambda: data.mnist(per_class=928, classes=(1,)),
        ValueError,
        ["per_class", "at most 927", "came 928", "mnist_full"],
    ),
    (lambda: data.mnist("test", per_class=201), ValueError, ["at most 200", "class 0"]),
    (lambda: data.cifar10(per_class=251), ValueError, ["at most 250", "cifar10_full"]),
    (lambda: data.cifar10(per_class=0), ValueError, ["per_class", "at least 1"]),
    (lambda: data.mnist(classes=(10,)), ValueError, ["classes", "0 to 9", "came 10"]),
    (lambda: data.mnist(classes=(1, 1)), ValueError, ["classes", "none twice", "[1, 1]"]),
    (lambda: data.mnist(classes=()), ValueError, ["classes", "at least one"]),
    (lambda: data.mnist(classes=3), TypeError, ["classes", "came 3"]),
    (lambda: data.mnist(classes="01"), TypeError, ["classes", "'01'"]),
    (lambda: data.mnist(classes=(1.0,)), TypeError, ["classes", "1.0"]),
    (lambda: data.mnist(generator=seeded(0)), ValueError, ["generator", "per_class"]),
    (lambda: data.mnist_full("all"), ValueError, ["split", "'all'"]),
    (lambda: data.cifar10_full(classes=(11,)), ValueError, ["classes", "11"]),
    (lambda: data.printed_glyphs(""), ValueError, ["characters", "at least one"]),
    (lambda: data.printed_glyphs("0+"), ValueError, ["characters", "ASCII", "'0+'"]),
    (lambda: data.printed_glyphs("00"), ValueError, ["characters", "twice"]),
    (lambda: data.printed_glyphs(range(10)), TypeError, ["characters", "range(0, 10)"]),
    (
        lambda: data.printed_glyphs(faces=("Arial",)),
        ValueError,
        ["faces", "Arial", "printed_faces"],
    ),
    (lambda: data.printed_glyphs(faces=()), ValueError, ["faces", "at least one"]),
    (lambda: data.printed_glyphs(faces=("cmr10",) * 2), ValueError, ["faces", "twice"]),
    (lambda: data.printed_glyphs(faces="cmr10"), TypeError, ["faces", "'cmr10'"]),
    (lambda: data.printed_glyphs(dtype=torch.uint8), TypeError, ["dtype", "uint8"]),
]


@pytest.mark.parametrize(("call", "error", "words"), REFUSED)
def test_refused(call, error, words):
    with pytest.raises(error) as caught:
        call()
    for word in words:
        assert word in str(caught.value)


def test_a_generator_elsewhere_is_refused():
    class Elsewhere(torch.Generator):
        device = torch.device("cuda:0")

    with pytest.raises(ValueError, match="expected one on the CPU, came one on cuda:0"):
        data.sine(generator=Elsewhere())
