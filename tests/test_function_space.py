"""Function spaces against closed forms, dense float64 algebra and finite differences."""

import math

import pytest
import torch
from oracles import kernel as naive

import pkbook as pk
from pkbook import function_space as fs

F64 = torch.float64


def brownian(x):
    """min(x, x') on [0, 1]: its eigenfunctions are known."""
    return torch.minimum(x, x.T)


@pytest.fixture
def line():
    return fs.interval(0.0, 1.0, 400, rule="midpoint", dtype=F64)


@pytest.fixture
def network():
    return pk.models.mlp(1, 16, 1, activation="tanh", seed=3).double()


def test_modes_of_the_brownian_kernel_are_the_known_sines(line):
    found = fs.population(brownian(line.nodes), line).modes(6)
    j = torch.arange(6, dtype=F64) + 0.5
    exact = 1 / (math.pi * j).square()
    torch.testing.assert_close(found.values, exact, rtol=1e-3, atol=0)
    sines = math.sqrt(2) * torch.sin(math.pi * j[:, None] * line.nodes[:, 0])
    overlap = (found.functions * sines * line.weights).sum(1).abs()
    torch.testing.assert_close(overlap, torch.ones(6, dtype=F64), rtol=0, atol=1e-4)


def test_modes_are_orthonormal_rebuild_the_kernel_and_solve_the_eigenproblem(network):
    measure = fs.interval(-2.0, 2.0, 40, dtype=F64)
    kernel = pk.gradient_kernel(network, measure.nodes)
    operator = fs.population(network, measure)
    modes = operator.modes()
    gram = (modes.functions * measure.weights) @ modes.functions.T
    torch.testing.assert_close(gram, torch.eye(40, dtype=F64), rtol=0, atol=1e-10)
    assert modes.mercer(kernel) < 1e-12
    assert operator.modes(3).mercer(kernel) > 1e-6
    torch.testing.assert_close(
        operator(modes.functions[:5]), modes.values[:5, None] * modes.functions[:5], atol=1e-10,
        rtol=1e-8,
    )  # fmt: skip
    assert modes.values.sum().item() == pytest.approx((kernel.diagonal() @ measure.weights).item())


def test_operator_is_the_weighted_sum_written_out(network):
    measure = fs.interval(-1.0, 1.0, 7, dtype=F64)
    g = torch.sin(3 * measure.nodes[:, 0])
    kernel = naive(network, measure.nodes, measure.nodes)[..., 0, 0]
    wanted = torch.stack([(kernel[i] * g * measure.weights).sum() for i in range(7)])
    torch.testing.assert_close(fs.population(network, measure)(g), wanted)
    mean = torch.stack([(kernel[i] * g).mean() for i in range(7)])
    operator = fs.empirical(network, measure.nodes)
    torch.testing.assert_close(operator(g), mean)
    assert operator.name == "empirical"
    assert fs.population(network, measure).name == "population"


def test_several_outputs_act_on_vector_functions():
    network = pk.models.mlp(2, 8, 3, activation="tanh", seed=0).double()
    x = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    kernel = naive(network, x, x)
    g = torch.randn(4, 6, 3, generator=torch.Generator().manual_seed(1), dtype=F64)
    wanted = torch.einsum("ijab,kjb->kia", kernel, g) / 6
    operator = fs.empirical(network, x)
    torch.testing.assert_close(operator(g), wanted)
    modes = operator.modes()
    assert modes.functions.shape == (18, 6, 3)
    torch.testing.assert_close(modes.energy(g).sum(1), g.square().sum((1, 2)) / 6)
    torch.testing.assert_close(modes.norm(g), g.square().sum((1, 2)) / 6)


def test_lobpcg_and_the_matrix_free_operator_find_the_dense_modes(network):
    measure = fs.interval(-2.0, 2.0, 150, dtype=F64)
    dense = fs.population(network, measure).modes(5, method="dense")
    for operator in (fs.population(network, measure), fs.matrix_free(network, measure)):
        found = operator.modes(5, method="lobpcg")
        torch.testing.assert_close(found.values, dense.values, rtol=1e-6, atol=1e-9)
        overlap = (found.functions * dense.functions * measure.weights).sum(1)
        torch.testing.assert_close(overlap, torch.ones(5, dtype=F64), rtol=0, atol=1e-4)


