"""Diffusion models and GANs: closed forms, autograd and sums that must close."""

import math

import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

import pkbook as pk
from pkbook import generative as gen

F64 = torch.float64


def seed(n=0):
    return torch.Generator().manual_seed(n)


def small(levels=6, embedding=None, dtype=F64, steps=12, rate=0.3, copies=1):
    """A tiny diffusion model on five points in the plane, trained and recorded."""
    schedule = gen.linear_schedule(levels, first=0.1, last=4.0)
    x = torch.randn(5, 2, generator=seed(), dtype=dtype)
    data = gen.noised(x, schedule, copies=copies, generator=seed(1))
    table = gen.sinusoidal(levels, 8) if embedding is None else embedding
    model = gen.NoisePredictor(2, table, hidden=(12,), seed=0).to(dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.5)
    run = pk.Trajectory(model, pk.losses.squared, optimizer, data.pair)
    for batch in pk.batches(len(data.z), size=10, steps=steps, seed=0):
        run.step(batch)
    return schedule, data, model, run


# ---- diffusion ------------------------------------------------------------------------------


def test_noised_data_have_the_schedules_mean_and_variance():
    """20,000 draws, bounds of 5 standard errors fixed beforehand."""
    schedule = gen.linear_schedule(10, first=0.1, last=5.0)
    x = torch.full((20_000, 1), 3.0, dtype=F64)
    for level in (1, 5, 10):
        noise = torch.randn(x.shape, generator=seed(level), dtype=F64)
        z = schedule.noisy(x, noise, level)
        kept = schedule.kept[level - 1]
        assert abs(z.mean() - 3 * kept.sqrt()) < 5 * ((1 - kept) / 20_000).sqrt()
        assert abs(z.var() / (1 - kept) - 1) < 5 * (2 / 20_000) ** 0.5


def test_kept_is_the_product_of_single_steps():
    schedule = gen.linear_schedule(7, first=0.2, last=3.0)
    kept = 1.0
    for beta, told in zip(schedule.betas.tolist(), schedule.kept.tolist(), strict=True):
        kept *= 1 - beta
        assert told == pytest.approx(kept)


def test_rows_are_every_sample_at_every_level():
    schedule, data, _, _ = small(copies=2)
    assert len(data.z) == 5 * 6 * 2
    pairs = set(zip(data.sample.tolist(), data.level.tolist(), strict=True))
    assert len(pairs) == 30
    x = torch.randn(5, 2, generator=seed(), dtype=F64)
    row = 37
    kept = schedule.kept[data.level[row] - 1]
    wanted = kept.sqrt() * x[data.sample[row]] + (1 - kept).sqrt() * data.noise[row]
    torch.testing.assert_close(data.z[row, :2], wanted)
    assert data.z[row, 2] == data.level[row]


def test_the_predictor_knows_the_level_through_its_embedding_alone():
    table = gen.sinusoidal(6, 8)
    table[3] = table[1]  # two levels with one embedding
    model = gen.NoisePredictor(2, table, hidden=(12,), seed=0).double()
    x = torch.randn(1, 2, generator=seed(), dtype=F64)
    schedule = gen.linear_schedule(6, first=0.1, last=4.0)
    at = [model(gen.with_level(x, level, schedule)) for level in (2, 4, 5)]
    assert torch.equal(at[0], at[1])
    assert not torch.equal(at[0], at[2])


def test_sinusoidal_written_out():
    table = gen.sinusoidal(10, 4, frequency=0.5)
    rates = [0.5, 0.5 * 10**-0.5]
    for level in (1, 7):
        wanted = [f(r * level) for r in rates for f in (math.sin, math.cos)]
        assert table[level - 1].tolist() == pytest.approx(wanted)
    assert gen.rough(10, 4, generator=seed()).square().sum(1).tolist() == pytest.approx([2.0] * 10)


def test_the_interpolation_of_a_noise_prediction_closes():
    schedule, data, _, run = small()
    z = gen.with_level(torch.tensor([[0.3, -0.4]] * 6, dtype=F64), torch.arange(1, 7), schedule)
    told = run.interpolate(z, nodes=6)
    assert told.completeness.max() < 1e-9
    torch.testing.assert_close(gen.by_sample(told, data).sum(0), told.contributions.sum(0))
    strength = gen.by_level(told, data)
    wanted = torch.stack(
        [told.contributions[data.level == t].norm(dim=2).sum(0) for t in range(1, 7)]
    )
    torch.testing.assert_close(strength, wanted)
    shares = gen.level_map(strength, torch.arange(1, 7), 6)
    torch.testing.assert_close(shares.sum(1), torch.ones(6, dtype=F64))


