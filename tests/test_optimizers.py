"""Every optimizer and option: contributions against a second way to them, and completeness."""

import itertools
import math

import pytest
import torch
from optimizer_oracle import forward_contributions
from small_problem import problem, smooth
from torch import nn

import pkbook as pk

TABLE = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.05, "momentum": 0.9}),
    ("SGD", {"lr": 0.1, "momentum": 0.8, "dampening": 0.3}),
    ("SGD", {"lr": 0.05, "momentum": 0.7, "nesterov": True, "weight_decay": 0.02}),
    ("SGD", {"lr": 0.01, "maximize": True}),
    ("RMSprop", {"lr": 0.005}),
    ("RMSprop", {"lr": 0.002, "momentum": 0.8, "weight_decay": 0.1}),
    ("RMSprop", {"lr": 0.002, "centered": True, "alpha": 0.9}),
    ("RMSprop", {"lr": 0.002, "centered": True, "momentum": 0.5, "eps": 1e-3, "maximize": True}),
    ("Adagrad", {"lr": 0.02}),
    ("Adagrad", {"lr": 0.02, "lr_decay": 0.1, "weight_decay": 0.1}),
    ("Adam", {"lr": 0.01}),
    ("Adam", {"lr": 0.01, "betas": (0.5, 0.9), "weight_decay": 0.1}),
    ("Adam", {"lr": 0.01, "amsgrad": True, "maximize": True}),
    ("AdamW", {"lr": 0.01}),
    ("AdamW", {"lr": 0.01, "amsgrad": True, "weight_decay": 0.5}),
    ("NAdam", {"lr": 0.01}),
    ("NAdam", {"lr": 0.01, "weight_decay": 0.1, "momentum_decay": 0.1}),
    ("NAdam", {"lr": 0.01, "weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("RAdam", {"lr": 0.02}),
    ("RAdam", {"lr": 0.02, "weight_decay": 0.1}),
    ("RAdam", {"lr": 0.02, "betas": (0.9, 0.99), "weight_decay": 0.1,
               "decoupled_weight_decay": True}),
]  # fmt: skip
IDS = [f"{name} {options}" for name, options in TABLE]


def batches(steps=12):
    return pk.batches(15, size=5, steps=steps, seed=2)


def record(model, optimizer, data, steps=12, loss=pk.losses.squared, every=7, **more):
    run = pk.Trajectory(model, loss, optimizer, data, every=every, **more)
    for batch in batches(steps):
        run.step(batch)
    return run


def optimizer_of(name, options, model):
    return getattr(torch.optim, name)(model.parameters(), **options)


@pytest.mark.parametrize(("name", "options"), TABLE, ids=IDS)
def test_contributions_equal_those_carried_forward(name, options):
    data, query = problem()
    theirs, decayed, end = forward_contributions(
        name, options, smooth(), pk.losses.squared, data, list(batches()), query
    )
    model = smooth()
    run = record(model, optimizer_of(name, options, model), data)
    told = run.interpolate(query, nodes=5, tolerance=1e-11)
    # (torch keeps NAdam's product of momenta in float32.)
    close = 1e-8 if name == "NAdam" else 1e-10
    torch.testing.assert_close(told.final, end(query).detach(), rtol=close, atol=close)
    torch.testing.assert_close(told.contributions, theirs, rtol=1e-7, atol=1e-9)
    own = told.other.get("weight decay", torch.zeros_like(decayed))
    torch.testing.assert_close(own, decayed, rtol=1e-7, atol=1e-9)
    chosen = run.interpolate(query, outputs=torch.tensor([1, 0, 1]), nodes=5, tolerance=1e-11)
    wanted = theirs.gather(2, torch.tensor([1, 0, 1]).expand(15, 3)[:, :, None])
    torch.testing.assert_close(chosen.contributions, wanted, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
@pytest.mark.parametrize(("name", "options"), TABLE, ids=IDS)
def test_completeness_on_a_smooth_network(name, options, dtype, bound):
    data, query = problem(dtype)
    model = smooth(dtype)
    told = record(model, optimizer_of(name, options, model), data).interpolate(
        query, nodes=3, tolerance=bound / 10
    )
    assert told.completeness.max() <= bound
    assert told.change.norm(dim=1).min() > 1e-3


@pytest.fixture(scope="module")
def digits():
    x, y = pk.data.mnist("train", per_class=2, dtype=torch.float64)
    query, _ = pk.data.mnist("test", per_class=1, classes=(3, 8), dtype=torch.float64)
    return (x, y), query


@pytest.mark.parametrize(
    ("name", "options", "dtype", "bound"),
    [
        *((*row, torch.float64, 1e-9) for row in TABLE),
        *((*TABLE[k], torch.float32, 1e-4) for k in (0, 1, 11)),
    ],
    ids=[*IDS, *(f"{IDS[k]}, float32" for k in (0, 1, 11))],
)
def test_completeness_on_the_smooth_mnist_network(name, options, dtype, bound, digits):
    (x, y), query = digits
    model = pk.models.mnist_cnn(activation="tanh", pool="average", dropout=0.0, seed=0).to(dtype)
    # A tenth of the rate: per-entry scales move all 98,442 entries by the rate at once.
    # RMSprop's first step is ten times its rate, so that its path bends ten times as much.
    shrunk = {"SGD": 1.0, "RMSprop": 0.02}.get(name, 0.1)
    options = options | {"lr": options["lr"] * shrunk}
    run = pk.Trajectory(
        model, pk.losses.cross_entropy, optimizer_of(name, options, model), (x.to(dtype), y)
    )
    for batch in pk.batches(len(x), size=10, steps=4, seed=1):
        run.step(batch)
    told = run.interpolate(query.to(dtype), tolerance=bound)  # all logits: one alone may not move
    assert told.completeness.max() <= bound


def _gap(name, nodes, rate):
    (x, y), query = problem(outputs=1)
    model = smooth(outputs=1)
    options = {
        "SGD": {"momentum": 0.5},
        "Adam": {"betas": (0.5, 1 - rate / 2), "eps": 0.1},
        "RMSprop": {"alpha": 1 - rate / 2, "eps": 0.1},
    }[name]
    optimizer = optimizer_of(name, options | {"lr": rate}, model)
    run = pk.Trajectory(model, pk.losses.squared, optimizer, (x, 5 * y), every=20)
    for batch in pk.batches(15, size=None, steps=round(1.6 / rate)):
        run.step(batch)
    told = run.interpolate(query, nodes=nodes, tolerance=None)
    return (told.change - told.explained).abs().max().item()


@pytest.mark.parametrize("nodes", [1, 2, 3])
@pytest.mark.parametrize(
    ("name", "rate"), [("SGD", 0.1), ("Adam", 0.05), ("RMSprop", 0.05)]
)  # fmt: skip
def test_order_of_the_remainder(name, rate, nodes):
    """Halving the rate at a fixed time of 1.6 leaves 2**(-2 nodes) of the gap.

    The rates are large enough for six orders to stay above float64 rounding.
    """
    slope = math.log2(_gap(name, nodes, rate) / _gap(name, nodes, rate / 2))
    assert slope == pytest.approx(2 * nodes, abs=0.5)


CLIPS = {
    "clip_norm": lambda c: lambda g: min(1.0, c / (g.norm() + 1e-6)),
    "clip_value": lambda c: lambda g: torch.where(g == 0, 1.0, g.clamp(-c, c) / g),
}


@pytest.mark.parametrize("kind", CLIPS)
@pytest.mark.parametrize(("name", "options"), [TABLE[0], TABLE[3], TABLE[12]], ids=str)
def test_clipping_is_a_factor_of_the_gradient(kind, name, options):
    data, query = problem()
    bound = {"clip_norm": 0.3, "clip_value": 0.05}[kind]
    theirs, decayed, _ = forward_contributions(
        name, options, smooth(), pk.losses.squared, data, list(batches()), query,
        clip=CLIPS[kind](bound),
    )  # fmt: skip
    model = smooth()
    run = record(model, optimizer_of(name, options, model), data, **{kind: bound})
    told = run.interpolate(query, nodes=5, tolerance=1e-11, layers=True, entries=["fc1.weight"])
    torch.testing.assert_close(told.contributions, theirs, rtol=1e-7, atol=1e-9)
    if options.get("weight_decay"):
        torch.testing.assert_close(told.other["weight decay"], decayed, rtol=1e-7, atol=1e-9)
    entries = told.entries["fc1.weight"].sum((2, 3))
    torch.testing.assert_close(entries, told.by_parameter["fc1.weight"].sum(0))
    plain = smooth()
    loose = record(plain, optimizer_of(name, options, plain), data, **{kind: 1e6})
    assert not torch.equal(loose.model(query), run.model(query))  # it does clip


@pytest.mark.parametrize(("name", "options"), TABLE, ids=IDS)
def test_parts_by_layer_and_by_entry_add_up(name, options):
    data, query = problem()
    model = smooth()
    run = record(model, optimizer_of(name, options, model), data, steps=10)
    told = run.interpolate(query, layers=True, entries=["fc1.weight", "fc2.bias"])
    torch.testing.assert_close(sum(told.by_parameter.values()), told.contributions)
    for key, value in told.entries.items():
        total = told.by_parameter[key].sum(0)
        assert value.shape == (3, 2, *dict(model.named_parameters())[key].shape)
        torch.testing.assert_close(value.flatten(2).sum(2), total)


def test_accumulated_gradients_are_the_mean_over_micro_batches():
    data, query = problem()
    model, plain = smooth(), smooth()
    run = pk.Trajectory(model, pk.losses.squared, optimizer_of(*TABLE[11], model), data, every=3)
    adam = optimizer_of(*TABLE[11], plain)
    for whole in batches(9):
        parts = [whole[:2], whole[2:].tolist()]
        run.step(parts)
        adam.zero_grad()
        for part in parts:
            (pk.losses.squared(plain(data[0][part]), data[1][part]).mean() / 2).backward()
        adam.step()
    for a, b in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    told = run.interpolate(query, nodes=5)
    assert told.completeness.max() <= 1e-9


def test_equal_micro_batches_make_the_same_contributions_as_their_union():
    data, query = problem()
    told = []
    for split in (False, True):
        model = smooth()
        run = pk.Trajectory(model, pk.losses.squared, optimizer_of(*TABLE[1], model), data)
        for whole in pk.batches(15, size=6, steps=8, seed=3):
            run.step([whole[:2], whole[2:4], whole[4:]] if split else whole)
        told.append(run.interpolate(query).contributions)
    torch.testing.assert_close(*told)


def _normalising(kind):
    """No bias before the statistics: its gradient is rounding, and Adam would magnify it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Linear(2, 6, bias=False), kind(6), nn.Tanh(), nn.Dropout(0.3), nn.Linear(6, 2)
        ).double()


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(("name", "options"), [TABLE[1], TABLE[11]], ids=str)
def test_batch_statistics_and_dropout(name, options, affine):
    """BatchNorm in train mode: running statistics are a term of their own, the sum closes."""
    data, query = problem()
    model = _normalising(lambda n: nn.BatchNorm1d(n, affine=affine))
    run = record(model.train(), optimizer_of(name, options, model), data)
    told = run.interpolate(query, nodes=5, tolerance=1e-10)
    assert told.completeness.max() <= 1e-9
    assert told.other["running statistics"].abs().max() > 1e-3
    torch.testing.assert_close(told.remainder, told.change - told.explained, rtol=0, atol=1e-9)


def test_a_sample_in_batch_statistics_answers_for_its_own_loss():
    """One step of SGD against the derivative of each sample's own loss, statistics and all."""
    data, query = problem()
    model = _normalising(lambda n: nn.BatchNorm1d(n, affine=False))
    model[3].p = 0.0
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    statistics = {n: b.clone() for n, b in model.named_buffers()}
    run = pk.Trajectory(model.train(), pk.losses.squared, optimizer_of(*TABLE[0], model), data)
    run.step([0, 3, 4, 9])
    told = run.interpolate(query, nodes=12)
    delta = {n: p.detach() - before[n] for n, p in model.named_parameters()}
    phi = {n: torch.zeros(3, 2, *p.shape).double() for n, p in before.items()}
    for t in range(200):  # the midpoint rule, many points
        at = {n: before[n] + (t + 0.5) / 200 * delta[n] for n in before}
        here = _normalising(lambda n: nn.BatchNorm1d(n, affine=False)).eval()
        here.load_state_dict(at | statistics)
        f = here(query)
        for m, c in itertools.product(range(3), range(2)):
            grads = torch.autograd.grad(f[m, c], here.parameters(), retain_graph=True)
            for n, g in zip(before, grads, strict=True):
                phi[n][m, c] += g / 200
    here = _normalising(lambda n: nn.BatchNorm1d(n, affine=False)).train()
    here[3].p = 0.0
    here.load_state_dict(before | statistics)
    batch = [0, 3, 4, 9]
    losses = pk.losses.squared(here(data[0][batch]), data[1][batch]) / 4
    for i, value in zip(batch, losses, strict=True):
        grads = torch.autograd.grad(value, here.parameters(), retain_graph=True)
        wanted = -0.1 * sum(
            (phi[n] * g).flatten(2).sum(2) for n, g in zip(before, grads, strict=True)
        )
        torch.testing.assert_close(told.contributions[i], wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_weighted_losses_and_frozen_layers_under_adam(reduction):
    data, query = problem()
    y = (data[1][:, 0] > 0).long()
    loss = nn.CrossEntropyLoss(torch.tensor([1.0, 3.0]).double(), reduction=reduction)
    model = smooth()
    model.fc1.requires_grad_(False)
    run = record(model, optimizer_of(*TABLE[11], model), (data[0], y), loss=loss)
    assert run.interpolate(query, nodes=5).completeness.max() <= 1e-9


def test_groups_with_their_own_options_and_a_schedule():
    data, query = problem()
    model = smooth()
    groups = [
        {"params": model.fc1.parameters(), "lr": 0.03, "betas": (0.5, 0.9)},
        {"params": [p for n, p in model.named_parameters() if "fc1" not in n], "amsgrad": True},
    ]
    adam = torch.optim.AdamW(groups, lr=0.01, weight_decay=0.2)
    cycle = torch.optim.lr_scheduler.OneCycleLR(adam, [0.03, 0.01], total_steps=21)
    run = record(model, adam, data, scheduler=cycle)
    told = run.interpolate(query, nodes=5)
    assert told.completeness.max() <= 1e-9
    assert list(told.other) == ["weight decay"]


def test_a_memory_that_was_there_before_is_a_term_of_its_own():
    data, query = problem()
    model = smooth()
    adam = optimizer_of(*TABLE[11], model)
    for _ in range(3):
        adam.zero_grad()
        pk.losses.squared(model(data[0]), data[1]).mean().backward()
        adam.step()
    told = record(model, adam, data).interpolate(query, nodes=5)
    assert told.completeness.max() <= 1e-9
    assert told.other["initial momentum"].abs().min() > 1e-4


def test_options_changed_on_the_way_and_momentum_switched_off_and_on():
    data, query = problem()
    model = smooth()
    sgd = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    run = pk.Trajectory(model, pk.losses.squared, sgd, data, every=4)
    for k, batch in enumerate(batches(20)):
        sgd.param_groups[0].update(momentum=0.9 if k % 5 < 3 else 0.0, nesterov=k % 5 == 1)
        run.step(batch)
    assert run.interpolate(query, nodes=6).completeness.max() <= 1e-9


def test_a_long_run_does_not_lose_the_memory_among_small_numbers():
    """0.5**400 is below the smallest float32: the decay kept aside is multiplied in on the way."""
    data, query = problem(torch.float32)
    model = smooth(torch.float32)
    sgd = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.5)
    run = record(model, sgd, data, steps=400, every=20)
    assert run.interpolate(query).completeness.max() <= 1e-4


@pytest.mark.parametrize(("name", "options"), [TABLE[0], TABLE[11]], ids=str)
def test_kinks_are_refined_to_the_tolerance_or_reported(name, options, digits):
    (x, y), query = digits
    model = pk.models.mnist_cnn(seed=0)
    options = {"lr": 0.05 if name == "SGD" else 0.001}
    run = pk.Trajectory(
        model, pk.losses.cross_entropy, optimizer_of(name, options, model), (x.float(), y)
    )
    for batch in pk.batches(len(x), size=10, steps=3, seed=1):
        run.step(batch)
    ask = {"outputs": torch.tensor([3, 8]), "nodes": 1}
    rough = run.interpolate(query.float(), **ask, tolerance=None)
    told = run.interpolate(query.float(), **ask, tolerance=1e-3, most_pieces=256)
    assert told.reached.all()
    assert told.completeness.max() <= 1e-3 < rough.completeness.max()
    assert told.pieces.max() > 1
    with pytest.warns(UserWarning, match="tolerance 1e-07 was not reached"):
        short = run.interpolate(query.float(), **ask, tolerance=1e-7, most_pieces=3)
    assert not short.reached.all()
    gap = short.change - short.explained
    torch.testing.assert_close(gap, short.remainder, rtol=0, atol=1e-5)


class Lion(torch.optim.Optimizer):
    """Moves by signs."""

    def __init__(self, params):
        super().__init__(params, {"lr": 0.1})

    def step(self, closure=None):
        """Never called."""


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (torch.optim.LBFGS, "differences of gradients"),
        (Lion, "sign of a mean"),
        (lambda p: torch.optim.Muon([q for q in p if q.ndim == 2]), "orthogonal"),
        (torch.optim.Rprop, "sign of the gradient"),
        (torch.optim.Adafactor, "root mean square of the step"),
        (torch.optim.ASGD, "not known here"),
        (lambda p: torch.optim.Adam(p, differentiable=True), "differentiable=True"),
    ],
)
def test_optimizers_that_cannot_be_taken_apart_are_refused_with_the_reason(make, reason):
    data, _ = problem()
    model = smooth()
    with pytest.raises((TypeError, ValueError), match=reason):
        pk.Trajectory(model, pk.losses.squared, make(list(model.parameters())), data)


def test_a_gap_from_magnified_rounding_is_told_from_one_of_the_quadrature():
    """A bias before BatchNorm has no gradient but rounding, and Adam steps by its sign."""
    data, query = problem(torch.float32)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(2, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 2))
    adam = torch.optim.Adam(model.parameters(), lr=0.01, eps=1e-12)
    run = record(model.train(), adam, data)
    with pytest.warns(UserWarning, match="not in the quadrature but in the gradients"):
        told = run.interpolate(query, tolerance=1e-4)
    assert told.completeness.max() > 1e-4
    assert (told.remainder.norm(dim=1) / told.change.norm(dim=1)).max() < 1e-4
