"""T9: training, contributions and shares redone by hand; claims on a tiny configuration."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from pkbook import generative as gen
from pkbook.lab.experiments import noise_levels as nl
from pkbook.lab.experiments.machinery import claims, results

TINY = nl.Config(
    levels=20, coarse=10, samples=4, width=4, hidden=(8,), rate=0.2, batch=16, steps=6,
    asked=5, per_level=2, frequencies=(0.01, 1.0), seeds=(0, 1),
)  # fmt: skip


@pytest.fixture(scope="module")
def tiny():
    return nl.run(TINY)


def by_hand(seed):
    """Riemann sum of the formula with naive autograd, halfway points for the query's gradient."""
    recorded, data = nl.train(TINY, nl.embedded(TINY, 20, "sinusoidal", 1.0, seed), seed)
    model = recorded.model_at(0)
    parameters = list(model.parameters())
    z, level = nl.queries(TINY, 20, seed)
    asked = z["noisy"]

    def rows(inputs):
        outputs = model(inputs)
        grads = [
            torch.autograd.grad(outputs[i, c], parameters, retain_graph=True)
            for i in range(len(inputs))
            for c in range(2)
        ]
        flat = [torch.cat([g.flatten() for g in grad]) for grad in grads]
        return torch.stack(flat).reshape(len(inputs), 2, -1).double()

    found = torch.zeros(len(data.z), len(asked), 2, dtype=torch.float64)
    draws = nl.batches(len(data.z), size=16, steps=6, seed=seed)
    for batch in draws:
        inputs, noise = data.z[batch], data.noise[batch]
        residual = (model(inputs) - noise).detach().double()
        pulls = (rows(inputs) * residual[:, :, None]).sum(1) / len(batch)
        step = -0.2 * pulls.sum(0)
        ends = torch.nn.utils.parameters_to_vector(parameters).detach()
        torch.nn.utils.vector_to_parameters(ends + (step / 2).float(), parameters)
        middle = rows(asked)
        torch.nn.utils.vector_to_parameters(ends + step.float(), parameters)
        found[batch] -= 0.2 * torch.einsum("bp,mcp->bmc", pulls, middle)
    return found, data, level


def test_shares_counted_again(tiny):
    found, data, level = by_hand(1)
    sizes = found.norm(dim=2)
    by_level = torch.stack([sizes[data.level == t].sum(0) for t in range(1, 21)])
    shares = (by_level / by_level.sum(0)).T
    study = tiny.of("sinusoidal")[1]
    assert sorted(set(level.tolist())) == [2, 6, 10, 14, 18]
    for t in (2, 10, 18):
        expected = shares[level == t].mean(0).numpy()
        assert study.shares["noisy"][t - 1].numpy() == pytest.approx(expected, rel=2e-3)
    assert study.shares["noisy"][2].isnan().all()  # level 3 was not asked


@pytest.mark.parametrize(("levels", "embedding"), [(20, "sinusoidal"), (10, "rough")])
def test_a_study_is_the_packages_interpolation_of_the_recorded_run(tiny, levels, embedding):
    recorded, data = nl.train(TINY, nl.embedded(TINY, levels, embedding, 1.0, 1), 1)
    z, level = nl.queries(TINY, levels, 1)
    told = recorded.interpolate(torch.cat(list(z.values())), nodes=2, tolerance=None)
    study = tiny.of(embedding, levels=levels)[1]
    for kind, strength in zip(z, gen.by_level(told, data).chunk(2, 1), strict=True):
        wanted = gen.level_map(strength, level, levels)
        torch.testing.assert_close(
            study.shares[kind], wanted, rtol=1e-3, atol=1e-6, equal_nan=True, check_dtype=False
        )
    assert study.gap < 1e-3
    with torch.no_grad():
        loss = (recorded.model(data.z) - data.noise).square().mean().item()
    assert study.loss == pytest.approx(loss, rel=1e-4)


def test_ratio_near_share_and_profile_from_the_shares(tiny):
    study = tiny.of("sinusoidal")[0]
    shares = study.shares["noisy"].numpy()
    usual = np.nanmean(shares, 0)
    near, ratios, others = [], [], []
    for t in (1, 5, 9, 13, 17):  # places of the asked levels
        window = [s for s in range(20) if abs(s - t) <= 2]
        near.append(shares[t, window].sum())
        ratios.append(near[-1] / usual[window].sum())
        left = [s for s in window if s != t]
        others.append(shares[t, left].sum() / usual[left].sum())
    assert study.near() == pytest.approx(np.mean(near))
    assert study.ratio() == pytest.approx(np.mean(ratios))
    assert study.ratio(own=False) == pytest.approx(np.mean(others))
    profile = study.profile(3)
    at_two = [shares[t, t + 2] / usual[t + 2] for t in (1, 5, 9, 13, 17)]
    assert profile[5].item() == pytest.approx(np.mean(at_two))


