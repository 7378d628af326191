"""Both sides of the formula: completeness, orders, and a second way to every contribution."""

import itertools
import math

import oracles
import pytest
import torch
from cases import BY_NAME
from small_problem import problem, smooth
from torch import nn

import pkbook as pk


def train(model, data, *, lr=0.1, size=5, steps=30, every=7, loss=pk.losses.squared, **options):
    sgd = torch.optim.SGD(model.parameters(), lr=lr, **options)
    run = pk.Trajectory(model, loss, sgd, data, every=every)
    for batch in pk.batches(len(data[0]), size=size, steps=steps, seed=2):
        run.step(batch)
    return run


OPTIONS = [
    {},
    {"momentum": 0.9},
    {"momentum": 0.8, "dampening": 0.3},
    {"momentum": 0.8, "nesterov": True},
    {"momentum": 0.7, "nesterov": True, "decay": 0.02},
    {"decay": 0.1},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_contributions_equal_those_carried_forward(options):
    """Backward recursion against forward per-sample momenta, written out by hand."""
    data, query = problem()
    theirs, decayed, end = oracles.forward_attribution(
        smooth(), pk.losses.squared, data, list(pk.batches(15, size=5, steps=20, seed=2)), query,
        lr=lambda k: 0.1, **options,
    )  # fmt: skip
    named = dict(options)
    if "decay" in named:
        named["weight_decay"] = named.pop("decay")
    run = train(smooth(), data, steps=20, **named)
    told = run.interpolate(query, nodes=4)
    torch.testing.assert_close(told.final, end(query).detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(told.contributions, theirs, rtol=1e-8, atol=1e-10)
    if "decay" in options:
        torch.testing.assert_close(told.other["weight decay"], decayed, rtol=1e-8, atol=1e-10)
    else:
        assert told.other == {}


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
@pytest.mark.parametrize(
    "options", [{}, {"momentum": 0.9}, {"weight_decay": 0.1}, {"lr": 0.01, "maximize": True}],
    ids=str,
)  # fmt: skip
def test_completeness_on_a_smooth_network(dtype, bound, options):
    data, query = problem(dtype)
    told = train(smooth(dtype), data, **options).interpolate(query, nodes=4)
    assert told.completeness.max() <= bound
    assert (told.change.norm(dim=1) > 1e-3).all()


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_completeness_on_the_smooth_mnist_network(dtype, bound):
    x, y = pk.data.mnist("train", per_class=4, dtype=dtype)
    query, _ = pk.data.mnist("test", per_class=1, classes=(3, 8), dtype=dtype)
    model = pk.models.mnist_cnn(activation="tanh", pool="average", dropout=0.0, seed=0).to(dtype)
    run = train(model, (x, y), loss=pk.losses.cross_entropy, lr=0.1, size=10, steps=15)
    told = run.interpolate(query, outputs=torch.tensor([3, 8]), nodes=4)
    assert told.completeness.max() <= bound


def test_completeness_on_the_mnist_network_with_kinks_and_dropout():
    x, y = pk.data.mnist("train", per_class=6)
    query, labels = pk.data.mnist("test", per_class=1, classes=(1, 4, 9))
    model = pk.models.mnist_cnn(seed=0)
    options = {"lr": 0.05, "momentum": 0.9, "size": 20, "steps": 15}
    run = train(model, (x, y), loss=pk.losses.cross_entropy, **options)
    rough = run.interpolate(query, outputs=labels, nodes=1, tolerance=None)
    told = run.interpolate(query, outputs=labels, nodes=1, tolerance=1e-3)
    assert told.completeness.max() <= 1e-3
    assert told.pieces.max() > 1
    assert told.completeness.max() < rough.completeness.max()
    gap = told.change - told.explained
    torch.testing.assert_close(gap, told.remainder, rtol=0, atol=1e-5)


def test_a_tolerance_out_of_reach_is_reported_as_remainder():
    x, y = pk.data.mnist("train", per_class=2)
    model = pk.models.mnist_cnn(seed=0)
    run = train(model, (x, y), loss=pk.losses.cross_entropy, lr=0.3, size=10, steps=6)
    with pytest.warns(UserWarning, match=r"tolerance 1e-09 was not reached for queries \[0\]"):
        told = run.interpolate(x[:1], outputs=0, nodes=1, tolerance=1e-9, most_pieces=3)
    assert not told.reached.any()
    assert told.completeness.max() > 1e-9
    assert told.pieces.max() == 3
    gap = told.change - told.explained
    torch.testing.assert_close(gap, told.remainder, rtol=0, atol=1e-5)


def _orders(rule, nodes, rates):
    data, query = problem(outputs=1)
    gaps = []
    for rate in rates:
        run = train(smooth(outputs=1), data, lr=rate, size=None, steps=round(1.6 / rate), every=20)
        told = run.interpolate(query, rule=rule, nodes=nodes, tolerance=None)
        gaps.append((told.change - told.explained).abs().max().item())
    return [math.log(a / b) / math.log(2) for a, b in itertools.pairwise(gaps)]


@pytest.mark.parametrize(
    ("rule", "nodes", "order", "rate", "within"),
    [("riemann", 1, 1, 0.04, 0.1), ("gauss", 1, 2, 0.1, 0.25), ("gauss", 2, 4, 0.2, 0.25)],
)
def test_order_of_the_remainder(rule, nodes, order, rate, within):
    """Halving the learning rate at fixed T; the rates keep the gap above float64 rounding."""
    slopes = _orders(rule, nodes, (rate, rate / 2, rate / 4))
    assert slopes[-1] == pytest.approx(order, abs=within)


def test_linear_model_has_the_closed_form():
    r"""f is linear in theta, so K is constant and the residual is (I - eta K / N)^k r_0."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8, 3, generator=generator).double()
    y = torch.randn(8, 1, generator=generator).double()
    query = torch.randn(2, 3, generator=generator).double()
    model = nn.Linear(3, 1).double()
    residual = (model(x) - y).detach()
    k, kq = x @ x.T + 1, query @ x.T + 1
    wanted = torch.zeros(8, 2).double()
    for _ in range(25):
        wanted -= 0.1 / 8 * kq.T * residual
        residual = residual - 0.1 / 8 * k @ residual
    run = train(model, (x, y), size=None, steps=25)
    for options in ({"rule": "riemann"}, {"nodes": 1}, {"nodes": 3}):
        told = run.interpolate(query, **options)
        torch.testing.assert_close(told.contributions[:, :, 0], wanted)
    torch.testing.assert_close(run.path_kernel(query, x), 25 * 0.1 * kq)


def test_path_kernel_is_the_sum_of_naive_kernels():
    data, query = problem()
    run = train(smooth(), data, steps=6, every=4)
    wanted = sum(
        0.1 * oracles.kernel(run.model_at(k), query, data[0]).diagonal(dim1=2, dim2=3).sum(2)
        for k in range(6)
    )
    torch.testing.assert_close(run.path_kernel(query, data[0]), wanted)


def test_riemann_rule_is_the_kernel_sum_of_the_theorem():
    r"""c_i = -sum_k eta/B l'_i K(x, x_i) at theta_k, from naive kernels."""
    data, query = problem()
    run = train(smooth(), data, steps=8)
    wanted = torch.zeros(15, 3, 2).double()
    for k, step in enumerate(run.store.steps):
        model, batch = run.model_at(k), step.batch
        sensitivity = (model(data[0][batch]) - data[1][batch]).detach()
        block = oracles.kernel(model, query, data[0][batch])
        wanted[batch] -= 0.1 / 5 * torch.einsum("mbcd,bd->bmc", block, sensitivity)
    told = run.interpolate(query, rule="riemann")
    torch.testing.assert_close(told.contributions, wanted)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_scalar_loss_is_used_as_it_is(reduction):
    data, query = problem()
    loss = nn.MSELoss(reduction=reduction)
    told = train(smooth(), data, lr=0.02, loss=loss).interpolate(query, nodes=4)
    assert told.completeness.max() <= 1e-9


def test_parameter_groups_frozen_layers_and_unused_parameters():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(2, 6), nn.Linear(6, 6), nn.Linear(6, 2)
            self.unused = nn.Parameter(torch.ones(3))
            self.b.weight.requires_grad_(False)

        def forward(self, x):
            return self.c(torch.tanh(self.b(torch.tanh(self.a(x)))))

    data, query = problem()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Odd().double()
    groups = [
        {"params": model.a.parameters(), "lr": 0.2},
        {"params": [model.unused, *model.c.parameters()], "momentum": 0.8, "weight_decay": 0.1},
    ]
    sgd = torch.optim.SGD(groups, lr=0.05)  # b.bias is in no group: it never moves
    run = pk.Trajectory(model, pk.losses.squared, sgd, data, every=6)
    bias = model.b.bias.detach().clone()
    for batch in pk.batches(15, size=5, steps=20):
        run.step(batch)
    assert torch.equal(model.b.bias, bias)
    told = run.interpolate(query, nodes=4)
    assert told.completeness.max() <= 1e-9
    assert list(told.other) == ["weight decay"]


def test_momentum_that_was_there_before_is_a_term_of_its_own():
    data, query = problem()
    model = smooth()
    sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    pk.losses.squared(model(data[0]), data[1]).mean().backward()
    sgd.step()
    run = pk.Trajectory(model, pk.losses.squared, sgd, data, every=4)
    for batch in pk.batches(15, size=5, steps=10):
        run.step(batch)
    told = run.interpolate(query, nodes=5)
    assert told.completeness.max() <= 1e-9
    assert told.other["initial momentum"].abs().min() > 1e-3


@pytest.mark.parametrize("schedule", ["constant", "step", "cosine", "one cycle"])
def test_any_schedule(schedule):
    data, query = problem()
    model = smooth()
    sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
    s = torch.optim.lr_scheduler
    scheduler = {
        "constant": lambda: None,
        "step": lambda: s.StepLR(sgd, 10, 0.3),
        "cosine": lambda: s.CosineAnnealingLR(sgd, 30),
        "one cycle": lambda: s.OneCycleLR(sgd, 0.2, total_steps=31),
    }[schedule]()
    run = pk.Trajectory(model, pk.losses.squared, sgd, data)
    for batch in pk.batches(15, size=5, steps=30):
        run.step(batch)
        if scheduler:
            scheduler.step()
    assert run.interpolate(query, nodes=5).completeness.max() <= 1e-9


def test_views_of_the_result_agree():
    data, query = problem()
    told = train(smooth(), data).interpolate(query)
    torch.testing.assert_close(told.by_time.sum(0), told.contributions.sum(0))
    again = torch.zeros_like(told.contributions)
    for batch, values in told.by_step:
        again.index_add_(0, batch, values)
    torch.testing.assert_close(again, told.contributions)
    order, values = told.top(4, query=1, output=1)
    column = told.contributions[:, 1, 1]
    assert torch.equal(values, column[order])
    assert values.abs().min() >= column.abs().sort(descending=True).values[4:].max()
    assert len(told.top(99)[0]) == 15


def test_all_outputs_and_chosen_outputs_agree():
    data, query = problem()
    run = train(smooth(), data)
    every = run.interpolate(query)
    chosen = run.interpolate(query, outputs=torch.tensor([1, 0, 1]))
    for m, c in enumerate((1, 0, 1)):
        torch.testing.assert_close(chosen.contributions[:, m, 0], every.contributions[:, m, c])
        assert chosen.final[m, 0] == every.final[m, c]


def test_checkpoint_spacing_does_not_matter():
    data, query = problem()
    told = [train(smooth(), data, every=e).interpolate(query) for e in (1, 4, 100)]
    for other in told[1:]:
        assert torch.equal(other.contributions, told[0].contributions)


def test_completeness_sees_a_bias_of_five_percent():
    data, query = problem()
    told = train(smooth(), data).interpolate(query, nodes=4)
    assert told.completeness.max() <= 1e-9
    told.contributions[:] *= 1.05
    assert told.completeness.min() > 0.04


def test_a_query_that_did_not_change_is_complete():
    data, query = problem()
    run = train(smooth(), data, lr=0.0)
    assert torch.equal(run.interpolate(query).completeness, torch.zeros(3).double())


def test_a_path_drawn_at_random_in_training_is_followed():
    class Skipping(nn.Module):
        """Stochastic depth: in training the middle layer is left out at random."""

        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(2, 6), nn.Linear(6, 6), nn.Linear(6, 2)

        def forward(self, x):
            h = torch.tanh(self.a(x))
            if not self.training or torch.rand(()) < 0.5:
                h = torch.tanh(self.b(h))
            return self.c(h)

    data, query = problem()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Skipping().double()
    told = train(model, data).interpolate(query, nodes=4)
    assert told.completeness.max() <= 1e-9


def test_each_query_is_refined_by_itself(monkeypatch):
    """Together, and with nothing kept in memory, every query gets what it gets alone."""
    x, y = pk.data.mnist("train", per_class=2)
    model = pk.models.mnist_cnn(seed=0)
    run = train(model, (x, y), loss=pk.losses.cross_entropy, lr=0.1, size=10, steps=2)
    query, _ = pk.data.mnist("test", per_class=1, classes=(1, 4, 9))
    ask = {"outputs": 4, "nodes": 1, "most_pieces": 128}
    together = run.interpolate(query, **ask)
    monkeypatch.setattr("pkbook.interpolation.quadrature.HELD", 1)
    frugal = run.interpolate(query, **ask)
    torch.testing.assert_close(frugal.contributions, together.contributions)
    for i in range(3):
        alone = run.interpolate(query[i : i + 1], **ask)
        wanted = together.contributions[:, i : i + 1]
        torch.testing.assert_close(alone.contributions, wanted, rtol=1e-3, atol=1e-6)
        # Rounding, which depends on the batch, may decide on one split.
        assert (alone.pieces <= together.pieces + 2).all()


def test_a_parameter_without_dimensions_is_trained_and_told():
    scaled = BY_NAME["scale outside a layer"]
    model, x = scaled.model(), scaled.data(6)
    run = train(model, (x, torch.zeros(6, 2, dtype=x.dtype)), lr=0.05, size=3, steps=6)
    told = run.interpolate(scaled.data(2, seed=1), layers=True)
    assert told.completeness.max() < 1e-9
    assert told.by_parameter["shift"].abs().max() > 0
