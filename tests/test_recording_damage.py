"""A folder that is damaged, of another run, or from another place: named, never used silently."""

import copy
import pickle
import random
import shutil
import warnings

import pytest
import torch
from recording_worker import begin, go_on, parts, plain, reopen, same, state
from torch import nn

import pkbook as pk
from pkbook.basics.files import read_checked, write_checked
from pkbook.runs import environment, manifest
from pkbook.runs.environment import environment as here
from pkbook.runs.manifest import dump_manifest, load_manifest
from pkbook.runs.snapshot import ReplayError

STEPS = 14


@pytest.fixture(scope="module")
def unbroken():
    return plain(STEPS)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A folder of 14 steps, with checkpoints of steps 0, 4, 8 and 12."""
    folder = tmp_path_factory.mktemp("kept") / "run"
    go_on(begin(folder, every=4), STEPS).close()
    return folder


@pytest.fixture
def folder(kept, tmp_path):
    return shutil.copytree(kept, tmp_path / "run")


def alter(folder, **changes):
    """Another manifest, properly written."""
    path = folder / "manifest.json"
    path.write_bytes(dump_manifest(load_manifest(path) | changes))


def outcome(folder, unbroken):
    """The error that opening and verifying raises, or the length of the prefix that is opened."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        try:
            with reopen(folder) as run:
                assert run.verify() == 0
        except ValueError as error:
            return str(error)
    assert same(state(run), unbroken[len(run)])
    assert all("steps.jsonl: the last line is not whole" in str(w.message) for w in seen)
    return len(run), len(seen)


