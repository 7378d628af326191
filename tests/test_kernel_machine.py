"""Kernel machines and the spaces of kernels, against closed forms, autograd and the exact sum."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn.utils import parameters_to_vector

import pkbook as pk
from pkbook import function_space as fs

F64 = torch.float64
X = torch.linspace(-1, 1, 6, dtype=F64)[:, None]
Y = torch.sin(3 * X)
ASKED = torch.tensor([[-0.7], [0.15], [0.9]], dtype=F64)


class Bent(nn.Module):
    """f = p x + p^2 x^2, or p^2 x."""

    def __init__(self, start, bent=True):
        super().__init__()
        self.p = nn.Parameter(torch.tensor([start], dtype=F64))
        self.bent = bent

    def forward(self, x):
        return self.p * x + (self.p * x) ** 2 if self.bent else self.p**2 * x


def descend(model, x=X, y=Y, rate=0.3, steps=12, size=None):
    run = pk.Trajectory(
        model, pk.losses.squared, torch.optim.SGD(model.parameters(), lr=rate), (x, y)
    )
    for batch in pk.batches(len(x), size=size, steps=steps, seed=1):
        run.step(batch)
    return run


@pytest.fixture(scope="module")
def run():
    return descend(pk.models.mlp(1, 5, 1, activation="tanh", seed=0).double())


def taken_apart(run, asked, x=X):
    told = run.interpolate(asked, tolerance=None)
    return told.contributions[..., 0], run.path_kernel(asked, x), told


def test_the_coefficient_of_a_bent_model_is_the_hyperbola_of_the_integrals():
    """One sample (1, 2); integrals in the parameter, not in time, are elementary."""
    model = Bent(0.0)
    one = torch.ones(1, 1, dtype=F64)
    run = descend(model, one, 2 * one, rate=2e-3, steps=120)
    p = model.p.item()
    a = math.log((2 + p) / (2 * (1 - p))) / 3
    b = -2 / 3 * math.log(1 - p) - 4 / 3 * math.log((2 + p) / 2)
    asked = torch.tensor([[-0.9], [0.5], [2.0]], dtype=F64)
    c, kernel, _ = taken_apart(run, asked, one)
    x = asked[:, 0]
    torch.testing.assert_close(kernel[:, 0], a * x + b * x**2, rtol=1e-2, atol=0)
    wanted = (p + p * p * x) / (a + b * x)
    torch.testing.assert_close(fs.path_coefficients(c, kernel)[0], wanted, rtol=1e-2, atol=0)
    assert wanted.max() / wanted.min() > 1.1
    assert fs.coefficient_spread(c, kernel).item() > 0.005  # what a fixed coefficient cannot do


@pytest.mark.parametrize("size", [None, 2])
def test_coefficients_are_numbers_where_the_kernel_is_one_factor(size):
    """A linear model, whose kernel stands still: minus the mean sensitivity, whoever asks."""
    linear = nn.Linear(1, 1).double()
    run = descend(linear, rate=0.05, size=size)
    c, kernel, _ = taken_apart(run, ASKED)
    total = torch.zeros(6, dtype=F64)
    for k, batch in enumerate(pk.batches(6, size=size, steps=12, seed=1)):
        total[batch] -= (run.model_at(k)(X[batch]) - Y[batch]).detach()[:, 0] / len(batch) / 12
    a = fs.path_coefficients(c, kernel)
    torch.testing.assert_close(a, total[:, None].expand(-1, 3), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(fs.fixed_coefficients(c, kernel), total, rtol=1e-9, atol=1e-12)
    assert fs.coefficient_spread(c, kernel).max() < 1e-9


def test_a_kernel_that_moves_by_one_factor_spreads_nothing():
    c, kernel, _ = taken_apart(descend(Bent(0.5, bent=False), X, 2 * X, rate=0.01), ASKED)
    assert fs.coefficient_spread(c, kernel).max() < 2e-2  # a Riemann sum beside an exact one
    fine = taken_apart(descend(Bent(0.5, bent=False), X, 2 * X, rate=1e-3), ASKED)
    assert fs.coefficient_spread(*fine[:2]).max() < 1e-9


def test_the_sum_with_coefficients_that_know_the_query_is_the_change(run):
    c, kernel, told = taken_apart(run, ASKED)
    found = (fs.path_coefficients(c, kernel) * kernel.T).sum(0)
    torch.testing.assert_close(found, (told.final - told.initial)[:, 0], rtol=1e-9, atol=1e-12)


def test_the_spread_is_the_weighted_one_of_the_quotients():
    g = torch.Generator().manual_seed(0)
    c, kernel = torch.randn(4, 9, generator=g, dtype=F64), torch.randn(9, 4, generator=g, dtype=F64)
    a, k = fs.path_coefficients(c, kernel), kernel.T
    mean = (k**2 * a).sum(1) / (k**2).sum(1)
    torch.testing.assert_close(fs.fixed_coefficients(c, kernel), mean)
    wanted = ((k**2 * (a - mean[:, None]) ** 2).sum(1) / (k**2 * a**2).sum(1)).sqrt()
    torch.testing.assert_close(fs.coefficient_spread(c, kernel), wanted)
    silent = torch.zeros(2, 1)
    assert fs.coefficient_spread(torch.zeros(1, 2), silent).item() == 0
    assert fs.fixed_coefficients(torch.zeros(1, 2), silent).item() == 0
    assert fs.path_coefficients(torch.zeros(1, 2), silent).isnan().all()


def test_the_norm_of_the_brownian_kernel_is_the_energy_of_the_slope():
    """min(x, x'): the integral of g'^2, for g(0) = 0; here g = x (2 - x) and 4 / 3."""
    norms = []
    for n in (5, 20, 200):
        x = (torch.arange(n, dtype=F64) + 1) / n
        norms.append(fs.rkhs_norm(torch.minimum(x[:, None], x), x * (2 - x)))
    assert norms == sorted(norms)
    assert norms[-1] < 4 / 3
    assert norms[-1] == pytest.approx(4 / 3, rel=1e-4)
    at = fs.interval(0.0, 1.0, 400, rule="midpoint", dtype=F64)
    modes = fs.population(torch.minimum(at.nodes, at.nodes.T), at).modes()
    g = at.nodes[:, 0] * (2 - at.nodes[:, 0])
    assert modes.rkhs_norm(g, 1e-9).item() == pytest.approx(4 / 3, rel=1e-3)
    assert modes.rkhs_norm(torch.stack([g, 2 * g]), 1e-9)[1].item() == pytest.approx(
        16 / 3, rel=1e-3
    )


def test_three_ways_to_the_norm_of_a_sum_of_kernels(run):
    at = fs.interval(-1.0, 1.0, 10, dtype=F64)
    kernel = fs.exact_path_kernel(run, at.nodes)
    a = torch.tensor([1.0, -2.0, 0.5], dtype=F64)
    g, known = kernel[:, [1, 4, 8]] @ a, (a @ kernel[[1, 4, 8]][:, [1, 4, 8]] @ a).item()
    modes = fs.population(kernel, at).modes()
    assert modes.rkhs_norm(g, 1e-12).item() == pytest.approx(known, rel=1e-6)
    assert fs.rkhs_norm(kernel, g) == pytest.approx(known, rel=1e-6)
    assert modes.mercer(kernel) < 1e-12


def test_values_outside_the_space_have_no_norm():
    assert fs.rkhs_norm(torch.ones(2, 2), torch.tensor([1.0, 2.0])) == math.inf
    assert fs.rkhs_norm(torch.ones(2, 2), torch.tensor([2.0, 2.0])) == pytest.approx(4)


def test_the_machine_passes_through_its_values_with_the_least_norm():
    g = torch.Generator().manual_seed(3)
    features = torch.randn(5, 9, generator=g, dtype=F64)
    values = torch.randn(5, 2, generator=g, dtype=F64)
    a = fs.interpolating_machine(features @ features.T, values)
    torch.testing.assert_close(a, torch.linalg.solve(features @ features.T, values))
    least = torch.linalg.pinv(features) @ values  # in the space of features
    torch.testing.assert_close(features.T @ a, least)
    norm = fs.rkhs_norm(features @ features.T, values[:, 0])
    assert norm == pytest.approx(least[:, 0].square().sum().item())


def test_the_lifted_kernel_is_the_one_of_features_written_out(run):
    """Features by autograd at the parameters of each step, a trapezoid rule of 400 places."""
    walker = run.model_at(0)
    both = torch.cat([ASKED, X])
    wanted = torch.zeros(3, 6, dtype=F64)
    path = [parameters_to_vector(run.model_at(k).parameters()).detach() for k in range(13)]
    for a, b in pairwise(path):
        shots = []
        for place in torch.linspace(0, 1, 401).double():
            nn.utils.vector_to_parameters(torch.lerp(a, b, place), walker.parameters())
            own = list(walker.parameters())
            rows = [torch.autograd.grad(walker(z[None]).sum(), own) for z in both]
            shots.append(torch.stack([torch.cat([g.flatten() for g in row]) for row in rows]))
        shots = torch.stack(shots)
        mean = (shots.sum(0) - (shots[0] + shots[-1]) / 2) / 400
        wanted += 0.3 * mean[:3] @ shots[0, 3:].T
    found = fs.exact_path_kernel(run, ASKED, X, sides=("step", "start"))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-7)


def test_the_lifted_machine_gives_the_network_to_rounding(run):
    asked = torch.cat([ASKED, X])
    steps = fs.exact_path_kernel(run, asked, X, sides=("step", "start"), nodes=5, by_step=True)
    assert steps.shape == (12, 9, 6)
    numbers = torch.stack([(Y - run.model_at(k)(X)).detach()[:, 0] / 6 for k in range(12)])
    change = (run.model(asked) - run.model_at(0)(asked)).detach()[:, 0]
    torch.testing.assert_close(
        torch.einsum("ki,kni->n", numbers, steps), change, rtol=0, atol=1e-13
    )
    begin = fs.exact_path_kernel(run, asked, X, sides=("start", "start"), by_step=True)
    rough = torch.einsum("ki,kni->n", numbers, begin)
    assert (rough - change).abs().max() > 1e-4  # the features of the start are not enough


def test_sides_of_the_lifted_kernel(run):
    one = fs.exact_path_kernel(run, X)
    assert (one - one.T).abs().max() < 1e-12
    assert torch.linalg.eigvalsh(one).min() > -1e-12 * one.norm()
    start = fs.exact_path_kernel(run, X, sides=("start", "start"))
    torch.testing.assert_close(start, run.path_kernel(X))
    mixed = fs.exact_path_kernel(run, X, sides=("step", "start"))
    assert (mixed - mixed.T).norm() > 1e-5 * mixed.norm()
    torch.testing.assert_close(mixed.T, fs.exact_path_kernel(run, X, sides=("start", "step")))
    blocks = fs.exact_path_kernel(run, X, reduce="full")
    torch.testing.assert_close(blocks[..., 0, 0], one)


def test_a_feature_that_turns_makes_the_step_against_the_start_negative():
    """f = p^2 x from p = 1 to p = -3: features 2 x at the start and -2 x on average."""
    model, one = Bent(1.0, bent=False), torch.ones(1, 1, dtype=F64)
    run = descend(model, one, torch.zeros(1, 1, dtype=F64), rate=2.0, steps=1)
    assert model.p.item() == pytest.approx(-3)
    found = fs.exact_path_kernel(run, ASKED, sides=("step", "start"))
    torch.testing.assert_close(found, -8 * ASKED @ ASKED.T)


def test_the_loss_pays_for_the_norm(run):
    """Squared speed in the space of the moment, and the whole change in that of the path."""
    model = run.model_at(4)
    left = (model(X) - Y).detach()[:, 0]
    loss = (model(X) - Y).square().mean() / 2
    steep = sum(g.square().sum() for g in torch.autograd.grad(loss, list(model.parameters())))
    every = torch.cat([ASKED, X])
    kernel = pk.gradient_kernel(model, every)
    speed = -kernel[:, 3:] @ left / 6
    assert fs.rkhs_norm(kernel, speed, tolerance=1e-13) == pytest.approx(steep.item(), rel=1e-5)
    path = [parameters_to_vector(run.model_at(k).parameters()).detach() for k in range(13)]
    paid = sum(((b - a).square().sum() / 0.3).item() for a, b in pairwise(path))
    change = (run.model(every) - run.model_at(0)(every)).detach()[:, 0]
    norm = fs.rkhs_norm(fs.exact_path_kernel(run, every), change, tolerance=1e-11)
    assert 0.01 * paid < norm <= paid


@pytest.mark.parametrize(("degree", "names"), [(1, ["fc2.weight"]), (2, None)])
def test_weight_decay_makes_a_homogeneous_network_a_machine_up_to_the_gradient(degree, names):
    layers = pk.models.mlp(1, 7, 1, activation="relu", seed=2).double()
    del layers.fc2.bias
    layers.fc2.register_parameter("bias", None)
    own = {n: p for n, p in layers.named_parameters() if names is None or n in names}
    loss = (layers(X) - Y).square().mean() / 2
    loss = loss + 0.05 * sum(p.square().sum() for p in own.values())  # decay 0.1
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(own.values()))])
    rows = [torch.autograd.grad(layers(z[None]).sum(), list(own.values())) for z in [*ASKED, *X]]
    phi = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
    a = (Y - layers(X)).detach()[:, 0] / (degree * 0.1 * 6)
    off = layers(ASKED).detach()[:, 0] - phi[:3] @ phi[3:].T @ a
    torch.testing.assert_close(off, phi[:3] @ gradient / (degree * 0.1))
    assert off.norm() > 0.1


BAD = [
    (
        lambda: fs.path_coefficients(torch.ones(2, 3), torch.ones(2, 3)),
        r"contributions must be \[N",
    ),
    (lambda: fs.coefficient_spread(torch.ones(2), torch.ones(2)), "contributions must be"),
    (lambda: fs.fixed_coefficients(torch.ones(1, 1) / 0, torch.ones(1, 1)), "finite"),
    (lambda: fs.interpolating_machine(torch.eye(2), torch.ones(3)), "values must be"),
    (lambda: fs.interpolating_machine(-torch.eye(2), torch.ones(2)), "semi-definite"),
    (lambda: fs.interpolating_machine(torch.eye(2), torch.ones(2), tolerance=1.0), "tolerance"),
    (lambda: fs.rkhs_norm(torch.eye(2), torch.ones(2, 1)), "of one function"),
    (lambda: fs.exact_path_kernel(descend(nn.Linear(1, 1).double(), steps=0), X), "no step"),
]


@pytest.mark.parametrize(("call", "words"), BAD)
def test_bad_input_is_refused_with_a_sentence(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize("sides", ["step", ("step",), ("middle", "start")])
def test_unknown_sides_are_refused(run, sides):
    with pytest.raises(ValueError, match="sides"):
        fs.exact_path_kernel(run, X, sides=sides)
