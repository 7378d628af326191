"""The experiments of the chapter on Domingos' theorem, on tiny settings."""

import dataclasses
import inspect
from itertools import pairwise

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch.func import functional_call

from pkbook.lab.experiments import memory, riemann, schedules

SMALL = riemann.Config(
    rates=(0.15, 0.075, 0.0375), cnn_horizon=0.1, cnn_rates=(0.1, 0.05), digits=10,
    cnn_steps=2, relu_steps=2,
)  # fmt: skip
SMALLER = dataclasses.replace(SMALL, horizon=0.3, rates=(0.15, 0.075), cnn_steps=1)
SCHEDULED = schedules.Config(mean_rate=0.05, steps=20, points=6, width=5, queries=(0.3, -0.5))
DIGITS = memory.Config(per_class=3, rate=0.3, size=10, steps=12, nodes=4, pool=3)


@pytest.fixture(scope="module")
def closed():
    return riemann.run(SMALL)


@pytest.fixture(scope="module")
def paced():
    return schedules.run(SCHEDULED)


@pytest.fixture(scope="module")
def picture():
    return memory.run(DIGITS)


def reference(recorded, queries, output, pieces=400):
    """Contributions [N, m] by plain autograd and many midpoints a step, one gradient at a time."""

    def gradient(at, x, number, k):
        theta = {name: p.clone().requires_grad_() for name, p in at.items()}
        f = functional_call(recorded.model_at(k), theta, (x[None],))[0, number]
        found = torch.autograd.grad(f, list(theta.values()))
        return f.item(), torch.cat([g.flatten() for g in found])

    n, m = len(recorded.x), len(queries)
    parts = torch.zeros(n, m, dtype=torch.float64)
    for k, record in enumerate(recorded.store.steps):
        a, b = recorded.parameters(k), recorded.parameters(k + 1)
        rate = record.settings[0]["lr"]
        for q in range(m):
            average = 0
            for j in range(pieces):
                here = {name: a[name] + (j + 0.5) / pieces * (b[name] - a[name]) for name in a}
                average = average + gradient(here, queries[q], output, k)[1] / pieces
            for i in record.batch:
                f, mine = gradient(a, recorded.x[i], 0, k)
                slope = f - recorded.y[i, 0]
                parts[i, q] -= rate / len(record.batch) * slope * (mine @ average)
    return parts


# ---- riemann: T1 ------------------------------------------------------------------------------


def test_sums_close_on_all_networks(closed):
    assert set(closed.completeness) == {
        ("tanh MLP", "float32"), ("tanh MLP", "float64"), ("tanh CNN", "float32"),
        ("tanh CNN", "float64"), ("ReLU CNN", "float32"),
    }  # fmt: skip
    for (network, dtype), gap in closed.completeness.items():
        bound = 1e-3 if network == "ReLU CNN" else {"float32": 1e-4, "float64": 1e-9}[dtype]
        assert gap <= bound, (network, dtype, gap)


def test_orders_of_the_rules(closed):
    for network in closed.rates:
        assert closed.slope(network, "Riemann") == pytest.approx(1, abs=0.1)
        assert closed.slope(network, "Gauss 1") == pytest.approx(2, abs=0.2)
    assert closed.slope("tanh MLP", "Gauss 2") == pytest.approx(4, abs=0.4)


def test_a_five_percent_bias_shows_in_the_completeness(closed):
    """Planted: every contribution five percent too large.  Every account must fail its bound."""
    for key, told in closed.told.items():
        biased = dataclasses.replace(told, contributions=1.05 * told.contributions)
        assert biased.completeness.min() > 0.04, key


def test_a_five_percent_bias_of_one_sample_shows(closed):
    told = closed.told["tanh MLP", "float64"]
    number = int(told.contributions[:, 0, 0].abs().argmax())
    values = told.contributions.clone()
    values[number] *= 1.05
    assert dataclasses.replace(told, contributions=values).completeness[0] > 1e-9


def test_remainder_of_the_kinks_is_a_term_of_its_own(closed):
    told = closed.told["ReLU CNN", "float32"]
    total = told.contributions.sum(0) + told.remainder
    assert torch.allclose(total, told.change, atol=1e-6)
    assert told.pieces.max() > 1