def places(folder, number, seed):
    """``number`` places, uniform over the bytes of all files of a run."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "writer.lock")
    everywhere = [(path, at) for path in files for at in range(path.stat().st_size)]
    assert len(files) == 6
    return random.Random(seed).sample(everywhere, number)


def test_a_changed_byte_is_found_and_named(folder, unbroken):
    """100 bytes, each given another value; seed 0."""
    draw = random.Random(0)
    for path, at in places(folder, 100, seed=0):
        whole = path.read_bytes()
        changed = bytearray(whole)
        changed[at] ^= draw.randrange(1, 256)
        path.write_bytes(changed)
        told = outcome(folder, unbroken)
        if path.name == "steps.jsonl" and at == len(whole) - 1:
            assert told == (STEPS - 1, 1)  # the end of the last line, as after a kill
        else:
            assert path.name in told, (path, at, told)
        path.write_bytes(whole)
    assert outcome(folder, unbroken) == (STEPS, 0)


def test_a_file_cut_short_is_found_and_named(folder, unbroken):
    """100 places; seed 1.  Only a log may lose its end, as far as the last checkpoint."""
    opened = 0
    for path, at in places(folder, 100, seed=1):
        whole = path.read_bytes()
        path.write_bytes(whole[:at])
        left = whole[:at].count(b"\n")
        told = outcome(folder, unbroken)
        if path.name == "steps.jsonl" and left >= 12:
            assert told == (left, int(whole[at - 1 : at] != b"\n"))
            opened += 1
        else:
            assert path.name in told, (path, at, told)
        path.write_bytes(whole)
    assert 0 < opened < 20


def test_a_log_that_lost_whole_lines_before_a_checkpoint(folder):
    log = folder / "steps.jsonl"
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:9]))
    with pytest.raises(ValueError, match=r"steps\.jsonl holds 9 steps.*of step 12.*lost its end"):
        reopen(folder)
    log.unlink()
    with pytest.raises(ValueError, match=r"steps\.jsonl holds 0 steps"):
        reopen(folder)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (lambda lines: lines[:3] + lines[4:], 3),
        (lambda lines: [*lines[:12], lines[13]], 12),
        (lambda lines: [*lines[:12], lines[13], lines[12]], 12),
        (lambda lines: [*lines, lines[-1]], 14),
    ],
    ids=["missing", "missing after the last checkpoint", "swapped", "twice"],
)
def test_a_log_whose_lines_are_whole_but_not_all_there(folder, change, where):
    log = folder / "steps.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(change(lines)))
    with pytest.raises(ValueError, match=rf"line {where} of .*steps\.jsonl is that of another"):
        reopen(folder)


def test_checkpoints_that_are_lost_or_there_twice(folder):
    last = next(folder.glob("checkpoints/000000012-*"))
    twin = shutil.copy(last, last.with_name("000000012-00000000.safetensors"))
    with pytest.raises(ValueError, match=r"000000012-00000000.* are of one step"):
        reopen(folder)
    twin.unlink()
    last.unlink()  # the steps are still known
    assert reopen(folder).verify() == 0
    next(folder.glob("checkpoints/000000000-*")).unlink()
    with pytest.raises(ValueError, match="no checkpoint of step 0: it is lost"):
        reopen(folder, read_only=True)


def test_nothing_is_ever_unpickled(folder, monkeypatch, unbroken):
    def refuse(*args, **options):
        raise AssertionError("something was unpickled")

    for module, name in [(pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"),
                         (torch, "load"), (torch.serialization, "load")]:  # fmt: skip
        monkeypatch.setattr(module, name, refuse)
    assert outcome(folder, unbroken) == (STEPS, 0)
    for path in folder.rglob("*"):
        assert path.suffix in ("", ".json", ".jsonl", ".safetensors", ".lock")


def _renamed():
    own = parts()
    layers = {"first": own["model"][0], "rest": own["model"][1:]}
    own["model"] = nn.Sequential()
    for name, layer in layers.items():
        own["model"].add_module(name, layer)
    return own


def _frozen():
    own = parts()
    own["model"][0].bias.requires_grad_(False)
    return own


def _grouped():
    own = parts()
    named = list(own["model"].parameters())
    groups = [{"params": named[:1]}, {"params": named[1:]}]
    own["optimizer"] = torch.optim.AdamW(groups, lr=0.05)
    own["scheduler"] = torch.optim.lr_scheduler.CosineAnnealingLR(own["optimizer"], 40)
    return own


def _wide():
    own = parts()
    own["model"] = pk.models.mlp(2, 9, 1)
    own["optimizer"] = torch.optim.AdamW(own["model"].parameters(), lr=0.05)
    own["scheduler"] = torch.optim.lr_scheduler.CosineAnnealingLR(own["optimizer"], 40)
    return own


def _data(change):
    own = parts()
    x, y = own["data"]
    own["data"] = change(x.clone(), y.clone())
    return own


def _one_bit(x, y):
    x.view(torch.int32)[3, 1] ^= 1
    return x, y


@pytest.mark.parametrize(
    ("own", "options", "what"),
    [
        (_wide, {}, "parameters"),
        (_renamed, {}, "parameters"),
        (_frozen, {}, "trained"),
        (_grouped, {}, "groups"),
        (lambda: _data(_one_bit), {}, "data"),
        (lambda: _data(lambda x, y: (x, y.flip(0))), {}, "data"),
        (lambda: _data(lambda x, y: (x[:9], y[:9])), {}, "samples"),
        (lambda: parts(kind="Adam"), {}, "optimizer"),
        (lambda: parts(schedule=None), {}, "scheduler"),
        (lambda: parts(schedule="lambda"), {}, "scheduler"),
        (parts, {"clip_norm": 1.0}, "clip_norm"),
        (parts, {"clip_value": 1.0}, "clip_value"),
    ],
)
def test_another_run_is_refused_by_name(folder, own, options, what):
    with pytest.raises(ValueError, match=f"was recorded with another {what}:"):
        reopen(folder, own(), **options)
    reopen(folder).close()  # and the folder was let go of


def test_another_seed_is_refused(folder):
    alter(folder, seed=1)
    with pytest.raises(ValueError, match=r"line 0 of .*steps\.jsonl .*another seed than 1"):
        reopen(folder)


def test_another_model_with_the_same_parameters_is_refused(folder):
    own = parts()
    own["model"].append(nn.BatchNorm1d(1, affine=False))
    with pytest.raises(ValueError, match=r"of another model: buffer/4\.num.* is missing there"):
        reopen(folder, own)


def test_another_dtype_is_refused(tmp_path):
    """The data do not tell it where they are numbers of words."""
    own = {"model": nn.Embedding(3, 2), "data": (torch.arange(3), torch.ones(3))}
    own["optimizer"] = torch.optim.SGD(own["model"].parameters(), lr=0.1)
    own |= {"loss": lambda f, y: f.sum(1) * y, "scheduler": None}
    with begin(tmp_path / "run", own=own) as run:
        run.step([0])
    own["model"].double()
    with pytest.raises(ValueError, match=r"another model: parameter/weight is torch\.float32 .*64"):
        reopen(tmp_path / "run", own)


def test_another_loss_or_layer_is_refused_where_no_checkpoint_would_tell(tmp_path):
    """Neither is in the folder, but the loss of each step is."""
    go_on(begin(tmp_path / "run"), 3).close()
    own = parts()
    own["loss"] = lambda f, y: 2 * pk.losses.squared(f, y)
    with pytest.raises(ReplayError, match=r"steps 0 to 3 .*the loss of step 0 is"):
        reopen(tmp_path / "run", own)
    own = parts()
    own["model"][2].p = 0.5
    with pytest.raises(ReplayError, match="loss of step 0"):
        reopen(tmp_path / "run", own)


def test_other_versions(folder, unbroken):
    alter(folder, pkbook="9.9")
    with pytest.warns(UserWarning, match=r"recorded with pkbook 9\.9, this is .* is compared"):
        run = reopen(folder)
    assert same(state(run), unbroken[STEPS])
    run.close()
    alter(folder, format=manifest.FORMAT + 1)
    with pytest.raises(ValueError, match=r"manifest\.json has format 3 \(written by pkbook '9\.9'"):
        reopen(folder)
    (folder / "manifest.json").write_text('{"pkbook": "0.0.1", "format": 1}\n')  # had no checksum
    with pytest.raises(ValueError, match=r"manifest\.json has format 1 \(written by pkbook '0\.0"):
        reopen(folder)
    for text in ("[1, 2]\n", "3\n", '"checksum"\n', "{}\n", ""):
        (folder / "manifest.json").write_text(text)
        with pytest.raises(ValueError, match=r"manifest\.json"):
            reopen(folder)


def perturb(folder, k, size):
    """Multiply the largest weight in a checkpoint by ``1 + size``, properly written."""
    (path,) = folder.glob(f"checkpoints/{k:09d}-*")
    tensors = read_checked(path)
    weight = tensors["parameter/0.weight"].flatten()
    place = weight.abs().argmax()
    weight[place] *= 1 + size
    path.unlink()
    write_checked(path.parent, f"{k:09d}", tensors)


def elsewhere(folder):
    """Say that the run was recorded with 99 threads."""
    place = load_manifest(folder / "manifest.json")["environment"]
    alter(folder, environment=place | {"threads": 99})


def test_another_place_is_measured(folder, unbroken):
    elsewhere(folder)
    run = reopen(folder)
    assert run.verify() == 0  # the same machine after all
    assert same(state(run), unbroken[STEPS])
    run.close()
    perturb(folder, 8, 1e-3)
    run = reopen(folder)
    with pytest.warns(UserWarning, match=r"replayed differently.*\(threads 99 there, \d+ here\)"):
        gap = run.verify()
    ends = {part.start: part.gap for part in _quietly(run)}
    assert 0.99e-3 < ends[4] < 1.01e-3  # as much as was put in
    assert ends[8] > 0 == ends[0] == ends[12]
    assert gap == max(ends.values())
    x = torch.randn(3, 2, generator=torch.Generator().manual_seed(5))
    with pytest.warns(UserWarning, match="replayed differently"):
        told = run.interpolate(x)
    assert told.other["replay difference"].abs().max() > 1e-6
    assert told.completeness.max() < 1e-4
    without = {name: t for name, t in told.other.items() if name != "replay difference"}
    missing = told.change - told.contributions.sum(0) - sum(without.values())
    assert (missing.norm(dim=1) / told.change.norm(dim=1)).max() > 2 * told.completeness.max()


def _quietly(run):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        yield from run.segments_backwards()
    assert len(seen) == 1


def test_in_the_same_place_it_is_an_error(folder):
    perturb(folder, 8, 1e-3)
    with reopen(folder) as run:
        with pytest.raises(ReplayError, match="replayed differently"):
            run.verify()
        with pytest.raises(ReplayError, match="replayed differently"):
            run.interpolate(run.x[:2])


def test_a_run_continued_elsewhere_and_brought_back(folder, monkeypatch):
    """Steps keep where they were made, so a difference is measured here too."""
    home = here(torch.device("cpu"))
    away = copy.deepcopy(home) | {"threads": 99}
    monkeypatch.setattr(environment, "environment", lambda device: away)
    with go_on(reopen(folder), STEPS + 6) as run:
        assert run.store.steps[-1].place == away
        assert run.store.steps[0].place == {}
    perturb(folder, 16, 1e-3)
    monkeypatch.setattr(environment, "environment", lambda device: home)
    run = reopen(folder)
    with pytest.warns(UserWarning, match="threads 99 there"):
        assert run.verify() > 0
