"""The modified equation of second order against closed forms, full Hessians and enumerated runs."""

from itertools import combinations

import pytest
import torch
from torch import nn
from torch.func import grad, jacrev

from pkbook import diffusion_limit as dl, losses, models

N, B = 5, 2


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def task():
    net = models.mlp(2, 3, 1, activation="tanh", seed=0).double()
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(2)
    x = torch.randn(N, 2, generator=seeded(1), dtype=torch.float64)
    y = torch.sin(2 * x[:, :1]) + x[:, 1:]
    return dl.Task(net, losses.squared, (x, y))


@pytest.fixture(scope="module")
def line():
    model = nn.Linear(1, 1).double()
    with torch.no_grad():
        model.weight.fill_(-1.0), model.bias.fill_(0.5)
    x = torch.linspace(-1, 2, 8, dtype=torch.float64)[:, None]
    y = 0.5 + x - 0.5 * x**2 + 0.5 * torch.randn(8, 1, generator=seeded(2), dtype=torch.float64)
    return dl.Task(model, losses.squared, (x, y))


QUERY = torch.tensor([[0.7, -0.4], [1.0, 1.0]], dtype=torch.float64)


def halvings(errors):
    return torch.stack(errors).log2().diff(dim=0).neg()


def test_mean_and_variance_of_a_line_have_order_two(line):
    a = torch.tensor([[1.5, 1.0]], dtype=torch.float64)
    found = {dl.SGD: [], dl.SecondOrderSGD: []}
    for eta in (0.1, 0.05, 0.025):
        for kind, kept in found.items():
            limit = kind(line, eta, B)
            (m1, v1), (m2, v2) = (
                moments(limit, round(1 / eta)).prediction(a)
                for moments in (dl.discrete_moments, dl.diffusion_moments)
            )
            off = (m1 - m2).abs().max(), (v1 + m1**2 - v2 - m2**2).abs().max()
            kept.append(torch.stack(off))
    assert (halvings(found[dl.SecondOrderSGD])[-1] > 1.85).all()
    assert (halvings(found[dl.SGD])[-1] < 1.15).all()  # without the change it is one


def hessian(function):
    return jacrev(jacrev(function))


def penalised(task, theta, eta):
    """The loss with its penalty on steepness."""

    def risk(s):
        return task._losses(s, *task.data).mean()

    return risk(theta) + eta / 4 * grad(risk)(theta).square().sum()


def test_second_derivatives_are_those_of_full_hessians(task):
    theta = task.theta + torch.randn((3, len(task.theta)), generator=seeded(3), dtype=torch.float64)
    each, query = task.sample_gradients(theta), task.query_gradients(theta, QUERY)
    mean = each.mean(1)
    limit = dl.SecondOrderSGD(task, 0.1, B, shares="kernel")
    account = dl.SecondOrderSGD(task, 0.1, B)
    x, y = task.data
    for r, t in enumerate(theta):
        ell = torch.stack(
            [
                hessian(lambda s, i=i: task._losses(s, x[i : i + 1], y[i : i + 1])[0])(t)
                for i in range(N)
            ]
        )
        bend = torch.stack(
            [hessian(lambda s, m=m: task._outputs(s, QUERY[m : m + 1])[0, 0])(t) for m in range(2)]
        )
        phi, g, a = query[r], each[r], each[r] - mean[r]
        eta, kappa = 0.1, limit.factor
        drift, noise = (part[r] for part in limit.bending(theta, QUERY, each, query))
        assert torch.allclose(drift, eta / 2 * g @ ell.mean(0) @ phi.T)
        wanted = torch.einsum("np,mpq,nq->nm", a, bend, a)
        assert torch.allclose(noise, -eta * kappa / 2 * wanted)
        drift, noise = (part[r] for part in account.bending(theta, QUERY, each, query))
        assert torch.allclose(drift, eta / 2 * torch.einsum("mp,npq,q->nm", phi, ell, mean[r]))
        wanted = torch.einsum("np,mpq,nq->nm", g, bend, a)
        assert torch.allclose(noise, -eta * kappa / 2 * wanted)
        steep = limit.steeper(theta, mean[:, None])[r, 0]
        assert torch.allclose(steep, grad(lambda s: penalised(task, s, 0.1))(t))