def test_slope_recovers_a_known_order_and_sees_five_percent():
    rates = [0.1, 0.05, 0.025]
    assert riemann.slope(rates, [3 * r**2 for r in rates]) == pytest.approx(2, abs=1e-12)
    assert abs(riemann.slope(rates, [3 * r**1.15 for r in rates]) - 1) > 0.1


def test_mlp_contributions_against_plain_autograd():
    recorded = riemann.train(SMALL, "tanh MLP", 0.2, 3, torch.float64)
    queries = riemann.queries("tanh MLP", torch.float64)[:2]
    told = recorded.interpolate(queries, outputs=0)
    expected = reference(recorded, queries, 0)
    assert torch.allclose(told.contributions[..., 0], expected, rtol=1e-6, atol=1e-9)


def test_smooth_cnn_has_no_kink_and_relu_cnn_has_dropout():
    smooth = riemann.train(SMALL, "tanh CNN", 0.1, 1, torch.float32).model
    kinked = riemann.train(SMALL, "ReLU CNN", 0.1, 1, torch.float32).model
    kinds = [{type(layer).__name__ for layer in net} for net in (smooth, kinked)]
    assert kinds[0].isdisjoint({"ReLU", "MaxPool2d", "Dropout"})
    assert kinds[1] >= {"ReLU", "MaxPool2d", "Dropout"}


# ---- schedules: T11 ---------------------------------------------------------------------------


def test_schedules_share_their_sum_and_close(paced):
    sums = [rates.sum().item() for rates in paced.rates.values()]
    assert sums[1] == pytest.approx(sums[0], rel=1e-9)
    assert sums[2] == pytest.approx(sums[0], rel=0.06)  # a sum of K terms, not the integral
    assert max(paced.completeness.values()) < 1e-7
    for told in paced.told.values():
        biased = dataclasses.replace(told, contributions=1.05 * told.contributions)
        assert biased.completeness.min() > 0.04


def test_rates_are_those_of_the_formulas(paced):
    k = np.arange(SCHEDULED.steps)
    cosine = SCHEDULED.mean_rate * (1 + np.cos(np.pi * k / SCHEDULED.steps))
    assert np.allclose(paced.rates["cosine"], cosine)
    assert paced.rates["constant"].unique().tolist() == [SCHEDULED.mean_rate]
    assert paced.rates["step"].unique().numel() == 2


def test_scheduled_contributions_against_plain_autograd():
    config = dataclasses.replace(SCHEDULED, steps=3)
    recorded, _ = schedules.train(config, "cosine")
    queries = torch.tensor([[0.3]], dtype=torch.float64)
    told = recorded.interpolate(queries)
    assert torch.allclose(told.contributions[..., 0], reference(recorded, queries, 0), rtol=1e-6)


def test_first_half_is_larger_where_the_rate_falls(paced):
    assert paced.first_half("cosine") > paced.first_half("constant")
    moved = sum(values.abs() for values in paced.told["step"].by_time[:10]).sum()
    total = paced.told["step"].by_time.abs().sum()
    assert paced.first_half("step") == pytest.approx((moved / total).item())


def test_paths_agree_better_with_smaller_steps():
    finer = dataclasses.replace(SCHEDULED, mean_rate=SCHEDULED.mean_rate / 4, steps=80)
    coarse, fine = schedules.run(SCHEDULED), schedules.run(finer)
    assert fine.disagreement("cosine") < 0.4 * coarse.disagreement("cosine")


# ---- memory -----------------------------------------------------------------------------------


def test_margin_closes_with_the_remainder(picture):
    for q in range(3):
        parts = picture.closing(q)
        total = parts["before"] + parts["digits"] + parts["rest"]
        assert total == pytest.approx(parts["after"], abs=1e-4)
        assert abs(parts["rest"]) < 0.05 * picture.margin[:, q].abs().sum()


