"""Kernels, spans and ranks in the geometry of a step: dense linear algebra and hand-written rules.

A step of RMSprop or Adam leaves the span of the training features, and no statement about
SGD's may be read as one about theirs.
"""

import pytest
import torch
from torch import nn

import pkbook as pk
from pkbook.function_space.diagnostics import numerical_rank, outside_span, rank_gap, tangent_matrix
from pkbook.kernels import feature_norms
from pkbook.lab.experiments import step_span
from pkbook.runs import step_weight


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def network(outputs=2):
    return pk.models.mlp(3, 5, 4, outputs, activation="tanh", seed=1).double()


def some_weight(model, spread=3.0):
    """Positive, over several orders of magnitude."""
    return {
        name: (spread * torch.randn(p.shape, generator=seeded(i), dtype=p.dtype)).exp()
        for i, (name, p) in enumerate(model.named_parameters())
    }


def flat(weight):
    return torch.cat([w.flatten() for w in weight.values()])


def points(n, seed):
    return torch.randn(n, 3, generator=seeded(seed), dtype=torch.float64)


@pytest.mark.parametrize("outputs", [1, 3])
def test_weighted_share_is_what_qr_of_the_scaled_features_leaves(outputs):
    model, x, other = network(outputs), points(4, 0), points(5, 1)
    weight = some_weight(model)
    root = flat(weight).sqrt()
    train = pk.tangent_features(model, x).detach().flatten(0, 1) * root
    asked = pk.tangent_features(model, other).detach() * root
    q, _ = torch.linalg.qr(train.T)
    left = asked - asked @ q @ q.T
    expected = left.square().sum((1, 2)) / asked.square().sum((1, 2))
    got = outside_span(model, x, other, weight=weight)
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-9)
    assert 1e-4 < expected.min()
    plain = outside_span(model, x, other)
    assert (plain - got).abs().max() > 1e-3  # the weight matters
    torch.testing.assert_close(
        plain,
        outside_span(
            pk.gradient_kernel(model, x, reduce="full"),
            pk.gradient_kernel(model, other, x, reduce="full"),
            feature_norms(model, other).square(),
        ),
    )


def test_a_singular_kernel_has_a_share_as_the_solution_by_the_pseudo_inverse():
    """Samples twice over, and a formula with the inverse would fail."""
    model, x, other = network(1), points(4, 0), points(3, 1)
    weight = some_weight(model)
    twice = torch.cat([x, x[:2]])
    k = pk.weighted_kernel(model, twice, weight=weight)
    assert numerical_rank(k, 1e-10).value == 4
    cross = pk.weighted_kernel(model, other, twice, weight=weight)
    own = pk.weighted_kernel(model, other, weight=weight).diagonal()
    inverse = torch.linalg.pinv(k, rtol=1e-11, hermitian=True)
    expected = 1 - (cross @ inverse * cross).sum(1) / own
    torch.testing.assert_close(outside_span(model, twice, other, weight=weight), expected)
    torch.testing.assert_close(
        outside_span(model, x, other, weight=weight), expected, rtol=1e-6, atol=1e-9
    )


def test_a_scalar_weight_changes_nothing_and_blocks_bring_theirs_along():
    model, x, other = network(), points(4, 0), points(3, 1)
    weight = {name: 7.5 for name, _ in model.named_parameters()}
    plain = outside_span(model, x, other)
    torch.testing.assert_close(outside_span(model, x, other, weight=weight), plain)
    blocks = (
        pk.gradient_kernel(model, x, reduce="full"),
        pk.gradient_kernel(model, other, x, reduce="full"),
        feature_norms(model, other).square(),
    )
    with pytest.raises(ValueError, match="weight must come with a model"):
        outside_span(*blocks, weight=weight)
    with pytest.raises(ValueError, match="weight must be a dict with one entry per"):
        outside_span(model, x, other, weight={"fc1.weight": 1.0})


