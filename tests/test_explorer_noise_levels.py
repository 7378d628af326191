"""The explorer of noise levels: its curves are shares, its words the ratio."""

import importlib
import re

import numpy as np
import pytest

from pkbook.lab.experiments import noise_levels as experiment
from pkbook.lab.explorers import Explorer, noise_levels

module = importlib.import_module("pkbook.lab.explorers.noise_levels")
LEVELS = module.LEVELS  # before a test changes them
TINY = experiment.Config(
    levels=20, coarse=20, samples=4, width=4, hidden=(8,), steps=8, batch=16, asked=5,
    frequencies=(0.01, 1.0), seeds=(0, 1),
)  # fmt: skip


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setattr(module, "CONFIG", TINY)
    monkeypatch.setattr(module, "LEVELS", (2, 10))
    module._relative.cache_clear()
    yield
    module._relative.cache_clear()


def shares(frequency):
    found = experiment.everything(TINY).of("sinusoidal", frequency=frequency)
    return sum(s.shares["noisy"].numpy() for s in found) / 2


@pytest.mark.parametrize("level", [2, 10])
def test_curves_and_words_from_the_shares(level):
    rows = shares(1.0)
    usual = np.nanmean(rows, 0)
    alike, relative = module.parts(level, 1.0)
    assert relative.numpy() == pytest.approx(rows[level - 1] / usual)
    angles = (level - np.arange(1, 21))[:, None] * np.array([1.0, 20**-0.5])
    assert alike.numpy() == pytest.approx(np.cos(angles).mean(1))
    near = slice(level - 3 if level > 3 else 0, level + 2)
    text = module.words(level, 1.0)
    share, ratio = (
        float(v) for v in re.search(r"have ([\d.]+)% .*, ([\d.]+) times", text).groups()
    )
    assert share == pytest.approx(100 * rows[level - 1, near].sum(), abs=0.051)
    assert ratio == pytest.approx(rows[level - 1, near].sum() / usual[near].sum(), abs=0.0051)
    top, bottom = module.draw(level, 1.0).axes
    assert top.lines[1].get_ydata() == pytest.approx(alike.numpy())
    assert bottom.lines[1].get_ydata() == pytest.approx(relative.numpy())


def test_explorer_has_a_frame_for_each_level_and_frequency(monkeypatch):
    monkeypatch.setattr(module, "LEVELS", (2, 10, 18))
    monkeypatch.setattr(module, "START", 10)
    explorer = noise_levels()
    assert isinstance(explorer, Explorer)
    html = explorer.html()
    assert len(re.findall("<div data-frame", html)) == 6
    assert len(html) < 200_000
    assert explorer.sliders["frequency"].value == 1.0


def test_what_was_not_asked_is_not_offered():
    full = experiment.Config.quick()
    _, level = experiment.queries(full, full.levels, 0)
    assert set(LEVELS) <= set(level.tolist())