def test_locality_counts_the_near_levels():
    shares = torch.tensor([[0.5, 0.3, 0.2], [0.2, 0.6, 0.2], [0.1, 0.2, 0.7]])
    near, usual = gen.locality(shares, 1)
    torch.testing.assert_close(near, torch.tensor([0.8, 1.0, 0.9]))
    mean = shares.mean(0)
    torch.testing.assert_close(usual, torch.stack([mean[:2].sum(), mean.sum(), mean[1:].sum()]))


def test_a_kernel_of_orthogonal_embeddings_separates_the_levels():
    """A linear network with one-hot levels and no input: levels cannot reach each other."""
    table = torch.eye(6, dtype=F64)
    schedule, data, _, _ = small()
    model = gen.NoisePredictor(2, table, hidden=(), seed=0).double()
    with torch.no_grad():
        model.net.fc1.bias.zero_()
    model.net.fc1.bias.requires_grad_(False)
    blind = data.z.clone()
    blind[:, :2] = 0
    run = pk.Trajectory(
        model, pk.losses.squared, torch.optim.SGD(model.parameters(), 0.3), (blind, data.noise)
    )
    for batch in pk.batches(len(blind), steps=5):
        run.step(batch)
    z = gen.with_level(torch.zeros(6, 2, dtype=F64), torch.arange(1, 7), schedule)
    shares = gen.level_map(gen.by_level(run.interpolate(z), data), torch.arange(1, 7), 6)
    torch.testing.assert_close(shares, torch.eye(6, dtype=F64))


def test_a_generated_sample_is_the_sum_of_its_parts():
    schedule, data, model, run = small()
    start = torch.randn(3, 2, generator=seed(5), dtype=F64)
    path = gen.reverse(model.eval(), schedule, start, generator=seed(6))
    told = run.interpolate(path.queries, nodes=6)
    parts = gen.assemble(path, told, data)
    torch.testing.assert_close(parts.total, path.generated, rtol=1e-10, atol=1e-10)
    assert parts.samples.shape == (5, 6, 3, 2)
    assert parts.rest.abs().max() < 1e-8
    assert parts.samples.abs().max() > 1e-3


def test_reverse_steps_written_out():
    schedule, _, model, _ = small()
    start = torch.randn(2, 2, generator=seed(5), dtype=F64)
    path = gen.reverse(model, schedule, start, generator=seed(6))
    x, g = start, seed(6)
    alpha = 1 - schedule.betas
    bar = alpha.cumprod(0)
    for t in range(6, 0, -1):
        eps = model(gen.with_level(x, t, schedule)).detach()
        mean = (x - schedule.betas[t - 1] / (1 - bar[t - 1]).sqrt() * eps) / alpha[t - 1].sqrt()
        before = bar[t - 2] if t > 1 else torch.tensor(1.0, dtype=F64)
        sigma = (schedule.betas[t - 1] * (1 - before) / (1 - bar[t - 1])).sqrt()
        x = mean + sigma * torch.randn(x.shape, generator=g, dtype=F64)
    torch.testing.assert_close(path.generated, x)


# ---- densities ------------------------------------------------------------------------------


def test_the_mixture_is_torchs():
    mixture = gen.ring_of_gaussians(5, scale=0.4)
    x = torch.randn(20, 2, generator=seed(), requires_grad=True)
    parts = Independent(Normal(mixture.means, torch.full((5, 2), 0.4)), 1)
    log_prob = MixtureSameFamily(Categorical(torch.ones(5)), parts).log_prob(x)
    torch.testing.assert_close(mixture.log_prob(x), log_prob)
    torch.testing.assert_close(mixture.score(x), torch.autograd.grad(log_prob.sum(), x)[0])
    drawn = mixture.sample(4000, generator=seed())
    counts = torch.bincount(mixture.mode(drawn), minlength=5)
    assert (counts - 800).abs().max() < 5 * (4000 * 0.2 * 0.8) ** 0.5


