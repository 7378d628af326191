"""Momentum's theorem at every rate of its memory, by closed forms and by plain NumPy equations."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import nn

import pkbook as pk
from pkbook import diffusion_limit as dl

N, B = 6, 2
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(N, 2, generator=GENERATOR).double()
Y = torch.randn(N, 1, generator=GENERATOR).double()
QUERY = torch.tensor([[0.9, 1.0]]).double()


def task():
    line = nn.Linear(2, 1, bias=False).double()
    with torch.no_grad():
        line.weight.copy_(torch.tensor([[1.0, -1.0]]))
    return dl.Task(line, pk.losses.squared, (X, Y))


def weak_error(eta, rate):
    """Of half the square of the prediction: both sides from the moments, without dice."""
    limit, steps = dl.Momentum(task(), eta, B, beta=1 - rate * eta), round(1 / eta)
    both = [moments(limit, steps) for moments in (dl.discrete_moments, dl.diffusion_moments)]
    (m1, v1), (m2, v2) = (one.prediction(QUERY) for one in both)
    return ((m1.square() + v1 - m2.square() - v2)[-1, 0] / 2).item()


def remembered(eta, rate):
    """The mean of the integral of <grad F, Z>, F half the square, from an Euler chain's moments.

    The chain (theta, G, Z) is linear; its mean and second moment are carried step by step.
    """
    a, kappa = X.numpy(), (N - B) / (B * (N - 1))
    y, q, one, zero = Y.numpy()[:, 0], QUERY.numpy()[0], np.eye(2), np.zeros((2, 2))
    h, b = a.T @ a / N, a.T @ y / N
    drift = np.block([[zero, -one, -one], [rate * h, -rate * one, zero], [zero, zero, -rate * one]])
    push = np.concatenate([np.zeros(2), -rate * b, np.zeros(2)])

    def slope(_, packed):
        mean, second = packed[:6], packed[6:42].reshape(6, 6)
        off = a @ mean[:2] - y
        both = np.outer(off, off) + a @ (second[:2, :2] - np.outer(mean[:2], mean[:2])) @ a.T
        kick = np.zeros((6, 6))
        kick[4:, 4:] = (
            rate**2 * eta * kappa * a.T @ (np.diag(both.diagonal()) / N - both / N**2) @ a
        )
        moved = drift @ second + np.outer(mean, push)
        inner = q @ second[:2, 4:] @ q
        return np.concatenate([drift @ mean + push, (moved + moved.T + kick).ravel(), [inner]])

    first = np.array([1.0, -1.0, 0, 0, 0, 0])
    start = np.concatenate([first, np.outer(first, first).ravel(), [0]])
    return solve_ivp(slope, (0, 1), start, "LSODA", rtol=1e-8, atol=1e-11).y[-1, -1]


@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_weak_error_of_order_one_with_beta_fixed(beta):
    errors = [weak_error(eta, (1 - beta) / eta) for eta in (1 / 80, 1 / 160, 1 / 320)]
    assert 0.85 < math.log2(errors[1] / errors[2]) < 1.15


def test_weak_error_over_the_rate_does_not_grow_with_the_memories_that_a_rate_allows():
    """Were it of order eta times the root of lambda, a quarter of the rate would double it."""
    worst = {}
    for eta in (1 / 16, 1 / 64):
        rates = (0.5, 2, 8, 0.5 / eta, 1 / eta)
        worst[eta] = max(abs(weak_error(eta, rate)) / eta for rate in rates)
    assert worst[1 / 64] < 1.2 * worst[1 / 16]


def test_remembered_noise_is_of_order_eta_at_every_rate():
    coarse, fine = 1 / 16, 1 / 64
    at_one = abs(remembered(coarse, 1.0)) / coarse
    for rate in (1.0, 4.0, "1/eta"):
        two = [abs(remembered(e, 1 / e if rate == "1/eta" else rate)) / e for e in (coarse, fine)]
        assert two[1] < 1.1 * two[0]  # order one half would double it
        assert max(two) < 6 * at_one


def test_a_time_step_for_each_rate_is_that_time_step():
    whole = dl.weak_error(
        lambda lr: dl.RMSprop(task(), lr, B, beta=1 - lr, eps=0.1),
        QUERY,
        rates=[0.5, 0.25],
        paths=20,
        replicas=2,
        dt=lambda lr: lr / 4,
    )
    for k, rate in enumerate((0.5, 0.25)):
        alone = dl.weak_error(
            lambda lr: dl.RMSprop(task(), lr, B, beta=1 - lr, eps=0.1),
            QUERY,
            rates=[rate],
            paths=20,
            replicas=2,
            dt=rate / 4,
        )
        torch.testing.assert_close(whole.replicas[k], alone.replicas[0], rtol=1e-7, atol=1e-9)
    with pytest.raises(ValueError, match="divide"):
        dl.weak_error(
            lambda lr: dl.SGD(task(), lr, B), QUERY, rates=[0.5], paths=2, dt=lambda lr: 0.3 * lr
        )
