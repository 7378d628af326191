"""The explorer of ellipses: frames from a result that is there, its numbers in words."""

import math
import re
from dataclasses import replace

import pytest

from pkbook.lab.experiments import separability
from pkbook.lab.explorers import Explorer, ellipses

TINY = separability.Config(
    sizes=(60,),
    few=60,
    swept=60,
    radii=(),
    ratios=(1.0, 2.0),
    widths=(8,),
    batch=10,
    steps=20,
    asked=20,
    grid=16,
    seeds=(0,),
)


@pytest.fixture(scope="module")
def result():
    return separability.run(TINY)


def test_draws_a_frame_for_every_ratio_and_way_without_training(result, monkeypatch):
    monkeypatch.setattr(separability, "measure", None)
    explorer = ellipses(result)
    assert isinstance(explorer, Explorer)
    html = explorer.html()
    assert len(re.findall("<div data-frame", html)) == 4
    assert len(html) < 200_000
    assert explorer.sliders["way"].value == "tuned"
    live = explorer.widget.children[-1]
    before = live.value
    explorer.sliders["ratio"].value = 2.0
    assert live.value != before


@pytest.mark.parametrize(("ratio", "shape"), [(1.0, "a circle"), (2.0, "an ellipse 2 times")])
@pytest.mark.parametrize("way", ["plain", "tuned"])
def test_words_state_the_areas(result, ratio, shape, way):
    said = ellipses(result).frame(ratio=ratio, way=way).alt
    assert shape in said
    outcome = result.outcomes[separability.Case((1.0, 1 / ratio), 60)]
    for m, kind in enumerate(("RBF", "untrained", "tangent")):
        share = outcome.of("area", f"{kind}, {way}")[0].item() / (math.pi / ratio)
        assert re.findall(r"(\d+)%", said)[m] == f"{100 * share:.0f}"


def test_one_ratio_is_no_slider(result):
    config = replace(TINY, ratios=(2.0,))
    with pytest.raises(ValueError, match="values: expected at least two"):
        ellipses(separability.Result(config, result.outcomes))
