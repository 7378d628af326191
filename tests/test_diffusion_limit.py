"""The four diffusions: closed forms, oracles path by path, and a 5 % bias that must be found."""

import copy
import math
from dataclasses import dataclass

import numpy as np
import oracles
import pytest
import torch
from torch import nn

import pkbook as pk
from pkbook import diffusion_limit as dl


def linear_task():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8, 2, generator=generator).double()
    y = torch.randn(8, 1, generator=generator).double()
    line = nn.Linear(2, 1, bias=False).double()
    with torch.no_grad():
        line.weight.copy_(torch.tensor([[1.0, -1.0]]))
    return dl.Task(line, pk.losses.squared, (x, y)), torch.tensor([[1.0, 0.5]]).double()


def network_task():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(6, 2, generator=generator).double()
    y = torch.randn(6, 2, generator=generator).double()
    model = pk.models.mlp(2, 5, 2, activation="tanh", seed=0).double()
    return dl.Task(model, pk.losses.squared, (x, y), output=1), x[:3] + 0.1


def seeded(seed):
    return torch.Generator().manual_seed(seed)


FACTORIES = {
    "SGD": lambda task, lr: dl.SGD(task, lr, 2),
    "Momentum": lambda task, lr: dl.Momentum(task, lr, 2, beta=1 - 2 * lr),
    "RMSprop": lambda task, lr: dl.RMSprop(task, lr, 2, beta=1 - lr, eps=0.1, v0=1.0),
    "Adam": lambda task, lr: dl.Adam(task, lr, 2, betas=(1 - 2 * lr, 1 - lr), eps=0.1),
}


# --- gradients -----------------------------------------------------------------------------------


def test_gradients_of_all_paths_equal_autograd_one_by_one():
    task, query = network_task()
    theta = task.theta + 0.3 * torch.randn(4, task.theta.numel(), generator=seeded(2)).double()
    x, y = task.data
    weights = torch.randn(4, 2, 6, generator=seeded(3)).double()
    batch = torch.tensor([[0, 1], [2, 2], [5, 0], [3, 4]])
    for r, row in enumerate(theta):
        here = oracles.set_vector(task.model, row)
        losses = pk.losses.squared(here(x), y)

        def flat(value, here=here):
            grads = torch.autograd.grad(value, here.parameters(), retain_graph=True)
            return torch.cat([g.flatten() for g in grads])

        each = torch.stack([flat(v) for v in losses])
        close = torch.testing.assert_close
        close(task.sample_gradients(theta)[r], each)
        close(task.weighted_gradients(theta, weights)[r], weights[r] @ each)
        close(task.batch_gradients(theta, batch)[r], each[batch[r]].mean(0))
        close(task.outputs(theta, query)[r], here(query)[:, 1].detach())
        close(task.query_gradients(theta, query)[r], oracles.jacobian(here, query)[:, 1])


def test_chunks_of_paths_make_no_difference(monkeypatch):
    task, query = network_task()
    whole = dl.diffusion(dl.SGD(task, 0.1, 2), query, steps=3, paths=9, generator=seeded(0))
    monkeypatch.setattr("pkbook.diffusion_limit.task.CHUNK_BYTES", 1)
    single = dl.diffusion(dl.SGD(task, 0.1, 2), query, steps=3, paths=9, generator=seeded(0))
    torch.testing.assert_close(whole.outputs, single.outputs)
    torch.testing.assert_close(whole.integral, single.integral)


# --- noise ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("replace", [False, True])
def test_covariance_of_a_batch_gradient_by_enumeration(replace):
    """All batches of 2 out of 5, each once, against kappa times the covariance of one sample."""
    g = torch.randn(5, 3, generator=seeded(0)).double()
    pairs = [
        (i, j) for i in range(5) for j in range(5) if replace or i != j
    ]  # ordered: every subset twice
    means = torch.stack([(g[i] + g[j]) / 2 for i, j in pairs])
    wanted = torch.cov(means.T, correction=0)
    kappa = dl.covariance_factor(5, 2, replace)
    torch.testing.assert_close(kappa * torch.cov(g.T, correction=0), wanted)


