"""An interpolation in a file comes back bit for bit, or its damage is told."""

import dataclasses
import math
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_problem import problem, smooth

import pkbook as pk
from pkbook.basics.files import StorageError

FIELDS = [field.name for field in dataclasses.fields(pk.Interpolation)]


def leaves(value):
    """Everything in a field, in order, names and numbers as they are."""
    if isinstance(value, dict):
        return [leaf for name, v in value.items() for leaf in (name, *leaves(v))]
    if isinstance(value, list | tuple):
        return [leaf for v in value for leaf in leaves(v)]
    return [value]


def same(one, two):
    if isinstance(one, torch.Tensor):
        bits = [t.contiguous().flatten().view(torch.uint8) for t in (one, two)]
        return one.dtype == two.dtype and one.shape == two.shape and torch.equal(*bits)
    return type(one) is type(two) and one == two


def require_same(one, two):
    for name in FIELDS:
        pairs = zip(leaves(getattr(one, name)), leaves(getattr(two, name)), strict=True)
        assert all(same(a, b) for a, b in pairs), name


@pytest.fixture(scope="module", params=[torch.float32, torch.float64], ids=str)
def told(request):
    data, queries = problem(request.param)
    model = smooth(request.param)
    adamw = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    run = pk.Trajectory(model, pk.losses.squared, adamw, data)
    for size, k in ((5, 0), (3, 1), (1, 2)):
        run.step(next(pk.batches(15, size=size, steps=1, seed=k)))
    return run.interpolate(queries, by_parameter=True, entries=[run.names[1], run.names[0]])


@pytest.fixture
def path(tmp_path, told):
    told.save(tmp_path / "told.safetensors")
    return tmp_path / "told.safetensors"


def test_everything_comes_back_bit_for_bit(told, path):
    found = pk.Interpolation.load(str(path))
    require_same(found, told)
    assert torch.equal(found.completeness, told.completeness)
    assert not list(path.parent.glob("*.partial"))


@pytest.mark.parametrize(
    "change",
    [
        {"tolerance": None},
        {"tolerance": 0.1 + 0.2},
        {"doubt": "precision"},
        {"other": {}, "by_parameter": {}, "entries": {}},
        {"by_step": []},
        {"other": {f"{k} a/b": torch.full((3, 2), float(k)) for k in (11, 2, 1, *range(20, 32))}},
        {"final": torch.tensor([[math.nan, -0.0], [math.inf, 5e-324], [1.0, 2.0]]).double()},
    ],
    ids=["no tolerance", "tolerance", "doubt", "nothing more", "no step", "order", "odd numbers"],
)  # fmt: skip
def test_odd_contents_come_back_too(told, tmp_path, change):
    odd = dataclasses.replace(told, **change)
    odd.save(tmp_path / "odd")
    require_same(pk.Interpolation.load(tmp_path / "odd"), odd)


def test_a_tensor_in_two_places_and_views_are_no_obstacle(told, tmp_path):
    twice = dataclasses.replace(
        told, remainder=told.final[:, :1], other={"a": told.final, "b": told.final},
        contributions=told.contributions.transpose(1, 2),
    )  # fmt: skip
    twice.save(tmp_path / "twice")
    require_same(pk.Interpolation.load(tmp_path / "twice"), twice)


def test_one_query_of_an_explanation_can_be_saved(tmp_path):
    data, queries = problem()
    model = smooth()
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    run = pk.Trajectory(model, pk.losses.squared, sgd, data)
    run.step(range(15))
    one = pk.explain(run, queries, chunk=3)[1]
    one.save(tmp_path / "one")
    require_same(pk.Interpolation.load(tmp_path / "one"), one)


def test_every_changed_byte_is_noticed(path):
    raw = path.read_bytes()
    header = 8 + int.from_bytes(raw[:8], "little")
    places = [*range(0, header, 3), *range(header, len(raw), 61), len(raw) - 1]
    for place in places:
        changed = bytearray(raw)
        changed[place] ^= 1 << (place % 8)
        path.write_bytes(bytes(changed))
        with pytest.raises(ValueError, match=r"told\.safetensors"):
            pk.Interpolation.load(path)


@pytest.mark.parametrize("kept", [0, 7, 8, 100, 5000, -1])
def test_a_file_that_was_cut_off_is_noticed(path, kept):
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"told\.safetensors is damaged or no file of"):
        pk.Interpolation.load(path)


def test_foreign_files_are_refused_by_name(path, tmp_path):
    save_file(load_file(path), tmp_path / "bare")
    with pytest.raises(ValueError, match="bare holds no interpolation; give"):
        pk.Interpolation.load(tmp_path / "bare")
    facts = {"kind": "interpolation", "format": "9", "pkbook": "7.0"}
    save_file(load_file(path), tmp_path / "later", facts)
    with pytest.raises(ValueError, match=r"later has format '9' \(written by pkbook '7.0'\)"):
        pk.Interpolation.load(tmp_path / "later")
    save_file(load_file(path), tmp_path / "unsealed", facts | {"format": "1"})
    with pytest.raises(ValueError, match="unsealed is damaged"):
        pk.Interpolation.load(tmp_path / "unsealed")
    (tmp_path / "text").write_text("a poem, longer than eight letters")
    with pytest.raises(ValueError, match=r"text is damaged or no file of Interpolation\.save"):
        pk.Interpolation.load(tmp_path / "text")
    with pytest.raises(ValueError, match=r"write Explanation\.open\(folder\)"):
        pk.Interpolation.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        pk.Interpolation.load(tmp_path / "nowhere")
    with pytest.raises(TypeError, match="path must be a str or a Path, got int 3"):
        pk.Interpolation.load(3)  # pyright: ignore[reportArgumentType]


def test_a_failed_save_leaves_the_old_file(told, path, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(StorageError, match=r"could not be written.*full.*is intact"):
        dataclasses.replace(told, doubt="precision").save(path)
    monkeypatch.undo()
    require_same(pk.Interpolation.load(path), told)
    shutil.rmtree(path.parent)
    with pytest.raises(StorageError, match="give a file in a folder that exists"):
        told.save(path)
