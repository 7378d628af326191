r"""The limit of a case: the passes that any exact method needs, and its multiplications as GEMMs.

Passes: one forward pass with activations kept and one backward pass per output through layer
outputs only (no weight gradient), on both sides.  Contraction: the cheapest exact way for each
layer, counted in floating-point operations (a multiplication and an addition are two).
"""

import copy
from dataclasses import dataclass

import torch
from torch import nn

from benchmarks.cases import Problem


@dataclass(frozen=True)
class Layer:
    """A layer as a linear map from ``inputs`` to ``outputs`` numbers at ``positions``."""

    name: str
    inputs: int
    outputs: int
    positions: int


def layers(problem: Problem) -> list[Layer]:
    """The linear and convolutional layers; any other parameter would not be counted: refused."""
    found: list[Layer] = []

    def note(name):
        def hook(layer, _, out):
            positions = 1 if isinstance(layer, nn.Linear) else out[0, 0].numel()
            o, i = layer.weight.flatten(1).shape
            found.append(Layer(name, i, o, positions))

        return hook

    known = [
        (k, m) for k, m in problem.model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)
    ]
    counted = sum(p.numel() for _, m in known for p in m.parameters())
    if counted != sum(p.numel() for p in problem.model.parameters()):
        raise ValueError("the limit counts only nn.Linear and nn.Conv2d layers")
    handles = [m.register_forward_hook(note(k)) for k, m in known]
    with torch.no_grad():
        problem.model(problem.x1[:1])
    for handle in handles:
        handle.remove()
    return found


def ways(layer: Layer, n1: int, n2: int | None, c: int, reduce: str) -> dict[str, float]:
    """Operations of each exact way; half of every product where the result is symmetric."""
    pairs = n1 * n1 / 2 if n2 is None else n1 * n2
    samples = n1 if n2 is None else n1 + n2
    i, o, t = layer.inputs, layer.outputs, layer.positions
    blocks = c * c if reduce == "full" else c  # output pairs
    entries = c * c if reduce == "full" else 1  # numbers kept per pair of samples
    bias = samples * c * o * t + 2 * pairs * blocks * o
    write = 2 * samples * c * o * t * i if t > 1 else samples * c * o * i
    found = {
        "gradients": write + 2 * pairs * blocks * o * i + bias,
        "positions": 2 * pairs * t * t * (i + blocks * o + entries) + bias,
    }
    if t == 1:  # (g . g')(a . a' + 1): the bias costs one addition
        found["factors"] = pairs * (2 * i + 1 + 2 * blocks * o + 2 * entries)
    return found


def contraction(problem: Problem) -> list[dict]:
    """The cheapest way and its operations, layer by layer."""
    case, rows = problem.case, []
    for layer in layers(problem):
        counts = ways(layer, case.n1, case.n2, case.outputs, case.reduce)
        way = min(counts, key=counts.get)
        rows.append({"layer": layer.name, "way": way, "flops": counts[way]})
    return rows


def passes(problem: Problem):
    """A function that makes the passes and nothing else."""
    model = copy.deepcopy(problem.model).requires_grad_(False)
    outs: list[torch.Tensor] = []

    def hook(layer, _, out):
        outs.append(out if out.requires_grad else out.requires_grad_())

    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.register_forward_hook(hook)
    sides = [problem.x1] if problem.x2 is None else [problem.x1, problem.x2]
    parts = [part for x in sides for part in x.split(problem.chunk)]

    def run() -> None:
        for x in parts:
            outs.clear()
            f = model(x)
            for k in range(f.shape[1]):
                seed = torch.zeros_like(f)
                seed[:, k] = 1
                torch.autograd.grad(f, outs, seed, retain_graph=k + 1 < f.shape[1])
        outs.clear()

    return run


def pass_flops(problem: Problem) -> float:
    """Operations of the passes: no gradient is needed below the first layer's outputs."""
    sizes = [2 * layer.inputs * layer.outputs * layer.positions for layer in layers(problem)]
    samples = problem.case.n1 + (problem.case.n2 or 0)
    return samples * (sum(sizes) + problem.case.outputs * sum(sizes[1:]))


def product_shape(problem: Problem) -> tuple[int, int, int]:
    """Shape (m, k, n) of a plain GEMM like the case's largest; k at most 4096."""
    case, c = problem.case, problem.case.outputs
    rows = contraction(problem)
    largest = max(range(len(rows)), key=lambda k: rows[k]["flops"])
    layer = layers(problem)[largest]
    wide = layer.outputs * (1 if rows[largest]["way"] == "factors" else layer.inputs)
    r = c if case.reduce == "full" else 1
    return case.n1 * r, min(4096, wide * (c // r)), (case.n2 or case.n1) * r


def gemm(m: int, k: int, n: int):
    """A function that multiplies until about 2 billion operations are done, and their number."""
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(m, k, generator=generator), torch.randn(n, k, generator=generator)
    out = torch.empty(m, n)
    times = max(1, round(2e9 / (2 * m * k * n)))

    def run() -> None:
        for _ in range(times):
            torch.mm(a, b.T, out=out)

    return run, 2 * m * k * n * times