@pytest.mark.parametrize("kind", ["mlp", "cnn", "embedding"])
def test_weighted_lengths_are_the_diagonal_of_the_weighted_kernel(kind):
    if kind == "mlp":
        model, x = network(), points(6, 2)
    elif kind == "cnn":
        model = pk.models.mnist_cnn(classes=3, seed=0).double().eval()
        x = torch.rand(3, 1, 28, 28, generator=seeded(0), dtype=torch.float64)
    else:
        model = nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(6, 2)).double()
        x = torch.randint(5, (4, 2), generator=seeded(0))
    weight = some_weight(model)
    phi = pk.tangent_features(model, x).detach()
    expected = (phi.square() @ flat(weight)).sum(1).sqrt()
    torch.testing.assert_close(feature_norms(model, x, weight=weight), expected)
    halves = {name: 0.5 for name in weight}
    plain = feature_norms(model, x)
    torch.testing.assert_close(feature_norms(model, x, weight=halves), plain * 0.5**0.5)
    unit = nn.functional.normalize((phi * flat(weight).sqrt()).flatten(1), dim=1)
    cosines = pk.normalised_kernel(model, x, weight=weight)
    torch.testing.assert_close(cosines, unit @ unit.T, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(
        pk.normalised_kernel(model, x[:2], x, weight=weight), cosines[:2], rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize("via", ["features", "kernel"])
def test_rank_gap_of_scaled_features_and_that_no_weight_changes_its_count(via):
    model, x, other = network(1), points(3, 0), points(4, 1)
    weight = some_weight(model, 1.0)
    found = rank_gap(model, x, other, weight=weight, via=via)
    both = tangent_matrix(model, torch.cat([x, other])).detach() * flat(weight).sqrt()[:, None]
    values = torch.linalg.svdvals(both)
    torch.testing.assert_close(found.mixture.singular_values, values, rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(
        found.training.singular_values, torch.linalg.svdvals(both[:, :3]), rtol=1e-5, atol=1e-8
    )
    assert found.value == rank_gap(model, x, other, via=via).value == 4


MAKERS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1),
    "Nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.01, alpha=0.9),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.8, 0.95)),
}


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("clip", [None, 0.02])
def test_the_weight_of_a_recorded_step_is_the_derivative_of_the_step(name, clip):
    """The gradient of the last step is changed a little, with the same memories of squares."""
    model, x = network(), points(6, 0)
    y = points(6, 3)[:, :2]
    options = {} if clip is None else {"clip_value": clip}
    run = pk.Trajectory(
        model, pk.losses.squared, MAKERS[name](model.parameters()), (x, y), every=2, **options
    )
    draws = list(pk.batches(6, size=3, steps=5, seed=0))
    for chosen in draws:
        run.step(chosen)
    for k in (0, 2, 4):
        here = run.model_at(k)
        loss = pk.losses.squared(here(x[draws[k]]), y[draws[k]]).mean()
        g = torch.autograd.grad(loss, list(here.parameters()))
        g = {n: v for (n, _), v in zip(here.named_parameters(), g, strict=True)}
        own = {n: w * v for (n, w), v in zip(run.weight(k).items(), g.values(), strict=True)}
        step = {n: run.parameters(k)[n] - run.parameters(k + 1)[n] for n in own}
        if name in ("SGD", "RMSprop") or k == 0:  # no memory of gradients, or an empty one
            for n in own:
                torch.testing.assert_close(own[n], step[n], rtol=1e-6, atol=1e-12)
        else:
            assert any((own[n] - step[n]).abs().max() > 1e-5 for n in own)
    if clip is None:
        for n, w in step_weight(model, run.optimizer).items():
            torch.testing.assert_close(run.weight(-1)[n], w)


def test_adams_weight_is_that_of_the_paper():
    model, x = network(), points(6, 0)
    optimizer = MAKERS["Adam"](model.parameters())
    squares = [torch.zeros_like(p) for p in model.parameters()]
    for _ in range(3):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        squares = [
            0.95 * v + 0.05 * p.grad.square()
            for v, p in zip(squares, model.parameters(), strict=True)
        ]
        optimizer.step()
    for (name, w), v in zip(step_weight(model, optimizer).items(), squares, strict=True):
        root = (v / (1 - 0.95**3)).sqrt() + 1e-8
        torch.testing.assert_close(w, 0.01 * 0.2 / (1 - 0.8**3) / root, msg=name)


def test_weights_of_no_step_are_refused():
    model = network()
    with pytest.raises(ValueError, match="must have made a step"):
        step_weight(model, torch.optim.Adam(model.parameters()))
    with pytest.raises(ValueError, match="moves none of them"):
        step_weight(model, torch.optim.SGD(network().parameters(), lr=0.1))
    with pytest.raises(TypeError, match="LBFGS cannot be taken apart"):
        step_weight(model, torch.optim.LBFGS(model.parameters()))
    run = pk.Trajectory(
        model,
        pk.losses.squared,
        MAKERS["SGD"](model.parameters()),
        (points(4, 0), points(4, 1)[:, :2]),
    )
    with pytest.raises(ValueError, match="k must be one of the 0 steps made"):
        run.weight(0)
    with pytest.raises(TypeError, match="k must be an int"):
        run.weight(1.0)


def test_a_parameter_that_the_optimizer_leaves_alone_has_weight_zero():
    model, x = network(), points(4, 0)
    optimizer = torch.optim.Adam(model.fc2.parameters(), lr=0.1)
    model(x).square().mean().backward()
    optimizer.step()
    weight = step_weight(model, optimizer)
    assert [n for n, w in weight.items() if w.any()] == ["fc2.weight", "fc2.bias"]
    weight["fc2.bias"].zero_()  # a copy: the optimizer keeps its own
    assert step_weight(model, optimizer)["fc2.bias"].all()


# ---- what a step can do --------------------------------------------------------------------


def ends(make, steps=3000):
    """One sample x=(1,2), y=3 of f = theta . x; the prediction at (2,-1), where K is zero."""
    line = nn.Linear(2, 1, bias=False).double()
    nn.init.zeros_(line.weight)
    optimizer, query = make(line.parameters()), torch.tensor([[2.0, -1.0]]).double()
    for _ in range(steps):
        optimizer.zero_grad()
        ((line(torch.tensor([[1.0, 2.0]]).double()) - 3) ** 2 / 2).sum().backward()
        optimizer.step()
    return line(query).item()


def test_a_zero_kernel_protects_from_sgd_and_not_from_rmsprop_and_adam():
    assert ends(lambda p: torch.optim.SGD(p, lr=0.05)) == 0
    assert ends(lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9)) == 0
    assert ends(lambda p: torch.optim.RMSprop(p, lr=1e-3)) == pytest.approx(1.0, abs=0.005)
    assert ends(lambda p: torch.optim.Adam(p, lr=1e-3)) == pytest.approx(1.0, abs=0.005)


