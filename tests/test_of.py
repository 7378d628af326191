"""What is explained is a function: kernels and contributions are linear in it, or autograd's."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import pkbook as pk

D = torch.float64
G = torch.Generator().manual_seed(4)
X, Y = torch.randn(10, 3, generator=G, dtype=D), torch.randint(4, (10,), generator=G)
Q, LABELS = torch.randn(3, 3, generator=G, dtype=D), torch.tensor([0, 3, 1])


def net(outputs=4):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, outputs)).double()


class Sequence(nn.Module):
    """Outputs ``[n, T, V]``."""

    def __init__(self):
        super().__init__()
        self.net = net(6)

    def forward(self, x):
        return self.net(x).unflatten(1, (2, 3))


def trained(model, loss=F.cross_entropy, y=Y):
    run = pk.Trajectory(model, loss, torch.optim.Adam(model.parameters(), 1e-2), (X, y))
    for k in range(5):
        run.step([(3 * k + i) % 10 for i in range(4)])
    return run


@pytest.fixture(scope="module")
def run():
    return trained(net())


def by_autograd(model, function, queries):
    rows = []
    for value in function(model, queries).flatten():
        got = torch.autograd.grad(value, model.parameters(), retain_graph=True)
        rows.append(torch.cat([g.flatten() for g in got]))
    return torch.stack(rows)


def log_probability(model, q):
    return F.log_softmax(model(q), 1)[torch.arange(3), LABELS]


def log_odds(model, q):
    p = model(q).softmax(1)[torch.arange(3), LABELS]
    return (p / (1 - p)).log()


FUNCTIONS = {
    "log-odds": (pk.of.log_odds(LABELS), log_odds),
    "margin": (pk.of.margin(LABELS, 2), lambda m, q: m(q)[torch.arange(3), LABELS] - m(q)[:, 2]),
    "log-probability": (pk.of.log_probability(LABELS), log_probability),
    "loss": (pk.of.loss_of(nn.CrossEntropyLoss(reduction="none"), LABELS),
             lambda m, q: -log_probability(m, q)),
    "index": ((1,), lambda m, q: m(q)[:, 1]),
    "own": (lambda m, q: m(q).square().sum(1), lambda m, q: m(q).square().sum(1)),
    "two": (lambda m, q: m(q)[:, :2].exp(), lambda m, q: m(q)[:, :2].exp()),
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_kernels_and_features_of_a_function_are_autograds(name):
    of, function = FUNCTIONS[name]
    model = net()
    rows = by_autograd(model, function, Q).unflatten(0, (3, -1))
    features = pk.tangent_features(model, Q, of=of)
    torch.testing.assert_close(features, rows, rtol=1e-9, atol=1e-12)
    kernel = pk.gradient_kernel(model, Q, of=of, reduce="full")
    torch.testing.assert_close(kernel, torch.einsum("icp,jdp->ijcd", rows, rows))
    norms = pk.feature_norms(model, Q, of=of)
    torch.testing.assert_close(norms, rows.square().sum((1, 2)).sqrt())


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_change_of_a_function_is_the_sum_of_its_contributions(name, run, tmp_path):
    of, function = FUNCTIONS[name]
    told = run.interpolate(Q, of=of)
    ends = [function(run.model_at(k), Q).reshape(3, -1).detach() for k in (0, len(run))]
    torch.testing.assert_close(told.change, ends[1] - ends[0])
    assert float(told.completeness.max()) < 1e-9
    apart = pk.explain(run, Q, of=of, folder=tmp_path / "told", chunk=2)
    torch.testing.assert_close(
        torch.cat([one.contributions for one in apart], 1), told.contributions
    )


def test_a_linear_function_has_the_linear_combination(run):
    every = run.interpolate(Q).contributions
    told = run.interpolate(Q, of=pk.of.margin(2, LABELS)).contributions[..., 0]
    rival = every[:, torch.arange(3), LABELS]
    torch.testing.assert_close(told, every[..., 2] - rival, rtol=1e-7, atol=1e-11)


def test_places_of_sequences_are_pairs_of_indices_or_flat_numbers():
    model = Sequence()
    run = trained(model, lambda f, y: (f.sum(2) - y).square().mean(), torch.stack([Y, Y], 1))
    every = run.interpolate(Q).contributions
    assert every.shape == (10, 3, 6)
    for asked in ({"of": (1, 2)}, {"outputs": 5}):
        told = run.interpolate(Q, **asked).contributions
        torch.testing.assert_close(told[..., 0], every[..., 5], rtol=1e-7, atol=1e-11)
        kernel = pk.gradient_kernel(model, Q, **asked)
        whole = pk.gradient_kernel(model, Q, reduce="full")
        torch.testing.assert_close(kernel, whole[..., 5, 5])


def test_outputs_of_each_input_and_parameters_by_name():
    model = net()
    whole = pk.gradient_kernel(model, Q, reduce="full")
    mine = pk.gradient_kernel(model, Q, outputs=LABELS)
    at = torch.arange(3)
    torch.testing.assert_close(mine, whole[at[:, None], at, LABELS[:, None], LABELS])
    parts = pk.kernels_by_layer(model, Q)
    torch.testing.assert_close(pk.gradient_kernel(model, Q, parameters="2.*"), parts["2"])
    torch.testing.assert_close(
        pk.gradient_kernel(model, Q, parameters=["0.bias", "0.w*"]), parts["0"]
    )
    kinds = pk.kernels_by_layer(model, Q, by=lambda name: name.split(".")[1])
    assert sorted(kinds) == ["bias", "weight"]
    torch.testing.assert_close(kinds["bias"], pk.gradient_kernel(model, Q, parameters="*.bias"))


class Graph(nn.Module):
    """A graph's nodes and edges, of other numbers than there are graphs."""

    def __init__(self):
        super().__init__()
        self.net = net()

    def forward(self, nodes, edges):
        h = self.net(nodes)
        return torch.zeros_like(h).index_add(0, edges[1], h[edges[0]]).sum(0, keepdim=True)


