"""The alignment explorer: its frames are the runs that it was given."""

import importlib
import re
from dataclasses import replace

import pytest

from pkbook.lab.experiments import alignment as experiment
from pkbook.lab.explorers import Explorer, alignment

module = importlib.import_module("pkbook.lab.explorers.alignment")
TINY = experiment.Config(
    architectures=("MLP", "transformer"),
    samples=40,
    probes=20,
    sizes=(),
    batch=10,
    steps=(0, 1, 3),
    shares=(1.0, 0.0),
    seeds=(3, 4),
)


@pytest.fixture(scope="module")
def result():
    return experiment.run(TINY)


def test_curves_are_those_of_the_first_seed(result):
    run = result.of("transformer", 1.0)[0]
    assert run.seed == 3
    top, bottom = module.draw(run).axes
    curves = {line.get_label(): line.get_ydata() for line in top.lines}
    assert curves["training images"] == pytest.approx(run.fitted.numpy())
    assert curves["held-out images"] == pytest.approx(run.accuracy.numpy())
    curves = {line.get_label(): line.get_ydata() for line in bottom.lines}
    for where in experiment.PLACES:
        expected = run.alignment(where, normalised=True)
        assert curves[f"{where} images"] == pytest.approx(expected.numpy())


def test_words_state_the_ends(result):
    run = result.of("MLP", 1.0)[0]
    text = module.words(run)
    assert text.startswith("MLP, 100% random labels. ")
    shares = [int(n) / 100 for n in re.findall(r"(\d+)% ?(?:to|,|\.)", text.partition(". ")[2])]
    ends = [run.fitted[0], run.fitted[-1], run.accuracy[0], run.accuracy[-1]]
    assert shares[:4] == pytest.approx([end.item() for end in ends], abs=0.0051)
    told = [float(n) for n in re.findall(r"-?0\.\d\d", text)]
    own, seen = (run.alignment(where, normalised=True) for where in experiment.PLACES)
    assert told == pytest.approx([v.item() for v in (own[0], own[-1], seen[0], seen[-1])], abs=5e-3)


def test_words_say_when_a_run_was_better_before(result):
    run = result.of("MLP")[0]
    run = replace(run, accuracy=run.accuracy.new_tensor([0.1, 0.8, 0.3]))
    assert "was best after step 1, 80%" in module.words(run)


def test_explorer_has_a_frame_for_every_choice(result):
    explorer = alignment(result)
    assert isinstance(explorer, Explorer)
    grid = [tuple(frame.values.values()) for frame in explorer.frames()]
    assert grid == [(a, s) for a in ("MLP", "transformer") for s in (0.0, 1.0)]
    explorer.sliders["architecture"].value = "transformer"
    explorer.sliders["share"].value = 1.0
    expected = module.words(result.of("transformer", 1.0)[0])
    assert expected in explorer.widget.children[-1].value
    assert explorer.controls["share"].texts == ("0%", "100%")


def test_without_a_result_the_quick_preset_runs_with_one_seed(result, monkeypatch):
    asked = []
    monkeypatch.setattr(experiment, "run", lambda config: asked.append(config) or result)
    alignment()
    assert asked == [experiment.Config.quick(seeds=(20,), sizes=())]


def test_anything_else_is_refused(result):
    with pytest.raises(TypeError, match=r"result must be what pkbook.experiments.alignment.run"):
        alignment(result.runs)
    few = experiment.Result(experiment.Config(shares=(0.0,)), result.runs)
    with pytest.raises(ValueError, match="at least two"):
        alignment(few)