def test_margin_against_the_network_itself(picture):
    """The measured logits, from outside of the decomposition."""
    ends = [picture.recorded.model_at(k)(picture.inputs).detach() for k in (0, DIGITS.steps)]
    q = torch.arange(3)
    first, last = (f[q, picture.winner] - f[q, picture.rival] for f in ends)
    for k in range(3):
        assert picture.closing(k)["before"] == pytest.approx(first[k].item(), abs=1e-6)
        assert picture.closing(k)["after"] == pytest.approx(last[k].item(), abs=1e-6)


def test_a_five_percent_bias_opens_the_margin(picture):
    told = picture.told
    biased = dataclasses.replace(told, contributions=1.05 * told.contributions)
    parts = dataclasses.replace(picture, told=biased).closing(0)
    gap = parts["before"] + parts["digits"] + parts["rest"] - parts["after"]
    assert abs(gap) > 0.04 * abs(parts["after"] - parts["before"])
    assert abs(gap) > 1e-3


def test_three_digits_are_what_they_are_called(picture):
    assert picture.winner[:2].tolist() == picture.truth[:2].tolist()
    assert picture.winner[2] != picture.truth[2]
    assert picture.rival[2] == picture.truth[2]
    after = [picture.closing(q)["after"] for q in range(3)]
    assert after[0] >= after[1] >= 0
    assert after[2] > 0


def test_choose_on_logits_by_hand():
    logits = torch.tensor([[5.0, 0, 0], [1.0, 0.9, 0], [0.0, 3, 0], [0.0, 0.5, 0], [0.0, 9, 0]])
    truth = torch.tensor([0, 0, 0, 0, 1])
    assert memory.choose(logits, truth).tolist() == [4, 1, 2]
    with pytest.raises(ValueError, match="some right and some wrong"):
        memory.choose(logits[:1], truth[:1])


def test_groupings_add_up(picture):
    for q in range(3):
        by_class = picture.by_class(q)
        for digit in range(10):
            mine = picture.margin[picture.y == digit, q].sum()
            assert by_class[digit].item() == pytest.approx(mine.item(), abs=1e-12)
        assert torch.allclose(picture.by_time(q).sum(0), by_class, atol=1e-9)


def test_pixel_distance_is_zero_for_the_same_image(picture):
    same = dataclasses.replace(picture, queries=picture.x[:1])
    distance = same.pixel_distance(0)
    assert distance[0] == 0
    assert (distance[1:] > 0).all()


# ---- all three --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "config", "numbers"),
    [
        (riemann, SMALLER, lambda r: r.gaps),
        (schedules, SCHEDULED, lambda r: {k: t.contributions for k, t in r.told.items()}),
        (memory, DIGITS, lambda r: {"margin": r.margin}),
    ],
)
def test_same_config_same_numbers_and_no_global_seed(module, config, numbers):
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first, second = numbers(module.run(config)), numbers(module.run(config))
    assert torch.equal(before, torch.random.get_rng_state())
    for key, value in first.items():
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(second[key]))


@pytest.mark.parametrize("module", [riemann, schedules, memory])
def test_presets_and_readable_run(module):
    quick, full = module.Config.quick(), module.Config.full()
    assert quick != full
    with pytest.raises(dataclasses.FrozenInstanceError):
        quick.steps = 1
    assert len(inspect.getsource(module.run).splitlines()) <= 25


def test_drawings(closed, paced, picture):
    for fig in (riemann.draw(closed), schedules.draw(paced), memory.draw(picture, each=2)):
        assert isinstance(fig, Figure)
    axes = riemann.draw(closed).axes
    assert [len(ax.lines) for ax in axes] == [3, 2]
    shown = [t.get_text() for t in axes[0].texts]
    assert f"Riemann: slope {closed.slope('tanh MLP', 'Riemann'):.2f}" in shown
    middle = schedules.draw(paced).axes[1].lines
    for line, told in zip(middle, paced.told.values(), strict=True):
        assert line.get_ydata()[0] == 0
        steps = [b - a for a, b in pairwise(line.get_ydata())]
        assert np.allclose(steps, told.by_time[:, -1, 0])
    top = memory.draw(picture, each=2).axes[1]
    assert top.get_xlabel() == f"{picture.margin[:, 0].max():+.3g}"
