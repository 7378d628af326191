"""The kernel by its definition: one gradient per sample and output, in float64."""

import copy

import torch
from torch import Tensor

from benchmarks.cases import Problem


def reference(problem: Problem, weight: dict[str, Tensor] | None = None) -> Tensor:
    """The kernel of a small problem, ``weight`` a diagonal one or None."""
    model = copy.deepcopy(problem.model).double()
    parameters = list(model.parameters())
    scale = 1.0
    if weight is not None:
        scale = torch.cat([weight[name].double().flatten() for name, _ in model.named_parameters()])

    def gradients(x: Tensor) -> Tensor:
        rows = []
        for sample in x.double():
            f = model(sample.unsqueeze(0)).squeeze(0)
            for k in range(len(f)):
                got = torch.autograd.grad(f[k], parameters, retain_graph=True)
                rows.append(torch.cat([g.flatten() for g in got]))
        return torch.stack(rows).unflatten(0, (len(x), -1))

    left, right = gradients(problem.x1), gradients(problem.other)
    return problem.canonical(torch.einsum("iap,jbp->ijab", left * scale, right))
