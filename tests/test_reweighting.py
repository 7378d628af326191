"""A training with other weights: against the same loop written in torch."""

import pytest
import torch
from test_influence import BATCHES, IMAGES, OPTIMIZERS, N, Q, X, Y, images, mlp, recorded, squared
from torch import nn
from weighted_training import trained

import pkbook as pk

W = torch.rand(N, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 2
W[2] = 0.0


def same(run, model):
    for name, p in run.model.named_parameters():
        torch.testing.assert_close(p, model.get_parameter(name), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["SGD", "momentum", "AdamW", "RMSprop"])
@pytest.mark.parametrize("options", [{}, {"clip_norm": 0.3}])
def test_weights_multiply_each_samples_gradient(name, options):
    run = recorded(mlp(), OPTIMIZERS[name], **options)
    again = run.reweighted(W)
    same(again, trained(mlp(), squared, OPTIMIZERS[name], (X, Y), BATCHES, W, **options))
    assert again.verify() == 0.0
    told = again.interpolate(Q)
    assert float(told.completeness.max()) < 1e-6
    assert bool((told.contributions[2] == 0).all())


def of_batch(model, batch):
    return squared(model(batch[0]), batch[1])


def one_number(model, batch):
    return squared(model(batch[0]), batch[1]).mean()


@pytest.mark.parametrize("loss", [of_batch, one_number])
def test_losses_of_the_model(loss):
    run = recorded(mlp(), OPTIMIZERS["Adam"], loss=loss)
    again = run.reweighted(W)
    same(again, trained(mlp(), squared, OPTIMIZERS["Adam"], (X, Y), BATCHES, W))
    assert float(again.interpolate(Q).completeness.max()) < 1e-6


def test_one_is_the_run_itself_bit_for_bit_and_nothing_of_it_moves():
    model = images()
    run = recorded(model, OPTIMIZERS["Adam"], IMAGES, loss=nn.CrossEntropyLoss())
    before = {name: t.clone() for name, t in model.state_dict().items()}
    again = run.reweighted(torch.ones(N))
    for name, t in again.model.state_dict().items():
        assert torch.equal(t, before[name])
    again.without([0, 1])
    for name, t in model.state_dict().items():
        assert torch.equal(t, before[name])
    assert len(again) == len(run)


def test_those_that_remain_may_take_the_place():
    run = recorded(mlp(), OPTIMIZERS["SGD"])
    again = run.without([0, 5], divisor="rest")
    without = [[i for i in batch if i not in (0, 5)] for batch in BATCHES]
    same(again, trained(mlp(), squared, OPTIMIZERS["SGD"], (X, Y), without, torch.ones(N)))
    gap = (run.without([0, 5]).model[0].weight - again.model[0].weight).detach()
    assert float(gap.abs().max()) > 1e-4


def test_small_changes_are_what_influence_says():
    run = recorded(mlp(), OPTIMIZERS["AdamW"])
    told = run.influence(Q)
    h = torch.zeros(N, dtype=torch.float64)
    h[3] = 1e-5
    changed = run.reweighted(1 + h).model(Q) - run.reweighted(1 - h).model(Q)
    torch.testing.assert_close(changed.detach() / 2e-5, told.effects[3], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("ask", "match"), [
    (lambda run: run.reweighted(torch.ones(3)), r"one for each sample \[9\]"),
    (lambda run: run.reweighted(torch.full((N,), float("nan"))), "weights"),
    (lambda run: run.reweighted(-W), "must not be negative.*write negative=True"),
    (lambda run: run.reweighted(W, divisor="mean"), "'batch', 'rest'"),
    (lambda run: run.without(range(N), divisor="rest"), "step 0 without a sample"),
    (lambda run: run.without([N]), "0..8"),
])  # fmt: skip
def test_what_makes_no_sense_is_refused(ask, match):
    with pytest.raises(ValueError, match=match):
        ask(recorded(mlp(), OPTIMIZERS["SGD"]))


def test_negative_weights_where_they_are_meant():
    run = recorded(mlp(), OPTIMIZERS["SGD"])
    weights = torch.ones(N)
    weights[4] = -1.0
    again = run.reweighted(weights, negative=True)
    same(again, trained(mlp(), squared, OPTIMIZERS["SGD"], (X, Y), BATCHES, weights.double()))


def test_dropout_masks_are_those_of_the_run():
    model = nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.5), nn.Linear(8, 1)).double()
    run = pk.Trajectory(model, pk.losses.squared, OPTIMIZERS["SGD"](model), (X, Y))
    for batch in BATCHES[:5]:
        run.step(batch)
    again = run.reweighted(torch.ones(N))
    assert torch.equal(again.model[0].weight, model[0].weight)
    h = torch.zeros(N, dtype=torch.float64)
    h[BATCHES[0][0]] = 1e-5
    at = lambda w: run.reweighted(w).model.eval()(Q)  # noqa: E731
    changed = at(1 + h) - at(1 - h)
    told = run.influence(Q).effects[BATCHES[0][0]]
    torch.testing.assert_close(changed.detach() / 2e-5, told, rtol=1e-6, atol=1e-9)
