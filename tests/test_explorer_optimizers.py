"""The optimizer explorer: what its frames show is what the runs gave, and no setting breaks it."""

import functools
import importlib
import itertools
import math
import re

import pytest
import torch

import pkbook as pk
from pkbook.lab.explorers import Explorer, optimizer_paths

module = importlib.import_module("pkbook.lab.explorers.optimizer_paths")
SETTINGS = {
    "sgd": {},
    "momentum": {"beta": 0.6},
    "rmsprop": {"beta_2": 0.8, "epsilon": 0.1},
    "adam": {"beta_1": 0.6, "beta_2": 0.8, "epsilon": 0.1},
}
KINDS = list(SETTINGS)
run = module.study  # one test puts another in its place


def small(kind, **changes):
    values = {"rate": 0.1, "batch": 2} | SETTINGS[kind] | changes
    return run(kind, **{"time": 0.5, "paths": 5} | values)


@pytest.fixture(scope="module", params=KINDS)
def found(request):
    return small(request.param)


def network():
    return pk.models.mlp(1, 8, 1, activation="tanh", seed=3).double()


def by_hand(kind, rate, steps):
    """Full-batch training written out, without torch.optim and without the package."""
    x, y = pk.data.sine(8, interval=(-3.0, 3.0), dtype=torch.float64)
    net, query = network(), torch.tensor([[1.5]], dtype=torch.float64)
    m = [torch.zeros_like(p) for p in net.parameters()]
    v = [torch.zeros_like(p) for p in net.parameters()]
    found = [net(query).item()]
    for k in range(1, steps + 1):
        loss = 0.5 * (net(x) - y).square().mean()
        gradients = torch.autograd.grad(loss, list(net.parameters()))
        with torch.no_grad():
            for i, (p, g) in enumerate(zip(net.parameters(), gradients, strict=True)):
                m[i] = 0.6 * m[i] + 0.4 * g
                v[i] = 0.8 * v[i] + 0.2 * g * g
                root = v[i].sqrt() + 0.1
                warm = math.sqrt(1 - 0.8**k) / (1 - 0.6**k)
                p -= rate * {
                    "sgd": g, "momentum": m[i], "rmsprop": g / root, "adam": warm * m[i] / root
                }[kind]  # fmt: skip
        found.append(net(query).item())
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_full_batch_runs_are_the_optimizer_written_out(kind):
    told = small(kind, batch=8)
    assert told.fan.shape == (6, 1)
    assert told.means["runs"].tolist() == pytest.approx(by_hand(kind, 0.1, 5), abs=1e-12)
    assert told.fan[:, 0].tolist() == told.means["runs"].tolist()
    assert told.spread == 0


@pytest.mark.parametrize("kind", KINDS)
def test_without_noise_and_at_small_steps_the_theorem_holds(kind):
    """Full batch at rate 0.005: the remainder is of first order, so far below a tenth of the move.

    The betas go with the rate, so that the memory lasts equally long.
    """
    betas = {
        "sgd": {},
        "momentum": {"beta": 0.98},
        "rmsprop": {"beta_2": 0.99, "epsilon": 1.0},
        "adam": {"beta_1": 0.98, "beta_2": 0.99, "epsilon": 1.0},
    }[kind]
    told = run(kind, time=0.5, rate=0.005, batch=8, **betas)
    ends = {name: values[-1].item() for name, values in told.means.items()}
    move = abs(ends["runs"] - told.fan[0, 0].item())
    assert move > 0.05
    assert abs(ends["theorem"] - ends["runs"]) < 0.1 * move
    assert abs(ends["diffusion"] - ends["runs"]) < 0.1 * move


def test_contributions_close_the_theorem():
    told = small("sgd")
    start = told.fan[0, 0]
    assert (start + told.contributions.sum()).item() == pytest.approx(
        told.means["theorem"][-1].item(), abs=1e-9
    )
    assert told.x.tolist() == pk.data.sine(8, interval=(-3.0, 3.0)).x[:, 0].tolist()


