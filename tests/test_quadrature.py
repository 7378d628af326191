"""The query's gradient averaged over one step, against sums over very many places of the step."""

from functools import cache

import pytest
import torch
from torch import nn
from torch.func import functional_call, jacrev, vmap

from pkbook.basics.parameters import trainable
from pkbook.interpolation import quadrature
from pkbook.interpolation.optimizer_memory import written
from pkbook.interpolation.quadrature import Query, Segment, refined
from pkbook.kernels.plan import plan

MANY = 4001  # places of the oracle


def problem(activation: type[nn.Module], size: float, m: int = 3):
    """A network, one large step of it, and some queries."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 6), activation(), nn.Linear(6, 2)).double().eval()
    start = {name: p.detach().clone() for name, p in trainable(model).items()}
    end = {name: p + size * torch.randn_like(p) for name, p in start.items()}
    x = torch.randn(m, 2, dtype=torch.float64)
    query = Query(x, None, plan(model, x, start))
    return Segment(query, model, start, end)


@cache
def averaged(activation: type[nn.Module], size: float) -> dict[str, torch.Tensor]:
    """The mean gradient over midpoints, by plain autograd, ``{name: [C, m, P]}``."""
    segment = problem(activation, size)

    def gradients(place: torch.Tensor):
        here = {name: p + place * segment.delta[name] for name, p in segment.start.items()}
        return jacrev(lambda at: functional_call(segment.model, at, (segment.query.x,)))(here)

    places = (torch.arange(MANY, dtype=torch.float64) + 0.5) / MANY
    found = vmap(gradients, chunk_size=500)(places)
    return {name: g.mean(0).transpose(0, 1).flatten(2) for name, g in found.items()}


@pytest.fixture
def asked(monkeypatch):
    """How often each query's gradient was computed."""
    rows, real = [], Query.gradient

    def counting(self, model, parameters):
        rows.append(len(self.x))
        return real(self, model, parameters)

    monkeypatch.setattr(Query, "gradient", counting)
    return rows


def average(segment, allowed, nodes=3, most=400):
    ends = segment.value(0.0), segment.value(1.0)
    return refined(segment, nodes, ends, torch.full_like(ends[0], allowed), most)


@pytest.mark.parametrize(("activation", "nodes"), [
    (nn.ReLU, 3), (nn.ReLU, 1), (nn.ReLU, 2), (nn.ReLU, 4), (nn.Tanh, 3), (nn.Tanh, 1)
])  # fmt: skip
@pytest.mark.parametrize("kept", [quadrature.HELD, 1])
def test_the_average_is_that_of_very_many_places(activation, nodes, kept, monkeypatch):
    monkeypatch.setattr(quadrature, "HELD", kept)  # all kept, or computed again
    segment = problem(activation, 0.8)
    wanted = averaged(activation, 0.8)
    found = average(segment, 1e-3, nodes)
    assert found.residual.abs().max() <= 1e-3
    for name, rows in wanted.items():
        error = (written(found.nodes[name]) - rows).abs().max()
        assert error <= 5e-3, name
        assert 0.05 * rows.abs().max() > 5e-3  # what a weight wrong by five percent would do
    moved = sum((wanted[name] * segment.delta[name].flatten()).sum(2) for name in wanted)
    told = segment.value(1.0) - segment.value(0.0)
    torch.testing.assert_close(moved.T, told, rtol=0, atol=2e-3)  # the oracle itself


def test_at_kinks_no_gradient_is_thrown_away(asked):
    segment = problem(nn.ReLU, 0.8, m=1)
    found = average(segment, 1e-3)
    assert found.pieces > 9
    assert sum(asked) == found.pieces


def test_a_smooth_step_is_halved(asked):
    segment = problem(nn.Tanh, 0.5, m=1)
    found = average(segment, 1e-6)
    assert 2 <= found.pieces <= 6
    assert sum(asked) == 3 * (2 * found.pieces - 1)
    assert found.residual.abs().max() <= 1e-6


def test_no_query_gets_more_pieces_than_allowed(asked):
    segment = problem(nn.ReLU, 0.8)
    for most in (1, 2, 3, 4, 5, 20):
        asked.clear()
        found = average(segment, 1e-9, most=most)
        assert found.pieces <= most
        assert sum(asked) <= 3 * max(most, 3)


def test_queries_together_are_what_they_are_alone():
    segment = problem(nn.ReLU, 0.8)
    together = average(segment, 1e-3)
    for i in range(3):
        alone = average(segment.only(torch.tensor([i])), 1e-3)
        for name, nodes in alone.nodes.items():
            wanted = written(together.nodes[name])[:, i : i + 1]
            torch.testing.assert_close(written(nodes), wanted, rtol=0, atol=1e-12)
