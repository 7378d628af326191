"""The regression explorer: what its frames show is what the runs gave."""

import re

import pytest
import torch

from pkbook.lab.explorers import Explorer, regression as module
from pkbook.lab.explorers.regression import draw, regression, study, words
from pkbook.problems import losses, models


@pytest.fixture(scope="module")
def found():
    return study(0.1, 0.5, steps=8)


def test_study_is_an_ordinary_training_run(found):
    """The same run in plain torch, and its prediction as the sum of the contributions."""
    net = models.mlp(1, 32, 1, activation="tanh", seed=0)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.5)
    query = torch.tensor([[found.query]])
    start = net(query).item()
    for _ in range(8):
        optimizer.zero_grad()
        losses.squared(net(found.x[:, None]), found.y[:, None]).mean().backward()
        optimizer.step()
    assert net(query).item() == pytest.approx(found.told.final.item(), abs=1e-6)
    total = start + found.contributions.sum().item()
    assert total == pytest.approx(net(query).item(), abs=1e-5)
    assert torch.allclose(net(found.grid[:, None])[:, 0], found.after, atol=1e-6)


def test_kernel_by_plain_autograd(found):
    net = models.mlp(1, 32, 1, activation="tanh", seed=0)

    def feature(x):
        grads = torch.autograd.grad(net(torch.tensor([[x]])).sum(), list(net.parameters()))
        return torch.cat([g.flatten() for g in grads])

    asked, other = feature(found.query), feature(found.grid[7].item())
    expected = asked @ other / (asked.norm() * other.norm())
    assert found.kernel[0, 7].item() == pytest.approx(expected.item(), abs=1e-5)


def test_every_corner_of_the_sliders_trains_and_closes():
    for rate in (min(module.RATES), max(module.RATES)):
        for momentum in (min(module.MOMENTA), max(module.MOMENTA)):
            assert study(rate, momentum).told.completeness.item() < 1e-3


def test_words_state_the_sum(found):
    text = words(found)
    said = re.findall(r"(?:did|down|together) ([+-]\d+\.\d+)", text)
    up, down, total = map(float, said)
    assert up + down == pytest.approx(total, abs=0.011)
    assert total == pytest.approx(found.contributions.sum().item(), abs=0.006)
    assert f"to {found.told.final.item():.2f}" in text


def test_bars_are_the_contributions(found):
    fit, kernel, parts = draw(found).axes
    assert [bar.get_height() for bar in parts.patches] == pytest.approx(
        found.contributions.tolist()
    )
    assert kernel.lines[1].get_ydata() == pytest.approx(found.kernel[1].numpy())
    assert len(fit.lines) == 5


def test_explorer_has_five_rates_and_four_momenta(monkeypatch):
    trained = []

    def short(rate, momentum):
        trained.append((rate, momentum))
        return study(rate, momentum, steps=2)

    monkeypatch.setattr(module, "study", short)
    explorer = regression()
    assert isinstance(explorer, Explorer)
    html = explorer.html()
    assert len(trained) == len(set(trained)) == 20
    assert len(re.findall("<div data-frame", html)) == 20
    assert len(html) < 600_000
    assert explorer.sliders["rate"].value == 0.1


def test_a_run_that_diverges_says_so():
    with pytest.raises(ValueError, match="lower the learning rate"):
        study(50.0, 0.9)
