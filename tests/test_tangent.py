"""Tangent features and kernels against naive autograd, finite differences and closed forms."""

import itertools

import oracles
import pytest
import torch
from cases import BY_NAME
from oracles import Tied
from torch import nn

import pkbook as pk
from pkbook.basics.parameters import trainable
from pkbook.kernels.features import pushforward
from pkbook.kernels.passes import calling


def _mlp():
    return pk.models.mlp(5, 7, 3, activation="tanh", seed=1)


def _relu():
    return pk.models.mlp(5, 9, 1, activation="relu", seed=2)


def _frozen():
    model = _mlp()
    next(model.parameters()).requires_grad_(False)
    return model


def _batchnorm():
    return nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 2)).eval()


def _cnn():
    return nn.Sequential(
        nn.Unflatten(1, (1, 1, 5)), nn.Conv2d(1, 3, (1, 3), padding=(0, 1)), nn.ReLU(),
        nn.MaxPool2d((1, 2)), nn.Flatten(), nn.Dropout(0.5), nn.Linear(6, 4),
    ).eval()  # fmt: skip


MODELS = {f.__name__.strip("_"): f for f in (_mlp, _relu, _frozen, _batchnorm, _cnn, Tied)}


@pytest.fixture(params=MODELS, ids=list(MODELS))
def case(request):
    torch.manual_seed(0)
    model = MODELS[request.param]().double()
    return model, torch.randn(6, 5).double(), torch.randn(4, 5).double()


def test_features_equal_naive_autograd(case):
    model, x, _ = case
    torch.testing.assert_close(
        pk.tangent_features(model, x), oracles.jacobian(model, x), rtol=1e-12, atol=1e-12
    )


def test_features_of_chosen_outputs(case):
    model, x, _ = case
    c = model(x).shape[1]
    chosen = torch.arange(len(x)) % c
    every = oracles.jacobian(model, x)
    picked = every[torch.arange(len(x)), chosen][:, None]
    torch.testing.assert_close(pk.tangent_features(model, x, outputs=chosen), picked)
    torch.testing.assert_close(pk.tangent_features(model, x, outputs=c - 1), every[:, -1:])


@pytest.mark.parametrize("memory", [None, 20_000, 60_000])
def test_layers_parts_equal_naive_autograd(case, memory):
    model, x1, x2 = case
    model = nn.Sequential(model, nn.Linear(model(x1).shape[1], 2)).double()  # two layers at least
    names = [name.partition(".")[0] for name in trainable(model)]
    sizes = [p.numel() for p in trainable(model).values()]
    columns = [name for name, size in zip(names, sizes, strict=True) for _ in range(size)]
    one, two = (oracles.jacobian(model, x) for x in (x1, x2))
    for reduce, product in (
        ("full", "icp,jdp->ijcd"),
        ("diagonal", "icp,jcp->ijc"),
        ("trace", "icp,jcp->ij"),
    ):
        parts = pk.kernels_by_layer(model, x1, x2, reduce=reduce, memory=memory)
        assert list(parts) == list(dict.fromkeys(names))
        own = pk.kernels_by_layer(model, x1, reduce=reduce, memory=memory)
        for layer in parts:
            its = [i for i, name in enumerate(columns) if name == layer]
            wanted = torch.einsum(product, one[..., its], two[..., its])
            torch.testing.assert_close(parts[layer], wanted, rtol=1e-10, atol=1e-12)
            wanted = torch.einsum(product, one[..., its], one[..., its])
            torch.testing.assert_close(own[layer], wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("memory", [None, 20_000, 60_000])
def test_kernels_equal_naive_autograd(case, memory):
    model, x1, x2 = case
    full = oracles.kernel(model, x1, x2)
    diagonal = full.diagonal(dim1=2, dim2=3)
    for reduce, wanted in (("full", full), ("diagonal", diagonal), ("trace", diagonal.sum(2))):
        got = pk.gradient_kernel(model, x1, x2, reduce=reduce, memory=memory)
        torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-12)
        own = pk.gradient_kernel(model, x1, reduce=reduce, memory=memory)
        again = pk.gradient_kernel(model, x1, x1, reduce=reduce, memory=memory)
        torch.testing.assert_close(own, again, rtol=1e-10, atol=1e-12)


def test_the_kernel_is_symmetric_and_positive_semidefinite(case):
    model, x, _ = case
    k = pk.gradient_kernel(model, x)
    torch.testing.assert_close(k, k.T, rtol=0, atol=1e-12 * k.abs().max().item())
    assert torch.linalg.eigvalsh(k).min() >= -1e-10 * k.diagonal().max()


def test_float32_agrees_with_float64(case):
    model, x, _ = case
    exact = pk.gradient_kernel(model, x)
    rough = pk.gradient_kernel(model.float(), x.float()).double()
    assert (rough - exact).norm() / exact.norm() < 1e-5


def test_normalised_kernel_is_the_cosine(case):
    model, x1, x2 = case
    a, b = (oracles.jacobian(model, x).flatten(1) for x in (x1, x2))
    cosine = nn.functional.cosine_similarity(a[:, None], b[None], dim=2)
    torch.testing.assert_close(pk.normalised_kernel(model, x1, x2), cosine)
    own = pk.normalised_kernel(model, x1)
    torch.testing.assert_close(own.diagonal(), torch.ones(len(x1)).double())


