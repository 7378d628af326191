"""The explorer of digits' kernels: its frames show the numbers of a run."""

import importlib
import re
from dataclasses import replace

import pytest
import torch

from pkbook.lab.experiments import image_kernels as experiment
from pkbook.lab.explorers import Explorer, image_kernels

module = importlib.import_module("pkbook.lab.explorers.image_kernels")
TINY = experiment.Config(
    tasks=(experiment.Task("MNIST", 6, (0, 2)), experiment.Task("CIFAR-10", 6, (0, 1))),
    shown=5,
    seeds=(4,),
)


@pytest.fixture(scope="module")
def result():
    return experiment.run(TINY)


def test_fewer_keeps_the_first_of_each_class(result):
    outcome = result.outcomes["MNIST"]
    small = module.fewer(outcome, 2)
    rows = [5 * c + i for c in range(10) for i in (0, 1)]
    assert small.labels.tolist() == [c for c in range(10) for _ in range(2)]
    for at in ((0, 0, 0), (1, 1, 3)):
        assert torch.equal(small.kernels[at], outcome.kernels[at][rows][:, rows])


def test_words_and_drawing_state_what_was_measured(result):
    outcome = module.fewer(result.outcomes["MNIST"], 2)
    for epoch, layer in ((0, 0), (1, 0), (1, 5)):
        kernel, y = outcome.kernels[epoch, 0, layer], outcome.labels
        same = y[:, None] == y
        within = (kernel[same].sum() - 20) / 20  # twenty ones on the diagonal, twenty pairs
        across = kernel[~same].mean()
        text = module.words(outcome, epoch, layer)
        told = list(map(float, re.findall(r"\d+\.\d+", text)))
        gap = abs(within - across)
        assert told == pytest.approx([within.item(), across.item(), gap.item()], abs=0.0051)
        percents = list(map(int, re.findall(r"(\d+)%", text)))
        wanted = [100 * outcome.accuracy[0, epoch, 0].item()]
        if layer:
            wanted.insert(0, 100 * outcome.share[0, epoch, 0, layer - 1].item())
        assert percents == pytest.approx(wanted, abs=0.51)
        picture = module.draw(outcome, epoch, layer).axes[0].images[0]
        assert picture.get_clim() == (-1, 1)
        torch.testing.assert_close(torch.as_tensor(picture.get_array().data).float(), kernel)


def test_explorer_turns_epochs_and_layers(result):
    explorer = image_kernels(result)
    assert isinstance(explorer, Explorer)
    assert explorer.controls["epoch"].values == (0, 2)
    assert explorer.controls["layer"].values == (
        "whole network", "conv1", "conv2", "conv3", "fc1", "fc2",
    )  # fmt: skip
    html = explorer.html()
    assert len(re.findall("<div data-frame", html)) == 12
    assert len(html) < 12 * 40_000


def test_explorer_runs_one_seed_of_digits_without_a_result(monkeypatch):
    asked = []

    def short(config):
        asked.append(config)
        return run(replace(TINY, tasks=TINY.tasks[:1]))

    run = experiment.run
    monkeypatch.setattr(experiment, "run", short)
    image_kernels()
    assert [task.source for task in asked[0].tasks] == ["MNIST"]
    assert asked[0].seeds == (0,)


def test_refuses_what_is_no_result(result):
    with pytest.raises(TypeError, match="result must be what"):
        image_kernels("MNIST")
    other = experiment.Result(TINY, {"CIFAR-10": result.outcomes["CIFAR-10"]})
    with pytest.raises(ValueError, match="result must hold MNIST, got CIFAR-10"):
        image_kernels(other)
