"""Running statistics of BatchNorm, given to the samples whose activations moved them."""

import pytest
import torch
from torch import nn

import pkbook as pk

D = torch.float64


def numbers(*shape, seed=0):
    return torch.randn(*shape, dtype=D, generator=torch.Generator().manual_seed(seed))


X, Y, Q = numbers(12, 4), numbers(12, 1, seed=1), numbers(3, 4, seed=2)
BATCHES = [[0, 3, 5, 7], [1, 3, 4, 11], [2, 5, 8, 9], [0, 6, 10, 11], [3, 4, 6, 8], [1, 2, 7, 9]]


def network(momentum=0.1, kind="vectors"):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if kind == "vectors":
            layers = [nn.Linear(4, 6), nn.BatchNorm1d(6, momentum=momentum), nn.Tanh()]
        else:
            layers = [nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 6, 2, padding=1),
                      nn.BatchNorm2d(6, momentum=momentum), nn.Tanh(), nn.AdaptiveAvgPool2d(1),
                      nn.Flatten()]  # fmt: skip
        return nn.Sequential(*layers, nn.Linear(6, 1)).double()


def recorded(model, steps, lr=1e-2):
    run = pk.Trajectory(model, pk.losses.squared, torch.optim.SGD(model.parameters(), lr), (X, Y))
    for step in steps:
        run.step(step)
    return run


WAYS = {
    "one batch a step": BATCHES,
    "accumulated": [BATCHES[:2], BATCHES[2:4], BATCHES[4:]],
}


@pytest.mark.parametrize("kind", ["vectors", "images"])
@pytest.mark.parametrize("momentum", [0.1, 0.5, None])
@pytest.mark.parametrize("way", WAYS)
def test_nothing_is_left_to_nobody(kind, momentum, way):
    run = recorded(network(momentum, kind), WAYS[way])
    plain, told = (run.interpolate(Q, statistics=s, tolerance=None) for s in (False, True))
    size = plain.other["running statistics"].abs().max()
    assert size > 1e-3, "the statistics must matter, or nothing is tested"
    assert told.other["running statistics"].abs().max() <= 1e-3 * size
    assert told.completeness.max() <= 1e-6
    moved = told.contributions.sum(0) + told.other["initial statistics"]
    left = plain.contributions.sum(0) + plain.other["running statistics"]
    torch.testing.assert_close(moved, left, rtol=0, atol=1e-3 * float(size))
    torch.testing.assert_close(told.by_time.sum(0), told.contributions.sum(0))


def test_a_sample_whose_weight_is_zero_has_its_share_of_the_statistics_only():
    """Learning rate zero: what a sample does, it does through the statistics.

    Its share is the derivative of the prediction by the sample's part of every mean and variance,
    found here by training again with that part scaled.
    """
    frozen = recorded(network(), BATCHES, lr=0.0)
    told = frozen.interpolate(Q, statistics=True)

    def final(scale, sample):
        """The prediction where a sample's part of the batch's moments counts ``scale`` times."""
        model = network()
        layer, first = model[1], model[0]
        mean, var = layer.running_mean.clone(), layer.running_var.clone()
        with torch.no_grad():
            for batch in BATCHES:
                h = first(X[batch])
                w = torch.tensor([scale if i == sample else 1.0 for i in batch], dtype=D)[:, None]
                middle = h.mean(0)
                mean = 0.9 * mean + 0.1 * (w * h / len(h)).sum(0)
                var = 0.9 * var + 0.1 * (w * (h - middle).square() / (len(h) - 1)).sum(0)
            layer.running_mean.copy_(mean)
            layer.running_var.copy_(var)
            return model.eval()(Q)

    assert torch.allclose(final(1.0, 3), frozen.model_at(len(BATCHES))(Q), atol=1e-12)
    # The shares are linear in the parts along the path; the derivative at its end is near them.
    for sample in (3, 11):
        step = 1e-4
        slope = (final(1 + step, sample) - final(1 - step, sample)) / (2 * step)
        assert torch.allclose(told.contributions[sample], slope, rtol=0.5, atol=2e-3)
        assert (told.contributions[sample] * slope).sum() > 0


def test_without_batch_norm_it_changes_nothing():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1)).double()
    run = recorded(model, BATCHES)
    one, two = (run.interpolate(Q, statistics=s) for s in (False, True))
    assert torch.equal(one.contributions, two.contributions)
    assert one.other.keys() == two.other.keys()
