"""The explorer of the outside bias: what its frames say is what a module trained by hand does."""

import importlib
import re

import pytest
import torch

import pkbook as pk
from pkbook.function_space.diagnostics import rank_gap
from pkbook.lab.experiments import rank_gap as e8
from pkbook.lab.experiments.parts import relu_line
from pkbook.lab.explorers import Explorer, outside_bias

module = importlib.import_module("pkbook.lab.explorers.outside_bias")


@pytest.fixture(scope="module")
def explorer():
    made = outside_bias()
    made.html()
    return made


@pytest.mark.parametrize(("place", "trained"), [(0.96, "both"), (1.2, "biases")])
def test_a_frame_is_the_run_of_a_module(place, trained):
    config, begun = module.CONFIG, e8.start(module.CONFIG)
    thresholds = begun.thresholds[0, 0].clone()
    thresholds[-1] = place
    net = relu_line.network(thresholds, begun.weights[0], trained)
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)
    x, other = (z[:, None] for z in e8.inputs(config))
    y, there = (e8.wanted(config, z[:, 0])[0][:, None] for z in (x, other))
    for _ in range(config.steps):
        optimizer.zero_grad()
        pk.losses.squared(net(x), y).mean().backward()
        optimizer.step()
    found = module.study(place, trained)
    torch.testing.assert_close(found.thresholds[-1], -net.fc1.bias.detach(), rtol=0, atol=1e-9)
    torch.testing.assert_close(found.f(module.GRID), net(module.GRID[:, None])[:, 0].detach())
    assert found.gap == rank_gap(net, x, other).value
    assert found.reached == int((x > place).sum())
    expected = [pk.losses.squared(net(a), b).mean().item() for a, b in ((x, y), (other, there))]
    assert list(found.losses) == pytest.approx(expected, rel=1e-6)


def test_what_no_sample_reaches_stays_and_what_one_reaches_moves():
    for trained in module.SAID:
        for place in module.PLACES:
            found = module.study(place, trained)
            assert (found.reached == 0) == (found.pull == 0) == (found.moved == 0)
            assert (found.reached == 0) == (found.gap > 0)


def test_words_state_the_numbers_of_the_run():
    for place in (0.96, 1.2):
        found = module.study(place)
        text = module.words(found)
        said = [float(v) for v in re.findall(r"\d\.\de[-+]\d+", text)]
        assert said == pytest.approx(list(found.losses), rel=0.05)
        assert f"Rank gap at the end: {found.gap}." in text
    assert "None of 80 training samples" in text
    assert "its largest gradient in all steps was 0." in text
    assert "2 of 80 training samples switch the last unit on" in module.words(module.study(0.96))


def test_curves_are_those_of_the_run():
    found = module.study(0.9, "both")
    top, bottom = module.draw(found).axes
    curves = {line.get_label(): line.get_ydata() for line in top.lines}
    assert curves["network"] == pytest.approx(found.f(module.GRID).numpy())
    assert curves["target"] == pytest.approx(e8.wanted(module.CONFIG, module.GRID)[0].numpy())
    drawn = [line.get_ydata() for line in bottom.lines]
    assert drawn[-1] == pytest.approx(found.thresholds[:, -1].numpy())
    assert len(drawn) == module.CONFIG.units


def test_the_whole_grid_fits_a_page(explorer):
    html = explorer.html()
    assert isinstance(explorer, Explorer)
    assert len(re.findall("<div data-frame", html)) == 16
    assert len(html) < 400_000


def test_sliders_are_live(explorer):
    assert explorer.sliders["place"].value == 1.2
    explorer.sliders["place"].value = 0.6
    assert "The last threshold starts at 0.6." in explorer.widget.children[-1].value


def test_another_place_is_refused():
    with pytest.raises(ValueError, match=r"place must be one of .*got 0.5"):
        module.study(0.5)
    with pytest.raises(ValueError, match="trained must be one of"):
        module.study(0.6, "weights")
