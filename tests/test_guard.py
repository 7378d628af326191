"""Never wrong in silence: odd models against plain autograd on the model itself."""

import math

import odd_models as odd
import pytest
import torch
from odd_models import D, Two, built
from torch import nn

import pkbook as pk
from pkbook.kernels import gradients, rows, side as sides
from pkbook.kernels.factors import Dense
from pkbook.kernels.guard import Guard

pytestmark = pytest.mark.filterwarnings("ignore:.*nested tensors:UserWarning")


def numbers(*shape, seed=0):
    return torch.randn(*shape, dtype=D, generator=torch.Generator().manual_seed(seed))


X, Y, Q = numbers(12, 4), numbers(12, 1, seed=1), numbers(5, 4, seed=2)
ENDS_SORTED = torch.cat([X[:1] + 9, X, X[:1] - 9])  # the ends alone do not show a sorting
TOKENS = torch.tensor(
    [
        [3, 1, 0, 0, 0],
        [1, 2, 3, 0, 0],
        [4, 0, 0, 0, 0],
        [8, 7, 6, 5, 4],
        [2, 2, 2, 1, 0],
        [5, 1, 0, 0, 0],
    ]
)
ENDS_WHOLE = torch.cat([TOKENS[3:4], TOKENS, TOKENS[3:4]])


def by_autograd(model, x):
    """Tangent features ``[n, C, P]``, one sample at a time, on the model itself."""
    wanted = [p for p in model.parameters() if p.requires_grad]
    found = []
    for xi in x.split(1):
        outputs = model(xi.clone()).reshape(-1)
        grads = [pulled(f, wanted) for f in outputs]
        found.append(torch.stack([torch.cat([g.flatten() for g in row]) for row in grads]))
    return torch.stack(found)


def pulled(value, wanted):
    return torch.autograd.grad(value, wanted, retain_graph=True, materialize_grads=True)


def off(got, wanted):
    return float((got - wanted).norm() / wanted.norm())


KERNELS = {
    "sorts its batch": (odd.Sorting, X, Q),
    "sorts its batch, not its ends": (odd.Sorting, ENDS_SORTED, Q),
    "sends copies along, interleaved": (lambda: odd.Doubled(True), X, Q),
    "sends copies along, behind": (lambda: odd.Doubled(False), X, Q),
    "derivative by the input": (odd.Force, X, Q),
    "works in place on its input": (odd.InPlace, X, Q),
    "rows of other lengths": (odd.Merging, numbers(5, 4, 3), numbers(6, 7, 3)),
    "shorter queries": (odd.Merging, numbers(5, 2, 3), numbers(6, 7, 3)),
    "takes padding out": (odd.Unpadded, TOKENS, TOKENS[:4]),
    "takes padding out, ends whole": (odd.Unpadded, ENDS_WHOLE, ENDS_WHOLE),
    "unique tokens": (odd.Unique, TOKENS, TOKENS[1:]),
    "packed sequence": (odd.Packed, TOKENS, TOKENS[:4]),
    "experts": (odd.Experts, X, Q),
    "bias of one entry": (lambda: odd.SpreadBias([1]), X, Q),
    "bias without dimensions": (lambda: odd.SpreadBias([]), X, Q),
    "a vector for a weight": (odd.VectorWeight, X, Q),
    "own functions reverse the batch": (odd.Reversed, X, Q),
    "encoder with a padding mask": (odd.Encoder, TOKENS, TOKENS[:4]),
}


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_and_features_are_autograds(name):
    make, x1, x2 = KERNELS[name]
    model = built(make).eval()
    left, right = by_autograd(model, x1), by_autograd(model, x2)
    for reduce, sums in (("trace", "icp,jcp->ij"), ("full", "icp,jdp->ijcd")):
        got = pk.gradient_kernel(model, x1, x2, reduce=reduce)
        assert off(got, torch.einsum(sums, left, right)) <= 1e-12
    assert off(pk.gradient_kernel(model, x1), torch.einsum("icp,jcp->ij", left, left)) <= 1e-12
    assert off(pk.tangent_features(model, x1), left) <= 1e-12
    assert off(pk.feature_norms(model, x1), left.square().sum((1, 2)).sqrt()) <= 1e-12


def test_a_kernel_that_needs_another_way_still_keeps_to_its_memory():
    """The guard finds out while blocks are made; they are begun again, and are as small."""
    model, x = built(odd.Reversed), numbers(40, 4)
    whole = torch.einsum("icp,jcp->ij", *[by_autograd(model, x)] * 2)
    for memory in (2**12, 2**14, 2**20):
        assert off(pk.gradient_kernel(model, x, memory=memory), whole) <= 1e-12
        assert off(pk.gradient_kernel(model, x, x[:7], memory=memory), whole[:, :7]) <= 1e-12


