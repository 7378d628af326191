"""The contestants: ours, and other public ways to the same matrix, each as its users would.

A factory takes a :class:`~benchmarks.cases.Problem` and gives a function without arguments that
returns ``[n1, n2]`` (trace) or ``[n1, n2, C, C]`` (full).  A factory that cannot do a case raises
:class:`Unsuitable`; a package that is not installed raises ``ImportError``.
"""

import copy
import warnings

import torch
from torch import Tensor
from torch.func import functional_call, jacrev, jvp, vjp, vmap

import pkbook as pk
from benchmarks.cases import Problem, random_weight


class Unsuitable(Exception):
    """The method does not compute this case."""


def ours(problem: Problem):
    def run() -> Tensor:
        return pk.gradient_kernel(problem.model, problem.x1, problem.x2, reduce=problem.case.reduce)

    return run


def ours_weighted(problem: Problem):
    weight = random_weight(problem.model)

    def run() -> Tensor:
        return pk.weighted_kernel(
            problem.model, problem.x1, problem.x2, weight=weight, reduce=problem.case.reduce
        )

    return run


def _detached(model) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in model.named_parameters()}


def torch_func_jacobian(problem: Problem):
    """Jacobians by vmap(jacrev), contracted parameter by parameter, 100 images at a time."""
    model, parameters = problem.model, _detached(problem.model)
    rule = "iap,jap->ij" if problem.case.reduce == "trace" else "iap,jbp->ijab"

    def one(p, x):
        return functional_call(model, p, (x.unsqueeze(0),)).squeeze(0)

    def rows(x):
        return [j.flatten(2) for j in vmap(jacrev(one), (None, 0))(parameters, x).values()]

    def run() -> Tensor:
        right = rows(problem.other)
        found = []
        for part in problem.x1.split(problem.chunk):
            left = right if part.shape == problem.other.shape and problem.x2 is None else rows(part)
            found.append(sum(torch.einsum(rule, a, b) for a, b in zip(left, right, strict=True)))
        return torch.cat(found)

    return run


def torch_func_products(problem: Problem):
    """One vector-Jacobian product per row and output, then one Jacobian-vector product."""
    model, parameters = problem.model, _detached(problem.model)
    trace = problem.case.reduce == "trace"

    def row(x):
        _, pull = vjp(lambda p: functional_call(model, p, (x.unsqueeze(0),)).squeeze(0), parameters)

        def push(seed):
            (v,) = pull(seed)
            return jvp(lambda p: functional_call(model, p, (problem.other,)), (parameters,), (v,))[
                1
            ]

        blocks = vmap(push)(torch.eye(problem.case.outputs))  # [C, n2, C]
        return torch.einsum("ana->n", blocks) if trace else blocks.transpose(0, 1)

    return lambda: torch.stack([row(x) for x in problem.x1])


def _joined(problem: Problem) -> Tensor:
    return problem.x1 if problem.x2 is None else torch.cat([problem.x1, problem.x2])


def _corner(problem: Problem, k: Tensor) -> Tensor:
    """Of the kernel of both sets of inputs together, the block between them."""
    return k if problem.x2 is None else k[: problem.case.n1, problem.case.n1 :]


def nngeometry(problem: Problem):
    """Its Gram matrix; always full and square, so two sets of inputs are joined."""
    from nngeometry.gram import GramMatrix
    from torch.utils.data import DataLoader, TensorDataset

    model, x = copy.deepcopy(problem.model), _joined(problem)

    def run() -> Tensor:
        loader = DataLoader(TensorDataset(x), batch_size=min(problem.chunk, len(x)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            full = GramMatrix(model, loader).to_torch()  # [C, n, C, n]
        return _corner(problem, problem.canonical(full.permute(1, 3, 0, 2)))

    return run


def backpack_batch_gradients(problem: Problem):
    """Per-sample gradients of every output by BatchGrad, then one product per parameter."""
    from backpack import backpack, extend
    from backpack.extensions import BatchGrad

    model = extend(copy.deepcopy(problem.model))
    trace, c, n1 = problem.case.reduce == "trace", problem.case.outputs, problem.case.n1

    def split(g):
        return (g, g) if problem.x2 is None else (g[:n1], g[n1:])

    def gradients(x):
        f = model(x)
        for k in range(c):
            model.zero_grad()
            with warnings.catch_warnings(), backpack(BatchGrad(), retain_graph=k + 1 < c):
                warnings.simplefilter("ignore")
                f[:, k].sum().backward(retain_graph=k + 1 < c)
            yield [p.grad_batch.flatten(1) for p in model.parameters()]
        for p in model.parameters():
            del p.grad_batch

    def run() -> Tensor:
        x = _joined(problem)
        if trace:
            pairs = ((split(g) for g in found) for found in gradients(x))
            return sum(left @ right.T for found in pairs for left, right in found)
        columns = list(zip(*gradients(x), strict=True))  # parameter by parameter, C gradients
        sides = [split(torch.stack(found, 1)) for found in columns]
        return sum(torch.einsum("iap,jbp->ijab", left, right) for left, right in sides)

    return run


def _asdl(name: str, reduces: tuple[str, ...]):
    def factory(problem: Problem):
        if problem.case.reduce not in reduces:
            raise Unsuitable(f"gives no {problem.case.reduce} kernel")
        import asdl

        model, function = copy.deepcopy(problem.model), getattr(asdl, name)

        def run() -> Tensor:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                k = function(model, problem.x1, problem.x2)
            return problem.canonical(k) if k.ndim == 4 else k.sum(2)

        return run

    return factory


METHODS = {
    "ours": ours,
    "ours-weighted": ours_weighted,
    "torch.func-jacobian": torch_func_jacobian,
    "torch.func-products": torch_func_products,
    "nngeometry": nngeometry,
    "backpack": backpack_batch_gradients,
    "asdl-direct": _asdl("empirical_direct_ntk", ("trace", "full")),
    "asdl-classwise": _asdl("empirical_class_wise_direct_ntk", ("trace",)),
    "asdl-hadamard": _asdl("empirical_class_wise_hadamard_ntk", ("trace",)),
}
JAX_METHODS = ("nt-jacobian", "nt-products", "nt-structured")
PEERS = (*list(METHODS)[2:], *JAX_METHODS)
PACKAGES = {"nngeometry": "nngeometry", "backpack": "backpack-for-pytorch", "asdl": "asdfghjkl"}
