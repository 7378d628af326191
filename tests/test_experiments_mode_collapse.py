"""T10: a GAN in plain torch, counts by hand, and a claim on seeds the chapter does not use."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import nn
from torch.distributions import Normal

import pkbook as pk
from pkbook.generative import Learned, Optimal, ring_of_gaussians, train_generator
from pkbook.lab.experiments import mode_collapse as collapse
from pkbook.lab.experiments.figures import mode_collapse as mode_collapse_figures
from pkbook.lab.experiments.machinery.claims import finding
from pkbook.lab.experiments.parts import known_densities as known

TINY = collapse.Config(
    seeds=(0, 7), few=1, steps=32, every=4, batch=8, latents=20, queries=4, points=40,
    nodes=3, known_steps=3, settings=("healthy", "collapsing", "more momentum"),
)  # fmt: skip


@pytest.fixture(scope="module")
def tiny():
    return collapse.run(TINY)


def by_hand(setting, seed):
    """The same GAN without the package's recording: generator at the start and after each step."""
    draw = torch.Generator().manual_seed(seed)
    z = torch.randn(20, 2, generator=draw, dtype=torch.float64)
    ring = ring_of_gaussians(8, scale=0.15)
    ring = replace(ring, means=ring.means.double(), weights=None)
    g = pk.models.mlp(2, setting.width, setting.width, 2, activation="tanh", seed=seed).double()
    d = pk.models.mlp(2, 64, 64, 1, seed=100 + seed).double()
    for_g = torch.optim.Adam(g.parameters(), setting.generator, betas=(setting.momentum, 0.999))
    for_d = torch.optim.Adam(d.parameters(), setting.discriminator, betas=(0.5, 0.999))
    states, feedback = [pk.models.mlp(2, setting.width, setting.width, 2, activation="tanh")], []
    states[0].double().load_state_dict(g.state_dict())
    for chosen in pk.batches(20, size=8, steps=32, seed=seed):
        for_d.zero_grad()
        real, made = d(ring.sample(8, generator=draw)), d(g(z[chosen]).detach())
        bce = nn.functional.binary_cross_entropy_with_logits
        (bce(real, torch.ones_like(real)) + bce(made, torch.zeros_like(made))).backward()
        for_d.step()
        for_g.zero_grad()
        x = g(z[chosen])
        x.retain_grad()
        (-torch.log(torch.sigmoid(d(x)))).mean().backward()
        feedback.append(8 * x.grad)
        for_g.step()
        twin = pk.models.mlp(2, setting.width, setting.width, 2, activation="tanh").double()
        twin.load_state_dict(g.state_dict())
        states.append(twin)
    return states, torch.stack(feedback)


def coherence(moves):
    """By loops."""
    top = sum(np.mean([m[k] for m in moves]) ** 2 for k in range(2))
    return top / np.mean([m[0] ** 2 + m[1] ** 2 for m in moves])


@pytest.mark.parametrize("name", ["healthy", "more momentum"])
def test_a_run_is_a_gan_in_plain_torch(name):
    setting = collapse.SETTINGS[name]
    states, feedback = by_hand(setting, 7)
    other = collapse.SETTINGS["collapsing"]
    found = {k: v[1] for k, v in collapse.measure([other, setting], TINY, [0, 7]).items()}
    draw = torch.Generator().manual_seed(10_007)
    asked = torch.randn(40, 2, generator=draw, dtype=torch.float64)
    torch.testing.assert_close(found["places"][-1], states[-1](asked).detach())
    for k in (0, 9, 31):
        wanted = coherence(feedback[k, :4].tolist())
        assert found["feedback"][k].item() == pytest.approx(wanted, rel=1e-6)
    modes = []
    centres = [(math.cos(j * math.pi / 4), math.sin(j * math.pi / 4)) for j in range(8)]
    for state in states[4::4]:
        counts = [0] * 8
        for point in state(asked).tolist():
            distances = [math.dist(point, centre) for centre in centres]
            counts[int(np.argmin(distances))] += min(distances) < 0.45
        modes.append(sum(c >= 0.02 * 40 for c in counts))
    assert found["modes"].tolist() == modes


def test_carried_moves_add_up_to_what_plain_torch_moved(tiny):
    setting = collapse.SETTINGS["collapsing"]
    _, made = collapse.train([setting], TINY, [7])
    states, _ = by_hand(setting, 7)
    draw = torch.Generator().manual_seed(10_007)
    asked = torch.randn(40, 2, generator=draw, dtype=torch.float64)[:4]
    (moves,) = made.carried(asked[None], 3)
    change = (states[-1](asked) - states[0](asked)).detach()
    torch.testing.assert_close(moves.sum(0), change, rtol=1e-3, atol=1e-4)
    for k in (0, 20):
        assert tiny.carried["collapsing"][1, k].item() == pytest.approx(
            coherence(moves[k].tolist()), rel=1e-6
        )
        steps = (states[k + 1](asked) - states[k](asked)).tolist()
        assert tiny.moved["collapsing"][1, k].item() == pytest.approx(coherence(steps), rel=1e-5)
    assert tiny.gap["collapsing"].max() < 1e-3