def test_the_matrix_free_product_is_the_product_over_chunks(network, monkeypatch):
    monkeypatch.setitem(pk.kernel_operator.__globals__, "CHUNK", 7)
    two = pk.models.mlp(1, 5, 2, activation="tanh", seed=0).double()
    measure = fs.interval(-2.0, 2.0, 30, dtype=F64)
    g = torch.randn(3, 30, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    torch.testing.assert_close(fs.matrix_free(two, measure)(g), fs.population(two, measure)(g))


def test_projection_splits_the_energy(network):
    measure = fs.interval(-2.0, 2.0, 50, dtype=F64)
    modes = fs.population(network, measure).modes()
    g = torch.sign(measure.nodes[:, 0])
    kept = modes.project(g, 1e-4)
    share = modes.null_share(g, 1e-4).item()
    assert 0 < share < 1
    assert modes.norm(g - kept).item() == pytest.approx(share * modes.norm(g).item())
    assert modes.norm(kept).item() == pytest.approx((1 - share) * modes.norm(g).item())
    torch.testing.assert_close(modes.project(kept, 1e-4), kept)
    shares = [modes.null_share(g, t).item() for t in (0.5, 1e-2, 1e-4, 1e-8)]
    assert shares == sorted(shares, reverse=True)


def test_a_kernel_of_even_functions_has_the_odd_ones_in_its_null_space():
    network = pk.models.mlp(1, 16, 1, activation="tanh", seed=0).double()
    square = torch.nn.Sequential(Square(), network)
    measure = fs.interval(-1.0, 1.0, 60, dtype=F64)
    modes = fs.population(square, measure).modes()
    x = measure.nodes[:, 0]
    assert modes.null_share(x**3 - x, 1e-10).item() == pytest.approx(1, abs=1e-10)
    assert modes.null_share(torch.cos(2 * x), 1e-10).item() < 1e-6


class Square(torch.nn.Module):
    def forward(self, x):
        return x * x


def test_nystroem_extends_modes_to_other_points(line):
    modes = fs.population(brownian(line.nodes), line).modes(3)
    x = torch.tensor([[0.2], [0.77]], dtype=F64)
    found = modes.extend(torch.minimum(x, line.nodes.T))
    exact = math.sqrt(2) * torch.sin(
        math.pi * torch.tensor([0.5, 1.5, 2.5]).double()[:, None] * x.T
    )
    torch.testing.assert_close(found.abs(), exact.abs(), rtol=0, atol=2e-3)
    at_nodes = modes.extend(brownian(line.nodes))
    torch.testing.assert_close(at_nodes, modes.functions, rtol=1e-8, atol=1e-8)


def test_principal_angles_of_known_planes():
    at = fs.uniform(torch.eye(3, dtype=F64))
    flat = torch.diag(torch.tensor([2.0, 1.0, 0.0])).double()
    c, s = math.cos(0.3), math.sin(0.3)
    turn = torch.tensor([[1, 0, 0], [0, c, -s], [0, s, c]], dtype=F64)
    one, two = (fs.population(k, at).modes() for k in (flat, turn @ flat @ turn.T))
    angles = fs.principal_angles(one, two, tolerance=1e-9)
    torch.testing.assert_close(angles, torch.tensor([0.0, 0.3], dtype=F64), rtol=0, atol=1e-7)


def test_expected_kernel_is_mean_and_standard_error():
    models = [pk.models.mlp(1, 4, 1, seed=s).double() for s in range(5)]
    x = torch.linspace(-1, 1, 4, dtype=F64)[:, None]
    kernels = torch.stack([pk.gradient_kernel(m, x) for m in models])
    found = fs.expected_kernel(iter(models), x)
    torch.testing.assert_close(found.mean, kernels.mean(0))
    torch.testing.assert_close(found.error, kernels.std(0) / 5**0.5)
    assert found.runs == 5


def test_lazy_training_solves_its_differential_equation():
    g = torch.Generator().manual_seed(0)
    a = torch.randn(5, 9, generator=g, dtype=F64)
    kernel, residual = a @ a.T, torch.randn(5, 2, generator=g, dtype=F64)
    query = torch.randn(3, 9, generator=g, dtype=F64) @ a.T
    steps, time, moved, left = 4000, 0.7, torch.zeros(3, 2, dtype=F64), residual.clone()
    for _ in range(steps):  # Heun's rule, written out
        h = time / steps
        ahead = left - h * kernel @ left / 5
        middle = (left + ahead) / 2
        moved -= h * query @ middle / 5
        left = left - h * kernel @ middle / 5
    found = fs.lazy_training(kernel, residual, time, query=query)
    torch.testing.assert_close(found, moved, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        residual + fs.lazy_training(kernel, residual, time), left, rtol=1e-5, atol=1e-6
    )
    regression = -query @ torch.linalg.solve(kernel, residual)
    torch.testing.assert_close(
        fs.lazy_training(kernel, residual, math.inf, query=query), regression
    )


def test_rounding_of_a_float32_kernel_is_not_learnt_from():
    x = torch.linspace(-3, 3, 40)[:, None]
    network, y = pk.models.mlp(1, 2, 1, activation="tanh", seed=0), torch.sin(4 * x[:, 0])
    left = []
    for dtype in (torch.float32, torch.float64):
        kernel = pk.gradient_kernel(network.to(dtype), x.to(dtype))
        left.append((y + fs.lazy_training(kernel, y, math.inf, tolerance=1e-5)).norm())
        assert (y + fs.lazy_training(kernel, y, math.inf)).norm() > 0.9 * left[0]
    torch.testing.assert_close(left[0], left[1], rtol=1e-2, atol=0)


def test_a_null_mode_does_not_move_in_lazy_training():
    v = torch.tensor([1.0, -1.0], dtype=F64)
    kernel = torch.ones(2, 2, dtype=F64)
    assert fs.lazy_training(kernel, v, math.inf).abs().max() < 1e-15


def test_measures_integrate():
    x = fs.interval(-1.0, 3.0, 5, dtype=F64)
    assert x.mean(x.nodes[:, 0] ** 9).item() == pytest.approx((3**10 - 1) / 40)
    both = fs.product(x, fs.interval(0.0, 1.0, 4, dtype=F64))
    value = both.nodes[:, 0] ** 2 * both.nodes[:, 1] ** 3
    assert both.mean(value).item() == pytest.approx((27 + 1) / 12 / 4)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: fs.Measure(torch.zeros(2, 1), torch.tensor([1.5, -0.5])), "must be positive"),
        (lambda: fs.Measure(torch.zeros(2, 1), torch.tensor([1.0, 1.0])), "sum to one"),
        (lambda: fs.Measure(torch.zeros(2, 1), torch.tensor([0.5, torch.nan])), "finite"),
        (lambda: fs.Measure(torch.zeros(2, 1), torch.ones(3) / 3), r"must be \[2\]"),
        (lambda: fs.interval(1.0, 0.0, 3), "low < high"),
        (lambda: fs.uniform(torch.zeros(0, 1)), "at least one"),
        (lambda: fs.product(), "at least one"),
        (lambda: op(torch.tensor([[1.0, 0.5], [0.0, 1.0]])), "symmetric"),
        (lambda: op(torch.tensor([[1.0, torch.inf], [torch.inf, 1.0]])), "finite"),
        (lambda: op(torch.ones(2, 3)), "square"),
        (lambda: op(torch.eye(3)), "one row a node"),
        (lambda: op(-torch.eye(2)).modes(), "semi-definite"),
        (lambda: op(torch.eye(2)).modes(3), "at most 2"),
        (lambda: op(torch.eye(2)).modes(1, method="lobpcg"), "at most a fifth"),
        (lambda: op(torch.eye(2)).modes(method="qr"), "must be one of"),
        (lambda: op(torch.eye(2))(torch.ones(3)), "values at the nodes"),
        (lambda: op(torch.eye(2)).modes().energy(torch.ones(3)), "values at the nodes"),
        (lambda: op(torch.eye(2)).modes().null_share(torch.zeros(2), 0.1), "zero"),
        (lambda: op(torch.eye(2)).modes().learnable(1.0), "above the kernel's rounding"),
        (lambda: op(torch.eye(2)).modes().learnable(1e-7), "compute the kernel in float64"),
        (lambda: op(torch.eye(2)).modes().extend(torch.ones(2, 3)), "points by nodes"),
        (lambda: fs.expected_kernel([torch.nn.Linear(1, 1)], torch.ones(1, 1)), "at least two"),
        (lambda: fs.lazy_training(torch.eye(2), torch.ones(3), 1.0), "residual"),
        (lambda: fs.lazy_training(torch.eye(2), torch.ones(2), -1.0), "time"),
        (lambda: fs.lazy_training(-torch.eye(2), torch.ones(2), 1.0), "semi-definite"),
        (lambda: fs.lazy_training(torch.ones(2, 2, 1, 1), torch.ones(2), 1.0), "of one output"),
        (lambda: fs.lazy_training(torch.eye(2), torch.ones(2), 1.0, tolerance=2.0), "tolerance"),
        (lambda: fs.lazy_training(torch.eye(2), torch.ones(2), 1.0, tolerance=1e-9), "rounding"),
        (lambda: fs.lazy_training(torch.eye(2), torch.ones(2), 1.0, query=torch.eye(3)), "query"),
        (lambda: fs.kernel_drift(torch.zeros(2, 2), torch.eye(2)), "zero"),
        (lambda: fs.kernel_drift(torch.eye(2), torch.eye(3)), "one shape"),
        (lambda: fs.matrix_free(torch.nn.Linear(1, 1), two()).modes(), "dense modes"),
    ],
)
def test_bad_input_is_refused_with_a_sentence(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def two():
    return fs.uniform(torch.tensor([[0.0], [1.0]]))


def op(kernel):
    return fs.population(kernel, two())


@pytest.mark.parametrize(
    "call",
    [
        lambda: fs.population(torch.eye(2), torch.ones(2, 1)),
        lambda: fs.population("kernel", two()),
        lambda: fs.population(torch.eye(2, dtype=torch.int64), two()),
        lambda: fs.uniform([0.0, 1.0]),
        lambda: op(torch.eye(2)).modes(2.0),
    ],
)
def test_wrong_types_are_refused(call):
    with pytest.raises(TypeError):
        call()


@pytest.mark.parametrize(
    "other",
    [fs.Measure(torch.tensor([[0.0], [1.0]]), torch.tensor([0.25, 0.75])),
     fs.uniform(torch.tensor([[0.0], [2.0]]))],
)  # fmt: skip
def test_angles_between_different_nodes_are_refused(other):
    with pytest.raises(ValueError, match="same nodes"):
        fs.principal_angles(
            op(torch.eye(2)).modes(), fs.population(torch.eye(2), other).modes(), tolerance=0.1
        )


def test_signs_do_not_hang_on_rounding():
    """An odd mode is largest at both ends; it is drawn positive at the left one."""
    measure = fs.interval(-1.0, 1.0, 21, dtype=F64)
    x = measure.nodes
    for noise in (0.0, 1e-13, -1e-13):
        bent = x + noise * x.flip(0).abs()
        mode = fs.population(bent @ bent.T, measure).modes(1, method="dense").functions[0]
        assert mode[0] > 0


def test_rounding_of_float32_kernels_is_not_taken_for_a_negative_eigenvalue():
    network = pk.models.mlp(1, 8, 1, activation="tanh", seed=0)
    modes = fs.population(network, fs.interval(-1.0, 1.0, 64)).modes()
    assert modes.values.min() > -1e-5 * modes.values[0]