def test_weighted_kernel_scales_each_direction(case):
    model, x1, x2 = case
    generator = torch.Generator().manual_seed(3)
    weight = {
        name: torch.rand(p.shape, generator=generator).double()
        for name, p in trainable(model).items()
    }
    row = torch.cat([w.flatten() for w in weight.values()])
    a, b = oracles.jacobian(model, x1), oracles.jacobian(model, x2)
    wanted = torch.einsum("icp,p,jdp->ijcd", a, row, b)
    got = pk.weighted_kernel(model, x1, x2, weight=weight, reduce="full")
    torch.testing.assert_close(got, wanted)
    one = pk.weighted_kernel(model, x1, x2, weight=dict.fromkeys(weight, 1.0))
    torch.testing.assert_close(one, pk.gradient_kernel(model, x1, x2))


def test_two_time_kernel_takes_each_side_at_its_own_time(case):
    model, x1, x2 = case
    early = trainable(model)
    late = {name: p + 0.1 for name, p in early.items()}
    later = oracles.set_vector(model, oracles.vector(model) + 0.1)
    if isinstance(model, Tied):
        later = Tied().double()
        later.load_state_dict({n: p + 0.1 for n, p in model.state_dict().items()})
    wanted = torch.einsum("icp,jcp->ij", oracles.jacobian(later, x1), oracles.jacobian(model, x2))
    got = pk.two_time_kernel(model, x1, x2, parameters1=late, parameters2=early)
    torch.testing.assert_close(got, wanted)
    same = pk.two_time_kernel(model, x1, parameters1=late, parameters2=early)
    swapped = pk.two_time_kernel(model, x1, parameters1=early, parameters2=late)
    torch.testing.assert_close(same, swapped.T)


def test_features_against_finite_differences():
    torch.manual_seed(0)
    model, x = _mlp().double(), torch.randn(3, 5).double()
    theta, h = oracles.vector(model), 1e-6
    got = pk.tangent_features(model, x)
    for p in range(0, len(theta), 7):
        e = torch.zeros_like(theta)
        e[p] = h
        up, down = (oracles.set_vector(model, theta + s * e)(x) for s in (1, -1))
        torch.testing.assert_close(got[:, :, p], (up - down) / (2 * h), rtol=1e-7, atol=1e-8)


def test_linear_model_has_the_closed_form():
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)).double()
    model = nn.Linear(4, 3).double()
    wanted = torch.einsum("ij,cd->ijcd", x @ x.T + 1, torch.eye(3).double())
    torch.testing.assert_close(pk.gradient_kernel(model, x, reduce="full"), wanted)


def test_pushforward_is_the_jacobian_times_each_direction(case):
    model, x, _ = case
    parameters = trainable(model)
    generator = torch.Generator().manual_seed(5)
    directions = {
        name: torch.randn(3, *p.shape, generator=generator).double()
        for name, p in parameters.items()
    }
    outputs, pushed = pushforward(calling(model, x), parameters, directions)
    rows = torch.cat([d.flatten(1) for d in directions.values()], dim=1)
    wanted = torch.einsum("icp,mp->mic", oracles.jacobian(model, x), rows)
    torch.testing.assert_close(outputs, model(x).detach())
    torch.testing.assert_close(pushed, wanted)


def test_nothing_is_left_changed(case):
    model, x, _ = case
    before = torch.get_rng_state(), [p.clone() for p in model.parameters()]
    flags = [(p.requires_grad, p.grad) for p in model.parameters()]
    modes = [m.training for m in model.modules()]
    pk.gradient_kernel(model, x)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before[1], strict=True))
    assert flags == [(p.requires_grad, p.grad) for p in model.parameters()]
    assert modes == [m.training for m in model.modules()]


@pytest.mark.parametrize("n", [1, 3])
def test_one_dimensional_outputs_count_as_one_output(n):
    class Squeezed(nn.Linear):
        def forward(self, x):
            return super().forward(x).squeeze(-1)

    model, x = Squeezed(2, 1), torch.ones(n, 2)
    assert pk.tangent_features(model, x).shape == (n, 1, 3)


def test_kernel_of_every_pair_of_models_differs():
    """The oracle comparison above could not pass with a wrong model: kernels do differ."""
    x = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    grams = [pk.gradient_kernel(make(), x) for make in (_mlp, _relu, _frozen)]
    assert all(not torch.allclose(a, b) for a, b in itertools.combinations(grams, 2))


def test_a_parameter_without_dimensions_is_a_feature_too():
    scaled = BY_NAME["scale outside a layer"]
    model, x = scaled.model(), scaled.data(4)
    found = pk.tangent_features(model, x)
    torch.testing.assert_close(found, oracles.jacobian(model, x))


def test_layers_that_are_not_apart_are_refused():
    class Loose(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))
            self.fc = nn.Linear(2, 1)

        def forward(self, x):
            return self.scale * self.fc(x)

    with pytest.raises(ValueError, match="came 'scale' outside of them"):
        pk.kernels_by_layer(Loose(), torch.ones(2, 2))
    assert list(pk.kernels_by_layer(nn.Sequential(Loose()), torch.ones(2, 2))) == ["0"]
    shared = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2))
    shared[2].weight = shared[0].weight
    with pytest.raises(ValueError, match=r"came '2\.weight' that is in layer '0' too"):
        pk.kernels_by_layer(shared, torch.ones(2, 2))


def test_a_bias_in_another_layer_than_its_weight_counts_there():
    class Apart(nn.Module):
        def __init__(self):
            super().__init__()
            self.matrix = nn.ParameterList([nn.Parameter(torch.randn(3, 5))])
            self.offset = nn.ParameterList([nn.Parameter(torch.randn(3))])

        def forward(self, x):
            return nn.functional.linear(x, self.matrix[0], self.offset[0])

    torch.manual_seed(0)
    x = torch.randn(4, 5)
    parts = pk.kernels_by_layer(Apart(), x)
    torch.testing.assert_close(parts["matrix"], 3 * x @ x.T)
    torch.testing.assert_close(parts["offset"], torch.full((4, 4), 3.0))
