"""The explorer of a GAN's learning rates: its frames show runs that were counted elsewhere."""

import importlib
import re

import pytest
import torch

from pkbook.lab.experiments.mode_collapse import Config, Setting, measure
from pkbook.lab.explorers import Explorer, adversarial_rates

module = importlib.import_module("pkbook.lab.explorers.adversarial_rates")
draw, study, words = module.draw, module.study, module.words
SHORT = Config(steps=32, every=4, batch=8, latents=20, queries=8, points=8)


@pytest.fixture(scope="module")
def found():
    return study([(0.002, 0.01), (0.01, 0.002)], SHORT, 3)[1]


def test_study_shows_the_run_of_the_experiment(found):
    """`measure` is checked against plain torch in its own test."""
    known = measure([Setting(0.01, 0.002)], SHORT, [3])
    torch.testing.assert_close(found["points"], known["places"][0, -1])
    assert found["modes"] == known["modes"][0].tolist()
    torch.testing.assert_close(found["coherence"], known["moved"][0].unflatten(0, (8, 4)).mean(1))


def test_drawing_shows_the_numbers(found):
    ring, course = draw(found).axes
    dots = ring.lines[0].get_xydata()
    assert dots == pytest.approx(found["points"].numpy())
    assert list(course.lines[0].get_ydata()) == found["modes"]


def test_words_tell_the_numbers(found):
    told = words(found | {"modes": [3, 5, 4], "coherence": torch.tensor([9.0, 0.5, 0.5, 0.5])})
    assert "covers 4 of 8" in told
    assert "ever covered are 5" in told
    assert "0.50" in told


def test_explorer_has_three_rates_each(monkeypatch):
    trained = []

    def short(rates):
        trained.extend(rates)
        return study(rates, SHORT)

    monkeypatch.setattr(module, "study", short)
    module._every.cache_clear()
    explorer = adversarial_rates()
    assert isinstance(explorer, Explorer)
    html = explorer.html()
    module._every.cache_clear()
    assert len(trained) == len(set(trained)) == 9
    assert len(re.findall("<div data-frame", html)) == 9
    assert len(html) < 600_000
    assert explorer.sliders["discriminator"].value == 0.002