@pytest.mark.parametrize("shares", ["account", "kernel"])
def test_the_integral_is_the_change_of_the_mean_prediction(task, shares):
    """Itô's formula leaves nothing, on every path, but the stochastic integral and the scheme."""
    told = dl.diffusion(
        dl.SecondOrderSGD(task, 0.2, B, shares=shares), QUERY, steps=5, paths=200,
        generator=seeded(4), dt=0.2 / 8, control=True, by_sample=True,
    )  # fmt: skip
    rest = (told.outputs - told.predicted)[-1] - told.control
    error = rest.std(0) / 200**0.5
    change = (told.mean[-1] - told.mean[0]).abs().max()
    assert (rest.mean(0).abs() < 4.5 * error + 1e-3 * change).all()
    plain = dl.diffusion(
        dl.SGD(task, 0.2, B), QUERY, steps=5, paths=200, generator=seeded(4), dt=0.2 / 8,
        control=True,
    )  # fmt: skip
    left = ((plain.outputs - plain.predicted)[-1] - plain.control).mean(0).abs()
    assert (left > 3 * (4.5 * error + 1e-3 * change)).any()  # the first order leaves Itô's term
    assert torch.allclose(told.by_sample.sum(0), told.integral[-1].mean(0))
    assert told.bent.shape == told.by_sample.shape
    assert told.bent.sum(0).abs().max() > 0


def test_both_shares_have_the_same_sum(task):
    found = [
        dl.diffusion(
            dl.SecondOrderSGD(task, 0.2, B, shares=shares), QUERY, steps=3, paths=5,
            generator=seeded(5), by_sample=True,
        )
        for shares in ("account", "kernel")
    ]  # fmt: skip
    assert torch.allclose(found[0].integral, found[1].integral)
    assert torch.allclose(found[0].bent.sum(0), found[1].bent.sum(0))
    assert not torch.allclose(found[0].by_sample, found[1].by_sample, rtol=1e-3)


def exact_accounts(task, eta, steps):
    """The mean of the exact contributions over every sequence of batches, ``[N, m]``."""
    nodes = [(0.5 - 0.15**0.5, 5 / 18), (0.5, 8 / 18), (0.5 + 0.15**0.5, 5 / 18)]
    theta, total = task.theta[None], torch.zeros(N, len(QUERY), dtype=torch.float64)
    for _ in range(steps):
        each, after = task.sample_gradients(theta), []
        for batch in combinations(range(N), B):
            step = -eta * each[:, batch].mean(1)
            phi = sum(w * task.query_gradients(theta + s * step, QUERY) for s, w in nodes)
            part = torch.einsum("rnp,rmp->nm", each[:, batch], phi)
            total[list(batch)] -= eta / B * part / len(theta) / 10
            after.append(theta + step)
        theta = torch.cat(after)
    return total


def test_shares_of_the_account_are_those_of_the_runs(task):
    """Two steps, every sequence of batches: only ``account`` is right sample by sample."""
    eta, off = 0.2, {}
    wanted = -exact_accounts(task, eta, 2)
    for shares in ("account", "kernel"):
        told = dl.diffusion(
            dl.SecondOrderSGD(task, eta, B, shares=shares), QUERY, steps=2, paths=2000,
            generator=seeded(6), dt=eta / 4, by_sample=True,
        )  # fmt: skip
        off[shares] = (told.by_sample - wanted).abs().max() / wanted.abs().max()
    assert off["account"] < 0.05
    assert off["kernel"] > 0.07


def test_the_discrete_side_is_plain_sgd(task):
    runs = [
        dl.discrete(kind(task, 0.1, B), QUERY, steps=4, paths=3, generator=seeded(7), control=True)
        for kind in (dl.SGD, dl.SecondOrderSGD)
    ]
    assert torch.equal(runs[0].outputs, runs[1].outputs)
    assert torch.equal(runs[0].control, runs[1].control)


def test_another_word_is_refused(task):
    with pytest.raises(ValueError, match="shares"):
        dl.SecondOrderSGD(task, 0.1, B, shares="fair")