@pytest.mark.parametrize("make", [lambda: affine(2), lambda: gen.MonotoneGenerator(5, seed=3)])
def test_generator_densities_are_push_forwards(make):
    """Change of variables by autograd, and the score by differentiating it."""
    generator = make().double()
    z = torch.randn(7, getattr(generator, "linear", torch.nn.Linear(1, 1)).in_features,
                    generator=seed(), dtype=F64)  # fmt: skip
    log_prob, score = generator.density_at(z)
    for row in range(len(z)):
        jacobian = torch.autograd.functional.jacobian(lambda v: generator(v[None])[0], z[row])
        base = Normal(0.0, 1.0).log_prob(z[row]).sum()
        assert log_prob[row].item() == pytest.approx((base - jacobian.det().log()).item())
    x = generator(z).detach()
    again, same = generator.density(x)
    torch.testing.assert_close(again, log_prob, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(same, score, rtol=1e-6, atol=1e-6)
    for d in range(x.shape[1]):
        step = torch.zeros_like(x)
        step[:, d] = 1e-5
        slope = (generator.density(x + step)[0] - generator.density(x - step)[0]) / 2e-5
        torch.testing.assert_close(score[:, d], slope, rtol=1e-4, atol=1e-5)


def affine(d):
    generator = gen.AffineGenerator(d)
    with torch.no_grad():
        generator.linear.weight.copy_(torch.tensor([[1.2, 0.3], [-0.4, 0.8]])[:d, :d])
        generator.linear.bias.copy_(torch.tensor([0.5, -1.0])[:d])
    return generator


# ---- adversarial training -------------------------------------------------------------------


def line_of_two():
    return gen.GaussianMixture(torch.tensor([[-1.0], [2.0]], dtype=F64), 0.7)


def direct_loss(data, generator, z, kind):
    """The generator's loss with the optimal discriminator frozen, by autograd alone."""
    x = generator(z)
    frozen = [p.detach().clone() for p in generator.parameters()]
    twin = affine(1).double()
    with torch.no_grad():
        for p, q in zip(twin.parameters(), frozen, strict=True):
            p.copy_(q)
    a, b = twin.linear.weight[0, 0].detach(), twin.linear.bias[0].detach()
    log_g = Normal(b, a.abs()).log_prob(x[:, 0])
    log_d = data.log_prob(x)
    d = torch.sigmoid(log_d - log_g)
    return torch.log(1 - d).mean() if kind == "minimax" else -torch.log(d).mean()


@pytest.mark.parametrize("kind", ["minimax", "non-saturating"])
def test_the_recorded_step_is_the_generators_own(kind):
    data, z = line_of_two(), torch.randn(30, 1, generator=seed(), dtype=F64)
    generator, twin = affine(1).double(), affine(1).double()
    made = gen.train_generator(
        generator, gen.Optimal(data, kind), z, torch.optim.SGD(generator.parameters(), 0.2), steps=4
    )
    optimizer = torch.optim.SGD(twin.parameters(), 0.2)
    for _ in range(4):
        optimizer.zero_grad()
        direct_loss(data, twin, z, kind).backward()
        optimizer.step()
    for p, q in zip(generator.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q)
    made.run.verify()  # the feedback is still what it was


def test_the_formula_closes_and_its_parts_add_up():
    data, z = line_of_two(), torch.randn(40, 1, generator=seed(), dtype=F64)
    generator = gen.MonotoneGenerator(5, seed=1).double()
    made = gen.train_generator(
        generator, gen.Optimal(data), z, torch.optim.Adam(generator.parameters(), 0.02),
        steps=15, batch=10,
    )  # fmt: skip
    queries = torch.linspace(-2, 2, 5, dtype=F64)[:, None]
    told = made.run.interpolate(queries)
    assert told.completeness.max() < 1e-8
    whole = told.contributions.sum(0)
    torch.testing.assert_close(sum(made.by_part(told).values()), whole)
    torch.testing.assert_close(made.by_latent(told).sum(0), whole)
    torch.testing.assert_close(made.by_step(told).sum(0), whole)


def test_parts_are_the_score_difference():
    data, generator = line_of_two(), affine(1).double()
    z = torch.randn(9, 1, generator=seed(), dtype=F64)
    x = generator(z).detach().requires_grad_()
    attraction, repulsion = gen.Optimal(data)(generator, z, x.detach(), 0)
    a, b = generator.linear.weight[0, 0].item(), generator.linear.bias[0].item()
    d = torch.sigmoid(data.log_prob(x) - Normal(b, a).log_prob(x[:, 0]))
    wanted = torch.autograd.grad(torch.log(1 - d).sum(), x)[0]
    torch.testing.assert_close(attraction + repulsion, wanted)
    torch.testing.assert_close(attraction, -d.detach()[:, None] * data.score(x.detach()))


def learned(rate=0.05, kind="non-saturating", **more):
    network = pk.models.mlp(1, 16, 1, activation="tanh", seed=0).double()
    optimizer = torch.optim.Adam(network.parameters(), rate)
    draw = seed(3)
    data = line_of_two()
    return gen.Learned(network, optimizer, lambda n: data.sample(n, generator=draw), kind, **more)


@pytest.mark.parametrize("kind", ["minimax", "non-saturating"])
def test_learned_feedback_is_the_gradient_of_the_generators_loss(kind):
    adversary = learned(kind=kind)
    x = torch.randn(6, 1, generator=seed(), dtype=F64)
    (found,) = adversary(None, None, x, 0)
    x = x.requires_grad_()
    d = adversary.network(x).sigmoid()
    loss = torch.log(1 - d).sum() if kind == "minimax" else -torch.log(d).sum()
    torch.testing.assert_close(found, torch.autograd.grad(loss, x)[0])


def test_a_learned_discriminators_run_closes_too():
    generator = affine(1).double()
    z = torch.randn(32, 1, generator=seed(), dtype=F64)
    made = gen.train_generator(
        generator, learned(steps=2), z, torch.optim.SGD(generator.parameters(), 0.1, momentum=0.5),
        steps=20, batch=8,
    )  # fmt: skip
    told = made.run.interpolate(torch.tensor([[0.0], [1.5]], dtype=F64))
    assert told.completeness.max() < 1e-9
    assert made.feedback.shape == (20, 1, 8, 1)


def test_a_saturated_discriminator_is_reported_with_its_step():
    adversary = learned()
    with torch.no_grad():
        adversary.network.fc2.weight.zero_()
        adversary.network.fc2.bias.fill_(-60.0)
    with pytest.warns(gen.SaturationWarning, match="0 on all generated points at step 7"):
        adversary(None, None, torch.zeros(4, 1, dtype=F64), 7)
    assert adversary.saturated == 7


def test_vanishing_densities_are_named():
    class Box:
        def log_prob(self, x):
            return torch.where(x[:, 0].abs() < 1, -math.log(2), -torch.inf)

        def score(self, x):
            return torch.zeros_like(x)

    z = torch.tensor([[0.0], [3.0]], dtype=F64)
    generator = affine(1).double()
    with pytest.raises(ValueError, match=r"density of the data vanishes at step 5.*\[4\.1"):
        gen.Optimal(Box())(generator, z, generator(z).detach(), 5)


def test_coherence_of_known_moves():
    assert gen.coherence(torch.eye(4)).item() == pytest.approx(0.25)
    moves = torch.randn(400, 2, generator=seed())
    assert gen.coherence(moves) < 0.02
    assert gen.coherence(moves + 10).item() > 0.9


SCHEDULE = gen.linear_schedule(5, first=0.1, last=3.0)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: gen.NoiseSchedule(torch.tensor([0.5, 1.0])), ValueError, "in \\(0, 1\\)"),
        (lambda: gen.linear_schedule(5, last=20.0), ValueError, "last"),
        (lambda: gen.with_level(torch.zeros(2, 2), 6, SCHEDULE), ValueError, "1..5, got 6"),
        (lambda: gen.with_level(torch.zeros(2, 2), 0, SCHEDULE), ValueError, "1..5, got 0"),
        (lambda: gen.with_level(torch.zeros(2, 2), torch.ones(2), SCHEDULE), ValueError, "whole"),
        (lambda: gen.with_level(torch.zeros(2), 1, SCHEDULE), ValueError, r"\[n, d\]"),
        (lambda: SCHEDULE.noisy(torch.zeros(2, 2), torch.zeros(2, 3), 1), ValueError, "both be"),
        (lambda: gen.noised(torch.zeros(2), SCHEDULE, generator=seed()), ValueError, r"\[N, d\]"),
        (lambda: gen.sinusoidal(5, 3), ValueError, "even"),
        (lambda: gen.sinusoidal(5, 4, frequency=0.0), ValueError, "positive"),
        (lambda: gen.NoisePredictor(2, torch.zeros(5)), ValueError, "levels, E"),
        (lambda: gen.GaussianMixture(torch.zeros(2), 1.0), ValueError, "means"),
        (lambda: gen.GaussianMixture(torch.zeros(2, 1), 0.0), ValueError, "scale"),
        (lambda: gen.Optimal(line_of_two(), "hinge"), ValueError, "must be one of"),
        (
            lambda: gen.Optimal(line_of_two())(torch.nn.Linear(1, 1), None, None, 0),
            TypeError,
            "density_at",
        ),
        (lambda: learned(steps=0), ValueError, "at least 1"),
    ],
)
def test_bad_input_is_refused_with_a_sentence(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_other_runs_contributions_are_refused():
    schedule, data, _, run = small()
    z = gen.with_level(torch.zeros(1, 2, dtype=F64), 1, schedule)
    told = run.interpolate(z)
    other = gen.noised(torch.zeros(2, 2, dtype=F64), schedule, generator=seed())
    with pytest.raises(ValueError, match="of a run on this data"):
        gen.by_level(told, other)
    path = gen.reverse(run.model, schedule, torch.zeros(1, 2, dtype=F64), generator=seed())
    with pytest.raises(ValueError, match=r"path\.queries"):
        gen.assemble(path, told, data)
