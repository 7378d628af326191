"""The explorer of one sample's weight: its frames show trainings in plain torch."""

import importlib
import re

import pytest
import torch

from pkbook.interpolation.trajectory import batches
from pkbook.lab.explorers import Explorer, sample_weight
from pkbook.problems import losses, models

module = importlib.import_module("pkbook.lab.explorers.sample_weight")
draw, studies, words = module.draw, module.studies, module.words
STEPS = 6


@pytest.fixture(scope="module")
def found():
    return studies(STEPS)


def trained(sample, weight):
    """The same training by torch.optim alone."""
    x, y = module.points()
    net = models.mlp(1, 16, 1, activation="tanh", seed=module.SEED).double()
    sgd = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    weights = torch.ones(len(x), dtype=torch.float64)
    weights[sample] = weight
    for batch in batches(len(x), size=8, steps=STEPS, seed=module.SEED):
        sgd.zero_grad()
        (weights[batch] * losses.squared(net(x[batch]), y[batch])).mean().backward()
        sgd.step()
    return net


@pytest.mark.parametrize("sample", module.SAMPLES)
def test_each_frame_is_a_training_of_its_own(found, sample):
    for row in (0, 4, 6):
        net = trained(sample, module.WEIGHTS[row])
        with torch.no_grad():
            fit = net(found[sample].grid[:, None])[:, 0]
            answer = net(torch.tensor([[module.QUERY]], dtype=torch.float64))
        torch.testing.assert_close(found[sample].fits[row], fit)
        assert found[sample].answers[row].item() == pytest.approx(answer.item())


@pytest.mark.parametrize("sample", module.SAMPLES)
def test_the_line_is_the_derivative_by_differences(found, sample):
    h, asked = 1e-4, torch.tensor([[module.QUERY]], dtype=torch.float64)
    up, down = (trained(sample, 1 + s)(asked).item() for s in (h, -h))
    assert found[sample].slope == pytest.approx((up - down) / (2 * h), rel=1e-5, abs=1e-9)
    line = found[sample].forecast
    assert (line[6] - line[4]).item() == pytest.approx(found[sample].slope)
    assert line[4] == found[sample].answers[4]


def test_what_was_pushed_is_what_the_recorded_run_tells(found):
    run = module.recorded(STEPS)
    told = run.interpolate(torch.tensor([[module.QUERY]], dtype=torch.float64))
    assert told.completeness.item() < 1e-4
    for sample, study in found.items():
        assert study.pushed == pytest.approx(told.contributions[sample].item(), rel=1e-4, abs=1e-9)


def test_words_state_what_was_measured(found):
    study = found[module.SAMPLES[0]]
    numbers = [float(v) for v in re.findall(r"[+-]?\d+\.\d+", words(study, 0.25))]
    place, pushed, weight, answer, change, forecast = numbers
    assert (place, weight) == (round(study.x[study.sample].item(), 2), 0.25)
    assert pushed == pytest.approx(study.pushed, abs=0.006)
    assert answer == pytest.approx(study.answers[1].item(), abs=6e-4)
    assert change == pytest.approx((study.answers[1] - study.answers[4]).item(), abs=6e-4)
    assert forecast == pytest.approx(-0.75 * study.slope, abs=6e-4)


def test_the_panels_draw_the_fit_and_the_line(found):
    study = found[module.SAMPLES[-1]]
    fit, answer = draw(study, 0.5).axes
    assert fit.lines[1].get_ydata() == pytest.approx(study.fits[2].numpy())
    real, line, star = answer.lines
    assert real.get_ydata() == pytest.approx(study.answers.numpy())
    assert line.get_ydata() == pytest.approx(study.forecast.numpy())
    assert star.get_ydata() == pytest.approx(study.answers[2].item())


def test_explorer_has_three_samples_and_seven_weights(monkeypatch, found):
    monkeypatch.setattr(module, "studies", lambda: found)
    explorer = sample_weight()
    assert isinstance(explorer, Explorer)
    html = explorer.html()
    assert len(re.findall("<div data-frame", html)) == 21
    assert len(html) < 700_000
    assert explorer.sliders["weight"].value == 0.0
