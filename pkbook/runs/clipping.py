"""Clipped gradients as a function of gradients, which can be differentiated and mapped."""

import torch

from pkbook.basics.parameters import Tree
from pkbook.runs.problem import Problem


def clipped(problem: Problem, gradients: Tree) -> Tree:
    """The gradients as the optimizer gets them, as ``clip_grad_norm_`` and ``clip_grad_value_``."""
    if problem.clip_value is not None:
        most = problem.clip_value
        return {name: g.clamp(-most, most) for name, g in gradients.items()}
    if problem.clip_norm is None:
        return gradients
    norms = torch.stack([torch.linalg.vector_norm(g) for g in gradients.values()])
    factor = (problem.clip_norm / (torch.linalg.vector_norm(norms) + 1e-6)).clamp(max=1.0)
    return {name: g * factor for name, g in gradients.items()}