def contributions(model, x=X, y=Y, q=Q, steps=6, **options):
    run = pk.Trajectory(
        model, pk.losses.squared, torch.optim.SGD(model.parameters(), 0.05, momentum=0.5), (x, y)
    )
    for batch in pk.batches(len(x), size=5, steps=steps, seed=0):
        run.step(batch)
    return run.interpolate(q, **options)


def own_contributions(model, x=X, y=Y, q=Q, steps=6):
    r"""The same by plain autograd: u_s from Gauss nodes, met by each sample's own loss."""
    theta = dict(model.named_parameters())
    points, weights = torch.tensor([0.5 - math.sqrt(0.15), 0.5, 0.5 + math.sqrt(0.15)]), (5, 8, 5)
    total, carried = torch.zeros(len(x), len(q), dtype=D), None
    states, velocity = [], {n: torch.zeros_like(p) for n, p in theta.items()}
    for batch in pk.batches(len(x), size=5, steps=steps, seed=0):
        before = {n: p.detach().clone() for n, p in theta.items()}
        buffers = {n: b.clone() for n, b in model.named_buffers()}
        losses = (model.train()(x[batch].clone()) - y[batch]).square().sum(1) / 2
        own = [pulled(v / 5, list(theta.values())) for v in losses]
        with torch.no_grad():
            for i, (n, p) in enumerate(theta.items()):
                velocity[n] = 0.5 * velocity[n] + sum(g[i] for g in own)
                p -= 0.05 * velocity[n]
        after = {n: p.detach().clone() for n, p in theta.items()}
        states.append((batch, before, after, buffers, own))
    model.eval()
    for batch, before, after, buffers, own in reversed(states):
        phi = 0
        for tau, w in zip(points, weights, strict=True):
            with torch.no_grad():
                for n, p in theta.items():
                    p.copy_(before[n] + tau * (after[n] - before[n]))
                for n, b in model.named_buffers():
                    b.copy_(buffers[n])
            phi = phi + by_autograd(model, q)[:, 0] * w / 18
        carried = 0.05 * phi + (0 if carried is None else 0.5 * carried)
        for i, g in zip(batch.tolist(), own, strict=True):
            total[i] -= carried @ torch.cat([part.flatten() for part in g])
    return total


RUNS = {
    "sorts its batch": odd.Sorting,
    "copies, interleaved": lambda: odd.Doubled(True),
    "copies, behind": lambda: odd.Doubled(False),
    "statistics by a function": lambda: odd.Statistics("function"),
    "statistics by hand": lambda: odd.Statistics("hand"),
    "statistics of a layer": lambda: odd.Statistics("layer"),
    "mixes rows in train mode": odd.Mixup,
    "own functions reverse the batch": odd.Reversed,
    "experts": odd.Experts,
    "plain": Two,
}


@pytest.mark.parametrize("name", RUNS)
def test_contributions_are_those_of_each_samples_own_loss(name):
    told = contributions(built(RUNS[name]).train(), tolerance=None)
    assert off(told.contributions[..., 0], own_contributions(built(RUNS[name]))) <= 1e-6


def test_statistics_by_hand_are_those_of_the_layer():
    layer, function, hand = (
        contributions(built(lambda kind=kind: odd.Statistics(kind)).train(), tolerance=None)
        for kind in ("layer", "function", "hand")
    )
    assert off(function.contributions, layer.contributions) <= 1e-10
    assert off(hand.contributions, layer.contributions) <= 1e-10


def test_force_fields_close():
    told = contributions(built(odd.Force), y=numbers(12, 4, seed=5))
    assert told.completeness.max() <= 1e-6


def test_inputs_are_left_as_they_are():
    model, x, q = built(odd.InPlace), X.clone(), Q.clone()
    task = pk.diffusion_limit.Task(model, pk.losses.squared, (x, Y))
    task.outputs(torch.stack([task.theta] * 2), x)
    pk.diagnostics.rank_gap(model, x, q)
    pk.function_space.matrix_free(model, pk.function_space.uniform(x))
    assert torch.equal(x, X)
    pk.tangent_features(model, x)
    pk.gradient_kernel(model, x, q)
    assert torch.equal(x, X)
    told = contributions(model, x=x, q=q)
    assert torch.equal(x, X)
    assert torch.equal(q, Q)
    assert told.completeness.max() <= 1e-9


@pytest.mark.parametrize("make", [odd.Listed, odd.Viewed])
def test_parameters_reached_by_another_way_are_refused_by_name(make):
    model = built(make)
    for ask in (pk.gradient_kernel, pk.tangent_features, pk.feature_norms):
        with pytest.raises(ValueError, match="reaches its parameter 'w' by another way"):
            ask(model, X)