@pytest.mark.parametrize("name", ["collapsing", "more momentum"])
def test_carried_moves_are_those_of_a_recorded_run(name):
    """The package's interpolation of the same run, recorded by itself."""
    setting = collapse.SETTINGS[name]
    draw = torch.Generator().manual_seed(7)
    z = torch.randn(20, 2, generator=draw, dtype=torch.float64)
    ring = ring_of_gaussians(8, scale=0.15)
    ring = replace(ring, means=ring.means.double(), weights=None)
    critic = pk.models.mlp(2, 64, 64, 1, seed=107).double()
    adam = torch.optim.Adam(critic.parameters(), setting.discriminator, betas=(0.5, 0.999))
    adversary = Learned(critic, adam, lambda n: ring.sample(n, generator=draw))
    net, optimizer = collapse.build(setting, 7)
    recorded = train_generator(net, adversary, z, optimizer, steps=32, batch=8, seed=7)
    asked = collapse.asked(TINY, [7])[:, :4]
    told = recorded.run.interpolate(asked[0], nodes=3, tolerance=None)
    _, made = collapse.train([setting], TINY, [7])
    torch.testing.assert_close(made.carried(asked, 3)[0], recorded.by_step(told))
    torch.testing.assert_close(made.feedback[0], recorded.feedback.sum(1))


def test_settings_of_two_widths_are_not_trained_side_by_side():
    with pytest.raises(ValueError, match="one width"):
        collapse.train([collapse.COLLAPSING, collapse.SETTINGS["wider generator"]], TINY, [0, 0])


def test_covered_counts_modes_by_hand():
    ring = ring_of_gaussians(8, scale=0.1)
    x = torch.cat([ring.means[:3], ring.means[:1].repeat(96, 1), ring.means[5:6] * 1.5])
    # 97 points on the first, one each on the next two (too few), one far from everything
    assert collapse.covered(ring, x) == 1
    assert collapse.covered(ring, torch.cat([x[:98], ring.means[1:2]])) == 2
    assert collapse.covered(ring, ring.means.repeat(5, 1)) == 8


