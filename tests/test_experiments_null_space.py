"""T7: training and modes redone by hand, the odd part untouched, claims on a seed of their own."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

import pkbook as pk
from pkbook.lab.experiments import null_space
from pkbook.lab.experiments.machinery import claims

TINY = null_space.Config(
    width=5, nodes=8, rate=0.1, times=(0, 0.5, 4), tolerance=1e-3, seeds=(0, 5)
)


@pytest.fixture(scope="module")
def tiny():
    return null_space.run(TINY)


def by_hand(name, seed, steps):
    """One network trained by torch.optim, and its kernel by naive autograd."""
    x = torch.tensor([[-2.625 + 0.75 * i] for i in range(8)], dtype=torch.float64)
    even, odd = torch.cos(2 * x), torch.sin(2 * x)
    y = (even / even.square().mean().sqrt() + odd / odd.square().mean().sqrt()) / 2**0.5
    net = pk.models.mlp(1, 5, 1, activation="tanh", seed=seed).double()
    u = x**2 / 3 if name == "x²" else x
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        (0.5 * (net(u) - y).square()).mean().backward()
        optimizer.step()
    rows = [torch.autograd.grad(net(point).sum(), list(net.parameters())) for point in u]
    features = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
    return (net(u) - y).detach()[:, 0], features @ features.T


@pytest.mark.parametrize("name", null_space.NETWORKS)
@pytest.mark.parametrize("e", range(3))
def test_residual_spectrum_and_share_counted_again(tiny, name, e):
    time = TINY.times[e]
    residual, kernel = by_hand(name, 5, round(time / 0.1))
    place = tiny.place(name, 5, time)
    torch.testing.assert_close(tiny.residual[place], residual, rtol=0, atol=1e-12)
    values, vectors = np.linalg.eigh(kernel.numpy() / 8)
    assert tiny.values[place].numpy() == pytest.approx(values[::-1], abs=1e-12 * values[-1])
    for tolerance in (None, 0.1):
        null = values <= (tolerance or 1e-3) * values[-1]
        inside = ((vectors[:, null].T @ residual.numpy()) ** 2).sum()
        expected = inside / residual.square().sum().item()
        found = tiny.null_share(tiny.energy, tolerance)[place].item()
        assert found == pytest.approx(expected, abs=1e-9)
        assert tiny.dimension(tolerance)[place] == (~null).sum()
        modes = tiny.modes(name, 5, time)
        share = modes.null_share(residual, tolerance or 1e-3).item()
        assert share == pytest.approx(expected, abs=1e-9)


def test_energies_are_those_of_residual_and_target(tiny):
    assert torch.allclose(tiny.energy.sum(-1), tiny.residual.square().mean(-1), rtol=1e-10)
    assert torch.allclose(tiny.target_energy.sum(-1), torch.ones(()).double(), rtol=1e-10)


@pytest.mark.parametrize("odd", [0.0, 0.2, 1.0])
def test_target_has_the_odd_share_it_is_asked_for(odd):
    measure = pk.function_space.interval(-3.0, 3.0, 16, rule="midpoint", dtype=torch.float64)
    y = null_space.target(measure.nodes[:, 0], odd, measure.weights)
    part = null_space.odd_part(y)
    assert measure.mean(y.square()).item() == pytest.approx(1, abs=1e-12)
    assert measure.mean(part.square()).item() == pytest.approx(odd, abs=1e-12)
    assert torch.allclose(part, -part.flip(0), atol=0)


@pytest.mark.parametrize("odd", [0.0, 0.3, 1.0])
def test_a_network_of_squares_never_touches_the_odd_part(odd):
    found = null_space.run(replace(TINY, odd=odd))
    assert found.odd_gap[0].max() < 1e-14
    if odd:  # the other network does
        assert found.odd_gap[1, :, -1].min() > 1e-3


def test_odd_functions_are_null_modes_of_the_network_of_squares(tiny):
    """Eight nodes: four odd functions, all in the null space at any tolerance above rounding."""
    odd = null_space.odd_part(torch.eye(8).double())
    for time in TINY.times:
        modes = tiny.modes("x²", 5, time)
        assert (modes.values[4:] < 1e-14 * modes.values[0]).all()
        assert modes.null_share(odd[:4], 1e-12).min() > 1 - 1e-12
        assert tiny.modes("x", 5, time).null_share(odd[:4], 1e-12).min() < 1


def test_a_run_repeats_itself_and_leaves_the_global_state_alone(tiny):
    before = torch.get_rng_state()
    again = null_space.run(TINY)
    assert torch.equal(torch.get_rng_state(), before)
    for name in ("values", "functions", "residual"):
        assert torch.equal(getattr(again, name), getattr(tiny, name))
    assert tiny.functions.shape == (2, 2, 3, 8, 8)


def test_seeds_in_groups_and_from_a_file_are_the_same_seeds(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(null_space, "TOGETHER", 1)
    alone = null_space.run(TINY, folder=tmp_path)
    assert torch.allclose(alone.residual, tiny.residual, atol=1e-12)
    assert torch.allclose(alone.values, tiny.values, atol=1e-12)
    kept = sorted(path.stem.rpartition("-")[0] for path in tmp_path.iterdir())
    assert kept == ["seeds-0", "seeds-5"]
    monkeypatch.setattr(null_space, "train", None)  # nothing is trained again
    again = null_space.run(TINY, folder=tmp_path)
    assert torch.equal(again.functions, alone.functions)


def test_t7_on_a_seed_that_the_chapter_does_not_use():
    found = null_space.run(null_space.Config.quick(seeds=(7,)))
    known, other, coarse = (
        share.mean
        for numbers in null_space.findings(found)["T7"].values()
        for share in numbers.values()
    )
    assert known >= 0.95
    assert other < 0.5  # a network of x has no such null space at this tolerance
    assert coarse >= 0.95  # and has one at that
    assert found.odd_gap[0].max() < 1e-14


def test_findings_are_the_shares_at_the_end(tiny):
    found = claims.finding("T7", null_space.findings(tiny)["T7"])
    shares = tiny.null_share(tiny.energy)[..., -1]
    told = [next(iter(numbers.values())) for numbers in found.settings.values()]
    assert told[0].mean == pytest.approx(shares[0].mean().item())
    assert (told[1].low, told[1].high) == tuple(shares[1].sort().values.tolist())
    assert list(found.settings) == [
        "a network of x², tolerance 0.001",
        "a network of x, tolerance 0.001",
        "a network of x, tolerance 0.01",
    ]
    assert set(null_space.figures(tiny)) == {"null_space"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"odd": 1.5}, "odd must be a share from 0 to 1"),
        ({"odd": True}, "odd must be a share"),
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"nodes": 7}, "nodes must be a multiple of 2"),
        ({"nodes": 8.0}, "nodes must be an int, got float 8.0"),
        ({"reach": 0.0}, "reach must be a positive number"),
        ({"rate": -1.0}, "rate must be a positive number"),
        ({"tolerance": 0.0}, "tolerance must be a number between 0 and 1"),
        ({"seeds": ()}, "seeds must hold at least one"),
        ({"times": (1, 2)}, "times must be increasing numbers that begin with 0"),
        ({"times": (0, 0.07)}, "times must be whole multiples of the rate 0.05, got 0.07"),
    ],
)
def test_refuses_settings_that_make_no_sense(change, message):
    with pytest.raises((TypeError, ValueError), match=message):
        null_space.Config(**change)


def test_names_what_was_not_recorded(tiny):
    for name, seed, time in (("x³", 0, 0), ("x", 3, 0), ("x", 0, 7)):
        with pytest.raises(ValueError, match="expected one of"):
            tiny.place(name, seed, time)


def test_full_is_larger_than_quick():
    quick, full = null_space.Config.quick(), null_space.Config.full(width=64)
    assert full.times[-1] > quick.times[-1]
    assert len(full.seeds) > len(quick.seeds)
    assert full.width == 64


def test_draws_its_figure(tiny):
    figure = null_space.draw(tiny)
    assert isinstance(figure, Figure)
    shares = tiny.null_share(tiny.energy)
    drawn = figure.axes[0].lines
    assert drawn[0].get_ydata() == pytest.approx(shares[0, 0].numpy())
    assert drawn[2].get_ydata() == pytest.approx(shares[0].mean(0).numpy())
    assert "<svg" in pk.plots.svg(figure, "A drawing of a tiny run, for the test only.")


def test_one_line_names_what_is_trained():
    told = str(null_space.what_is_trained(TINY))
    for part in ("network 1–5–1, tanh", "40 steps", "seeds 0, 5"):
        assert part in told
