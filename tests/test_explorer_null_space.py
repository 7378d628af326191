"""The null-space explorer: its frames show the run, its words the share."""

import importlib
import re

import numpy as np
import pytest
import torch

from pkbook.lab import plots
from pkbook.lab.explorers import Explorer, null_space
from pkbook.problems import models

module = importlib.import_module("pkbook.lab.explorers.null_space")
draw, parts, words = module.draw, module.parts, module.words


def test_parts_by_hand():
    """Residual of an untrained network; its null part by projecting on eigenvectors of K."""
    net = models.mlp(1, 32, 1, activation="tanh", seed=0).double()
    x = ((2 * torch.arange(64).double() + 1) / 64 - 1)[:, None] * 3
    even, odd = torch.cos(2 * x[:, 0]), torch.sin(2 * x[:, 0])
    y = (even / even.square().mean().sqrt() + odd / odd.square().mean().sqrt()) / 2**0.5
    expected = (net(x)[:, 0] - y).detach()
    rows = [torch.autograd.grad(net(point).sum(), list(net.parameters())) for point in x]
    features = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
    values, vectors = np.linalg.eigh((features @ features.T).numpy())
    kept = vectors[:, values > 1e-3 * values[-1]]
    residual, null, ratio, energy = parts("x", 0, 1e-3)
    assert torch.allclose(residual, expected, atol=1e-12)
    inside = kept @ (kept.T @ expected.numpy())
    assert null.numpy() == pytest.approx(expected.numpy() - inside, abs=1e-9)
    assert ratio[:5].numpy() == pytest.approx(values[::-1][:5] / values[-1], rel=1e-9)
    assert energy.sum().item() == pytest.approx(expected.square().mean().item(), rel=1e-9)


@pytest.mark.parametrize("network", ["x²", "x"])
@pytest.mark.parametrize("tolerance", [module.TOLERANCES[0], module.TOLERANCES[-1]])
def test_words_state_the_share_of_the_null_part(network, tolerance):
    residual, null, values, _ = parts(network, 500, tolerance)
    share = (null.square().sum() / residual.square().sum()).item()
    text = words(network, 500, tolerance)
    assert float(re.search(r"([\d.]+)% of the energy", text)[1]) == pytest.approx(
        100 * share, abs=0.051
    )
    assert f" {int((values > tolerance).sum())} modes are learnable" in text
    assert f"energy is {residual.square().mean().item():.2g}" in text


def test_the_two_networks_differ_as_the_chapter_says():
    def share(network):
        residual, null, *_ = parts(network, module.TIMES[-1], module.TOLERANCES[-1])
        return (null.square().sum() / residual.square().sum()).item()

    assert share("x²") > 0.95
    assert share("x") < 0.5


def test_dots_are_the_energies_and_curves_the_parts():
    residual, null, values, energy = parts("x", 50, 1e-3)
    top, bottom = draw("x", 50, 1e-3).axes
    assert top.lines[1].get_ydata() == pytest.approx(residual.numpy())
    assert top.lines[2].get_ydata() == pytest.approx(null.numpy())
    learnable = values > 1e-3
    assert bottom.lines[0].get_ydata() == pytest.approx(energy[learnable].numpy(), abs=1e-15)
    assert bottom.lines[1].get_xdata() == pytest.approx(values[~learnable].numpy(), abs=1e-15)


def test_explorer_has_two_networks_three_times_three_tolerances(monkeypatch):
    drawn = []

    def quick(network, time, tolerance, result):
        assert result is None  # it makes a run of its own
        drawn.append((network, time, tolerance))
        fig, ax = plots.figure()
        ax.plot([0, len(drawn)])
        return fig

    monkeypatch.setattr(module, "draw", quick)
    explorer = null_space()
    assert isinstance(explorer, Explorer)
    html = explorer.html()
    assert len(drawn) == len(set(drawn)) == 18
    assert len(re.findall("<div data-frame", html)) == 18
    assert len(html) < 800_000
    assert explorer.sliders["time"].value == 500


def test_what_was_not_recorded_is_named():
    with pytest.raises(ValueError, match="time: expected one of"):
        draw("x", 7, 1e-3)