def test_noise_of_scalar_brownian_motions_has_that_covariance():
    """The linear map from N normals to the noise, squared: no sampling."""
    from pkbook.diffusion_limit.noise import noise_weights

    g = torch.randn(5, 3, generator=seeded(0)).double()
    root = noise_weights(torch.eye(5).double(), 0.3) @ g  # row i: what the i-th normal does
    torch.testing.assert_close(root.T @ root, 0.3 * torch.cov(g.T, correction=0))


def test_batches_from_normals_are_uniform_subsets():
    """N = 5, B = 2, 40,000 draws, seed 0, bound z = 5 on all pairs."""
    from pkbook.diffusion_limit.noise import draw_batches

    batch = draw_batches(torch.randn(40_000, 5, generator=seeded(0)), 2).sort(1).values
    counts = torch.bincount(batch[:, 0] * 5 + batch[:, 1], minlength=25).double()
    counts = counts[counts > 0]
    assert len(counts) == 10
    z = (counts - 4000) / math.sqrt(40_000 * 0.1 * 0.9)
    assert z.abs().max() < 5


# --- the discrete processes ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options", "theirs"),
    [
        ("SGD", {}, lambda p, lr: torch.optim.SGD(p, lr=lr)),
        ("Momentum", {"beta": 0.8}, lambda p, lr: torch.optim.SGD(p, lr=lr * 0.2, momentum=0.8)),
        ("RMSprop", {"beta": 0.9, "eps": 1e-2},
         lambda p, lr: torch.optim.RMSprop(p, lr=lr, alpha=0.9, eps=1e-2)),
        ("Adam", {"betas": (0.8, 0.9), "eps": 0.0},
         lambda p, lr: torch.optim.Adam(p, lr=lr, betas=(0.8, 0.9), eps=0.0)),
    ],
)  # fmt: skip
def test_each_path_is_the_run_of_torch_optim(kind, options, theirs):
    task, query = network_task()
    limit = getattr(dl, kind)(task, 0.05, 2, **options)
    told = dl.discrete(limit, query, steps=7, paths=3, generator=seeded(5), snapshots=3)
    generator = seeded(5)
    torch.randint(2**62, (), generator=generator)
    models = [copy.deepcopy(task.model) for _ in range(3)]
    optimizers = [theirs(m.parameters(), 0.05) for m in models]
    x, y = task.data
    for k in range(7):
        normals = torch.randn(3, 6, generator=generator, dtype=torch.float64)
        for r, (model, optimizer) in enumerate(zip(models, optimizers, strict=True)):
            batch = normals[r].topk(2).indices
            optimizer.zero_grad()
            pk.losses.squared(model(x[batch]), y[batch]).mean().backward()
            optimizer.step()
            torch.testing.assert_close(told.snapshots[k + 1, r], oracles.vector(model).detach())
            torch.testing.assert_close(told.outputs[k + 1, r], model(query)[:, 1].detach())


@pytest.mark.parametrize("kind", FACTORIES)
def test_simulations_are_bitwise_reproducible_and_leave_the_global_state_alone(kind):
    task, query = network_task()
    limit = FACTORIES[kind](task, 0.1)
    state = torch.get_rng_state()
    for run in (dl.discrete, dl.diffusion):
        one, two = (run(limit, query, steps=4, paths=5, generator=seeded(7)) for _ in range(2))
        assert torch.equal(one.outputs, two.outputs)
        other = run(limit, query, steps=4, paths=5, generator=seeded(8))
        assert not torch.equal(one.outputs, other.outputs)
    assert torch.equal(torch.get_rng_state(), state)


# --- closed forms --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Drifting(dl.SGD):
    """A drift that is 5 % too strong."""

    def move(self, old, new, g, noise, t, dt):
        return super().move(old, new, 1.05 * g, noise, t, dt)

    def update(self, state, g, k):
        return super().update(state, 1.05 * g, k)


@dataclass(frozen=True)
class Noisy(dl.SGD):
    """A noise that is 5 % too strong."""

    def move(self, old, new, g, noise, t, dt):
        return super().move(old, new, g, 1.05 * noise, t, dt)


