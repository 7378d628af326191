"""The mathematics of single explorers, in JavaScript, held to the package in float64."""

import json
import subprocess

import torch
from test_live_core import BOUND, LIVE, ROOT, apart, node
from torch.nn.utils import parameters_to_vector

import pkbook as pk
from pkbook import function_space as fs


def ask(job: str, **given) -> dict:
    task = json.dumps({"job": job, "given": given, "folder": str(LIVE)}, default=torch.Tensor.tolist)
    command = [node(), str(ROOT / "tests" / "live_maths.mjs")]
    done = subprocess.run(command, input=task, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def drawn(seed: int, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def start(net: torch.nn.Module) -> torch.Tensor:
    return parameters_to_vector(net.parameters()).detach()


class Square(torch.nn.Module):
    def forward(self, x):
        return x.square() / 3


def test_parts_and_the_integral_operator():
    n, net = 20, pk.models.mlp(1, 6, 1, activation="tanh", seed=2).double()
    g = drawn(0, n)
    told = ask("parity", width=6, start=start(net), n=n, values=g)
    mu = fs.interval(-3.0, 3.0, n, rule="midpoint", dtype=torch.float64)
    operator = fs.population(torch.nn.Sequential(Square(), net), mu)
    even, odd = (g + g.flip(0)) / 2, (g - g.flip(0)) / 2
    assert apart(told["x"], mu.nodes) < BOUND
    assert apart(told["parts"], torch.stack([even, odd])) < BOUND
    assert apart(told["energies"], [mu.mean(v.square()).item() for v in (even, odd)]) < BOUND
    assert apart(told["applied"][0], operator(even)) < BOUND
    assert max(map(abs, told["applied"][1])) < 1e-14 * operator(even).abs().max()
    x, wanted = mu.nodes[:, 0], []
    for wave in (torch.cos, torch.sin):
        wanted.append(wave(2 * x) / mu.mean(wave(2 * x).square()).sqrt())
    assert apart(told["waves"], torch.stack(wanted)) < BOUND