def test_lag_is_positive_where_the_first_leads():
    first = torch.randn(40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    second = torch.cat([torch.zeros(2, dtype=torch.float64), -first[:-2]])
    found = collapse.lagged(first, second, 3)
    assert found.argmin() == 5  # lag 2
    assert found[5].item() == pytest.approx(-1.0)
    wanted = np.corrcoef(first[3:], second[:-3])[0, 1]
    assert found[0].item() == pytest.approx(wanted)
    with pytest.raises(ValueError, match="most: expected at most 1 for 4 blocks"):
        collapse.lagged(first[:4], second[:4], 2)


def test_late_values_ratios_and_ranks(tiny):
    late = tiny.late(tiny.carried["healthy"])
    assert late[1].item() == pytest.approx(tiny.carried["healthy"][1, 8:].mean().item())
    ratio = tiny.ratio("more momentum")
    wanted = tiny.carried["more momentum"][0, 8:].mean() / late[0]
    assert (ratio.mean, ratio.count) == (pytest.approx(wanted.item()), 1)
    blocks = tiny.blocks(tiny.carried["healthy"])
    assert blocks[0, 2].item() == pytest.approx(tiny.carried["healthy"][0, 8:12].mean().item())
    statistic, p = tiny.rank_correlation()
    carried = [v for s in tiny.carried for v in tiny.late(tiny.carried[s]).tolist()]
    modes = [v for s in tiny.carried for v in tiny.late(tiny.modes[s]).tolist()]
    ranks = [np.array([np.mean([(u < v) + (u == v) / 2 for u in a]) for v in a])
             for a in (carried, modes)]  # fmt: skip
    assert statistic == pytest.approx(np.corrcoef(*ranks)[0, 1])
    assert 0 <= p <= 1


def test_an_interrupted_run_goes_on(tiny, tmp_path, monkeypatch):
    collapse.run(TINY, folder=tmp_path)
    monkeypatch.setattr(collapse, "train", None)  # nothing is trained a second time
    again = collapse.run(TINY, folder=tmp_path)
    for name in TINY.settings:
        assert torch.equal(again.carried[name], tiny.carried[name])


def test_a_run_leaves_the_global_state_alone():
    before = torch.get_rng_state()
    collapse.measure([collapse.COLLAPSING], TINY, [0])
    assert torch.equal(torch.get_rng_state(), before)


# ---- known densities --------------------------------------------------------------------------


def test_the_formula_closes_where_both_densities_are_known():
    found = known.gaps(3, steps=4)
    assert len(found) == 4
    assert max(found.values()) < 1e-10


@pytest.mark.parametrize("loss", ["minimax", "non-saturating"])
def test_training_on_the_plane_is_gradient_descent_on_the_frozen_loss(loss):
    """The Gaussian's density by torch.distributions, its parameters frozen in D*."""
    made = known.train("plane", 2, loss=loss, steps=3, rate=0.2)
    twin, truth = known.generator("plane", 2), known.data("plane")
    z = known.latents("plane", 128, 2)
    optimizer = torch.optim.SGD(twin.parameters(), 0.2)
    for chosen in pk.batches(128, size=32, steps=3, seed=2):
        a, b = twin.linear.weight.detach().clone(), twin.linear.bias.detach().clone()
        density = torch.distributions.MultivariateNormal(b, a @ a.T)
        x = twin(z[chosen])
        d = torch.sigmoid(truth.log_prob(x) - density.log_prob(x))
        optimizer.zero_grad()
        (torch.log(1 - d) if loss == "minimax" else -torch.log(d)).mean().backward()
        optimizer.step()
    q = known.queries("plane")
    torch.testing.assert_close(made.run.model_at(3)(q), twin(q))


def test_compared_is_zero_error_for_the_ideal_itself_and_known_for_a_turned_one():
    truth, made = known.data("plane"), known.generator("plane", 0)
    z = known.latents("plane", 10, 0)
    x = made(z).detach()
    ideal = Optimal(truth)

    class Fake:
        loss = "minimax"

        def __call__(self, *args):
            wanted = ideal(*args).sum(0)
            return (2 * torch.stack([wanted[:, 0], torch.zeros(10).double()], 1))[None]

    compared = known.Compared(Fake(), ideal)
    answer = compared(made, z, x, 0)
    density = Normal(0.0, 0.5)  # of each coordinate at the start
    y = x.clone().requires_grad_()
    log_g = density.log_prob(y).sum(1)
    d = torch.sigmoid(truth.log_prob(y) - log_g)
    s = torch.autograd.grad(torch.log(1 - d).sum(), y)[0]
    torch.testing.assert_close(answer[0, :, 0], 2 * s[:, 0])
    assert compared.cosine[0] == pytest.approx((s[:, 0].norm() / s.norm()).item())
    assert compared.length[0] == pytest.approx((2 * s[:, 0].norm() / s.norm()).item())
    with pytest.raises(ValueError, match="must have the same loss"):
        known.Compared(Fake(), Optimal(truth, "non-saturating"))


def test_a_learned_discriminator_points_about_where_the_ideal_one_does():
    compared = known.against_ideal("line", 5, inner=3, steps=40)
    assert len(compared.cosine) == len(compared.length) == 40
    assert np.mean(compared.cosine[20:]) > 0.3
    assert compared.learned.steps == 3
    assert len(compared.learned.losses) == 120


@pytest.mark.parametrize("call", [known.data, lambda c: known.generator(c, 0), known.queries])
def test_unknown_cases_are_named(call):
    with pytest.raises(ValueError, match="case"):
        call("space")


# ---- the claim --------------------------------------------------------------------------------


def test_t10_on_a_seed_that_the_chapter_does_not_use():
    config = collapse.Config(
        seeds=(20,), few=1, steps=160, queries=16, points=200, known_steps=3,
        settings=("healthy", "collapsing"),
    )  # fmt: skip
    result = collapse.run(config)
    assert result.modes["healthy"][0, -1] >= 7
    assert result.late(result.modes["collapsing"])[0] < 6
    late = [result.late(result.feedback[name])[0] for name in collapse.MAIN]
    assert late[1] > late[0]  # a direction, not a factor: this run is shorter than the chapter's
    numbers = collapse.findings(result)["T10"]
    told = finding("T10", numbers)
    assert list(told.settings) == list(numbers)
    assert max(result.known) < 1e-10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": ()}, "seeds must hold at least one"),
        ({"steps": 100}, "steps must be a multiple of four times every"),
        ({"queries": 65}, "queries must be at most 64"),
        ({"batch": 0}, "batch"),
        ({"settings": ("healthy", "collapsing", "other")}, "settings"),
        ({"settings": ("healthy",)}, "settings must hold"),
    ],
)
def test_refuses_settings_that_make_no_sense(change, message):
    with pytest.raises(ValueError, match=message):
        collapse.Config(**change)


def test_full_is_larger_than_quick():
    quick, full = collapse.Config.quick(), collapse.Config.full(batch=128)
    assert len(full.seeds) > len(quick.seeds) >= 3
    assert full.steps > quick.steps
    assert full.batch == 128
    assert quick.seeds_of("wider generator") == (0, 1)


def test_draws_its_figures(tiny):
    figures = mode_collapse_figures.figures(tiny)
    assert set(figures) == {"rings", "coherence", "modes", "lead"}
    for figure in figures.values():
        assert isinstance(figure, Figure)
        assert "<svg" in pk.plots.svg(figure, "A drawing of a tiny run, for the test only.")
    marks = figures["modes"].axes[0].lines[1].get_xdata()
    assert marks == pytest.approx(tiny.late(tiny.carried["collapsing"]).numpy())