def _z(limit, run, wanted, steps=10, paths=40_000, **options):
    """Deviation of mean and of variance from the closed form, in standard errors."""
    _, query = linear_task()
    values = run(limit, query, steps=steps, paths=paths, generator=seeded(1), **options).outputs[-1]
    mean, variance = (v[-1] for v in wanted(limit, steps).prediction(query))
    centred = (values - mean).square()
    z_mean = (values.mean(0) - mean) / (values.std(0) / paths**0.5)
    z_variance = (centred.mean(0) - variance) / (centred.std(0) / paths**0.5)
    return abs(z_mean.item()), abs(z_variance.item())


@pytest.mark.parametrize("kind", ["SGD", "Momentum"])
@pytest.mark.parametrize("replace", [False, True])
def test_discrete_moments_are_those_of_the_closed_form(kind, replace):
    """40,000 paths, seed 1, bound 4.5 standard errors."""
    task, _ = linear_task()
    options = {"beta": 0.8} if kind == "Momentum" else {}
    limit = getattr(dl, kind)(task, 0.1, 2, replace, **options)
    assert max(_z(limit, dl.discrete, dl.discrete_moments)) < 4.5


@pytest.mark.parametrize("kind", ["SGD", "Momentum"])
def test_diffusion_moments_are_those_of_the_closed_form(kind):
    """40,000 paths, seed 1, time step an eighth of the rate, bound 4.5 standard errors."""
    task, _ = linear_task()
    options = {"beta": 0.8} if kind == "Momentum" else {}
    limit = getattr(dl, kind)(task, 0.1, 2, **options)
    assert max(_z(limit, dl.diffusion, dl.diffusion_moments, dt=0.1 / 8)) < 4.5


def test_a_bias_of_five_percent_is_found():
    task, _ = linear_task()
    honest = dl.SGD(task, 0.1, 2)

    def wanted(of):
        return lambda limit, steps: of(honest, steps)

    fine = {"dt": 0.1 / 8}
    drift = Drifting(task, 0.1, 2)
    assert _z(drift, dl.discrete, wanted(dl.discrete_moments))[0] > 4.5
    assert _z(drift, dl.diffusion, wanted(dl.diffusion_moments), **fine)[0] > 4.5
    assert _z(Noisy(task, 0.1, 2), dl.diffusion, wanted(dl.diffusion_moments), **fine)[1] > 4.5


@pytest.mark.parametrize("kind", ["SGD", "Momentum"])
def test_moments_written_out_for_all_batches(kind):
    """Three steps, every sequence of batches followed: 4 samples, batches of 2, 6**3 runs."""
    generator = seeded(3)
    x = torch.randn(4, 2, generator=generator).double()
    y = torch.randn(4, 1, generator=generator).double()
    line = nn.Linear(2, 1).double()
    task = dl.Task(line, pk.losses.squared, (x, y))
    beta = 0.6 if kind == "Momentum" else 0.0
    limit = dl.Momentum(task, 0.2, 2, beta=beta) if beta else dl.SGD(task, 0.2, 2)
    pairs = [(i, j) for i in range(4) for j in range(i)]
    a = torch.cat([x, torch.ones(4, 1).double()], 1).numpy()
    ends = []
    for one in pairs:
        for two in pairs:
            for three in pairs:
                theta, m = task.theta.numpy().copy(), np.zeros(3)
                for batch in (one, two, three):
                    b = list(batch)
                    g = a[b].T @ (a[b] @ theta - y.numpy()[b, 0]) / 2
                    m = beta * m + (1 - beta) * g
                    theta = theta - 0.2 * m
                ends.append(theta)
    ends = np.array(ends)
    told = dl.discrete_moments(limit, 3)
    np.testing.assert_allclose(told.mean[-1], ends.mean(0), rtol=1e-10)
    np.testing.assert_allclose(told.covariance[-1], np.cov(ends.T, bias=True), rtol=1e-9)


def test_weak_order_one_without_noise():
    """Closed forms at six rates: the order of Lemma 3.1, mean and variance, local slope."""
    task, query = linear_task()
    for make in (FACTORIES["SGD"], FACTORIES["Momentum"]):
        gaps = []
        for rate in (0.02, 0.01, 0.005):
            limit, steps = make(task, rate), round(1 / rate)
            one = dl.discrete_moments(limit, steps).prediction(query)
            two = dl.diffusion_moments(limit, steps).prediction(query)
            gaps.append([abs(float(p[-1] - q[-1])) for p, q in zip(one, two, strict=True)])
        mean, variance = (np.log2(gaps[1][i] / gaps[2][i]) for i in (0, 1))
        assert mean == pytest.approx(1, abs=0.05)
        assert variance > 1.5  # a variance is itself of the order of the rate


