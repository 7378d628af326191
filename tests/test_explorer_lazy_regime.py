"""The lazy explorer: its frames show a run in plain torch and the forecast of its first kernel."""

import importlib
import re

import pytest
import torch

from pkbook.lab.experiments.lazy_training import Config
from pkbook.lab.explorers import Explorer, lazy_regime
from pkbook.problems import models

module = importlib.import_module("pkbook.lab.explorers.lazy_regime")
draw, study, words = module.draw, module.study, module.words
SHORT = Config(seeds=(1,), rate=0.125, time=1.0)


@pytest.fixture(scope="module")
def found():
    return study(8, 0.5, SHORT)


def test_study_is_an_ordinary_training_run(found):
    """Eight steps of torch.optim at the rate over the squared scale; a loop of forecasts."""
    net = models.ntk_mlp(1, 8, 1, scale=0.5, seed=1).double()
    x, y, queries = SHORT.x, SHORT.y, SHORT.queries
    before, aim = net(queries).detach()[:, 0], net(x).detach()[:, 0] + y

    def features(points):
        rows = [torch.autograd.grad(net(p[None]).sum(), list(net.parameters())) for p in points]
        return torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])

    first, asked = features(x), features(queries)
    change, steps = torch.zeros(61).double(), 4000
    residual = -y
    for _ in range(steps):
        change = change - asked @ first.T @ residual / 16 / 0.25 / steps
        residual = residual - first @ first.T @ residual / 16 / 0.25 / steps
    optimizer = torch.optim.SGD(net.parameters(), lr=0.125 / 0.25)
    for _ in range(8):
        optimizer.zero_grad()
        ((net(x)[:, 0] - aim).square().mean() / 2).backward()
        optimizer.step()
    torch.testing.assert_close(found["trained"], net(queries).detach()[:, 0] - before)
    torch.testing.assert_close(found["lazy"], change, rtol=0, atol=1e-3)
    left = (net(x)[:, 0] - aim).detach().square().sum().item()
    assert found["residual"][-1].square().sum().item() == pytest.approx(left)


def test_words_state_what_was_measured(found):
    text = words(found)
    drift, moved, gap, left = map(float, re.findall(r"\d+\.\d+|\d+(?=%)", text))
    assert drift == pytest.approx(100 * found["drift"].item(), abs=0.051)
    assert moved == pytest.approx(found["moved"].item(), abs=6e-4)
    distance = (found["trained"] - found["lazy"]).square().mean().sqrt().item()
    assert gap == pytest.approx(distance, abs=6e-4)
    energy = found["residual"].square().sum(1)
    assert left == pytest.approx(100 * (energy[-1] / energy[0]).item(), abs=0.51)


def test_the_panels_draw_the_curves_and_the_exponentials(found):
    fit, modes = draw(found, SHORT).axes
    data, trained, lazy = (line.get_ydata() for line in fit.lines)
    assert data == pytest.approx(SHORT.y.numpy())
    assert trained == pytest.approx(found["trained"].numpy())
    assert lazy == pytest.approx(found["lazy"].numpy())
    assert len(modes.lines) == 4 + 4 + 1
    share = found["residual"][1:, 2] / found["residual"][0, 2]
    assert modes.lines[2].get_ydata() == pytest.approx(share.numpy())
    times, dashed = modes.lines[6].get_data()
    assert dashed == pytest.approx((-found["rates"][2] * torch.as_tensor(times)).exp().numpy())


def test_from_the_richest_corner_to_the_laziest():
    rich = study(module.WIDTHS[0], module.SCALES[0])
    lazy = study(module.WIDTHS[-1], module.SCALES[-1])
    assert rich["drift"] > 0.5
    assert lazy["drift"] < 0.02
    assert (rich["trained"] - rich["lazy"]).abs().max() > 0.2
    assert (lazy["trained"] - lazy["lazy"]).abs().max() < 0.02


def test_explorer_has_four_widths_and_three_scales(monkeypatch):
    trained = []

    def short(width, scale):
        trained.append((width, scale))
        return study(width, scale, SHORT)

    monkeypatch.setattr(module, "study", short)
    monkeypatch.setattr(module, "draw", lambda found: draw(found, SHORT))
    explorer = lazy_regime()
    assert isinstance(explorer, Explorer)
    html = explorer.html()
    assert len(trained) == len(set(trained)) == 12
    assert len(re.findall("<div data-frame", html)) == 12
    assert len(html) < 600_000
    assert explorer.sliders["width"].value == 64
