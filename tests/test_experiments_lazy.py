"""T8: a run counted again by hand, the limit kernel by another integral, claims on other seeds."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from scipy.integrate import dblquad
from scipy.linalg import expm

import pkbook as pk
from pkbook.lab.experiments import lazy_training as lazy
from pkbook.lab.experiments.figures import lazy_training as lazy_training_figures
from pkbook.lab.experiments.machinery.claims import finding
from pkbook.lab.experiments.parts.separate_neurons import drift_of_separate_neurons

TINY = lazy.Config(
    widths=(3, 5), seeds=(0, 7), samples=6, rate=0.1, time=2.0, scales=(0.5, 2.0), scale_width=4,
    wide=(64, 256), neurons=50,
)  # fmt: skip


@pytest.fixture(scope="module")
def tiny():
    return lazy.run(TINY)


def features(model, x):
    """Naive autograd, one gradient an input."""
    rows = []
    for point in x:
        gradients = torch.autograd.grad(model(point[None]).sum(), list(model.parameters()))
        rows.append(torch.cat([g.flatten() for g in gradients]))
    return torch.stack(rows)


def vector(model):
    return torch.nn.utils.parameters_to_vector(model.parameters()).detach()


def by_hand(width, signs, seed, scale=1.0):
    """Start and end of one run with torch.optim, and the residuals at the stops."""
    model, x, y = lazy.network(width, signs, seed, scale), TINY.x, TINY.y[:, None]
    start = lazy.network(width, signs, seed, scale)
    aim = start(x).detach() + y
    optimizer, residuals = torch.optim.SGD(model.parameters(), lr=0.1 / scale**2), []
    for step in range(21):
        residual = model(x) - aim
        if step in TINY.stops:
            residuals.append(residual.detach()[:, 0])
        if step < 20:
            optimizer.zero_grad()
            pk.losses.squared(model(x), aim).mean().backward()
            optimizer.step()
    return start, model, torch.stack(residuals)


def check(found, width, signs, scale=1.0):
    """Every field of one width and scale, for the second seed."""
    start, end, residuals = by_hand(width, signs, 7, scale)
    x, q = TINY.x, TINY.queries
    kernel, now = (features(m, x) @ features(m, x).T / scale**2 for m in (start, end))
    drift = (now - kernel).norm() / kernel.norm()
    assert found["drift"].item() == pytest.approx(drift.item(), rel=1e-5)
    assert found["path"][0] == 0
    assert found["path"][-1].item() == pytest.approx(drift.item(), rel=1e-5)
    moved = (vector(end) - vector(start)).square().mean().sqrt()
    assert found["moved"].item() == pytest.approx(moved.item(), rel=1e-9)
    change = (end(q) - start(q)).detach()[:, 0]
    torch.testing.assert_close(found["trained"], change)
    # the modes: eigenvalues by numpy, energies do not depend on the signs of eigenvectors
    values, vectors = np.linalg.eigh(kernel.numpy() / 6)
    np.testing.assert_allclose(found["rates"], values[::-1], rtol=1e-8, atol=1e-12)
    energies = (residuals.numpy() @ vectors)[:, ::-1] ** 2
    np.testing.assert_allclose(found["residual"] ** 2, energies, rtol=1e-6, atol=1e-9)
    # lazy training: the residual by a matrix exponential, its integral by small steps
    asked = (features(start, q) @ features(start, x).T / scale**2).numpy()
    flow, decayed = expm(-kernel.numpy() / 6 * 2.0 / 4000), -TINY.y.numpy()
    integral = np.zeros(6)
    for _ in range(4000):
        following = flow @ decayed
        integral += (decayed + following) / 2 * 2.0 / 4000
        decayed = following
    np.testing.assert_allclose(found["lazy"], -asked @ integral / 6, rtol=1e-5, atol=1e-6)
    solved = asked @ np.linalg.lstsq(kernel.numpy(), TINY.y.numpy(), rcond=1e-12)[0]
    np.testing.assert_allclose(found["regression"], solved, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("signs", lazy.SIGNS)
@pytest.mark.parametrize("w", [0, 1])
def test_every_number_of_a_run_counted_again(tiny, signs, w):
    s = lazy.SIGNS.index(signs)
    names = ("drift", "path", "moved", "trained", "rates", "residual", "lazy", "regression")
    check({name: getattr(tiny, name)[s, w, 1] for name in names}, TINY.widths[w], signs)


@pytest.mark.parametrize("a", [0, 1])
def test_every_number_of_a_run_with_another_scale(tiny, a):
    check({name: values[a, 1] for name, values in tiny.scales.items()}, 4, "both", TINY.scales[a])


def test_gaps_are_distances_of_curves(tiny):
    square = (tiny.trained - tiny.lazy)[1, 0, 1].square().sum() / 61
    assert tiny.gap[1, 0, 1].item() == pytest.approx(math.sqrt(square), rel=1e-12)
    square = (tiny.trained - tiny.regression)[0, 1, 0].square().sum() / 61
    assert tiny.regression_gap[0, 1, 0].item() == pytest.approx(math.sqrt(square), rel=1e-12)


@pytest.mark.parametrize(("x", "other"), [(0.5, -0.25), (1.0, 1.0)])
def test_limit_kernel_by_another_integral(x, other):
    def integrand(w, b):
        z, other_z = math.tanh(w * x + b), math.tanh(w * other + b)
        slopes = (1 - z * z) * (1 - other_z * other_z)
        density = math.exp(-(w * w + b * b) / 2) / (2 * math.pi)
        return (z * other_z + slopes * (x * other + 1)) * density

    expected = dblquad(integrand, -9, 9, -9, 9, epsabs=1e-8)[0]
    found = lazy.limit_kernel(torch.tensor([[x], [other]], dtype=torch.float64))
    assert found[0, 1].item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("signs", lazy.SIGNS)
def test_both_kinds_have_the_same_limit(signs):
    """Four times the relative error expected of so many independent neurons."""
    net = lazy.network(40_000, signs, 3)
    assert pk.function_space.kernel_drift(
        lazy.limit_kernel(TINY.x), pk.gradient_kernel(net, TINY.x)
    ) < 4 * 1.5 / math.sqrt(40_000)


def test_one_sign_means_positive_and_the_same_otherwise():
    both, one = (lazy.network(50, signs, 2) for signs in lazy.SIGNS)
    assert torch.equal(both.fc1.weight, one.fc1.weight)
    assert torch.equal(both.fc1.bias.abs(), one.fc1.bias)
    assert torch.equal(both.fc2.weight.abs(), one.fc2.weight)
    assert (one.fc2.weight > 0).all()
    with pytest.raises(ValueError, match="signs: expected one of both, one"):
        lazy.network(50, "three", 0)


def test_exponent_is_a_mean_of_slopes_with_students_interval():
    sizes, slopes = (2, 8, 32, 64), (-1.2, -0.9, -0.6)
    values = torch.tensor([[3.0 * m**s for s in slopes] for m in sizes], dtype=torch.float64)
    found = lazy.exponent(sizes, values)
    half = 4.302652729911275 * 0.3 / math.sqrt(3)  # t of two degrees of freedom, from a table
    assert found.mean == pytest.approx(-0.9)
    assert (found.low, found.high) == pytest.approx((-0.9 - half, -0.9 + half))
    assert found.count == 3
    with pytest.raises(ValueError, match="at least two seeds"):
        lazy.exponent(sizes, values[:, :1])


def test_a_run_repeats_itself_and_leaves_the_global_state_alone(tiny):
    before = torch.get_rng_state()
    again = lazy.run(TINY)
    assert torch.equal(torch.get_rng_state(), before)
    for name in ("drift", "trained", "residual"):
        assert torch.equal(getattr(again, name), getattr(tiny, name))


def test_seeds_trained_together_do_not_meet(tiny, monkeypatch):
    monkeypatch.setattr(lazy, "CACHE", 1)
    alone = lazy.run(TINY)
    torch.testing.assert_close(alone.drift, tiny.drift)
    torch.testing.assert_close(alone.trained, tiny.trained)


def test_an_interrupted_run_goes_on(tiny, tmp_path, monkeypatch):
    lazy.run(TINY, folder=tmp_path)
    monkeypatch.setattr(lazy, "descend", None)  # nothing is trained a second time
    assert torch.equal(lazy.run(TINY, folder=tmp_path).drift, tiny.drift)


def test_training_that_diverges_says_so():
    config = replace(TINY, rate=20.0, time=400.0)
    with pytest.raises(ValueError, match="rate: training diverged"):
        lazy.measure(config, 5, "both", 1.0, "cpu")


def test_t8_on_seeds_that_the_chapter_does_not_use():
    config = lazy.Config(
        widths=(16, 64, 256, 1024), seeds=(20, 21, 22, 23, 24, 25), time=20.0, scales=(0.25, 4, 64)
    )
    result = lazy.run(config)
    both, one = (result.exponent(drift) for drift in result.drift)
    assert both.high < -0.5
    assert both.mean < one.mean
    assert abs(result.exponent(result.moved[0]).mean + 0.5) < 0.15
    assert result.exponent(result.gap[0]).high < -0.5
    assert (result.scales["drift"].diff(dim=0) < 0).all()
    assert (result.scales["drift"][-1] < 0.02).all()
    (found,) = lazy.findings(result).values()
    told = finding("T8", found)
    assert told.verdict == "reproduced"
    local = result.local_exponents()[:, :, -1, -1]
    assert (local[0] + 1).abs().max() < 0.05 < 0.4 < (local[0] - local[1]).abs().min()
    at_loss = result.exponent(result.drift_at_loss(0.15)[0])
    assert at_loss.high < -0.5
    # the drift is that of neurons that do not meet, within four times the error over six seeds
    trained = result.drift[:, -1].square().mean(1).sqrt()
    counted = result.separate[:, :, config.wide.index(1024), -1].square().mean(1).sqrt()
    assert (trained / counted - 1).abs().max() < 4 * 0.15


# ---- neurons that do not meet ----------------------------------------------------------------


def one_neuron(a, w, b, x, path, step):
    """The kernel of one neuron by autograd, before and after it follows given residuals."""
    theta = [torch.tensor([v], dtype=torch.float64, requires_grad=True) for v in (a, w, b)]

    def output(z):
        return theta[0] * torch.tanh(theta[1] * z + theta[2])

    def kernel():
        rows = [torch.cat(torch.autograd.grad(output(z).sum(), theta)) for z in x]
        return torch.stack(rows) @ torch.stack(rows).T

    before = kernel()
    for residual in path:
        slopes = torch.autograd.grad((residual * output(x)).sum(), theta)
        with torch.no_grad():
            for p, slope in zip(theta, slopes, strict=True):
                p -= step * slope
    return before, kernel()


@pytest.mark.parametrize("signs", lazy.SIGNS)
def test_separate_neurons_are_those_of_autograd(signs):
    """The whole formula again, neuron by neuron, with the plain variance."""
    x, y, limit = TINY.x, TINY.y, lazy.limit_kernel(TINY.x)
    found = drift_of_separate_neurons(
        9, signs, (x, y, limit), rate=0.1, stops=[4], neurons=5, seed=2
    )
    path, residual = [], -y
    for _ in range(4):
        path.append(residual)
        residual = residual - 0.1 / 6 * limit @ residual
    draw = torch.randn(3, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    neurons = [tuple(v.item() for v in column) for column in draw.T]
    if signs == "one":
        neurons = [(abs(a), w, abs(b)) for a, w, b in neurons]
    images = [neurons] if signs == "one" else [neurons, [(-a, w, b) for a, w, b in neurons]]
    step = 0.1 / 6 / 3.0
    moved = torch.stack([
        torch.stack([after - before for before, after in
                     (one_neuron(*n, x[:, 0], path, step) for n in image)])
        for image in images
    ])  # fmt: skip
    pairs, every = moved.mean(0), moved.flatten(0, 1)
    square = pairs.mean(0).square().sum() - pairs.var(0).sum() / 5
    expected = (square.clamp_min(0) + every.var(0).sum() / 9).sqrt() / limit.norm()
    assert found.item() == pytest.approx(expected.item(), rel=1e-9)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"signs": "three"}, ValueError, "signs must be one of 'both', 'one'"),
        ({"neurons": 1}, ValueError, "neurons must be at least 2"),
        ({"stops": []}, ValueError, "stops must be increasing"),
        ({"stops": [3, 3]}, ValueError, "stops must be increasing"),
    ],
)
def test_separate_neurons_refuse_what_makes_no_sense(change, error, message):
    problem = TINY.x, TINY.y, lazy.limit_kernel(TINY.x)
    asked = {"signs": "both", "rate": 0.1, "stops": [1], "neurons": 3} | change
    with pytest.raises(error, match=message):
        drift_of_separate_neurons(8, asked.pop("signs"), problem, **asked)


def test_drift_at_a_loss_that_is_not_reached_says_so(tiny):
    with pytest.raises(ValueError, match="level must be reached"):
        tiny.drift_at_loss(0.0)
    level = tiny.loss[:, :, :, 0].max().item()
    assert torch.equal(tiny.drift_at_loss(level), torch.zeros(2, 2, 2).double())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"widths": (8,)}, "widths must be at least two increasing numbers"),
        ({"widths": (8, 4)}, "widths must be at least two increasing numbers from 1 on"),
        ({"scales": (0.0, 1.0)}, "scales must be at least two increasing numbers"),
        ({"seeds": ()}, "seeds must hold at least one"),
        ({"samples": 0}, "samples must be at least 1"),
        ({"scale_width": 2.5}, "scale_width must be an int"),
        ({"rate": -0.1}, "rate must be a positive number"),
        ({"time": math.inf}, "time must be a positive number"),
        ({"time": 0.3}, "time must be a whole number of steps of 0.125, got 0.3; write 0.25"),
    ],
)
def test_refuses_settings_that_make_no_sense(change, message):
    with pytest.raises((TypeError, ValueError), match=message):
        lazy.Config(**change)


def test_full_is_larger_than_quick():
    quick, full = lazy.Config.quick(), lazy.Config.full(rate=0.25)
    assert len(full.seeds) > len(quick.seeds)
    assert full.time > quick.time
    assert full.rate == 0.25
    assert full.widths == tuple(2**k for k in range(4, 13))
    assert set(quick.widths) < set(full.widths)
    assert quick.widths[-1] == full.widths[-1]


def test_draws_its_figures(tiny):
    figures = lazy_training_figures.figures(tiny)
    assert set(figures) == {"drift", "modes", "fits", "scale"}
    for figure in figures.values():
        assert isinstance(figure, Figure)
        assert "<svg" in pk.plots.svg(figure, "A drawing of a tiny run, for the test only.")
    line = figures["drift"].axes[0].lines[0].get_ydata()
    assert line == pytest.approx(tiny.drift[0].log().mean(1).exp().numpy())


def test_one_line_names_what_is_trained():
    told = str(lazy.what_is_trained(TINY))
    for part in ("network 1–5–1, tanh", "20 steps", "seeds 0, 7"):
        assert part in told
