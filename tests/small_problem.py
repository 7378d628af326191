"""A small problem and a smooth network that tests of recorded runs share."""

import torch

import pkbook as pk


def smooth(dtype=torch.float64, outputs=2):
    return pk.models.mlp(2, 12, outputs, activation="tanh", seed=0).to(dtype)


def problem(dtype=torch.float64, outputs=2):
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(15, 2, generator=generator).to(dtype)
    y = torch.randn(15, outputs, generator=generator).to(dtype)
    return (x, y), torch.randn(3, 2, generator=generator).to(dtype)
