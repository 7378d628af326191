"""Contributions as a data frame: each once, in its place, with the sums they had."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from small_problem import problem, smooth

import pkbook as pk


@pytest.fixture(scope="module")
def run():
    data, _ = problem()
    model = smooth()
    adamw = torch.optim.AdamW(model.parameters(), lr=0.02, weight_decay=0.1)
    run = pk.Trajectory(model, pk.losses.squared, adamw, data)
    for batch in pk.batches(15, size=4, steps=9, seed=0):
        run.step(batch)
    run.step([3, 3, 7])  # a sample twice in a batch
    return run


@pytest.fixture(scope="module")
def told(run):
    return run.interpolate(problem()[1], by_parameter=True)


def looped(told):
    """The rows by three loops."""
    n, m, c = told.contributions.shape
    return [
        (i, q, o, told.contributions[i, q, o].item())
        for i in range(n) for q in range(m) for o in range(c)
    ]  # fmt: skip


def test_one_row_for_each_contribution(told):
    table = told.to_pandas()
    assert list(table.columns) == ["sample", "query", "output", "contribution"]
    assert [*table.itertuples(index=False, name=None)] == looped(told)
    assert table.dtypes.astype(str).tolist() == ["int64", "int64", "int64", "float64"]
    sums = table.groupby(["query", "output"])["contribution"].sum().to_numpy().reshape(3, 2)
    np.testing.assert_allclose(sums, told.contributions.sum(0).numpy(), rtol=1e-12)


def test_by_step_each_step_has_its_batch(run, told):
    table = told.to_pandas(by="step")
    assert list(table.columns) == ["step", "sample", "query", "output", "contribution"]
    for k, record in enumerate(run.store.steps):
        rows = table[(table["step"] == k) & (table["query"] == 1) & (table["output"] == 0)]
        assert rows["sample"].tolist() == list(record.batch)
        np.testing.assert_array_equal(rows["contribution"], told.by_step[k][1][:, 1, 0])
    assert_same_sums(table, told)


def test_by_parameter_the_parts_are_named_and_add_up(told):
    table = told.to_pandas(by="parameter")
    assert list(table.columns) == ["parameter", "sample", "query", "output", "contribution"]
    assert table["parameter"].unique().tolist() == list(told.by_parameter)
    name = list(told.by_parameter)[2]
    row = table[(table["parameter"] == name) & (table["sample"] == 4)]
    np.testing.assert_array_equal(row["contribution"], told.by_parameter[name][4].flatten())
    assert_same_sums(table, told)


def assert_same_sums(table, told):
    by_sample = table.groupby(["sample", "query", "output"])["contribution"].sum()
    whole = told.to_pandas().set_index(["sample", "query", "output"])["contribution"]
    np.testing.assert_allclose(by_sample.reindex(whole.index, fill_value=0), whole, atol=1e-12)


@pytest.mark.parametrize("by", ["sample", "step", "parameter"])
def test_an_explanation_numbers_its_queries_through(run, by):
    x = problem()[1]
    x = torch.cat([x, -x, 2 * x])[:7]
    whole = run.interpolate(x, by_parameter=True).to_pandas(by)
    parts = pk.explain(run, x, chunk=3, by_parameter=True).to_pandas(by)
    pd.testing.assert_frame_equal(parts, whole, rtol=1e-9, atol=1e-12)
    assert parts["query"].nunique() == 7


def test_what_is_not_there_is_refused(told, run):
    plain = run.interpolate(problem()[1])
    with pytest.raises(ValueError, match=r"ask for them with by_parameter=True"):
        plain.to_pandas(by="parameter")
    with pytest.raises(ValueError, match="by must be one of 'sample', 'step', 'parameter'"):
        told.to_pandas(by="layer")


def test_without_pandas_or_matplotlib_the_error_says_what_to_install():
    code = """
import sys
sys.modules |= dict.fromkeys(["pandas", "matplotlib"])
import torch
import pkbook as pk
z, c = torch.zeros(1, 1), torch.ones(1, 1, 1)
told = pk.Interpolation(z, z + 1, c, [(torch.arange(1), c)], {}, z, torch.ones(1))
for ask in (told.to_pandas, told.plot):
    try:
        ask()
    except ImportError as error:
        print(error)
print(told)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    first, second, head, *_ = done.stdout.splitlines()
    assert first == "to_pandas needs pandas; write pip install 'pkbook[lab]'"
    assert second == "Interpolation.plot needs matplotlib; write pip install 'pkbook[lab]'"
    assert head == "Interpolation of 1 query, 1 output, over 1 sample and 1 step"