def test_a_query_at_right_angles_in_the_steps_geometry_is_not_moved():
    """At right angles in the plain geometry it is; first order, by RMSprop."""
    line, x = nn.Linear(2, 1, bias=False).double(), torch.tensor([[1.0, 2.0]]).double()
    nn.init.zeros_(line.weight)
    run = pk.Trajectory(
        line, pk.losses.squared, torch.optim.RMSprop(line.parameters(), lr=0.01), (x, x[:, :1] + 2)
    )
    for _ in range(3):
        run.step([0])
    weight = run.weight(-1)["weight"][0]
    step = (run.parameters(3)["weight"] - run.parameters(2)["weight"])[0]
    free = torch.tensor([2.0, -1.0]).double() / weight  # D-orthogonal to x, as 2 d1/d1 - 2 d2/d2
    plain = torch.tensor([2.0, -1.0]).double()
    assert abs(free @ step) < 1e-12 * free.norm() * step.norm()
    assert abs(plain @ step) > 0.1 * step.norm()
    share = outside_span(line, x, torch.stack([free, plain]), weight=run.weight(-1))
    assert share[0] == pytest.approx(1, abs=1e-9)
    assert share[1] < 0.99
    assert outside_span(line, x, plain[None]).item() == pytest.approx(1)


@pytest.mark.parametrize("seed", [3, 4])
def test_steps_apart_by_dense_projections(seed):
    """QR of D^(1/2) Phi in place of eigenvectors of the kernel, and the bounds of the chapter."""
    config = step_span.Config(per_class=4, held_out=3, width=6, looks=(8,), seeds=(seed,))
    x, _, other = step_span.pictures(config, seed)
    found = step_span.run(config)
    for place, name in enumerate(step_span.OPTIMIZERS):
        ((model, step, weight),) = step_span.steps(config, name, seed)
        delta, d = flat(step), flat(weight)
        train, asked = (pk.tangent_features(model, z).detach().flatten(0, 1) for z in (x, other))
        for g, diagonal in enumerate((torch.ones_like(d), d)):
            root = diagonal.sqrt()
            u, s, _ = torch.linalg.svd((train * root).T, full_matrices=False)
            u = u[:, s > 1e-6 * s[0]]
            scaled = delta / root
            left = scaled - u @ (u.T @ scaled)
            expected = (left.norm() / scaled.norm()).item()
            assert found.length[0, place, 0, g].item() == pytest.approx(expected, abs=1e-5)
            through = asked @ (left * root)
            expected = (through.norm() / (asked @ delta).norm()).item()
            assert found.move[0, place, 0, g].item() == pytest.approx(expected, abs=1e-5)
        share = outside_span(model, x, other, weight=weight)
        own = feature_norms(model, other, weight=weight).square()
        mean = (share * own).sum() / own.sum()
        assert found.share[0, place, 0, 1].item() == pytest.approx(mean.item(), abs=1e-6)
    length, move = found.length[0, :, 0], found.move[0, :, 0]
    assert length[0].max() < 1e-5  # SGD
    assert length[2:, 0].min() > 0.2  # RMSprop and Adam leave the plain span
    assert length[2, 1] < 1e-5  # and RMSprop stays in its own
    assert move[2:, 0].min() > 0.003


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"per_class": 0}, "per_class must be at least 1"),
        ({"looks": (0,)}, "looks must hold steps from 1 on"),
        ({"tolerance": 1.0}, "tolerance must be a positive number below 1"),
        ({"seeds": ()}, "seeds must hold at least one"),
    ],
)
def test_settings_that_make_no_sense_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        step_span.Config(**change)
