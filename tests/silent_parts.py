"""A small run for the tests of what once went wrong without a word."""

import torch

import pkbook as pk

X = torch.randn(12, 2, generator=torch.Generator().manual_seed(1))
Y = X.prod(1, keepdim=True)


def net(seed=0):
    return pk.models.mlp(2, 8, 1, activation="tanh", seed=seed)


def sgd(model, **options):
    return torch.optim.SGD(model.parameters(), **{"lr": 0.1} | options)


def begun(model=None, loss=pk.losses.squared, optimizer=None, data=(X, Y), **options):
    model = net() if model is None else model
    return pk.Trajectory(model, loss, optimizer or sgd(model), data, **options)


def trained(steps=7, **options):
    run = begun(**options)
    for batch in pk.batches(len(run.x), size=4, steps=steps, seed=3):
        run.step(batch)
    return run
