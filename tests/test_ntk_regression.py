"""Regression and variances with the tangent kernel against numpy and scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import DotProduct
from sklearn.kernel_ridge import KernelRidge

import pkbook as pk
from pkbook import function_space as fs
from pkbook.function_space import regression

F64 = torch.float64


def numbers(*shape, seed=0):
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


X, QUERY, Y = numbers(9, 3), numbers(5, 3, seed=1), numbers(9, 2, seed=2)


@pytest.fixture
def model():
    return pk.models.mlp(3, 16, 2, activation="tanh", seed=0).double()


def blocks(model, x1, x2):
    k = pk.gradient_kernel(model, x1, x2, reduce="full").numpy()
    return k.transpose(0, 2, 1, 3).reshape(2 * len(x1), 2 * len(x2))


@pytest.mark.parametrize("solver", ["auto", "direct", "cg"])
@pytest.mark.parametrize("ridge", [0.0, 0.3])
def test_means_of_all_outputs_are_numpys(model, ridge, solver):
    got = fs.ntk_regression(model, X, Y, QUERY, ridge=ridge, solver=solver, **TIGHT[solver])
    f, query = model(X).detach().numpy(), model(QUERY).detach().numpy()
    weights = np.linalg.solve(blocks(model, X, X) + ridge * np.eye(18), (Y.numpy() - f).reshape(-1))
    want = query + (blocks(model, QUERY, X) @ weights).reshape(5, 2)
    np.testing.assert_allclose(got, want, rtol=1e-6 if solver == "cg" else 1e-9, atol=1e-7)


TIGHT = {"auto": {}, "direct": {}, "cg": {"tolerance": 1e-10}}


@pytest.mark.parametrize("solver", ["direct", "cg"])
def test_means_with_the_trace_kernel_are_kernel_ridges(model, solver):
    ridge = KernelRidge(alpha=0.2, kernel="precomputed")
    ridge.fit(pk.gradient_kernel(model, X).numpy(), (Y - model(X).detach()).numpy())
    want = model(QUERY).detach().numpy()
    want = want + ridge.predict(pk.gradient_kernel(model, QUERY, X).numpy())
    got = fs.ntk_regression(model, X, Y, QUERY, ridge=0.2, reduce="trace", solver=solver)
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


def test_a_linear_model_is_a_gaussian_process_of_scikit_learn():
    line = torch.nn.Linear(3, 1).double()
    with torch.no_grad():
        line.weight.zero_(), line.bias.zero_()
    process = GaussianProcessRegressor(DotProduct(sigma_0=1.0), alpha=0.1, optimizer=None)
    process.fit(X.numpy(), Y[:, 0].numpy())
    mean, deviation = process.predict(QUERY.numpy(), return_std=True)
    got = fs.ntk_regression(line, X, Y[:, 0], QUERY, ridge=0.1)
    assert got.shape == (5,)
    np.testing.assert_allclose(got, mean, rtol=1e-9)
    variance = fs.ntk_variance(line, X, QUERY, ridge=0.1)
    np.testing.assert_allclose(variance[:, 0], deviation**2, rtol=1e-9)


def test_variances_are_those_of_the_dense_formula(model, monkeypatch):
    monkeypatch.setattr(regression, "CHUNK", 2)
    inside = np.linalg.inv(blocks(model, X, X) + 0.3 * np.eye(18))
    across = blocks(model, QUERY, X)
    want = np.diag(blocks(model, QUERY, QUERY) - across @ inside @ across.T).reshape(5, 2)
    got = fs.ntk_variance(model, X, QUERY, ridge=0.3)
    assert (got > 0).all()
    np.testing.assert_allclose(got, want, rtol=1e-8)
    k, q = pk.gradient_kernel(model, X), pk.gradient_kernel(model, QUERY, X)
    own = pk.gradient_kernel(model, QUERY).diagonal()
    want = own - (q @ torch.linalg.inv(k + 0.3 * torch.eye(9)) @ q.T).diagonal()
    torch.testing.assert_close(fs.ntk_variance(model, X, QUERY, ridge=0.3, reduce="trace"), want)


def test_without_a_ridge_the_targets_are_met_and_nothing_is_left_open(model):
    torch.testing.assert_close(fs.ntk_regression(model, X, Y, X), Y, rtol=1e-7, atol=1e-7)
    assert fs.ntk_variance(model, X, X).max() <= 1e-8 * fs.ntk_variance(model, X, QUERY).max()


def test_it_is_lazy_training_without_end(model):
    one = pk.models.mlp(3, 16, 1, activation="tanh", seed=0).double()
    k, q = pk.gradient_kernel(one, X), pk.gradient_kernel(one, QUERY, X)
    moved = fs.lazy_training(k, one(X).detach() - Y[:, :1], torch.inf, query=q)
    got = fs.ntk_regression(one, X, Y[:, :1], QUERY)
    torch.testing.assert_close(got, one(QUERY).detach() + moved)


def test_another_point_and_little_memory(model):
    point = {name: 1.2 * p.detach() for name, p in model.named_parameters()}
    moved = pk.models.mlp(3, 16, 2, activation="tanh", seed=0).double()
    moved.load_state_dict(point)
    want = fs.ntk_regression(moved, X, Y, QUERY, ridge=0.1)
    for options in ({"solver": "direct"}, {"solver": "cg", "tolerance": 1e-11}):
        got = fs.ntk_regression(
            model, X, Y, QUERY, ridge=0.1, parameters=point, memory=30_000, **options
        )
        torch.testing.assert_close(got, want, rtol=1e-7, atol=1e-7)


def test_auto_takes_conjugate_gradients_where_the_matrix_does_not_fit(model, monkeypatch):
    taken, really = [], regression._by_cg
    monkeypatch.setattr(regression, "_by_cg", lambda *a: taken.append(1) or really(*a))
    fs.ntk_regression(model, X, Y, QUERY, ridge=0.1)
    assert not taken
    monkeypatch.setattr(regression, "DIRECT", 10)
    fs.ntk_regression(model, X, Y, QUERY, ridge=0.1)
    assert taken


def test_a_singular_kernel_is_refused_with_a_ridge_that_works(model):
    x, y = torch.cat([X, X[:1]]), torch.cat([Y, Y[:1] + 1])
    for network, a, b, q in ((model, x, y, QUERY),
                             (pk.models.mlp(3, 16, 2, activation="tanh", seed=0),
                              x.float(), y.float(), QUERY.float())):  # fmt: skip
        for ask in (
            lambda r: fs.ntk_regression(network, a, b, q, ridge=r),  # noqa: B023
            lambda r: fs.ntk_variance(network, a, q, ridge=r),  # noqa: B023
        ):
            with pytest.raises(ValueError, match="must not be singular") as refusal:
                ask(0.0)
            ask(float(str(refusal.value).split("write ridge=")[1].split(",")[0]))
    with pytest.raises(RuntimeError, match='"cg" did not converge'):
        fs.ntk_regression(model, x, y, QUERY, solver="cg")


def test_wrong_arguments_are_refused(model):
    for changed, error, words in (
        ({"ridge": -1.0}, ValueError, "ridge must be"),
        ({"ridge": float("nan")}, ValueError, "ridge must be"),
        ({"reduce": "diagonal"}, ValueError, "reduce must be one of 'full', 'trace'"),
        ({"solver": "qr"}, ValueError, "solver must be one of"),
        ({"solver": "cg", "tolerance": 1e-17}, ValueError, "tolerance must lie in"),
        ({"y": Y[:, 0]}, ValueError, r"y must be \[9, 2\]"),
        ({"y": Y.long()}, TypeError, "one_hot"),
        ({"y": Y / 0}, ValueError, "y must be finite"),
        ({"x_query": QUERY.float()}, TypeError, "x_query must have the model's dtype"),
        ({"x_query": numbers(2, 4)}, ValueError, "cannot be applied to x_query"),
    ):
        arguments = {"x": X, "y": Y, "x_query": QUERY} | changed
        with pytest.raises(error, match=words):
            fs.ntk_regression(model, **arguments)
