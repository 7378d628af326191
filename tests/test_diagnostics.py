"""Diagnostics against scikit-learn, direct counting and cases whose answer is known."""

import numpy as np
import pytest
import torch
from sklearn.metrics import silhouette_score
from sklearn.neighbors import NearestNeighbors
from sklearn.svm import SVC

import pkbook as pk
from pkbook.function_space import diagnostics

F64 = torch.float64


def points(n=60, d=3, seed=0, shift=1.0):
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 3
    return torch.randn(n, d, generator=g, dtype=F64) + shift * y[:, None], y


def test_homogeneity_counts_as_scikit_learn_does():
    x, y = points()
    found = diagnostics.homogeneity(-torch.cdist(x, x), y, 7)
    near = NearestNeighbors(n_neighbors=7).fit(x.numpy()).kneighbors(return_distance=False)
    wanted = (y.numpy()[near] == y.numpy()[:, None]).mean(1)
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-7)


def test_silhouette_is_that_of_unit_features():
    x, y = points()
    unit = x / x.norm(dim=1, keepdim=True)
    wanted = silhouette_score(unit.numpy(), y.numpy())
    found = diagnostics.silhouette(x @ x.T, y).mean().item()
    assert found == pytest.approx(wanted, abs=1e-6)


def test_separability_is_the_linear_machine_on_features():
    x, y = points(shift=2.5)
    kernel = x @ x.T
    found = diagnostics.linear_separability(kernel, y, penalty=10.0)
    scaled = (x / kernel.diagonal().mean().sqrt()).numpy()
    wanted = SVC(kernel="linear", C=10.0).fit(scaled, y).score(scaled, y)
    assert found.training == pytest.approx(wanted)
    assert found.held_out.shape == (5,)
    assert 0.5 < found.accuracy <= 1
    same = diagnostics.linear_separability(1e6 * kernel, y, penalty=10.0)
    assert torch.equal(same.held_out, found.held_out)


def test_random_labels_are_not_separable_on_held_out_folds():
    x, _ = points(120)
    y = torch.randint(2, (120,), generator=torch.Generator().manual_seed(5))
    assert diagnostics.linear_separability(x @ x.T, y).accuracy < 0.7


def naive_cka(k, l):  # noqa: E741
    n = len(k)
    h = torch.eye(n, dtype=F64) - 1 / n
    one, two = h @ k @ h, h @ l @ h
    return (
        torch.trace(one @ two) / (torch.trace(one @ one) * torch.trace(two @ two)).sqrt()
    ).item()


def naive_hsic(k, l):  # noqa: E741
    """The unbiased estimate as Song et al. (2012) write it, eq. (5)."""
    n = len(k)
    k, l = k - torch.diag(k.diagonal()), l - torch.diag(l.diagonal())  # noqa: E741
    one = torch.ones(n, dtype=F64)
    a = torch.trace(k @ l)
    b = (one @ k @ one) * (one @ l @ one) / ((n - 1) * (n - 2))
    c = 2 / (n - 2) * (one @ k @ l @ one)
    return (a + b - c) / (n * (n - 3))


def test_cka_is_the_formula_written_out():
    x, y = points(20)
    k, l = x @ x.T, diagnostics.label_kernel(y)  # noqa: E741
    assert diagnostics.cka(k, l) == pytest.approx(naive_cka(k, l), abs=1e-12)
    wanted = naive_hsic(k, l) / (naive_hsic(k, k) * naive_hsic(l, l)).sqrt()
    assert diagnostics.cka(k, l, debiased=True) == pytest.approx(wanted.item(), abs=1e-12)
    assert diagnostics.cka(5 * k, l) == pytest.approx(diagnostics.cka(k, l))
    assert diagnostics.cka(k + 7, l) == pytest.approx(diagnostics.cka(k, l))  # centring