def test_a_list_of_modules_is_no_other_way():
    model = built(Two)
    model.found = [model.a]
    model.forward = lambda x: model.b(torch.tanh(model.found[0](x)))
    left = by_autograd(model, X)
    assert off(pk.tangent_features(model, X), left) <= 1e-12


def test_complex_parameters_are_refused_with_the_remedy():
    model = nn.Module()
    model.w = nn.Parameter(torch.ones(1, dtype=torch.complex128))
    model.forward = lambda z: (model.w * z).real
    for ask in (pk.gradient_kernel, pk.tangent_features):
        with pytest.raises(TypeError, match=r"'w' in torch.complex128.*view_as_complex"):
            ask(model, torch.ones(2, 1, dtype=D))


def test_a_model_that_mixes_samples_in_eval_mode_is_refused_by_interpolate_too():
    with pytest.raises(ValueError, match="mixes the samples of a batch"):
        contributions(built(odd.Centred))


def test_one_path_for_outputs_and_gradients_of_an_encoder():
    """torch has a second implementation for passes without gradients, which pads otherwise."""
    told = contributions(built(odd.Encoder), x=TOKENS.repeat(2, 1), q=TOKENS[:3], steps=4)
    assert told.completeness.max() <= 1e-3
    assert told.pieces.max() <= 2
    assert torch.backends.mha.get_fastpath_enabled()


def test_normalised_kernels_ask_for_the_memory_they_are_given(monkeypatch):
    model, seen = built(lambda: Two(4, 3)), []
    real = gradients.batch_side

    def spy(model, x, *rest, **more):
        seen.append(len(x))
        return real(model, x, *rest, **more)

    monkeypatch.setattr("pkbook.kernels.gram.batch_side", spy)
    x, memory = numbers(50, 4), 2**14
    k = pk.normalised_kernel(model, x, x[:5], memory=memory)
    assert max(seen) < 50, "the norms of 50 samples were computed at once"
    phi = by_autograd(model, x).flatten(1)
    phi = phi / phi.norm(dim=1, keepdim=True)
    assert off(k, phi @ phi[:5].T) <= 1e-12


def test_halving_stops_where_it_gains_nothing_and_the_warning_says_so():
    model = odd.built(odd.HalfInside).float()
    with pytest.warns(UserWarning, match="halving the steps gains nothing.*bfloat16"):
        told = contributions(model, X.float(), Y.float(), Q.float(), steps=3)
    assert told.pieces.max() <= 9  # the first number of pieces from TRIED on
    assert told.doubt == "precision"


def test_kinks_are_halved_on():
    """What shrinks with its piece is no rounding, however many kinks there are."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 1)).double()
    run = pk.Trajectory(model, pk.losses.squared, torch.optim.SGD(model.parameters(), 0.5), (X, Y))
    for batch in pk.batches(len(X), size=5, steps=5, seed=0):
        run.step(batch)
    told = run.interpolate(Q, tolerance=1e-7, most_pieces=64)
    assert told.doubt == "rounding"
    assert told.pieces.max() > 16


def test_rows_are_known_by_construction_for_plain_networks_only(monkeypatch):
    made = []

    def noted(*arguments):
        made.append(1)
        return Guard(*arguments)

    monkeypatch.setattr(sides, "Guard", noted)
    plain = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(27, 2),
    ).double().eval()  # fmt: skip
    pk.gradient_kernel(plain, numbers(5, 1, 8, 8))
    assert not made
    for make in (odd.Sorting, odd.Reversed, lambda: odd.Doubled(True), odd.Experts):
        made.clear()
        pk.gradient_kernel(built(make), ENDS_SORTED)
        assert made, f"{make}: an operation that moves rows was not noticed"


def test_a_wrong_row_is_noticed_by_the_guard():
    """Two of many samples exchanged, one sample given a tenth of another's, a bias of 5 %."""
    model, x = built(Two), numbers(200, 4)
    leaves = dict(model.named_parameters())
    guard = Guard(model(x), leaves, None)
    right = by_autograd(model, x).movedim(1, 0)[..., :24]  # those of a.weight
    assert guard.agrees("a.weight", Dense(right))
    swapped = right.clone()
    swapped[:, [3, 50]] = swapped[:, [50, 3]]
    leaking = right.clone()
    leaking[:, 7] = 0.9 * right[:, 7] + 0.1 * right[:, 8]
    for wrong in (swapped, leaking, 1.05 * right, right[:, :-1]):
        assert not guard.agrees("a.weight", Dense(wrong))
    assert guard.refutes("a.weight", Dense(swapped))


