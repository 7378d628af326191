"""Pairs of steps and self-influence, each against the sums they must give and a forward carry."""

import sys

import pytest
import torch
from oracles import jacobian, set_vector, vector
from small_problem import problem, smooth
from test_optimizers import TABLE, batches, optimizer_of, record

import pkbook as pk

CHOSEN = [TABLE[0], TABLE[3], TABLE[6], TABLE[12], TABLE[16]]


@pytest.mark.parametrize(("name", "options"), CHOSEN, ids=str)
def test_pairs_of_steps_add_up_to_the_contributions(name, options):
    data, query = problem()
    model = smooth()
    run = record(model, optimizer_of(name, options, model), data, steps=12, every=5)
    told = run.interpolate(query, tolerance=None)
    pairs = pk.step_pairs(run, query)
    assert pairs.shape == (3, 2, 12, 12)
    torch.testing.assert_close(pairs.sum(2).permute(2, 0, 1), told.by_time)
    assert pairs.triu(1).abs().max() == 0  # no gradient acts before it is there
    coarse = pk.step_pairs(run, query, outputs=1, bins=4)
    wanted = pairs[:, 1:].unflatten(2, (4, 3)).unflatten(4, (4, 3)).sum((3, 5))
    torch.testing.assert_close(coarse, wanted)


def test_without_memory_only_the_diagonal_remains():
    data, query = problem()
    model = smooth()
    pairs = pk.step_pairs(record(model, optimizer_of(*TABLE[0], model), data), query)
    off = pairs - torch.diag_embed(pairs.diagonal(dim1=2, dim2=3))
    assert off.abs().max() == 0
    assert pairs.abs().max() > 1e-3


def test_pairs_of_steps_of_momentum_written_out():
    """Delta_t = -eta sum_s beta^(t-s) g_s, so c(t, s) = -eta beta^(t-s) <phi_t, g_s>."""
    (x, y), query = problem()
    model = smooth()
    run = record(model, optimizer_of("SGD", {"lr": 0.05, "momentum": 0.8}, model), (x, y), steps=6)
    thetas = [vector(run.model_at(k)) for k in range(7)]
    phi, g = [], []
    t, w = torch.tensor([-(0.6**0.5), 0.0, 0.6**0.5]), torch.tensor([5 / 18, 8 / 18, 5 / 18])
    for k, batch in enumerate(batches(6)):
        here = set_vector(smooth(), thetas[k])
        loss = pk.losses.squared(here(x[batch]), y[batch]).mean()
        g.append(torch.cat([p.flatten() for p in torch.autograd.grad(loss, here.parameters())]))
        between = [thetas[k] + (1 + a) / 2 * (thetas[k + 1] - thetas[k]) for a in t.double()]
        phi.append(sum(b * jacobian(set_vector(smooth(), p), query)
                       for b, p in zip(w.double(), between, strict=True)))  # fmt: skip
    pairs = pk.step_pairs(run, query)
    for later in range(6):
        for s in range(later + 1):
            wanted = -0.05 * 0.8 ** (later - s) * phi[later] @ g[s]
            torch.testing.assert_close(pairs[:, :, later, s], wanted, rtol=1e-6, atol=1e-9)


def test_self_influence_is_the_diagonal_of_all_contributions():
    data, _ = problem()
    model = smooth()
    run = record(model, optimizer_of(*TABLE[11], model), data)
    every = run.interpolate(data[0]).contributions
    own = pk.self_influence(run, chunk=4)
    torch.testing.assert_close(own, every[torch.arange(15), torch.arange(15)])
    some = pk.self_influence(run, [3, 9], outputs=torch.tensor([1, 0]))
    torch.testing.assert_close(some, torch.stack([own[3, 1:], own[9, :1]]))


@pytest.mark.parametrize(
    ("kind", "options"),
    [("SGD", {}), ("SGD", {"weight_decay": 0.1}), ("RMSprop", {}), ("Adagrad", {})],
)
def test_without_a_memory_one_pass_serves_all_samples(kind, options, monkeypatch):
    (x, y), _ = problem()
    model = smooth()
    optimizer = getattr(torch.optim, kind)(model.parameters(), lr=0.03, **options)
    run = pk.Trajectory(model, pk.losses.squared, optimizer, (x, y), every=3)
    for batch in ([0, 1, 2], [[3, 4], [5, 3]], [7, 7, 8], [0, 14, 9], [1, 2, 3]):
        run.step(batch)
    every = run.interpolate(x, tolerance=1e-8).contributions
    module = sys.modules["pkbook.interpolation.self_influence"]  # not the function of that name
    monkeypatch.setattr(module, "take_apart", None)  # the other way
    own = pk.self_influence(run, tolerance=1e-8)
    torch.testing.assert_close(own, every[torch.arange(15), torch.arange(15)])
    some = pk.self_influence(run, [14, 3], outputs=torch.tensor([1, 0]), tolerance=1e-8)
    torch.testing.assert_close(some, torch.stack([own[14, 1:], own[3, :1]]))


def test_a_mislabelled_sample_has_the_largest_self_influence():
    """Twenty points on two lines, one of them with the other line's label."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20, 2, generator=generator).double()
    y = x[:, :1].sign()
    y[7] *= -1
    model = pk.models.mlp(2, 32, 1, activation="tanh", seed=0).double()
    adam = torch.optim.Adam(model.parameters(), lr=0.01)
    run = pk.Trajectory(model, pk.losses.squared, adam, (x, y))
    for batch in pk.batches(20, size=5, steps=150):
        run.step(batch)
    own = pk.self_influence(run)[:, 0] * y[:, 0]
    assert own.argmax() == 7


def _run():
    data, _ = problem()
    model = smooth()
    return record(model, optimizer_of(*TABLE[0], model), data, steps=4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda run, x: pk.step_pairs(run, x, bins=5), "at most the number of steps 4, got 5"),
        (lambda run, x: pk.step_pairs(run, x, memory=1000), "fewer bins, fewer queries"),
        (lambda run, x: pk.step_pairs(run, x[:, :1]), "cannot be applied to x"),
        (lambda run, x: pk.self_influence(run, [15]), r"0\.\.14"),
        (lambda run, x: pk.self_influence(run, chunk=0), "chunk"),
    ],
)
def test_bad_questions_are_refused(call, message):
    _, query = problem()
    with pytest.raises(ValueError, match=message):
        call(_run(), query)
