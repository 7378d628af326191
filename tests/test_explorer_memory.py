"""The still picture of the memory in time against closed forms, for gradients all alike."""

import pytest
import torch

import pkbook as pk
from pkbook.lab.explorers import memory as memory_of
from pkbook.lab.explorers.memory import BETA, DECAY, NAMES, RATE, STEPS, _plane, _series

AGE = torch.arange(STEPS)[:, None] - torch.arange(STEPS)
PAST = AGE >= 0
FADED = torch.where(PAST, BETA ** AGE.clamp_min(0).double(), 0.0)
FILLED = 1 - BETA ** torch.arange(1, STEPS + 1).double()[:, None]  # of the mean of squares
OWN = torch.eye(STEPS).double()
WEIGHTS = {
    "sgd": OWN,
    "momentum": FADED,
    "rmsprop": OWN / FILLED.sqrt(),
    "adam": (1 - BETA) * FADED / FILLED,
    "adamw": (1 - BETA) * FADED / FILLED,
}


@pytest.mark.parametrize("name", NAMES)
def test_the_still_plane_is_the_closed_form(name):
    weights, pushes = _plane(name, _series("alike"))
    torch.testing.assert_close(weights, WEIGHTS[name], rtol=1e-5, atol=1e-6)  # Adam's epsilon
    left = 1 - RATE * DECAY if name == "adamw" else 1.0
    wanted, row = [], torch.zeros(STEPS).double()
    for new in WEIGHTS[name]:
        row = left * row + new
        wanted.append(row)
    torch.testing.assert_close(pushes, torch.stack(wanted), rtol=1e-5, atol=1e-6)


def test_a_large_gradient_shortens_the_later_steps_of_adam_alone():
    for name, shorter in (("adam", True), ("momentum", False)):
        alike, one = _plane(name, _series("alike"))[0], _plane(name, _series("one"))[0]
        assert bool((one[13:23, 8] < 0.8 * alike[13:23, 8]).all()) == shorter
        torch.testing.assert_close(one[:12], alike[:12])


@pytest.mark.parametrize("name", NAMES)
def test_the_words_are_those_of_the_optimizer(name):
    assert NAMES[name] in memory_of(optimizer=name).alt


def test_an_unknown_optimizer_is_refused():
    with pytest.raises(ValueError, match=r"optimizer: expected one of .*adam.*, got 'lion'"):
        pk.explorers.memory(optimizer="lion")
