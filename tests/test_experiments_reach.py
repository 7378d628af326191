"""Reach: both measures by loops, a case with a known answer, bad input."""

import math

import pytest
import torch

from pkbook.lab.experiments.parts import known_densities, reach


def test_both_measures_by_loops():
    draw = torch.Generator().manual_seed(0)
    sizes = torch.rand(37, 5, generator=draw)
    distance = torch.rand(37, 5, generator=draw)
    found = reach.reach(sizes, distance)
    shares = [[sizes[i, q].item() / sizes[:, q].sum().item() for i in range(37)] for q in range(5)]
    for q in range(5):
        entropy = -sum(s * math.log(s) for s in shares[q])
        assert found.effective[q].item() == pytest.approx(math.exp(entropy) / 37, rel=1e-5)
        near = sorted(range(37), key=lambda i: distance[i, q])[:4]
        assert found.near[q].item() == pytest.approx(sum(shares[q][i] for i in near), rel=1e-5)
        usual = sum(sum(shares[p][i] for p in range(5)) / 5 for i in near)
        assert found.usual[q].item() == pytest.approx(usual, rel=1e-5)
    assert found.lift == pytest.approx((found.near.sum() / found.usual.sum()).item())


def test_equal_rows_reach_everywhere_and_one_row_nowhere():
    distance = torch.arange(20.0)[:, None].expand(20, 3)
    even = reach.reach(torch.ones(20, 3), distance)
    assert even.effective.tolist() == pytest.approx([1.0] * 3)
    assert even.lift == pytest.approx(1.0)
    assert even.near.tolist() == pytest.approx([0.1] * 3)
    alone = torch.zeros(20, 20) + torch.eye(20)
    apart = (torch.arange(20.0)[:, None] - torch.arange(20.0)).abs()
    found = reach.reach(alone, apart)
    assert found.effective.tolist() == pytest.approx([1 / 20] * 20)
    assert found.near.tolist() == pytest.approx([1.0] * 20)


def test_ties_count_as_near():
    distance = torch.zeros(20, 1)
    distance[5:] = 1.0
    found = reach.reach(torch.ones(20, 1), distance)
    assert found.near.item() == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("sizes", "distance", "words"),
    [
        (torch.ones(3, 2), torch.ones(2, 3), r"must both be \[R, m\]"),
        (torch.ones(3), torch.ones(3), r"must both be \[R, m\]"),
        (-torch.ones(3, 1), torch.ones(3, 1), "absolute"),
        (torch.zeros(3, 1), torch.ones(3, 1), "not all zero"),
    ],
)
def test_refuses_what_makes_no_sense(sizes, distance, words):
    with pytest.raises(ValueError, match=words):
        reach.reach(sizes, distance)


def test_rows_of_the_models_are_what_their_runs_say():
    made = known_densities.train("plane", 0, steps=2)
    asked = known_densities.queries("plane", 3)
    sizes, distance = reach.adversarial(made, asked)
    told = made.run.interpolate(asked, nodes=2, tolerance=None)
    rows = told.contributions.reshape(2, 2, 32, 3, 2).sum(1)  # step, part, place in the batch
    latents = made.chosen.flatten().tolist()
    for place, latent in enumerate(sorted(set(latents))):
        wanted = sum(
            rows[k, i] for k in range(2) for i in range(32) if made.chosen[k, i].item() == latent
        )
        torch.testing.assert_close(sizes[place], wanted.norm(dim=1))
        away = (made.latents[latent] - asked).square().sum(1).sqrt()
        torch.testing.assert_close(distance[place], away)


def test_diffusion_rows_and_distances():
    cases = [("sines", 1), ("none", 1)]
    (sizes, apart), (blind, _) = reach.diffusion(cases, samples=10, levels=5, steps=3)
    assert sizes.shape == (50, 10)
    assert apart["level"].unique().tolist() == [0, 1, 2, 3, 4]
    assert apart["level"][1, 1] == 0  # second level, second level
    assert not torch.allclose(sizes, blind)
    with pytest.raises(ValueError, match="embedding"):
        reach.diffusion([("loud", 1)])


def test_without_an_embedding_the_level_says_nothing_and_with_many_sines_much():
    """The claim of the chapter on another seed, smaller."""
    names = "none", "more sines"
    runs = reach.diffusion([(name, 9) for name in names], samples=12, levels=20, steps=60)
    lifts = {
        name: reach.reach(sizes, apart["level"]).lift
        for name, (sizes, apart) in zip(names, runs, strict=True)
    }
    assert abs(lifts["none"] - 1) < 0.15
    assert lifts["more sines"] > 1.5


def test_gans_give_rows_for_every_latent_drawn():
    sizes, distance = reach.ring_gan(2, latents=60, steps=3, queries=5)
    assert sizes.shape == distance.shape
    assert sizes.shape[1] == 5
    assert 48 <= len(sizes) <= 60
