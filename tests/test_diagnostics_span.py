"""How much of a feature lies outside a span: naive autograd, least squares and scikit-learn."""

import math

import pytest
import torch
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import DotProduct
from torch import nn

import pkbook as pk
from pkbook.function_space.diagnostics import outside_span, rank_gap
from pkbook.kernels import feature_norms


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def rows(model, x):
    """Tangent features by naive autograd, ``[n, C, P]``."""
    found = []
    for point in x:
        outputs = model(point[None])[0]
        found.append(
            torch.stack(
                [
                    torch.cat(
                        [
                            g.flatten()
                            for g in torch.autograd.grad(
                                f, list(model.parameters()), retain_graph=True
                            )
                        ]
                    )
                    for f in outputs
                ]
            )
        )
    return torch.stack(found)


def blocks(features, others):
    """Kernels of ``[n, P]`` features, as the function wants them."""
    return features @ features.T, others @ features.T, others.square().sum(1)


@pytest.mark.parametrize("outputs", [1, 3])
def test_is_what_least_squares_leaves_of_the_feature(outputs):
    """3 training inputs of a network with more parameters than that; LAPACK gelsd as oracle.

    Two hidden layers: with one, the blocks of C outputs would be symmetric and hide a mistake.
    """
    model = pk.models.mlp(2, 5, 4, outputs, activation="tanh", seed=1).double()
    x = torch.randn(3, 2, generator=seeded(0), dtype=torch.float64)
    other = torch.randn(4, 2, generator=seeded(1), dtype=torch.float64)
    train, asked = rows(model, x).flatten(0, 1), rows(model, other)
    expected = []
    for phi in asked:
        best = torch.linalg.lstsq(train.T, phi.T, driver="gelsd").solution
        expected.append(((phi.T - train.T @ best).square().sum() / phi.square().sum()).item())
    assert min(expected) > 1e-3  # none of them in the span
    got = outside_span(
        pk.gradient_kernel(model, x, reduce="full"),
        pk.gradient_kernel(model, other, x, reduce="full"),
        feature_norms(model, other).square(),
    )
    assert got.dtype == torch.float64
    assert got.tolist() == pytest.approx(expected, rel=1e-7)


def test_one_output_may_come_with_or_without_its_axes():
    model = pk.models.mlp(2, 4, 1, activation="tanh", seed=0).double()
    x = torch.randn(6, 2, generator=seeded(2), dtype=torch.float64)
    norms = feature_norms(model, x[4:]).square()
    plain, full = (
        outside_span(
            pk.gradient_kernel(model, x[:4], reduce=reduce),
            pk.gradient_kernel(model, x[4:], x[:4], reduce=reduce),
            norms,
        )
        for reduce in ("trace", "full")
    )
    torch.testing.assert_close(plain, full, rtol=1e-9, atol=0)


def test_is_the_variance_that_a_gaussian_process_keeps():
    """scikit-learn's regression with the linear kernel and noise 1e-9 of the signal."""
    features = torch.randn(4, 7, generator=seeded(0), dtype=torch.float64)
    others = torch.randn(5, 7, generator=seeded(1), dtype=torch.float64)
    process = GaussianProcessRegressor(DotProduct(0, "fixed"), alpha=1e-9, optimizer=None)
    process.fit(features.numpy(), torch.zeros(4).numpy())
    variance = torch.from_numpy(process.predict(others.numpy(), return_std=True)[1]).square()
    expected = variance / others.square().sum(1)
    got = outside_span(*blocks(features, others))
    assert 0.05 < expected.min()
    assert got.tolist() == pytest.approx(expected.tolist(), rel=1e-6)


def test_ends_of_the_scale_and_an_angle_between():
    """A feature in the span, one orthogonal to it, one at 30 degrees to the plane."""
    train = torch.tensor([[1.0, 0, 0], [1, 1, 0], [2, 1, 0]], dtype=torch.float64)
    rise = math.sin(math.pi / 6)
    asked = torch.tensor([[3.0, -5, 0], [0, 0, 2], [math.cos(math.pi / 6), 0, rise]]).double()
    got = outside_span(*blocks(train, asked))
    assert got.tolist() == pytest.approx([0, 1, rise**2], abs=1e-7)


def test_neither_units_nor_order_nor_copies_of_samples_matter():
    train = torch.randn(4, 9, generator=seeded(3), dtype=torch.float64)
    asked = torch.randn(3, 9, generator=seeded(4), dtype=torch.float64)
    expected = outside_span(*blocks(train, asked))
    for features in (7.5 * train, train[[2, 0, 3, 1]], train[[0, 1, 2, 3, 3, 0]]):
        torch.testing.assert_close(outside_span(*blocks(features, asked)), expected)
    k, cross, diag = blocks(train, asked)
    torch.testing.assert_close(outside_span(1e-8 * k, 1e-8 * cross, 1e-8 * diag), expected)


