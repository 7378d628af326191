"""C3: points that come back, counted by hand; a diffusion model in plain torch."""

import pytest
import torch

from pkbook import generative as gen
from pkbook.lab.experiments import mode_collapse, oscillation
from pkbook.lab.experiments.machinery.claims import claim, finding
from pkbook.lab.experiments.parts.coming_back import coming_back

RING = gen.ring_of_gaussians(8, scale=0.15)


def walk(*modes):
    """One point's places: a mode's centre for a number, between all modes for None."""
    return torch.stack([torch.zeros(2) if m is None else RING.means[m] for m in modes])


@pytest.mark.parametrize(
    ("modes", "returns"),
    [
        ((5, 5, 0, 0, 0, 0, 0, 0), False),
        ((5, 5, 0, 1, 2, 3, 4, 5), False),  # the first quarter does not count
        ((5, 5, 0, 1, 0, 0, 0, 0), True),
        ((5, 5, 0, None, 0, None, 0, 0), False),  # out of a mode and into the same one
        ((5, 5, 0, None, 1, None, 0, 0), True),
        ((5, 5, 0, 1, 1, 2, 1, 1), True),
        ((5, 5, None, None, None, None, None, None), False),
    ],
)
def test_coming_back_is_leaving_for_another_mode_and_returning(modes, returns):
    still = walk(*[7] * len(modes))
    places = torch.stack([walk(*modes), still, still, still], 1)
    assert coming_back(places, RING) == pytest.approx(0.25 if returns else 0.0)


def test_a_point_that_shakes_on_the_border_of_two_modes_does_not_come_back():
    middle = (RING.means[0] + RING.means[1]) / 2
    sides = [middle + s * 0.02 * (RING.means[0] - RING.means[1]) for s in (1, -1) * 6]
    assert coming_back(torch.stack(sides)[:, None], RING) == 0


@pytest.mark.parametrize("shape", [(3, 5, 2), (8, 2)])
def test_too_few_looks_are_refused(shape):
    with pytest.raises(ValueError, match="at least 4 looks"):
        coming_back(torch.zeros(shape), RING)


def test_the_diffusion_model_is_trained_as_plain_torch_trains_it():
    told = oscillation.diffusion(3, looks=2, steps=6, points=5)
    draw = torch.Generator().manual_seed(3)
    schedule = gen.linear_schedule(40)
    data = gen.noised(RING.sample(500, generator=draw) * 2**0.5, schedule, generator=draw)
    model = gen.NoisePredictor(2, gen.sinusoidal(40, 32), hidden=(64, 64), seed=3)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    start = torch.randn(5, 2, generator=draw)
    for _ in range(6):
        rows = torch.randint(len(data.z), (128,), generator=draw)
        optimizer.zero_grad()
        ((model(data.z[rows]) - data.noise[rows]).square().sum(1) / 2).mean().backward()
        optimizer.step()
    again = torch.Generator().manual_seed(3)
    made = gen.reverse(model, schedule, start, generator=again).generated / 2**0.5
    assert told.places.shape == (3, 5, 2)
    torch.testing.assert_close(told.places[-1], made)
    with pytest.raises(ValueError, match="looks"):
        oscillation.diffusion(3, looks=0)


def test_a_trained_diffusion_model_covers_the_ring_on_a_seed_the_chapter_does_not_use():
    told = oscillation.diffusion(11, steps=600)
    assert mode_collapse.covered(told.ring, told.places[-1]) == 8
    assert coming_back(told.places, told.ring) < 0.4


def test_c3_and_c7_are_differences_of_the_runs():
    config = mode_collapse.Config(
        seeds=(3, 4), few=1, steps=16, every=4, batch=8, latents=30, queries=4, points=40,
        known_steps=2, settings=("healthy", "collapsing"),
    )  # fmt: skip
    result = mode_collapse.run(config)
    denoised = [oscillation.diffusion(3, looks=4, steps=4, points=6)]
    told = oscillation.findings(result, denoised)["C3"]
    calm = coming_back(denoised[0].places, denoised[0].ring)
    for numbers, name in zip(told.values(), ("collapsing", "healthy"), strict=True):
        share, less, own = numbers.values()
        assert share.mean == pytest.approx(result.returned[name].mean().item())
        assert less.mean == pytest.approx(result.returned[name][0].item() - calm)
        assert own.mean == pytest.approx(calm)
    assert finding("C3", told).claim is claim("C3")
    (numbers,) = mode_collapse.findings(result)["C7"].values()
    late = [result.late(v["collapsing"]) for v in (result.carried, result.feedback)]
    assert next(iter(numbers.values())).mean == pytest.approx((late[0] / late[1]).mean().item())
