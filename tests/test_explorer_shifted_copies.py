"""The explorer of moved copies: its frames are the numbers of the run that it was given."""

import importlib
import re

import pytest

from pkbook.lab.experiments import inheritance as experiment
from pkbook.lab.explorers import Explorer, shifted_copies

module = importlib.import_module("pkbook.lab.explorers.shifted_copies")
TINY = experiment.Config(
    architectures=("MLP", "transformer"),
    per_class=2,
    held_out=2,
    batch=10,
    shifts=(0, 1, 2, 3),
    epochs=(0, 1),
    seeds=(3, 4),
)


@pytest.fixture(scope="module")
def result():
    return experiment.run(TINY)


def numbers(result, name, pixels, kind):
    values = result.similarity[result.place(name), :, :, kind, pixels].mean((0, 2))
    others = result.others[result.place(name), :, -1, kind].mean(0)
    return [*values.tolist(), *others.tolist()]


def test_marks_stand_at_the_numbers(result):
    explorer = shifted_copies(result)
    fig = explorer._draw(architecture="transformer", pixels=2)
    for ax, kind in zip(fig.axes[2:], (0, 1), strict=True):
        pairs = [line.get_xydata() for line in ax.lines if len(line.get_xdata()) == 2]
        ends = [end[0] for start, end in pairs if start[1] == end[1]]
        assert ends == pytest.approx(numbers(result, "transformer", 2, kind))
    _, held, copies = experiment.queries(TINY, 3)
    shown = [ax.images[0].get_array() for ax in fig.axes[:2]]
    assert (shown[0] == held.x[0, 0].numpy()).all()
    assert (shown[1] == copies[2, 0, 0].numpy()).all()


def test_words_state_the_numbers(result):
    text = module.words(result, "MLP", 1)
    assert text.startswith("MLP, 1 pixel. ")
    told = [float(n) for n in re.findall(r"-?\d\.\d\d", text)]
    raw, clean = (numbers(result, "MLP", 1, kind) for kind in (0, 1))
    assert told == pytest.approx([*raw, *clean[1:3]], abs=0.0051)
    assert ("nearer than" in text) == (clean[1] > clean[2])


def test_explorer_has_a_frame_for_every_choice(result):
    explorer = shifted_copies(result)
    assert isinstance(explorer, Explorer)
    grid = [tuple(frame.values.values()) for frame in explorer.frames()]
    assert grid == [(a, s) for a in ("MLP", "transformer") for s in (1, 2)]
    explorer.sliders["architecture"].value = "transformer"
    assert module.words(result, "transformer", 2) in explorer.widget.children[-1].value


def test_without_a_result_the_quick_preset_runs_with_one_seed(result, monkeypatch):
    asked = []
    monkeypatch.setattr(experiment, "run", lambda config: asked.append(config) or result)
    shifted_copies()
    assert asked == [experiment.Config.quick(seeds=(30,))]


def test_anything_else_is_refused(result):
    with pytest.raises(TypeError, match=r"result must be what pkbook.experiments.inheritance.run"):
        shifted_copies(result.similarity)