def test_scales_are_the_weights_of_the_kernel():
    """RMSprop after one full-batch step: v = (1 - beta) g^2, weight 1 / (sqrt(v) + epsilon)."""
    net, (x, y) = network(), pk.data.sine(8, interval=(-3.0, 3.0), dtype=torch.float64)
    loss = 0.5 * (net(x) - y).square().mean()
    g = torch.cat([p.flatten() for p in torch.autograd.grad(loss, list(net.parameters()))])
    told = small("rmsprop", batch=8)
    torch.testing.assert_close(told.scales[0], 1 / ((0.2 * g * g).sqrt() + 0.1))
    assert told.scales.shape == (5, 25)


def test_the_global_state_is_left_alone_and_frames_repeat():
    before = torch.get_rng_state()
    one, two = small("adam"), small("adam")
    assert torch.equal(one.fan, two.fan)
    assert torch.equal(torch.get_rng_state(), before)


def test_words_state_the_ends(found):
    text = module.words(found)
    said = [float(n) for n in re.findall(r"(?:come to|comes to|says) (-?\d+\.\d+)", text)]
    ends = [values[-1].item() for values in found.means.values()]
    assert said == pytest.approx(ends, abs=0.0051)
    assert text.startswith(f"From {found.fan[0, 0]:.2f},")


def test_curves_are_the_means(found):
    left, right = module.draw(found).axes
    curves = {line.get_label(): line.get_ydata() for line in left.lines}
    for name, values in found.means.items():
        assert curves[name] == pytest.approx(values.numpy())
    assert right.get_title()
    if found.kind == "sgd":
        bars = [bar.get_height() for bar in right.patches]
        assert bars == pytest.approx(found.contributions.tolist())
    if found.kind == "momentum":  # the bars of the steps, and the curve that joins their corners
        bars = [bar.get_height() for bar in right.patches]
        assert bars == pytest.approx([0.6**k for k in range(5)])


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_diverges_is_a_sentence_in_the_picture(kind):
    """At rate 1000 SGD and momentum leave every bound; the other two only this picture."""
    told = small(kind, rate=1000.0, time=40_000.0, batch=1)
    left = module.draw(told).axes[0]
    assert "Lower the learning rate." in left.get_title()
    assert "Lower the learning rate." in module.words(told)
    assert kind not in ("sgd", "momentum") or told.diverged.startswith("runs")


def test_the_beginning_of_a_diverging_run_is_shown():
    told = small("sgd", rate=30.0, time=1200.0, batch=1)
    assert "runs" in told.diverged
    assert told.fan[1].isfinite().all()
    assert told.fan[-1].isnan().all()


def test_runs_that_leave_the_picture_are_counted():
    told = small("sgd")
    assert module.warning(told) == ""
    told.fan[2, :3] = 100.0
    assert module.warning(told).startswith("60% of single runs leave")


@pytest.mark.parametrize("kind", KINDS)
def test_explorer_draws_its_whole_grid_once(kind, monkeypatch):
    """One study for each rate and batch size: the size of a frame goes with these. One kind is
    drawn whole; the frames of the others are empty axes."""
    ran, controls = [], module.CONTROLS[kind]
    if kind != "sgd":
        monkeypatch.setattr(module, "draw", lambda _: pk.plots.figure()[0])
    known = functools.cache(
        lambda rate, batch: small(kind, rate=rate, batch=batch, time=module.TIME, paths=16)
    )

    def study(kind, **values):
        ran.append(tuple(values[name] for name in controls))
        return known(values["rate"], values["batch"])

    monkeypatch.setattr(module, "study", study)
    explorer = optimizer_paths(kind)
    assert isinstance(explorer, Explorer)
    html = explorer.html()
    grid = list(itertools.product(*(control.values for control in controls.values())))
    assert ran == grid
    assert len(re.findall("<div data-frame", html)) == len(grid) <= 18
    assert len(html) < 600_000
    assert len(explorer.sliders) == {"sgd": 2, "momentum": 3, "rmsprop": 3, "adam": 4}[kind]


def test_one_real_frame_is_quick_to_draw_and_live():
    explorer = optimizer_paths("sgd")
    assert explorer.sliders["rate"].value == 0.1
    explorer.sliders["batch"].value = 8
    assert "single runs vary by 0.00" in explorer.widget.children[-1].value


def test_another_kind_is_refused():
    with pytest.raises(ValueError, match="kind must be one of 'sgd', 'momentum'"):
        optimizer_paths("lion")
