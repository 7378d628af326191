"""Many queries in chunks: the numbers of one whole call, kept whole, gone on with, never mixed."""

import dataclasses
import inspect
import os
import shutil
import sys
import warnings

import pytest
import torch
from filelock import FileLock
from torch import nn

import pkbook as pk
from pkbook.basics.files import StorageError

MODULE = sys.modules["pkbook.interpolation.question"]
CHUNKS = sys.modules["pkbook.interpolation.chunks"]
WHOLE = {"tolerance": None, "layers": True, "entries": ["0.bias"]}
N, STEPS, QUERIES = 12, 9, 7
PARAMETERS = 3 * 5 + 5 + 5 * 2 + 2


def record(lr=0.1, steps=STEPS, scale=1.0, every=4):
    """A run with a memory and weight decay, so that no field of its explanation is empty."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)).double()
        x, y = torch.randn(N, 3).double() * scale, torch.randn(N, 2).double()
    sgd = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.8, weight_decay=0.02)
    run = pk.Trajectory(model, pk.losses.squared, sgd, (x, y), every=every)
    for batch in pk.batches(N, size=4, steps=steps, seed=1):
        run.step(batch)
    return run


@pytest.fixture(scope="module")
def run():
    return record()


@pytest.fixture(scope="module")
def queries():
    return torch.randn(QUERIES, 3, generator=torch.Generator().manual_seed(5)).double()


@pytest.fixture
def calls(monkeypatch):
    """The numbers of queries that are taken apart each time; the time ``calls.fails`` raises."""

    class Calls(list):
        fails, error = None, KeyboardInterrupt()

    calls, take_apart = Calls(), MODULE.take_apart

    def counted(run, x, *rest):
        calls.append(len(x))
        if len(calls) == calls.fails:
            raise calls.error
        return take_apart(run, x, *rest)

    monkeypatch.setattr(MODULE, "take_apart", counted)
    return calls


def close(got, wanted):
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-12)


def same(got, wanted):
    torch.testing.assert_close(got, wanted, rtol=0, atol=0)


def compare(got, wanted, check):
    """Every field of two interpolations, and the order of their dicts."""
    for field in dataclasses.fields(pk.Interpolation):
        a, b = getattr(got, field.name), getattr(wanted, field.name)
        if field.name == "by_step":
            assert len(a) == len(b)
            for (numbers, values), (others, wanted_values) in zip(a, b, strict=True):
                same(numbers, others)
                check(values, wanted_values)
        elif isinstance(b, dict):
            assert list(a) == list(b)
            for name in b:
                check(a[name], b[name])
        elif field.name in ("tolerance", "doubt"):
            assert a == b
        else:
            check(a, b)


def joined(parts):
    """Interpolations of single queries or chunks put together again."""
    first = parts[0]

    def cat(values, dim=0):
        return torch.cat(list(values), dim)

    return pk.Interpolation(
        cat(t.initial for t in parts),
        cat(t.final for t in parts),
        cat((t.contributions for t in parts), 1),
        [(numbers, cat((t.by_step[k][1] for t in parts), 1))
         for k, (numbers, _) in enumerate(first.by_step)],
        {n: cat(t.other[n] for t in parts) for n in first.other},
        cat(t.remainder for t in parts),
        first.pieces,
        {n: cat((t.by_parameter[n] for t in parts), 1) for n in first.by_parameter},
        {n: cat(t.entries[n] for t in parts) for n in first.entries},
        first.tolerance,
    )  # fmt: skip


def content(folder):
    """The bytes of every file but the lock."""
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()
            and p.name != "writer.lock"}  # fmt: skip


def chunk_file(folder, number):
    (path,) = (folder / "chunks").glob(f"{number:09d}-*")
    return path


@pytest.mark.parametrize("place", ["memory", "folder"])
def test_chunks_are_one_whole_interpolation_in_every_field(run, queries, tmp_path, place):
    folder = None if place == "memory" else tmp_path / "told"
    told = pk.explain(run, queries, folder=folder, chunk=3, **WHOLE)
    whole = run.interpolate(queries, **WHOLE)
    assert whole.other.keys() == {"weight decay"}
    assert len(whole.by_parameter) == 4
    assert list(whole.entries) == ["0.bias"]
    rows, chunks = zip(*told.chunks(), strict=True)
    assert [(r.start, r.stop) for r in rows] == [(0, 3), (3, 6), (6, 7)]
    compare(joined(chunks), whole, close)
    compare(joined(list(told)), whole, close)
    assert len(list(told)) == len(told) == QUERIES
    close(torch.cat([one.by_time for one in told], 1), whole.by_time)
    for name in ("initial", "final", "change", "remainder", "completeness"):
        close(getattr(told, name), getattr(whole, name))
    assert not told.reached.any()  # no tolerance was asked for


@pytest.mark.parametrize(
    ("rule", "outputs"),
    [
        *(({}, outputs) for outputs in (None, 1, -1, "each")),
        ({"tolerance": 1e-6}, "each"), ({"rule": "riemann"}, None), ({"nodes": 1}, 1),
    ],
)  # fmt: skip
def test_a_chunk_is_the_interpolation_of_its_queries_bit_for_bit(run, queries, rule, outputs):
    each = torch.tensor([0, 1, 1, 0, 1, 0, 0])
    outputs = each if outputs == "each" else outputs
    told = pk.explain(run, queries, outputs=outputs, chunk=4, **rule)
    for rows, one in told.chunks():
        own = outputs[rows] if outputs is each else outputs
        compare(one, run.interpolate(queries[rows], outputs=own, **rule), same)


def test_a_folder_gives_back_what_memory_holds(run, queries, tmp_path):
    kept = pk.explain(run, queries, chunk=3, layers=True)
    pk.explain(run, queries, chunk=3, layers=True, folder=str(tmp_path / "told"))
    told = pk.Explanation.open(tmp_path / "told")
    for (rows, one), (other_rows, other) in zip(told.chunks(), kept.chunks(), strict=True):
        assert rows == other_rows
        compare(one, other, same)
    assert told.manifest == kept.manifest
    assert told.missing == kept.missing == []
    assert told.reached.all()
    assert told.verify() == kept.verify() == kept.completeness.max() > 0


def test_a_query_alone(run, queries):
    told, whole = pk.explain(run, queries, chunk=3), run.interpolate(queries)
    for i in range(QUERIES):
        assert told[i].contributions.shape == (N, 1, 2)
        compare(told[i], told[i - QUERIES], same)
        samples, shares = told.top(4, i, 1)
        torch.testing.assert_close(shares, whole.top(4, i, 1)[1], rtol=1e-2, atol=1e-2)
        same(told.contributions_to(i)[samples, 1], shares)
        same(told.contributions_to(i), told[i].contributions[:, 0])
        same(told.contributions(i), told.contributions_to(i))  # the old name
    for wrong in (QUERIES, -QUERIES - 1):
        with pytest.raises(IndexError, match=f"query must lie in 0..6, got {wrong}"):
            told[wrong]
    for wrong in (1.0, True, slice(2)):
        with pytest.raises(TypeError, match="query must be an int"):
            told[wrong]
    with pytest.raises(ValueError, match=r"output must lie in 0\.\.1"):
        told.top(1, 0, 2)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("no memory")])
def test_a_second_call_computes_only_what_is_missing(run, queries, tmp_path, calls, error):
    calls.fails, calls.error = 2, error
    folder = tmp_path / "told"
    with pytest.raises(type(error)):
        pk.explain(run, queries, folder=folder, chunk=3)
    assert calls == [3, 3]
    part = pk.Explanation.open(folder)
    assert part.missing == [1, 2]
    compare(part[2], pk.explain(run, queries[:3])[2], same)
    with pytest.raises(ValueError, match=r"queries 3 to 5 are not there \(chunk 1\)"):
        part[4]
    with pytest.raises(ValueError, match=r"(?s)2 damaged or missing:.*chunk 1.*chunk 2"):
        part.verify()
    (folder / "chunks" / "000000001-0.safetensors.partial").write_bytes(b"half")
    calls.clear()
    calls.fails = None
    told = pk.explain(run, queries, folder=folder)  # the size of the chunks is the folder's
    assert calls == [3, 1]
    assert told.missing == []
    pk.explain(run, queries, folder=tmp_path / "unbroken", chunk=3)
    assert content(folder) == content(tmp_path / "unbroken")
    calls.clear()
    pk.explain(run, queries, folder=folder, chunk=3)
    assert calls == []


def test_a_folder_without_a_finished_chunk_is_begun_anew(run, queries, tmp_path, calls):
    calls.fails = 1
    with pytest.raises(KeyboardInterrupt):
        pk.explain(run, queries, folder=tmp_path / "told", chunk=3)
    told = pk.explain(run, queries[:2], folder=tmp_path / "told", nodes=2)
    assert (len(told), told.manifest["options"]["nodes"], told.missing) == (2, 2, [])


def test_a_full_disk_leaves_the_chunks_before_it(run, queries, tmp_path, monkeypatch):
    writes, write = [], CHUNKS.write_checked

    def full(*arguments):
        writes.append(arguments)
        if len(writes) == 2:
            raise OSError(28, "No space left on device")
        return write(*arguments)

    monkeypatch.setattr(CHUNKS, "write_checked", full)
    with pytest.raises(StorageError, match=r"chunk 1 could not be written .*No space left.* on"):
        pk.explain(run, queries, folder=tmp_path / "told", chunk=3)
    assert pk.Explanation.open(tmp_path / "told").missing == [1, 2]
    assert pk.explain(run, queries, folder=tmp_path / "told").missing == []


@pytest.fixture(scope="module")
def told(run, queries, tmp_path_factory):
    folder = tmp_path_factory.mktemp("told") / "folder"
    pk.explain(run, queries, folder=folder, chunk=3)
    return folder


@pytest.fixture
def folder(told, tmp_path):
    """A copy of a finished explanation, to be spoiled."""
    shutil.copytree(told, tmp_path / "folder")
    return tmp_path / "folder"


def refused(run, queries, folder, message):
    with pytest.raises(ValueError, match=message):
        pk.explain(run, queries, folder=folder)
    with pytest.raises(ValueError, match=message):
        pk.Explanation.open(folder).verify()


def test_damage_of_any_byte_of_a_chunk_is_named_and_mended(run, queries, folder, calls):
    path = chunk_file(folder, 1)
    raw, before = path.read_bytes(), content(folder)
    for place in [*range(0, len(raw), len(raw) // 60), 7, 8, len(raw) - 1]:
        path.write_bytes(raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :])
        refused(run, queries, folder, f"{path.name} is damaged .checksum differs.*; remove it, and")
    for length in (0, 1, len(raw) - 1):
        path.write_bytes(raw[:length])
        refused(run, queries, folder, f"{path.name} is damaged")
    assert calls == []  # nothing was computed before the damage was told
    path.unlink()
    pk.explain(run, queries, folder=folder)
    assert calls == [3]
    assert content(folder) == before


def test_damage_of_the_manifest_is_named(run, queries, folder):
    path = folder / "manifest.json"
    raw = path.read_bytes()
    for place in range(0, len(raw), len(raw) // 60):
        path.write_bytes(raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :])
        refused(run, queries, folder, r"manifest\.json")
    path.unlink()
    refused(run, queries, folder, r"holds no explanation \(no manifest\.json\)")


def test_a_chunk_in_a_wrong_place_is_named(run, queries, folder, tmp_path):
    path = chunk_file(folder, 1)
    moved = path.rename(path.with_name(path.name.replace("000000001", "000000002")))
    refused(run, queries, folder, "000000002-.* is damaged: its name must begin with the number")
    chunk_file(folder, 0).rename(path.with_name(chunk_file(folder, 0).name.replace("0-", "1-")))
    moved.unlink()
    refused(run, queries, folder, "is not chunk")
    pk.explain(run, queries + 1, folder=tmp_path / "other", chunk=3)
    foreign = chunk_file(tmp_path / "other", 1)
    for chunk in (folder / "chunks").iterdir():
        chunk.unlink()
    shutil.copy(foreign, folder / "chunks")
    refused(run, queries, folder, f"{foreign.name} is damaged: it is not chunk 1 of this")


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"run": {"lr": 0.11}}, "run.last"),
        ({"run": {"steps": STEPS + 1}}, "run.steps"),
        ({"run": {"scale": 2.0}}, "run.data"),
        ({"run": {"every": 5}}, "run.every"),
        ({"x": 1e-9}, "queries.content"),
        ({"outputs": 0}, "outputs"),
        ({"chunk": 2}, "chunk"),
        ({"nodes": 2}, "options.nodes"),
        ({"rule": "riemann"}, "options.rule"),
        ({"tolerance": None}, "options.tolerance"),
        ({"layers": True}, "options.layers"),
        ({"entries": ("0.bias",)}, "options.entries"),
    ],
)
def test_a_folder_of_another_question_is_refused_by_name(run, queries, told, changes, name, calls):
    changes = dict(changes)
    before = content(told)
    other = record(**changes.pop("run")) if "run" in changes else run
    x = queries + changes.pop("x", 0.0)
    with pytest.raises(ValueError, match=rf"holds an explanation with another {name}: .* there, "):
        pk.explain(other, x, folder=told, **changes)
    assert content(told) == before
    assert calls == []


def test_defaults_written_out_and_outputs_in_other_words_are_the_same_question(
    run, queries, told, tmp_path, calls
):
    pk.explain(run, queries, folder=told, nodes=3, tolerance=1e-3, rule="gauss", entries=())
    pk.explain(run, queries, folder=told, chunk=3, memory=10**9)
    assert calls == []
    pk.explain(run, queries, folder=tmp_path / "one", outputs=1)
    pk.explain(run, queries, folder=tmp_path / "one", outputs=-1)
    pk.explain(run, queries, folder=tmp_path / "one", outputs=torch.ones(QUERIES).long())
    assert calls == [QUERIES]
    with pytest.raises(ValueError, match=r"another outputs: 1 there, 'by query, torch\.int64"):
        pk.explain(run, queries, folder=tmp_path / "one", outputs=torch.arange(QUERIES) % 2)


@pytest.mark.parametrize("name", ["pkbook", "torch"])
def test_another_version_is_refused(run, queries, folder, name, monkeypatch):
    owner, attribute = {"pkbook": (MODULE, "__version__"), "torch": (torch, "__version__")}[name]
    monkeypatch.setattr(owner, attribute, "9.9")
    with pytest.raises(ValueError, match=f"another {name}: .*'9.9' here"):
        pk.explain(run, queries, folder=folder)


def test_a_folder_of_something_else_is_refused(run, queries, tmp_path, told):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds 'notes\.txt' and is no explanation"):
        pk.explain(run, queries, folder=tmp_path)
    with pytest.raises(ValueError, match="it is a file itself"):
        pk.explain(run, queries, folder=tmp_path / "notes.txt")
    recorded = tmp_path / "run"
    parts = (run.model, run.loss, run.optimizer, (run.x, run.y))
    pk.Trajectory(*parts, folder=recorded).close()
    with pytest.raises(ValueError, match=r"holds '.*' and is no explanation"):
        pk.explain(run, queries, folder=recorded)
    with pytest.raises(ValueError, match="holds a recorded run and no explanation"):
        pk.Explanation.open(recorded)
    with pytest.raises(ValueError, match="holds no explanation"):
        pk.Explanation.open(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no checkpoint of step 0"):
        pk.Trajectory.open(told, *parts)


def test_one_explain_writes_to_a_folder_at_a_time(run, queries, folder):
    with FileLock(folder / "writer.lock"), pytest.raises(ValueError, match="is being written by"):
        pk.explain(run, queries, folder=folder)
    pk.explain(run, queries, folder=folder)  # and the lock was let go


def test_chunks_fit_in_the_memory_given(run, queries):
    need = 2 * (4 * PARAMETERS * 8 + 5 * 8 * (N + 4 * STEPS))  # outputs; gradients, result
    for k in (1, 2, 5):
        assert pk.explain(run, queries, memory=k * need).manifest["chunk"] == k
        one = pk.explain(run, queries, memory=k * need, outputs=0)
        assert one.manifest["chunk"] == min(2 * k, QUERIES)
    layered = need + 2 * 5 * 8 * 4 * N
    assert pk.explain(run, queries, memory=layered, layers=True).manifest["chunk"] == 1
    with pytest.raises(ValueError, match=f"memory must hold one query, about {need} bytes"):
        pk.explain(run, queries, memory=need - 1)


def test_queries_that_miss_the_tolerance_are_numbered_among_all(run, queries):
    options = {"tolerance": 1e-7, "most_pieces": 1, "nodes": 1}
    with pytest.warns(UserWarning, match=r"tolerance 1e-07 was not reached") as said:
        told = pk.explain(run, queries, chunk=2, **options)
    (warning,) = said
    missed = (~told.reached).nonzero().flatten().tolist()
    assert len(missed) > 2
    assert f"for queries {missed} ({len(missed)} in all)" in str(warning.message)
    assert warning.filename == __file__


@pytest.mark.parametrize(("chunk", "text"), [(3, "chunks: 100%"), (None, "steps taken apart: 100")])
def test_a_bar_is_shown_where_asked_for(run, queries, capsys, chunk, text):
    pk.explain(run, queries, chunk=chunk)
    assert capsys.readouterr().err == ""
    pk.explain(run, queries, chunk=chunk, progress=True)
    assert text in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"run": None}, TypeError, "run must be a pkbook.Trajectory, got NoneType"),
        ({"x": [[0.0]]}, TypeError, r"x must be a torch\.Tensor"),
        ({"x": torch.zeros(0, 3).double()}, ValueError, "x must hold at least one sample"),
        ({"x": torch.tensor(1.0).double()}, ValueError, "x must hold at least one sample"),
        ({"x": torch.zeros(2, 3)}, TypeError, "x must have the model's dtype"),
        ({"x": torch.zeros(2, 4).double()}, ValueError, "model cannot be applied to x"),
        ({"x": torch.full((4, 3), 1e999).double()}, ValueError, "x must be finite"),
        ({"x": torch.tensor([[0.0], [1e999]]).double().expand(2, 3), "chunk": 1}, ValueError,
         r"x must be finite, got inf at index \[1, 0\]"),
        ({"outputs": 2}, ValueError, r"outputs must lie in 0\.\.1 for this model, got 2"),
        ({"outputs": torch.zeros(3).long()}, ValueError, "outputs must be None, one int, or one"),
        ({"outputs": 0.5}, TypeError, "outputs must hold integers"),
        ({"chunk": 0}, ValueError, "chunk must be at least 1"),
        ({"chunk": 1.5}, TypeError, "chunk must be an int"),
        ({"chunk": 1, "memory": "1G"}, TypeError, "memory must be an int"),
        ({"memory": 0}, ValueError, "memory must be at least 1"),
        ({"timeout": -1}, ValueError, "timeout must be a positive number of seconds"),
        ({"group": object()}, ValueError, r"torch\.distributed is not initialised"),
        ({"node": 3}, TypeError, r"explain\(\) got an unexpected keyword argument 'node'"),
        ({"rule": "simpson"}, ValueError, "rule must be one of"),
        ({"nodes": 0}, ValueError, "nodes must be at least 1"),
        ({"tolerance": torch.tensor(1.0)}, ValueError, "tolerance must be a positive number"),
        ({"tolerance": float("nan")}, ValueError, "tolerance must be a positive number"),
        ({"entries": "0.bias"}, ValueError, "entries must be a list of trained parameters"),
    ],
)  # fmt: skip
def test_bad_arguments_are_named_and_leave_no_chunk(
    run, queries, tmp_path, changes, error, message
):
    arguments = {"run": run, "x": queries, "folder": tmp_path / "told"} | changes
    with pytest.raises(error, match=message):
        pk.explain(**arguments)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_run_without_steps_is_refused(run, queries):
    parts = (run.model, run.loss, run.optimizer, (run.x, run.y))
    with pytest.raises(ValueError, match="run has no step yet"):
        pk.explain(pk.Trajectory(*parts), queries)


def test_nothing_is_left_of_a_chunk_that_could_not_be_written(run, queries, folder, monkeypatch):
    def fail(_):
        raise KeyboardInterrupt

    chunk_file(folder, 1).unlink()
    before = content(folder)
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(KeyboardInterrupt):
        pk.explain(run, queries, folder=folder)
    assert content(folder) == before


ASKING = (pk.interpolate, pk.Trajectory.interpolate, pk.explain, pk.self_influence)


@pytest.mark.parametrize("function", ASKING, ids=lambda f: f.__qualname__)
def test_options_are_written_out_with_the_same_defaults(function):
    """What a completion shows: names and defaults, none of them behind two asterisks."""
    own = inspect.signature(function).parameters
    assert all(p.kind is not p.VAR_KEYWORD for p in own.values())
    wanted = {"rule": "gauss", "nodes": 3, "tolerance": 1e-3, "most_pieces": 512, "progress": False}
    if function is not pk.self_influence:
        wanted |= {"by_parameter": False, "entries": (), "layers": False}
    assert wanted.items() <= {name: p.default for name, p in own.items()}.items()


@pytest.mark.parametrize(
    "ask",
    [
        lambda run, x: run.interpolate(x, toleranc=1),
        lambda run, x: run.path_kernel(x, toleranc=1),
        lambda run, x: pk.self_influence(run, toleranc=1),
        lambda run, x: pk.step_pairs(run, x, toleranc=1),
        lambda run, x: pk.explain(run, x, toleranc=1),
    ],
)
def test_a_misspelt_option_is_refused_at_the_door(run, queries, ask, monkeypatch):
    monkeypatch.setattr(pk.Trajectory, "segments_backwards", None)  # nothing is replayed
    monkeypatch.setattr(pk.Trajectory, "model_at", None)
    with pytest.raises(TypeError, match="unexpected keyword argument 'toleranc'"):
        ask(run, queries)


def test_layers_is_the_old_name_of_by_parameter(run, queries, tmp_path, calls):
    old, new = (run.interpolate(queries, **{n: True}) for n in ("layers", "by_parameter"))
    compare(old, new, same)
    assert list(new.by_parameter) == run.names
    pk.explain(run, queries, folder=tmp_path / "told", layers=True)
    pk.explain(run, queries, folder=tmp_path / "told", by_parameter=True)
    assert calls == [QUERIES]


def test_both_results_name_the_contributions_to_a_query_alike(run, queries):
    whole, told = run.interpolate(queries), pk.explain(run, queries)
    for i in (0, 3, -1):
        same(whole.contributions_to(i), whole.contributions[:, i])
        same(told.contributions_to(i), whole.contributions_to(i))
    with pytest.raises(ValueError, match=r"query must lie in 0\.\.6, got 7"):
        whole.contributions_to(QUERIES)


def test_the_warning_of_a_method_points_at_the_line_that_called_it(run, queries):
    with pytest.warns(UserWarning, match=r"tolerance 1e-07 was not reached for queries") as said:
        run.interpolate(queries, tolerance=1e-7, most_pieces=1, nodes=1)
    assert [warning.filename for warning in said] == [__file__]


def test_samples_that_miss_the_tolerance_are_named_by_their_own_numbers(run):
    options = {"tolerance": 1e-9, "most_pieces": 1, "nodes": 1}
    with pytest.warns(UserWarning, match="tolerance 1e-09") as said:
        pk.self_influence(run, [9, 4, 7], chunk=2, **options)
    (warning,) = said
    missed = [i for i in (9, 4, 7) if warned(run, run.x[i : i + 1], options)]
    assert len(missed) > 1
    assert f"for samples {missed} ({len(missed)} in all)" in str(warning.message)


def warned(run, x, options):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        run.interpolate(x, **options)
    return bool(said)


def test_only_the_largest_are_kept_and_the_rest_is_one_term(run, queries, tmp_path):
    x = queries
    whole = pk.explain(run, x)
    short = pk.explain(run, x, keep=3, folder=tmp_path / "short", chunk=2)
    for full, some in zip(whole, pk.Explanation.open(tmp_path / "short"), strict=True):
        assert int((some.contributions != 0).sum(0).max()) == 3
        for output in range(full.contributions.shape[2]):
            order, values = full.top(3, output=output)
            got, same = some.top(3, output=output)
            assert torch.equal(order, got)
            torch.testing.assert_close(values, same)
        rest = full.contributions.sum(0) - some.contributions.sum(0)
        torch.testing.assert_close(some.other["other samples"], rest)
        torch.testing.assert_close(some.completeness, full.completeness, atol=1e-12, rtol=1e-6)
        with pytest.raises(ValueError, match="only the largest contributions were kept"):
            some.by_time  # noqa: B018
    assert len(short) == len(x)
    sizes = [sum(f.stat().st_size for f in (tmp_path / "short" / "chunks").iterdir())]
    pk.explain(run, x, folder=tmp_path / "whole", chunk=2)
    sizes.append(sum(f.stat().st_size for f in (tmp_path / "whole" / "chunks").iterdir()))
    assert sizes[0] < sizes[1]
    with pytest.raises(ValueError, match="give keep, or by_parameter"):
        pk.explain(run, x, keep=3, by_parameter=True)
    with pytest.raises(ValueError, match="another keep: 3 there, None here"):
        pk.explain(run, x, folder=tmp_path / "short")