@pytest.mark.parametrize("eps", [0.0, 0.05, 1.0])
def test_rmsprop_from_a_second_moment_of_zero(eps):
    """A constant gradient of one: an integral whose integrand is infinite at 0 where eps is 0.

    V is taken straight over each step of 1/80; the midpoint's 1/sqrt(V) would be 3 % off for eps 0.
    """
    from scipy.integrate import quad

    line = nn.Linear(1, 1, bias=False).double()
    one = torch.ones(1, 1).double()
    task = dl.Task(line, lambda f, y: f[:, 0], (one, one))
    limit = dl.RMSprop(task, 0.1, 1, beta=0.9, eps=eps)
    told = dl.diffusion(limit, one, steps=10, paths=1, generator=seeded(0), dt=0.0125)
    wanted, _ = quad(lambda u: 2 * u / (math.sqrt(-math.expm1(-u * u)) + eps), 0, 1)  # t = u * u
    moved = (told.outputs[0] - told.outputs[-1]).item()
    assert moved == pytest.approx(wanted, rel=2e-3)
    assert told.integral[-1].item() == pytest.approx(wanted, rel=2e-3)


# --- the theorems --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FACTORIES)
def test_for_a_linear_model_the_theorem_is_the_mean_of_the_diffusion(kind):
    """f has no second derivative, so nothing is left: 20,000 paths, bound 4.5 standard errors."""
    task, query = linear_task()
    limit = FACTORIES[kind](task, 0.1)
    told = dl.diffusion(limit, query, steps=10, paths=20_000, generator=seeded(2), dt=0.0125)
    if kind in ("SGD", "RMSprop"):  # what is left is the stochastic integral, a martingale
        left = (told.outputs - told.predicted)[-1, :, 0]
        assert abs(left.mean()) / (left.std() / len(left) ** 0.5) < 4.5
    left = (told.outputs - told.predicted)[-1, :, 0]
    assert abs(left.mean()) < 4.5 * left.std() / len(left) ** 0.5 + 2e-4


@pytest.mark.parametrize("kind", FACTORIES)
def test_without_noise_the_theorem_closes_on_every_path(kind):
    """Full batches: both sides are numbers, and differ by the scheme's error only."""
    task, query = network_task()
    limit = FACTORIES[kind](task, 0.05)
    limit = type(limit)(**{**limit.__dict__, "batch_size": 6})
    gaps = []
    for dt in (0.05 / 4, 0.05 / 8):
        told = dl.diffusion(limit, query, steps=16, paths=1, generator=seeded(0), dt=dt)
        gaps.append((told.outputs - told.predicted)[-1].abs().max())
    assert gaps[1] < 2e-4
    assert gaps[1] < 0.6 * gaps[0]


@pytest.mark.parametrize("kind", FACTORIES)
def test_parts_by_sample_add_up_to_the_integral(kind):
    task, query = network_task()
    limit = FACTORIES[kind](task, 0.1)
    options = {"steps": 6, "paths": 4, "generator": seeded(0)}
    whole = dl.diffusion(limit, query, **options)
    told = dl.diffusion(limit, query, by_sample=True, **(options | {"generator": seeded(0)}))
    torch.testing.assert_close(told.integral, whole.integral)
    torch.testing.assert_close(told.by_sample.sum(0), whole.integral[-1].mean(0))


@pytest.mark.parametrize("kind", FACTORIES)
def test_controls_have_mean_zero_and_explain(kind):
    """20,000 paths, seed 4, bound 4.5 standard errors; at least half of the variance goes."""
    task, query = linear_task()
    limit = FACTORIES[kind](task, 0.1)
    for run in (dl.discrete, dl.diffusion):
        told = run(limit, query, steps=10, paths=20_000, generator=seeded(4), control=True)
        c, f = told.control[:, 0], told.outputs[-1, :, 0]
        assert abs(c.mean()) / (c.std() / len(c) ** 0.5) < 4.5
        assert torch.corrcoef(torch.stack([c, f]))[0, 1] ** 2 > 0.5


