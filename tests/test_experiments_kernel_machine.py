"""C1, C2: every number counted again from a recorded run; the claims on other seeds."""

import pytest
import torch

import pkbook as pk
from pkbook import function_space as fs
from pkbook.lab.experiments import kernel_machine as km
from pkbook.lab.experiments.figures import kernel_machine as figures
from pkbook.lab.experiments.machinery.claims import claim, finding

TINY = km.Config(
    dimensions=3, samples=8, queries=5, width=4, scales=(0.5, 2.0), time=3.0, batch=3, seeds=(0, 4)
)


@pytest.fixture(scope="module")
def tiny():
    return km.run(TINY)


@pytest.mark.parametrize("a", [0, 1])
def test_every_number_of_a_run_counted_again(tiny, a):
    """The second seed with torch.optim, a recorded run, and the package's own kernels."""
    scale = TINY.scales[a]
    every = km.inputs(TINY)[1]
    x, asked = every[:8], every[8:]
    net = pk.models.ntk_mlp(3, 4, 1, scale=scale, seed=4).double()
    first = pk.gradient_kernel(net, every, x)
    before = net(every).detach()
    aim = before[:8] + torch.tanh(2 * x[:, :1])
    optimizer = torch.optim.SGD(net.parameters(), lr=0.25 / scale**2)
    run = pk.Trajectory(net, pk.losses.squared, optimizer, (x, aim))
    for shares in km.batches(TINY):
        run.step(shares[1].nonzero()[:, 0])
    assert len(run) == 12
    told, kernel = run.interpolate(asked, nodes=4, tolerance=None), run.path_kernel(every, x)
    c = told.contributions[..., 0]
    close = {"rtol": 1e-8, "atol": 1e-10}
    torch.testing.assert_close(tiny.contributions[a, 1], c, **close)
    torch.testing.assert_close(tiny.kernel[a, 1], kernel[8:], **close)
    torch.testing.assert_close(tiny.before[a, 1], before[8:, 0], **close)
    change = (net(every).detach() - before)[:, 0]
    torch.testing.assert_close(tiny.change[a, 1], change[8:], **close)
    last = pk.gradient_kernel(net, every, x)
    for name, k in {"path": kernel, "start": first, "end": last}.items():
        wanted = k[8:] @ torch.linalg.solve(k[:8], change[:8])
        torch.testing.assert_close(tiny.machines[name][a, 1], wanted, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(
        tiny.drift[a, 1].item(), fs.kernel_drift(first[:8], last[:8]), **close
    )
    left = torch.stack([before[:8] - aim, net(x) - aim])
    torch.testing.assert_close(tiny.loss[a, 1], left.detach()[..., 0].square().mean(1) / 2, **close)
    k = kernel[8:].T
    best = (c * k).sum(1) / (k * k).sum(1)
    spread = (c - best[:, None] * k).norm() / c.norm()
    assert tiny.spread[a, 1, -1].item() == pytest.approx(spread.item(), rel=1e-6)
    fixed = (k.T @ best - change[8:]).norm() / change[8:].norm()
    assert tiny.fixed[a, 1, -1].item() == pytest.approx(fixed.item(), rel=1e-6)
    assert tiny.gap.max() < 1e-9


def test_batches_hold_so_many_samples_in_equal_shares(tiny):
    made = km.batches(TINY)
    assert len(made) == TINY.stops[-1] == 12
    for shares in made:
        assert ((shares > 0).sum(1) == 3).all()
        torch.testing.assert_close(shares.sum(1), torch.ones(2, dtype=torch.float64))


def test_rich_networks_are_no_kernel_machines_and_lazy_ones_are_on_other_seeds():
    config = km.Config.quick(scales=(0.125, 8.0), seeds=(30, 31), time=50.0)
    result = km.run(config)
    rich, lazy = result.fixed[..., -1]
    assert (rich > 0.15).all()
    assert (lazy < 0.02).all()
    assert (result.spread[0, :, -1] > 20 * result.spread[1, :, -1]).all()
    path, start = result.missed_by("path"), result.missed_by("start")
    assert (path < start).all()
    assert result.gap.max() < 1e-9


def test_findings_answer_both_claims(tiny):
    told = km.findings(tiny)
    for id in ("C1", "C2"):
        assert finding(id, told[id]).verdict
        assert list(next(iter(told[id].values()))) == [c.name for c in claim(id).criteria]
        assert len(told[id]) == 2


def test_draws_its_figures(tiny):
    made = figures.figures(tiny)
    assert set(made) == {"kernel_machine_lines", "kernel_machine_time", "kernel_machine_scales"}
    dots = made["kernel_machine_lines"].axes[1].lines[0]
    i = figures.middle_sample(tiny, 0)
    kernel = tiny.kernel[0, 0, :, i]
    assert dots.get_xdata() == pytest.approx((kernel / kernel.abs().max()).numpy())
    for figure in made.values():
        assert "<svg" in pk.plots.svg(figure, "A drawing of a tiny run, for the test only.")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"samples": 0}, "samples must be at least 1"),
        ({"scales": (1.0,)}, "scales must be at least two"),
        ({"rate": -1.0}, "rate must be a positive number"),
        ({"batch": 9, "samples": 8}, "batch must be at most samples"),
        ({"seeds": ()}, "seeds must hold at least one"),
    ],
)
def test_refuses_settings_that_make_no_sense(change, message):
    with pytest.raises((TypeError, ValueError), match=message):
        km.Config(**change)


def test_one_line_names_what_is_trained():
    told = str(km.what_is_trained(TINY))
    for part in ("network 3–4–1, tanh", "batches of 3", "output scales from 0.5 to 2"):
        assert part in told
