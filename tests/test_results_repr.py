"""Runs and results say in a few lines what they are, and never fail at that."""

import dataclasses
import re
import shutil

import pytest
import torch
from small_problem import problem, smooth

import pkbook as pk


def recorded(folder=None, optimizer=None, steps=12):
    data, queries = problem()
    model = smooth()
    made = optimizer or torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    run = pk.Trajectory(model, pk.losses.squared, made, data, every=5, folder=folder)
    for batch in pk.batches(15, size=5, steps=steps, seed=0):
        run.step(batch)
    return run, queries


@pytest.fixture(scope="module")
def run_and_queries():
    return recorded()


@pytest.fixture(scope="module")
def told(run_and_queries):
    run, queries = run_and_queries
    return run.interpolate(queries, by_parameter=True)


def test_an_interpolation_tells_its_sizes_its_change_and_how_well_it_closes(told):
    lines = repr(told).splitlines()
    assert 2 <= len(lines) <= 6
    assert max(map(len, lines)) <= 100
    assert lines[0] == "Interpolation of 3 queries, 2 outputs each, over 15 samples and 12 steps"
    before, after, change = map(float, re.findall(r"[-+]?\d\S*\d", lines[1].partition(":")[2]))
    assert before == pytest.approx(told.initial[0, 0].item(), rel=1e-3)
    assert after == pytest.approx(told.final[0, 0].item(), rel=1e-3)
    assert change == pytest.approx(after - before, rel=1e-2)
    gap = float(re.search(r"completeness: (\S+) at most", repr(told))[1])
    assert gap == pytest.approx(told.completeness.max().item(), rel=0.1)
    assert "(tolerance 0.001 reached)" in lines[2]
    assert "other: weight decay (at most " in lines[3]
    assert lines[4].strip() == "pieces: one a step"
    assert lines[5].strip() == "by_parameter: 4 tensors"


def test_what_was_missed_bisected_or_not_asked_for_is_said(told):
    off = dataclasses.replace(told, contributions=told.contributions * 1.5, by_parameter={})
    assert "(tolerance 0.001 missed by 3 queries)" in repr(off)
    unasked = dataclasses.replace(told, tolerance=None, other={})
    assert "(no tolerance asked for)" in repr(unasked)
    assert "other: none" in repr(unasked)
    pieces = told.pieces.clone()
    pieces[:2] = torch.tensor([4, 8])
    bisected = dataclasses.replace(told, pieces=pieces)
    assert "pieces: up to 8 a step, more than one in 2 steps" in repr(bisected)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_or_empty_still_prints(told, value):
    assert len(repr(dataclasses.replace(told, final=torch.full_like(told.final, value)))) < 600
    none = dataclasses.replace(
        told, contributions=told.contributions[:, :0], initial=told.initial[:0],
        final=told.final[:0], other={}, pieces=told.pieces[:0], by_step=[],
    )  # fmt: skip
    assert repr(none).startswith("Interpolation of 0 queries, 2 outputs each, over 15 samples")


def test_a_run_tells_its_parts_and_where_it_is_kept(run_and_queries, tmp_path):
    run, _ = run_and_queries
    lines = repr(run).splitlines()
    parameters = sum(p.numel() for p in run.model.parameters())
    assert lines[0] == "Trajectory of Sequential under AdamW, lr 0.01"
    assert lines[1].strip() == f"parameters: {parameters} of {parameters} trained, in 4 tensors"
    assert lines[2].strip() == "samples: 15; steps: 12; checkpoints: 3, every 5 steps"
    assert lines[3].strip() == "kept in memory"
    kept, _ = recorded(tmp_path / "run")
    kept.close()
    assert repr(kept).endswith(f"kept in folder {str(tmp_path / 'run')!r}")
    (tmp_path / "run" / "checkpoints" / "x-y.safetensors").touch()
    assert "checkpoints: cannot be read" in repr(kept)
    shutil.rmtree(tmp_path / "run")
    assert "checkpoints: 0," in repr(kept)


def test_frozen_parameters_and_several_rates_are_counted():
    data, _ = problem()
    model = smooth()
    first, *_, last = model.parameters()
    groups = [{"params": [first], "lr": 0.1}, {"params": [last], "lr": torch.tensor(0.02)}]
    sgd = torch.optim.SGD(groups)
    for p in list(model.parameters())[1:-1]:
        p.requires_grad_(False)
    run = pk.Trajectory(model, pk.losses.squared, sgd, data)
    total = sum(p.numel() for p in model.parameters())
    trained = first.numel() + last.numel()
    assert "under SGD, lr 0.1, 0.02\n" in repr(run)
    assert f"{trained} of {total} trained, in 2 tensors" in repr(run)


def test_an_explanation_tells_what_was_asked_and_what_is_missing(run_and_queries, tmp_path):
    run, queries = run_and_queries
    told = pk.explain(run, queries, chunk=2, folder=tmp_path / "told", by_parameter=True)
    lines = repr(told).splitlines()
    assert lines[0] == "Explanation of 3 queries, 2 outputs each, over 15 samples and 12 steps"
    where = f"in folder {str(tmp_path / 'told')!r}"
    assert lines[1].strip() == f"chunks: 2 of at most 2 queries, finished, {where}"
    assert lines[2].strip() == "run: AdamW, 4 tensors trained"
    assert lines[3].strip() == "options: rule 'gauss', nodes 3, tolerance 0.001, by_parameter"
    next((tmp_path / "told" / "chunks").glob("000000001-*")).unlink()
    assert "1 missing" in repr(pk.Explanation.open(tmp_path / "told"))
    (tmp_path / "told" / "chunks" / "x-y.safetensors").touch()
    assert "their folder cannot be read" in repr(told)
    assert "finished, in memory" in repr(pk.explain(run, queries, chunk=3))