def test_weak_error_of_sgd_is_that_of_the_closed_form():
    task, query = linear_task()
    told = dl.weak_error(
        lambda lr: dl.SGD(task, lr, 2), query, rates=[0.2, 0.1], paths=2000, replicas=6,
        against="diffusion",
    )  # fmt: skip
    for k, rate in enumerate((0.2, 0.1)):
        limit, steps = dl.SGD(task, rate, 2), round(1 / rate)
        one, _ = dl.discrete_moments(limit, steps).prediction(query)
        two, _ = dl.diffusion_moments(limit, steps).prediction(query)
        exact = (one - two)[-1, 0]
        assert abs(told.error[k, 0] - exact) < 4.5 * told.spread[k, 0] + 0.05 * abs(exact)


def test_a_smaller_time_step_takes_the_scheme_s_error_away():
    """Full batches: no random number is left, and the exact error is known."""
    task, query = linear_task()

    def make(lr):
        return dl.Momentum(task, lr, 8, beta=1 - 2 * lr)

    one, _ = dl.discrete_moments(make(0.25), 4).prediction(query)
    two, _ = dl.diffusion_moments(make(0.25), 4).prediction(query)
    exact = (one - two)[-1, 0]
    gaps = []
    for dt in (None, 0.125, 0.125 / 4):
        options = {"rates": [0.25], "paths": 2, "replicas": 2, "dt": dt}
        told = dl.weak_error(make, query, against="diffusion", **options)
        gaps.append(abs(told.error[0, 0] - exact))
    assert gaps[0] == gaps[1]  # the default is half the rate
    assert gaps[2] < gaps[1] / 10


def test_weak_order_of_sgd_and_momentum_by_simulation():
    task, query = linear_task()
    for kind in ("SGD", "Momentum"):
        told = dl.weak_error(
            lambda lr, kind=kind: FACTORIES[kind](task, lr), query, rates=[0.2, 0.1, 0.05],
            paths=1500, replicas=8,
        )  # fmt: skip
        slope = told.slope()
        assert slope.low < 1.05
        assert slope.high > 0.9
        assert slope.high - slope.low < 0.4


def test_slopes_of_known_errors_and_their_coverage():
    """200 artificial experiments of slope 1: the 95 % interval holds it in 180 to 200 of them."""
    rates, truth = np.array([0.2, 0.1, 0.05]), np.array([0.2, 0.1, 0.05]) * 0.3
    draws = np.random.default_rng(0)
    held = 0
    for _ in range(200):
        samples = truth[:, None] + 0.002 * draws.standard_normal((3, 8))
        spread = samples.std(1, ddof=1) / 8**0.5
        slope = dl.fit_slope(rates, samples.mean(1), spread, 21, 0.95)
        held += slope.low <= 1 <= slope.high
    assert 180 <= held <= 200
    exact = dl.fit_slope(rates, 7 * rates**1.5, 1e-3 * rates, 21, 0.95)
    assert exact.value == pytest.approx(1.5)


def test_the_fit_solves_the_weighted_normal_equations():
    """Two other ways to it: the 2 x 2 system written out, and its inverse for the interval."""
    rates, errors = np.array([0.3, 0.1, 0.05, 0.01]), np.array([0.2, -0.09, 0.03, 0.008])
    spread = np.array([0.01, 0.02, 0.001, 0.002])
    x, y, w = np.log(rates), np.log(abs(errors)), (errors / spread) ** 2
    system = np.array([[(w * x * x).sum(), (w * x).sum()], [(w * x).sum(), w.sum()]])
    slope, _ = np.linalg.solve(system, [(w * x * y).sum(), (w * y).sum()])
    reach = 2.079614 * np.linalg.inv(system)[0, 0] ** 0.5  # Student's, 21 degrees of freedom
    told = dl.fit_slope(rates, errors, spread, 21, 0.95)
    assert told.value == pytest.approx(slope, rel=1e-12)
    assert [told.low, told.high] == pytest.approx([slope - reach, slope + reach], rel=1e-6)


# --- refusals ------------------------------------------------------------------------------------