def test_operations_that_keep_rows_do_keep_them():
    """Each one listed: a change of sample 0 changes row 0 only."""
    x = numbers(3, 2, 4, 4).abs() + 0.5
    for func in rows.EACH_ENTRY - {torch.clamp, torch.Tensor.clamp, rows.F.dropout}:
        changed = x.clone()
        changed[0] += 1
        one, two = func(x.clone()), func(changed)
        assert torch.equal(one[1:], two[1:]), func


class OwnTransform(Two):
    """Uses ``torch.func`` inside its forward pass."""

    def forward(self, x):
        net = super().forward
        return torch.func.vmap(torch.func.jacrev(lambda v: net(v)[0]))(x).sum(1, keepdim=True)


def test_transforms_inside_a_model_are_followed():
    model = built(OwnTransform)
    phi = by_autograd(model, X).flatten(1)
    assert off(pk.gradient_kernel(model, X), phi @ phi.T) <= 1e-12
    assert contributions(built(OwnTransform)).completeness.max() <= 1e-6


def test_the_last_output_may_be_counted_from_behind():
    model = built(lambda: Two(4, 3))
    phi = by_autograd(model, X)
    assert off(pk.tangent_features(model, X, outputs=-1), phi[:, -1:]) <= 1e-12
    told = contributions(built(lambda: Two(4, 3)), y=numbers(12, 3), outputs=-1)
    assert told.completeness.max() <= 1e-6


def test_batch_norm_without_running_statistics_is_refused_before_training():
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6, track_running_stats=False)).double()
    sgd = torch.optim.SGD(model.parameters(), 0.1)
    with pytest.raises(ValueError, match=r"layer '1' \(BatchNorm1d\) keeps no running statistics"):
        pk.Trajectory(model, pk.losses.squared, sgd, (X, numbers(12, 6)))


def test_two_views_in_train_mode_and_one_in_eval():
    class Views(Two):
        def forward(self, x):
            if not self.training:
                return super().forward(x)
            both = super().forward(torch.cat([x, -x]))
            return torch.cat([both[: len(x)], both[len(x) :]], 1)

    model = built(Views).train()
    sgd = torch.optim.SGD(model.parameters(), 0.05)
    run = pk.Trajectory(model, lambda f, y: (f[:, 0] * f[:, 1] - y[:, 0]).square(), sgd, (X, Y))
    for batch in pk.batches(12, size=5, steps=6, seed=0):
        run.step(batch)
    assert run.interpolate(Q).completeness.max() <= 1e-6


def test_inference_mode_changes_nothing():
    outside = contributions(built(Two)).contributions
    model = built(Two)
    with torch.inference_mode():
        assert torch.equal(contributions(model).contributions, outside)


def test_outputs_as_wide_as_the_batch_are_refused():
    model = nn.Linear(4, 6).double()
    model.forward = lambda x: (x @ model.weight.T) @ (x @ model.weight.T).T
    with pytest.raises(ValueError, match=r"mixes the samples|outputs for one input"):
        pk.gradient_kernel(model, X)


class Levels(nn.Module):
    """Looks an embedding up by its last input and puts it beside the others, as diffusion does."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(7, 6), nn.Tanh(), nn.Linear(6, 1))
        self.register_buffer("table", torch.randn(9, 4))

    def forward(self, x):
        place = x[:, -1].detach().round().long()
        return self.net(torch.cat([x[:, :-1], self.table[place - 1]], 1))


@pytest.mark.parametrize(
    ("forward", "known"),
    [
        (None, True),
        (lambda m, x: m.net(torch.cat([x[:, :-1], m.table[: len(x)]], 1)), False),
        (lambda m, x: m.net(torch.cat([x[:-1], x[-1:]])[:, [0, 1, 2, 0, 1, 2, 0]]), False),
        (lambda m, x: m.net(torch.cat([x[:, :3], x.flip(0)], 1)), False),
    ],
)
def test_columns_beside_columns_keep_rows_and_rows_below_rows_do_not(forward, known, monkeypatch):
    model, seen = built(Levels), []
    if forward is not None:
        model.forward = lambda x: forward(model, x)
    real = sides._by_construction

    def noted(watch, uses):
        seen.append(real(watch, uses))
        return seen[-1]

    monkeypatch.setattr(sides, "_by_construction", noted)
    x = torch.cat([numbers(8, 3), torch.arange(1.0, 9.0, dtype=D)[:, None]], 1)
    try:
        got = pk.gradient_kernel(model, x)
    except ValueError:
        assert not known
        return
    assert set(seen) <= {known}
    phi = by_autograd(model, x).flatten(1)
    assert off(got, phi @ phi.T) <= 1e-12
