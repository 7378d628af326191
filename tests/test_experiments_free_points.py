"""Points without a generator's kernel: plain torch, numbers by hand, and what speed does."""

import pytest
import torch
from torch.nn import functional

import pkbook as pk
from pkbook.generative import ring_of_gaussians
from pkbook.lab.experiments import free_points
from pkbook.lab.experiments.mode_collapse import Config, covered

TINY = Config(steps=8, every=2, batch=8, latents=30, queries=4, points=40)


def test_free_points_are_adam_on_each_point():
    found = free_points.free([2, 3], [0.01, 0.05], TINY, points=30)[0.05][1]
    draw = torch.Generator().manual_seed(3)
    ring = ring_of_gaussians(8, scale=0.15)
    z = torch.randn(30, 2, generator=draw, dtype=torch.float64)
    x = pk.models.mlp(2, 32, 32, 2, activation="tanh", seed=3).double()(z).detach()
    torch.testing.assert_close(found.places[0], x)
    x.requires_grad_()
    d = pk.models.mlp(2, 64, 64, 1, seed=103).double()
    for_d = torch.optim.Adam(d.parameters(), 0.001, betas=(0.5, 0.999))
    for_x = torch.optim.Adam([x], 0.05, betas=(0.5, 0.999))
    twin = type(ring)(ring.means.double(), 0.15)
    for _ in range(8):
        for_d.zero_grad()
        real, made = d(twin.sample(30, generator=draw)), d(x.detach())
        bce = functional.binary_cross_entropy_with_logits
        (bce(real, torch.ones_like(real)) + bce(made, torch.zeros_like(made))).backward()
        for_d.step()
        for_x.zero_grad()
        (-torch.log(torch.sigmoid(d(x)))).mean().backward()
        for_x.step()
    torch.testing.assert_close(found.places[-1], x.detach())
    torch.testing.assert_close(found.critic(x), d(x))  # the discriminator at the end


def test_numbers_of_a_course_by_hand():
    ring = ring_of_gaussians(8, scale=0.15)
    still = ring.means.repeat(3, 1)
    places = torch.stack([still + 0.01 * k * torch.tensor([3.0, 4.0]) for k in range(8)])
    course = free_points.Course(places, ring)
    assert course.speed == pytest.approx(0.05, rel=1e-5)
    assert course.coherence == pytest.approx(1.0, rel=1e-5)
    assert course.modes == pytest.approx(sum(covered(ring, x) for x in places[2:]) / 6)


def test_the_network_is_that_of_the_experiment():
    (course,) = free_points.with_network([3], TINY, points=5)
    assert course.places.shape == (9, 5, 2)
    draw = torch.Generator().manual_seed(20_003)
    z = torch.randn(5, 2, generator=draw, dtype=torch.float64)
    start = pk.models.mlp(2, 32, 32, 2, activation="tanh", seed=3).double()
    torch.testing.assert_close(course.places[0], start(z).detach())


def test_slow_points_find_more_modes_than_fast_ones():
    """Of a seed that the chapter does not use."""
    found = free_points.free([11], [0.01, 0.1], Config())
    (slow,), (fast,) = found.values()
    assert slow.modes > fast.modes
    assert slow.coherence < fast.coherence


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), "fast"])
def test_refuses_other_rates(rate):
    with pytest.raises(ValueError, match="rate must be a positive number"):
        free_points.free([0], [0.1, rate], TINY)
