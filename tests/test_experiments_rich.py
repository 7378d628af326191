"""Rich training: a run counted again by hand, the two targets, a claim on other seeds."""

import math

import numpy as np
import pytest
import torch

import pkbook as pk
from pkbook.lab.experiments import rich_training as rich

TINY = rich.Config(
    dimensions=3, samples=12, tests=9, width=5, scales=(0.5, 2.0), rate=0.2, time=4.0, seeds=(0, 4)
)


@pytest.fixture(scope="module")
def tiny():
    return rich.run(TINY)


@pytest.mark.parametrize("k", [0, 1])
@pytest.mark.parametrize("a", [0, 1])
def test_every_number_of_a_run_counted_again(tiny, k, a):
    """The second seed with torch.optim; 20 steps and 21 stops, so that every step is a stop."""
    scale, (x, fresh) = TINY.scales[a], (z[1] for z in rich.inputs(TINY))

    def truth(z):
        wave = torch.tanh(2 * z)
        return wave[:, 0] if k == 0 else wave.sum(1) / math.sqrt(3)

    model = pk.models.ntk_mlp(3, 5, 1, scale=scale, seed=4)
    f0, g0 = model(x).detach()[:, 0], model(fresh).detach()[:, 0]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2 / scale**2)
    for step in range(21):
        train, test = model(x)[:, 0] - f0 - truth(x), model(fresh)[:, 0] - g0 - truth(fresh)
        weights = model.fc1.weight.detach()
        expected = {
            "train": train.square().mean() / (truth(x) - truth(x).mean()).square().mean(),
            "test": test.square().mean() / (truth(fresh) - truth(fresh).mean()).square().mean(),
            "share": (weights[:, 0] ** 2).sum() / (weights**2).sum(),
        }
        for name, value in expected.items():
            found = getattr(tiny, name)[k, a, 1, step].item()
            assert found == pytest.approx(value.item(), rel=2e-4), name
        optimizer.zero_grad()
        (train.square().mean() / 2).backward()
        optimizer.step()


@pytest.mark.parametrize("k", [0, 1])
def test_lazy_errors_by_many_small_steps_with_one_kernel(tiny, k):
    x, fresh = (z[0].double() for z in rich.inputs(TINY))
    model = pk.models.ntk_mlp(3, 5, 1, seed=0).double()
    rows = []
    for point in torch.cat([x, fresh]):
        gradients = torch.autograd.grad(model(point[None]).sum(), list(model.parameters()))
        rows.append(torch.cat([g.flatten() for g in gradients]))
    features = torch.stack(rows)
    kernel, y = (features @ features[:12].T).numpy(), rich.target(rich.TARGETS[k], x).numpy()
    change, steps = np.zeros(21), 40_000
    for _ in range(steps):
        change -= kernel @ (change[:12] - y) / 12 * 4.0 / steps
    truth = rich.target(rich.TARGETS[k], fresh).numpy()
    expected = np.square(change[12:] - truth).mean() / truth.var()
    assert tiny.lazy[k, 0, -1].item() == pytest.approx(expected, rel=1e-3)
    solved = kernel[12:] @ np.linalg.lstsq(kernel[:12], y, rcond=1e-12)[0]
    expected = np.square(solved - truth).mean() / truth.var()
    assert tiny.regression[k, 0].item() == pytest.approx(expected, rel=1e-4)


def test_both_targets_hold_the_same_energy_in_each_degree():
    """Hermite coefficients of the wave by quadrature; d directions of weight 1 / sqrt(d)."""
    places, weights = np.polynomial.hermite_e.hermegauss(60)
    weights = weights / weights.sum()
    x = torch.zeros(60, 3, dtype=torch.float64)
    x[:, 0] = torch.from_numpy(places)
    one, every = (rich.target(name, x).numpy() for name in rich.TARGETS)
    for degree in (1, 3, 5):
        basis = np.polynomial.hermite_e.hermeval(places, [0] * degree + [1])
        energies = [(weights * basis * y).sum() ** 2 for y in (one, every)]
        assert energies[1] * 3 == pytest.approx(energies[0])  # three such directions
    with pytest.raises(ValueError, match="target: expected one of one direction"):
        rich.target("no direction", x)


def test_inputs_are_normal_and_not_the_weights_of_the_network():
    x, fresh = rich.inputs(rich.Config.quick())
    assert x.shape == (6, 100, 10)
    assert fresh.shape == (6, 500, 10)
    assert abs(x.mean().item()) < 5 / math.sqrt(6000)
    assert abs(x.square().mean().item() - 1) < 5 * math.sqrt(2 / 6000)
    weights = pk.models.ntk_mlp(10, 64, 1, seed=0).fc1.weight
    assert not torch.isclose(x[0, :64], weights).any(1).all()
    assert not torch.equal(x[0], x[1])


def test_only_the_rich_network_tells_the_targets_apart_on_other_seeds():
    config = rich.Config.quick(scales=(0.125, 4.0), seeds=(50, 51, 52))
    result = rich.run(config)
    (one_rich, one_lazy), (all_rich, all_lazy) = result.test[..., -1]
    assert (one_rich < one_lazy / 2).all()
    assert (one_rich < all_rich / 2).all()
    assert (all_rich > 0.7 * all_lazy).all()
    assert abs(one_lazy.mean() / all_lazy.mean() - 1) < 0.3
    assert torch.allclose(one_lazy.double(), result.lazy[0, :, -1], rtol=0.1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dimensions": 0}, "dimensions must be at least 1"),
        ({"width": 2.0}, "width must be an int"),
        ({"scales": ()}, "scales must hold at least one"),
        ({"scales": (-1.0,)}, "scales must hold positive"),
        ({"rate": 0.0}, "rate must be a positive number"),
        ({"time": math.nan}, "time must be a positive number"),
        ({"seeds": ()}, "seeds must hold at least one"),
    ],
)
def test_refuses_settings_that_make_no_sense(change, message):
    with pytest.raises((TypeError, ValueError), match=message):
        rich.Config(**change)


def test_full_is_larger_than_quick():
    quick, full = rich.Config.quick(), rich.Config.full(width=32)
    assert len(full.seeds) > len(quick.seeds)
    assert full.time > quick.time
    assert full.width == 32


def test_draws_its_figure(tiny):
    figure = rich.draw(tiny)
    lines = figure.axes[0].lines
    assert lines[0].get_ydata() == pytest.approx(tiny.test[0, :, :, -1].mean(1).numpy())
    assert "<svg" in pk.plots.svg(figure, "A drawing of a tiny run, for the test only.")


def test_one_line_names_what_is_trained():
    told = str(rich.what_is_trained(TINY))
    for part in ("network 3–5–1, tanh", "20 steps", "output scales from 0.5 to 2"):
        assert part in told