def test_a_tolerance_takes_weak_directions_out_of_the_span():
    """Singular values 1, 0.1 and 0.001; the feature has equal parts along all three."""
    train = torch.diag(torch.tensor([1.0, 0.1, 0.001], dtype=torch.float64))
    asked = torch.ones(1, 3, dtype=torch.float64)
    found = [
        outside_span(*blocks(train, asked), tolerance=t).item() for t in (1e-6, 0.002, 0.05, 0.2)
    ]
    assert found == pytest.approx([0, 1 / 3, 1 / 3, 2 / 3], abs=1e-9)


def test_positive_exactly_where_the_rank_gap_is():
    """ReLU units: 3 inputs on the left never switch the right one on, inputs on the right do."""
    net = pk.models.mlp(1, 3, 1, seed=0).double()
    with torch.no_grad():
        net.fc1.weight.fill_(1.0)
        net.fc1.bias.copy_(torch.tensor([1.0, 0.5, -2.0]))
    x = torch.linspace(-0.9, 1, 20, dtype=torch.float64)[:, None]
    for place, gap in ((0.3, 0), (1.9, 0), (2.5, 1)):
        other = torch.tensor([[place]], dtype=torch.float64)
        share = outside_span(
            pk.gradient_kernel(net, x),
            pk.gradient_kernel(net, other, x),
            feature_norms(net, other).square(),
        ).item()
        assert rank_gap(net, x, other).value == gap
        assert (share > 1e-6) == bool(gap)


def test_in_single_precision_with_a_tolerance_that_it_allows():
    train = torch.randn(5, 12, generator=seeded(5))
    asked = torch.randn(3, 12, generator=seeded(6))
    expected = outside_span(*blocks(train.double(), asked.double()))
    got = outside_span(*blocks(train, asked), tolerance=1e-2)
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4)


GOOD = blocks(
    torch.randn(4, 9, generator=seeded(0), dtype=torch.float64),
    torch.randn(3, 9, generator=seeded(1), dtype=torch.float64),
)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({0: GOOD[0][:2]}, ValueError, "kernel_train must be square"),
        ({0: GOOD[0] + torch.eye(4).double().roll(1, 0)}, ValueError, "kernel_train must be sym"),
        ({0: -GOOD[0]}, ValueError, "kernel_train must be positive semi-definite"),
        ({0: 0 * GOOD[0]}, ValueError, "kernel_train must not be zero"),
        ({0: GOOD[0] * math.nan}, ValueError, "kernel_train must be finite"),
        ({0: GOOD[0].tolist()}, TypeError, "kernel_train must be a torch.Tensor, got list"),
        ({1: GOOD[1].T}, ValueError, r"kernel_cross must be \[m, 4\].*got \[4, 3\]"),
        ({1: GOOD[1][:0]}, ValueError, r"kernel_cross must be \[m, 4\]"),
        ({1: GOOD[1][:, :, None, None]}, ValueError, r"kernel_cross must be \[m, 4\]"),
        ({1: GOOD[1] * math.inf}, ValueError, "kernel_cross must be finite"),
        ({1: 3 * GOOD[1]}, ValueError, "must be blocks of one kernel"),
        ({2: GOOD[2][:2]}, ValueError, r"kernel_diag must be \[3\].*got \[2\]"),
        ({2: GOOD[2] - GOOD[2][1]}, ValueError, "kernel_diag must be positive"),
        ({2: GOOD[2] / 50}, ValueError, "must be blocks of one kernel"),
        ({"tolerance": 0.0}, ValueError, r"tolerance must lie in \(0, 1\)"),
        ({"tolerance": 1.0}, ValueError, r"tolerance must lie in \(0, 1\)"),
        ({"tolerance": "small"}, ValueError, r"tolerance must lie in \(0, 1\)"),
        ({"tolerance": 1e-9}, ValueError, "tolerance must be at least 1.5e-07"),
    ],
)
def test_refuses_what_has_no_share(change, error, message):
    options = {k: v for k, v in change.items() if isinstance(k, str)}
    arguments = [change.get(i, GOOD[i]) for i in range(3)]
    with pytest.raises(error, match=message):
        outside_span(*arguments, **options)


def test_single_precision_refuses_the_tolerance_of_double():
    with pytest.raises(ValueError, match=r"tolerance must be at least 3.5e-03.*model.double"):
        outside_span(*(block.float() for block in GOOD))


def test_nothing_is_changed_or_tracked():
    blocks_ = [block.clone().requires_grad_() for block in GOOD]
    got = outside_span(*blocks_)
    assert not got.requires_grad
    assert all(torch.equal(a, b) for a, b in zip(blocks_, GOOD, strict=True))


def test_a_network_with_normalisation_needs_no_features():
    """Only kernels go in, so any model does: here one whose features would be large."""
    model = nn.Sequential(nn.Linear(3, 600), nn.Tanh(), nn.Linear(600, 2)).double()
    x = torch.randn(5, 3, generator=seeded(7), dtype=torch.float64)
    got = outside_span(
        pk.gradient_kernel(model, x[:3], reduce="full"),
        pk.gradient_kernel(model, x, x[:3], reduce="full"),
        feature_norms(model, x).square(),
    )
    assert got[:3].max() < 1e-9
    assert got[3:].min() > 1e-4
