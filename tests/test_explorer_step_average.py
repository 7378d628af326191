"""The exact formula's nodes: what the frames show is what a run written out by hand gives."""

import importlib
import itertools
import math
import re

import pytest
import torch

import pkbook as pk
from pkbook.lab.explorers import Explorer, step_average

module = importlib.import_module("pkbook.lab.explorers.step_average")
study = module.study  # one test puts another in its place
KINDS = list(module.OPTIMIZERS)
QUERY = torch.tensor([[0.9]], dtype=torch.float64)
NODES = {  # places and weights on [0, 1], from the tables
    0: [(0.0, 1.0)],
    1: [(0.5, 1.0)],
    2: [(0.5 - math.sqrt(3) / 6, 0.5), (0.5 + math.sqrt(3) / 6, 0.5)],
    3: [(0.5 - math.sqrt(0.15), 5 / 18), (0.5, 8 / 18), (0.5 + math.sqrt(0.15), 5 / 18)],
}


@pytest.fixture(scope="module", params=KINDS)
def found(request):
    return study(request.param, 0.3, steps=6)


def network(theta):
    w, b, v, c = theta.split([8, 8, 8, 1])
    return lambda x: torch.tanh(x * w + b) @ v + c


def path_by_hand(kind, rate, steps):
    """The iterates, from plain torch without torch.optim: [steps + 1, P]."""
    start = pk.models.mlp(1, 8, 1, activation="tanh", seed=0).double().parameters()
    theta = torch.cat([p.detach().flatten() for p in start])
    x, y = pk.data.sine(8, interval=(-1.0, 1.0), frequency=2.0, dtype=torch.float64)
    y, m, v, path = y[:, 0], 0.0, 0.0, [theta]
    for k, batch in enumerate(pk.batches(8, size=2, steps=steps, seed=0), start=1):
        at = theta.clone().requires_grad_()
        loss = (network(at)(x[batch]) - y[batch]).square().mean() / 2
        (g,) = torch.autograd.grad(loss, at)
        m = 0.9 * m + 0.1 * g
        decay = 0.99 if kind == "Adam" else 0.9
        v = decay * v + (1 - decay) * g * g
        corrected = m / (1 - 0.9**k) / ((v / (1 - 0.99**k)).sqrt() + 1e-8)
        theta = theta - rate * {
            "SGD": g, "RMSprop": g / (v.sqrt() + 1e-8), "Adam": corrected
        }[kind]  # fmt: skip
        path.append(theta)
    return torch.stack(path)


def speed(path, step, tau):
    move = path[step + 1] - path[step]
    at = (path[step] + tau * move).requires_grad_()
    value = network(at)(QUERY).squeeze()
    return (torch.autograd.grad(value, at)[0] @ move).item()


def test_gaps_and_speeds_are_those_of_the_run_written_out(found):
    path = path_by_hand(found.optimizer, 0.3, 6)
    at = [network(theta)(QUERY).item() for theta in path]
    assert found.change == pytest.approx(at[-1] - at[0], abs=1e-9)
    for nodes, rule in NODES.items():
        told = sum(w * speed(path, k, t) for k in range(6) for t, w in rule)
        assert found.gaps[nodes] * abs(found.change) == pytest.approx(
            abs(at[-1] - at[0] - told), rel=1e-4, abs=1e-11
        )
    missed = [abs(at[k + 1] - at[k] - speed(path, k, 0.0)) for k in range(6)]
    assert found.step == missed.index(max(missed))
    for tau, value in ((0, found.speed[0]), (0.5, found.speed[16]), (1, found.speed[-1])):
        assert value.item() == pytest.approx(speed(path, found.step, tau), abs=1e-8)


def test_the_area_under_the_curve_is_the_change_of_the_step(found):
    path = path_by_hand(found.optimizer, 0.3, 6)
    here, there = (network(path[found.step + k])(QUERY).item() for k in (0, 1))
    weights = torch.full((33,), 2.0).double()  # Simpson's rule
    weights[1::2], weights[0], weights[-1] = 4.0, 1.0, 1.0
    area = (weights @ found.speed / 96).item()
    assert area == pytest.approx(there - here, rel=1e-3)


def test_rules_look_at_the_places_of_the_tables(found):
    for nodes, rule in NODES.items():
        places, values = found.seen[nodes]
        assert places.tolist() == pytest.approx([t for t, _ in rule], abs=1e-12)
        nearest = [found.speed[round(32 * t)].item() for t in places.tolist()]
        reach = (found.speed.max() - found.speed.min()).item()
        assert values.tolist() == pytest.approx(nearest, abs=0.2 * reach + 1e-12)


ROUNDING = 1e-13  # of a sum of twenty steps in float64, relative to the whole change


@pytest.mark.parametrize("kind", KINDS)
def test_every_node_gains_and_larger_rates_cost(kind):
    small, large = (study(kind, rate).gaps for rate in (0.03, 0.3))

    def larger(one, other):
        """Where both are rounding, either may be: another processor rounds differently."""
        return one > other or max(one, other) < ROUNDING

    for gaps in (small, large):
        assert all(larger(gaps[n], gaps[n + 1]) for n in (0, 1, 2))
    assert all(larger(large[n], small[n]) for n in (0, 1, 2, 3))
    assert large[2] > ROUNDING  # so that most of them are compared


def test_the_global_state_is_left_alone_and_frames_repeat():
    before = torch.get_rng_state()
    one, two = study("Adam", 0.3, steps=3), study("Adam", 0.3, steps=3)
    assert one.gaps == two.gaps
    assert torch.equal(one.speed, two.speed)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("nodes", NODES)
def test_drawing_and_words_state_the_gap(found, nodes):
    above, below = module.draw(found, nodes).axes
    curve, taken, dots = above.lines[1:]
    assert curve.get_ydata() == pytest.approx(found.speed.numpy())
    assert dots.get_ydata() == pytest.approx(found.seen[nodes][1].numpy())
    for place, value in zip(*found.seen[nodes], strict=True):  # the rule's curve passes its dots
        assert abs(taken.get_ydata() - value.item()).min() < 0.1 * abs(found.speed).max()
        assert 0 <= place <= 1
    bars = [bar.get_height() for bar in below.patches]
    assert bars == pytest.approx([max(gap, 1e-16) for gap in found.gaps.values()])
    assert [bar.get_hatch() is not None for bar in below.patches] == [n == nodes for n in NODES]
    parts = re.findall(r"leaves out ([\d.]+)(e[+-]\d+|%)", module.words(found, nodes))
    said = [float(n) / 100 if unit == "%" else float(n + unit) for n, unit in parts]
    wanted = [found.gaps[nodes]] if nodes == 0 else [found.gaps[nodes], found.gaps[0]]
    assert said == pytest.approx([gap for gap in wanted if gap > 1e-16], rel=0.051)


def test_explorer_draws_its_whole_grid_and_trains_once_for_each_run(monkeypatch):
    ran = []

    def short(optimizer, rate):
        ran.append((optimizer, rate))
        return study(optimizer, rate, steps=3)

    monkeypatch.setattr(module, "study", short)
    explorer = step_average()
    assert isinstance(explorer, Explorer)
    html = explorer.html()
    assert ran == list(itertools.product(KINDS, (0.03, 0.3)))
    assert len(re.findall("<div data-frame", html)) == 18
    assert len(html) < 600_000
    assert explorer.sliders["optimizer"].value == "Adam"


def test_another_optimizer_is_refused():
    with pytest.raises(ValueError, match="optimizer must be one of 'SGD', 'RMSprop'"):
        study("lion", 0.1)