def test_a_query_that_has_no_rows_is_one():
    model, graph = Graph(), {"nodes": X, "edges": torch.randint(10, (2, 7), generator=G)}
    rows = by_autograd(model, lambda m, q: m(**q), graph)
    torch.testing.assert_close(pk.tangent_features(model, graph)[0], rows)


PLACES = torch.tensor([1, -2, 0])
ROWS = torch.arange(3)


@pytest.mark.parametrize(("of", "function"), [
    (pk.of.margin(2, 0, at=-1), lambda m, q: m(q)[:, 1, 2] - m(q)[:, 1, 0]),
    (pk.of.margin(LABELS % 3, 1, at=PLACES),
     lambda m, q: m(q)[ROWS, PLACES, LABELS % 3] - m(q)[ROWS, PLACES, 1]),
    (pk.of.log_probability(LABELS % 3, at=PLACES),
     lambda m, q: m(q).log_softmax(2)[ROWS, PLACES, LABELS % 3]),
])  # fmt: skip
def test_a_word_at_one_place_of_a_sequence(of, function):
    model = Sequence()
    wanted = by_autograd(model, function, Q)
    torch.testing.assert_close(pk.tangent_features(model, Q, of=of)[:, 0], wanted)
    run = trained(model, lambda f, y: (f.sum(2) - y).square().mean(), torch.stack([Y, Y], 1))
    told = run.interpolate(Q, of=of)
    ends = [function(run.model_at(k), Q).detach() for k in (0, len(run))]
    torch.testing.assert_close(told.change[:, 0], ends[1] - ends[0])
    assert float(told.completeness.max()) < 1e-9


@pytest.mark.parametrize(("of", "match"), [
    (pk.of.margin(2, 0), r"outputs \[n, T, C\] needs a place.*write at=-1"),
    (pk.of.log_odds(2), r"outputs \[n, T, C\] needs a place.*write at=-1"),
    (pk.of.log_probability(2, at=2), "at must lie in 0..1"),
    (pk.of.log_probability(2, at=PLACES[:2]), "one row per sample|at needs one"),
    (pk.of.log_probability(2, at=PLACES + 5), "out of bounds"),
])  # fmt: skip
def test_a_place_that_is_not_there_is_refused(of, match):
    with pytest.raises((ValueError, RuntimeError, IndexError), match=match):
        pk.tangent_features(Sequence(), Q, of=of)


@pytest.mark.parametrize(("ask", "match"), [
    (lambda run: run.interpolate(Q, of=pk.of.margin(2, 0, at=-1)), r"at needs outputs \[n, T, C"),
    (lambda run: run.interpolate(Q, of=lambda m, q: m(q) - m(q).mean(0)), "mixes the samples"),
    (lambda run: run.interpolate(Q, of=lambda m, q: m(q).sum()), r"one row per sample"),
    (lambda run: run.interpolate(Q, of=3), r"of must be a function.*outputs=3"),
    (lambda run: run.interpolate(Q, of=(1, 2)), r"index of an output of shape \(4,\), got \(1, 2"),
    (lambda run: run.interpolate(Q, of=(4,)), r"index of an output of shape \(4,\)"),
    (lambda run: run.interpolate(Q, of=pk.of.margin(LABELS[:2], 0)), "one row per sample|margin|3"),
    (lambda run: pk.gradient_kernel(run.model, Q, of=(1,), outputs=2), "of or outputs, not both"),
    (lambda run: pk.gradient_kernel(run.model, Q, Q, outputs=LABELS), "one number where x2 is giv"),
    (lambda run: pk.gradient_kernel(run.model, Q, parameters="head.*"), "names of trainable"),
    (lambda run: run.interpolate([1, 2]), "x must be a torch.Tensor, got list"),
])  # fmt: skip
def test_what_cannot_be_asked_is_refused_by_name(ask, match, run):
    with pytest.raises((TypeError, ValueError), match=match):
        ask(run)


def test_operators_of_a_function_multiply_as_its_kernel_does():
    model, v = net(), torch.randn(3, 2, generator=G, dtype=D)
    of = pk.of.margin(LABELS, 2)
    operator = pk.kernel_operator(model, Q, of=of)
    torch.testing.assert_close(operator @ v, pk.gradient_kernel(model, Q, of=of) @ v)