def test_debiased_cka_of_unrelated_kernels_is_zero_on_average_and_plain_is_not():
    """200 pairs, seed fixed; bounds of 4 standard errors fixed beforehand."""
    g = torch.Generator().manual_seed(0)
    plain, debiased = [], []
    for _ in range(200):
        a, b = (torch.randn(12, 30, generator=g, dtype=F64) for _ in range(2))
        plain.append(diagnostics.cka(a @ a.T, b @ b.T))
        debiased.append(diagnostics.cka(a @ a.T, b @ b.T, debiased=True))
    mean, error = np.mean(debiased), np.std(debiased, ddof=1) / 200**0.5
    assert abs(mean) < 4 * error
    assert np.mean(plain) > 0.5


def test_label_kernel_and_labels():
    y = torch.tensor([[1.0], [-1.0], [1.0]])
    wanted = torch.tensor([[1, 0, 1], [0, 1, 0], [1, 0, 1]], dtype=F64)
    assert torch.equal(diagnostics.label_kernel(y), wanted)


def dormant(width=4):
    """A ReLU network whose last unit is never active on [-1, 1]."""
    network = pk.models.mlp(1, width, 1, seed=0).double()
    with torch.no_grad():
        network.fc1.weight.fill_(1.0)
        network.fc1.bias.copy_(torch.linspace(0.8, -0.5, width))
        network.fc1.bias[-1] = -1.5
    return network


@pytest.mark.parametrize("via", ["features", "kernel"])
def test_a_dormant_unit_is_a_rank_gap_of_its_two_gradients(via):
    network = dormant()
    x = torch.linspace(-1, 1, 30, dtype=F64)[:, None]
    far = torch.linspace(1.6, 3, 10, dtype=F64)[:, None]
    gap = diagnostics.rank_gap(network, x, far, tolerance=1e-6, via=via)
    matrices = [diagnostics.tangent_matrix(network, z).numpy() for z in (x, torch.cat([x, far]))]
    wanted = [np.linalg.matrix_rank(m, tol=1e-6 * np.linalg.norm(matrices[1], 2)) for m in matrices]
    assert [gap.training.value, gap.mixture.value] == wanted
    assert gap.value >= 1
    assert gap.via == via
    assert diagnostics.rank_gap(network, x, x[::2] + 0.01, via=via).value == 0


def test_both_ways_to_the_singular_values_agree():
    network = pk.models.mlp(2, 6, 2, activation="tanh", seed=1).double()
    x, other = points(8, 2)[0], points(6, 2, seed=1)[0]
    one, two = (
        diagnostics.rank_gap(network, x, other, tolerance=1e-5, via=v)
        for v in ("features", "kernel")
    )
    for a, b in ((one.training, two.training), (one.mixture, two.mixture)):
        n = min(len(a.singular_values), len(b.singular_values))
        torch.testing.assert_close(
            a.singular_values[:n], b.singular_values[:n], rtol=1e-6, atol=1e-6
        )