def _simulate(limit, **options):
    _, query = linear_task()
    return dl.diffusion(
        limit, query, **({"steps": 3, "paths": 2, "generator": seeded(0)} | options)
    )


def _task():
    return linear_task()[0]


def _task_of(loss, **options):
    return dl.Task(nn.Linear(2, 1), loss, (torch.ones(3, 2), torch.ones(3, 1)), **options)


def _weak(rates, **options):
    task, query = linear_task()
    return dl.weak_error(lambda lr: dl.SGD(task, lr, 2), query, rates=rates, **options)


BAD = {
    "batch larger than N": (
        lambda: dl.SGD(_task(), 0.1, 9),
        ValueError, "at most the number of samples 8",
    ),
    "batch of none": (lambda: dl.SGD(_task(), 0.1, 0), ValueError, "batch_size"),
    "negative rate": (lambda: dl.SGD(_task(), -0.1, 2), ValueError, "lr must be a positive"),
    "beta of one": (
        lambda: dl.Momentum(_task(), 0.1, 2, beta=1.0),
        ValueError, r"beta must lie in \[0, 1\)",
    ),
    "negative beta": (lambda: dl.RMSprop(_task(), 0.1, 2, beta=-0.1), ValueError, r"\[0, 1\)"),
    "second beta": (lambda: dl.Adam(_task(), 0.1, 2, betas=(0.9, 1.2)), ValueError, r"betas\[1\]"),
    "negative eps": (lambda: dl.Adam(_task(), 0.1, 2, eps=-1.0), ValueError, "eps"),
    "dt above the rate": (
        lambda: _simulate(dl.SGD(_task(), 0.1, 2), dt=0.2),
        ValueError, "at most the learning rate 0.1",
    ),
    "dt not a divisor": (lambda: _simulate(dl.SGD(_task(), 0.1, 2), dt=0.07), ValueError, "divide"),
    "no paths": (lambda: _simulate(dl.SGD(_task(), 0.1, 2), paths=0), ValueError, "paths"),
    "seed for a generator": (
        lambda: _simulate(dl.SGD(_task(), 0.1, 2), generator=3),
        TypeError, "torch.Generator",
    ),
    "no limit": (lambda: _simulate("SGD"), TypeError, "limit must be one of"),
    "summed loss": (
        lambda: _task_of(nn.MSELoss()),
        ValueError, "one value per sample",
    ),
    "unknown output": (
        lambda: _task_of(pk.losses.squared, output=1),
        ValueError, r"0\.\.0",
    ),
    "closed form of RMSprop": (
        lambda: dl.discrete_moments(dl.RMSprop(_task(), 0.1, 2), 3),
        TypeError, "not linear in the gradient",
    ),
    "closed form of a network": (
        lambda: dl.discrete_moments(dl.SGD(network_task()[0], 0.1, 2), 3),
        ValueError, "linear in its parameters",
    ),
    "rate that does not divide": (
        lambda: _weak([0.3]),
        ValueError, "divide the time",
    ),
    "dt above a rate": (
        lambda: _weak([0.2, 0.1], dt=0.2),
        ValueError, "at most the learning rate 0.1",
    ),
    "dt that does not divide a rate": (
        lambda: _weak([0.2, 0.1], dt=0.04),
        ValueError, "dt must divide the learning rate 0.1",
    ),
    "one replica": (
        lambda: _weak([0.1], replicas=1),
        ValueError, "replicas",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_by_name(name):
    call, error, message = BAD[name]
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("run", [dl.discrete, dl.diffusion])
def test_divergence_names_step_and_path(run):
    task, query = linear_task()
    with pytest.raises(
        dl.DivergenceError, match=r"diverged at step \d+, path \d+.*lower the learn"
    ):
        run(dl.SGD(task, 40.0, 2), query, steps=50, paths=3, generator=seeded(0))


def test_an_error_lost_in_noise_has_no_slope():
    replicas = torch.randn(2, 4, 1, generator=seeded(0)).double()
    told = dl.WeakError(torch.tensor([0.2, 0.1]), replicas, 0.95)
    with pytest.warns(RuntimeWarning, match="not told from zero"):
        slope = told.slope()
    assert all(map(math.isnan, (slope.value, slope.low, slope.high)))
    assert str(slope) == "unknown (an error is not told from zero)"
