"""`pk.trained`: the line that names a training says what its objects hold."""

import pytest
import torch
from torch import nn

import pkbook as pk

NET = pk.models.mlp(2, 16, 1, activation="tanh", seed=0)


def said(optimizer, loss=pk.losses.squared, **more):
    return str(pk.trained(NET, optimizer, loss, **{"steps": 5, **more}))


@pytest.mark.parametrize(
    ("optimizer", "words"),
    [
        (torch.optim.SGD(NET.parameters(), lr=0.1), "SGD, learning rate 0.1;"),
        (torch.optim.SGD(NET.parameters(), lr=0.1, momentum=0.9), "0.1, momentum 0.9;"),
        (torch.optim.RMSprop(NET.parameters(), alpha=0.9), "RMSprop, learning rate 0.01, "),
        (torch.optim.Adam(NET.parameters()), "Adam, learning rate 0.001;"),
        (torch.optim.Adam(NET.parameters(), betas=(0.9, 0.99)), "betas 0.9 and 0.99;"),
        (torch.optim.AdamW(NET.parameters(), weight_decay=0.1), "weight decay 0.1;"),
    ],
)
def test_the_optimizers_own_settings_are_told_and_defaults_left_out(optimizer, words):
    assert words in said(optimizer)
    for default in ("ε", "dampening", "Nesterov"):
        assert default not in said(optimizer)


def test_network_loss_steps_batches_and_seeds_are_told():
    sgd = torch.optim.SGD(NET.parameters(), lr=0.1)
    told = said(sgd, data="80 points", batch=4, seeds=range(3), also="warm-up of 2 steps")
    assert told == (
        "Trained here: network 2–16–1, tanh, 65 parameters; 80 points; squared loss; SGD, learning "
        "rate 0.1; 5 steps, batches of 4; seeds 0 to 2; warm-up of 2 steps."
    )
    assert "all samples in each step" in said(sgd)
    assert "1 epoch," in str(pk.trained(NET, sgd, "hinge loss", epochs=1))
    assert "seeds 0, 7" in said(sgd, seeds=[0, 7])


def test_groups_and_unknown_layers_are_told():
    layers = [{"params": NET[0].parameters()}, {"params": NET[2].parameters(), "lr": 0.5}]
    assert "in the first of 2 groups" in said(torch.optim.SGD(layers, lr=0.1))
    rnn = nn.LSTM(3, 4)
    told = pk.trained(rnn, torch.optim.SGD(rnn.parameters(), lr=0.1), "squared loss", steps=1)
    assert "LSTM, 144 parameters" in str(told)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda o: pk.trained("net", o, "loss", steps=1), TypeError, "torch.nn.Module"),
        (lambda o: pk.trained(NET, "sgd", "loss", steps=1), TypeError, "torch optimizer"),
        (lambda o: pk.trained(NET, o, "loss"), ValueError, "steps= or epochs="),
        (lambda o: pk.trained(NET, o, "loss", steps=1, epochs=1), ValueError, "one of them"),
    ],
)
def test_refuses(call, error, words):
    with pytest.raises(error, match=words):
        call(torch.optim.SGD(NET.parameters(), lr=0.1))