def test_numerical_rank_knows_its_tolerance():
    found = diagnostics.numerical_rank(torch.diag(torch.tensor([1.0, 1e-3, 1e-5], dtype=F64)), 1e-4)
    assert found.value == 2
    assert found.at(1e-6) == 3
    assert found.at(0.5) == 1


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: diagnostics.homogeneity(torch.eye(3), torch.ones(3), 1), "two classes"),
        (lambda: diagnostics.homogeneity(torch.eye(3), torch.arange(3), 3), "below the 3"),
        (lambda: diagnostics.homogeneity(torch.eye(3), torch.arange(4), 1), r"must be \[3\]"),
        (lambda: diagnostics.nearest(torch.ones(2, 3), 1), r"\[n, n\]"),
        (lambda: diagnostics.silhouette(torch.eye(3), torch.arange(3)), "class with two"),
        (lambda: diagnostics.silhouette(torch.zeros(3, 3), torch.tensor([0, 0, 1])), "diagonal"),
        (lambda: diagnostics.label_kernel(torch.zeros(4)), "two classes"),
        (lambda: diagnostics.cka(torch.ones(4, 4), torch.eye(4)), "constant after centring"),
        (lambda: diagnostics.cka(torch.eye(4), torch.eye(5)), "same samples"),
        (lambda: diagnostics.cka(torch.eye(3), torch.eye(3), debiased=True), "at least 4"),
        (lambda: diagnostics.cka(torch.tensor([[1.0, 2], [0, 1]]), torch.eye(2)), "symmetric"),
        (lambda: diagnostics.cka(torch.full((2, 2), torch.nan), torch.eye(2)), "finite"),
        (lambda: diagnostics.label_kernel(torch.zeros(0)), "at least two labels"),
        (lambda: diagnostics.label_kernel(torch.tensor(5)), "at least two labels"),
        (lambda: diagnostics.cka(torch.ones(4, 4, 2, 2), torch.eye(4)), 'reduce="trace"'),
        (lambda: diagnostics.cka(almost_constant(), torch.eye(50)), "constant after centring"),
        (lambda: separate(penalty=0.0), "positive"),
        (lambda: separate(folds=3), "at least 3"),
        (lambda: separate(kernel=torch.zeros(4, 4)), "not be zero"),
        (lambda: diagnostics.numerical_rank(torch.ones(2, 2), 1e-9), "rounding"),
        (lambda: diagnostics.numerical_rank(torch.ones(2, 2), 1.0), r"\(0, 1\)"),
        (lambda: diagnostics.numerical_rank(torch.ones(2)), r"\[a, b\]"),
        (lambda: gap(tolerance=0.0), r"\(0, 1\)"),
        (lambda: gap(tolerance=1e-5, via="kernel"), "rounding"),
        (lambda: gap(via="qr"), "must be one of"),
    ],
)
def test_bad_input_is_refused_with_a_sentence(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def almost_constant():
    """Ones, and the rounding of float32."""
    noise = torch.randn(50, 50, generator=torch.Generator().manual_seed(0))
    return torch.ones(50, 50) + 1e-7 * (noise + noise.T) / 2


@pytest.mark.parametrize(
    "call",
    [
        lambda: diagnostics.homogeneity(torch.eye(3).long(), torch.tensor([0, 1, 1]), 1),
        lambda: diagnostics.label_kernel(5),
        lambda: separate(seed=0.5),
    ],
)
def test_wrong_types_are_refused(call):
    with pytest.raises(TypeError):
        call()


def separate(kernel=None, **options):
    kernel = torch.eye(4) if kernel is None else kernel
    return diagnostics.linear_separability(
        kernel, torch.tensor([0, 0, 1, 1]), **({"folds": 2} | options)
    )


def gap(**options):
    return diagnostics.rank_gap(
        torch.nn.Linear(1, 1), torch.ones(2, 1), torch.zeros(1, 1), **options
    )


@pytest.mark.parametrize("via", ["features", "kernel"])
def test_inputs_without_any_gradient_have_rank_zero(via):
    line = torch.nn.Linear(1, 1, bias=False)
    found = diagnostics.rank_gap(line, torch.zeros(2, 1), torch.ones(1, 1), tolerance=1e-2, via=via)
    assert (found.training.value, found.mixture.value) == (0, 1)


def test_both_ranks_are_asked_at_one_scale():
    line = torch.nn.Linear(2, 1, bias=False).double()
    x, other = torch.tensor([[1.0, 0.0], [0.0, 1e-3]]), torch.tensor([[100.0, 0.0]])
    found = diagnostics.rank_gap(line, x.double(), other.double(), tolerance=1e-4)
    assert (found.value, found.at(1e-4), found.at(1e-6)) == (0, 0, 0)
    assert (found.training.at(1e-4), found.training.at(1e-6)) == (1, 2)


def test_a_model_in_train_mode_is_refused_before_it_runs():
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    with pytest.raises(ValueError, match="train mode"):
        diagnostics.rank_gap(model, torch.ones(2, 2), torch.ones(1, 2))
    assert model[1].num_batches_tracked == 0