def test_without_an_embedding_the_same_inputs_owe_the_same_to_every_level(tiny):
    for study in tiny.of("none"):
        assert study.ratio("same") == pytest.approx(1, abs=1e-5)
        assert study.ratio("noisy") != pytest.approx(1, abs=1e-5)


def test_the_formula_closes_and_findings_have_the_claims_numbers(tiny):
    found = nl.findings(tiny)["T9"]
    finding = claims.finding("T9", found)
    assert list(found) == ["20 levels", "20 levels, the same inputs at every level", "10 levels"]
    names = [c.name for c in claims.claim("T9").criteria]
    for numbers in found.values():
        assert numbers[names[3]].mean < 1e-3
        assert all(number.count == 2 for number in numbers.values())
    first = found["20 levels"][names[0]]
    assert first.mean == pytest.approx(np.mean([s.ratio() for s in tiny.of("sinusoidal")]))
    assert finding.verdict in results.VERDICTS


def test_a_kernel_that_is_local_is_found_local():
    """Where only the own level teaches, the ratio is one over the usual share of the window."""
    shares = torch.full((20, 20), torch.nan, dtype=torch.float64)
    for t in (2, 6, 10, 14, 18):
        shares[t - 1] = 0.0
        shares[t - 1, t - 1] = 1.0
    study = nl.Study(20, {"noisy": shares}, 0.0, 0.0)
    assert study.ratio() == pytest.approx(5.0)
    flat = nl.Study(20, {"noisy": torch.where(shares.isnan(), shares, 0.05)}, 0.0, 0.0)
    assert flat.ratio() == pytest.approx(1.0)


def test_studies_are_alike_twice_and_differ_between_seeds(tiny):
    (again,) = nl.studies(TINY, 20, [("rough", 1.0, 0)])
    first, second = tiny.of("rough")
    assert again.loss == pytest.approx(first.loss)
    assert first.loss != pytest.approx(second.loss)
    pair = again.shares["noisy"], first.shares["noisy"]
    torch.testing.assert_close(*pair, equal_nan=True)


def test_schedule_never_takes_more_than_half_in_a_step():
    assert nl.schedule(100).betas.max().item() == pytest.approx(0.2)
    assert nl.schedule(20).betas.max().item() == pytest.approx(0.5)


def test_points_have_size_one_in_each_coordinate():
    size = nl.points(4000, nl.seeded(0)).square().mean().item()
    assert math.sqrt(size) == pytest.approx(1, abs=0.02)


def test_figures_show_the_result(tiny):
    drawn = nl.figures(tiny)
    assert list(drawn) == ["map", "profile", "frequency"]
    assert all(isinstance(fig, Figure) for fig in drawn.values())
    profile = torch.stack([s.profile(10) for s in tiny.of("rough")]).nanmean(0)
    line = drawn["profile"].axes[0].lines[2]
    assert line.get_ydata() == pytest.approx(profile.numpy(), nan_ok=True)
    rows = drawn["map"].axes[0].images[0].get_array()
    assert rows.shape == (5, 5)
    assert np.asarray(rows).sum(1) == pytest.approx(np.full(5, 100.0))


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"levels": 21}, ValueError, "levels must be a multiple of asked"),
        ({"coarse": 5}, ValueError, "coarse must be at least 10"),
        ({"steps": 0}, ValueError, "steps must be at least 1"),
        ({"samples": 2.5}, TypeError, "samples must be an int"),
        ({"frequencies": (0.1,)}, ValueError, "must hold 1.0"),
        ({"frequencies": (1.0, -1.0)}, ValueError, "positive"),
        ({"seeds": ()}, ValueError, "seeds must hold at least one"),
    ],
)
def test_bad_settings_are_refused(change, error, words):
    with pytest.raises(error, match=words):
        replace(TINY, **change)


def test_what_was_not_run_is_named(tiny):
    with pytest.raises(ValueError, match=r"nothing was run with levels=20.*frequency=7"):
        tiny.of("sinusoidal", frequency=7.0)
    with pytest.raises(ValueError, match="embedding must be one of"):
        nl.embedded(TINY, 20, "sine", 1.0, 0)


def test_presets_can_be_made():
    assert len(nl.Config.full().seeds) == 5
    assert nl.Config.quick() == nl.Config()
