r"""Tangent features and what is contracted from them.

The tangent feature of an input is the gradient of the network's outputs with respect to its
trainable parameters, :math:`\varphi_\theta(x) = \nabla_\theta f(x,\theta)`.  Everything in this
package is an inner product of such features.  This module gives

* :func:`tangent_features`, the features themselves, per parameter;
* :func:`gram`, blocks of their inner products, computed in pieces that fit in memory;
* :func:`pushforward`, the products :math:`\nabla_\theta f(x_i,\theta)\,u` for a whole batch,
  without any per-sample gradient.

Source: arXiv 2603.13872, Definition 2.1.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from pkbook.checks import (
    as_matrix,
    require_choice,
    require_deterministic,
    require_finite,
    require_inputs,
    require_module,
    require_whole,
)

Tree = dict[str, Tensor]
"""Tensors by parameter name: a point in parameter space, or features with leading dimensions."""

REDUCTIONS = ("trace", "full", "diagonal")
_SCRATCH_BYTES = 256 * 2**20  # features held at once by gram(), per side


def trainable(model: nn.Module) -> Tree:
    """The trainable parameters by name (detached views; tied weights appear once)."""
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def count(parameters: Tree) -> int:
    """Number of scalars :math:`P` in a tree."""
    return sum(p.numel() for p in parameters.values())


def inner(features: Tree, vector: Tree) -> Tensor:
    r"""Features ``[..., *shape]`` times a vector ``[*shape]``: :math:`\langle\varphi,v\rangle`."""
    total = None
    for name, v in vector.items():
        part = features[name].flatten(-v.ndim) if v.ndim else features[name].unsqueeze(-1)
        part = part @ v.flatten() if v.ndim else part @ v.reshape(1)
        total = part if total is None else total + part
    return total


def _checked(model: nn.Module, x: Tensor, parameters: Tree | None, name: str) -> Tree:
    """Front-door checks of one (model, inputs, parameters) triple; returns the parameters used."""
    require_deterministic(require_module(model))
    require_inputs(model, x, name)
    own = trainable(model)
    if parameters is None:
        parameters = own
    elif {k: v.shape for k, v in parameters.items()} != {k: v.shape for k, v in own.items()}:
        raise ValueError(
            "parameters must have the names and shapes of the model's trainable parameters "
            f"({', '.join(own)}), got {', '.join(parameters)}"
        )
    for key, value in parameters.items():
        require_finite(value, f"parameter {key!r}")
    return parameters


def _selection(outputs: int | Tensor | None, n: int, device: torch.device) -> Tensor | None:
    """One output index per sample ``[n]``, or None for all outputs."""
    if outputs is None:
        return None
    chosen = torch.as_tensor(outputs, device=device)
    if chosen.is_floating_point() or chosen.dtype == torch.bool:
        raise TypeError(f"outputs must hold integers, got dtype {chosen.dtype}")
    if chosen.ndim == 0:
        chosen = chosen.expand(n)
    if chosen.shape != (n,):
        raise ValueError(
            f"outputs must be None, one int, or one int per query [{n}], "
            f"got shape {tuple(chosen.shape)}"
        )
    return chosen


def evaluate(model: nn.Module, x: Tensor, parameters: Tree, chosen: Tensor | None) -> Tensor:
    """Outputs ``[n, C]`` at ``parameters``, or the chosen ones ``[n, 1]``."""
    with torch.no_grad():
        f = as_matrix(functional_call(model, parameters, (x,)), x.shape[0])
    if chosen is None:
        return f
    if int(chosen.min()) < -f.shape[1] or int(chosen.max()) >= f.shape[1]:
        raise ValueError(
            f"outputs must lie in 0..{f.shape[1] - 1} for this model, got "
            f"{chosen.tolist() if chosen.numel() < 9 else [int(chosen.min()), int(chosen.max())]}"
        )
    return f.gather(1, (chosen % f.shape[1])[:, None])


def features(model: nn.Module, x: Tensor, parameters: Tree, chosen: Tensor | None = None) -> Tree:
    r"""Tangent features by parameter, ``{name: [n, C, *shape]}``, without any check.

    Reverse mode, one sample at a time under ``vmap``: :math:`C` backward passes.
    """

    def one(p: Tree, xi: Tensor, index: Tensor | None) -> Tensor:
        f = functional_call(model, p, (xi.unsqueeze(0),)).reshape(-1)
        return f if index is None else f.gather(0, index.reshape(1))

    try:
        return vmap(jacrev(one), in_dims=(None, 0, None if chosen is None else 0))(
            parameters, x, chosen
        )
    except RuntimeError as error:
        if "random" in str(error):
            raise ValueError(
                "model draws random numbers in its forward pass, so the kernel between two inputs "
                "is not defined; make it deterministic in eval mode"
            ) from error
        raise


def tangent_features(
    model: nn.Module,
    x: Tensor,
    *,
    parameters: Tree | None = None,
    outputs: int | Tensor | None = None,
) -> Tensor:
    r"""The tangent features :math:`\varphi_\theta(x_i)=\nabla_\theta f(x_i,\theta)`, one row each.

    Parameters
    ----------
    model : module with trainable parameters, in eval mode if it has dropout or BatchNorm.
    x : inputs ``[n, ...]``.
    parameters : a point in parameter space ``{name: tensor}``; default the model's own.
    outputs : None for all :math:`C` outputs, one index, or one index per input ``[n]``.

    Returns
    -------
    Tensor ``[n, C, P]`` (``[n, 1, P]`` when outputs are chosen); :math:`P` counts the trainable
    parameters in the order of ``model.named_parameters()``.

    Raises
    ------
    TypeError, ValueError
        for a model without trainable parameters or in train mode with dropout or BatchNorm, and
        for inputs that are empty, not finite, or on another device.

    Source: arXiv 2603.13872, Definition 2.1 and Section 5.

    >>> line = torch.nn.Linear(2, 1)
    >>> tangent_features(line, torch.tensor([[3.0, 5.0]]))      # gradient: the input, then 1
    tensor([[[3., 5., 1.]]])
    """
    parameters = _checked(model, x, parameters, "x")
    chosen = _selection(outputs, x.shape[0], x.device)
    evaluate(model, x[:1], parameters, None if chosen is None else chosen[:1])
    tree = features(model, x, parameters, chosen)
    return torch.cat([tree[name].flatten(2) for name in parameters], dim=2)


def _contract(a: Tensor, b: Tensor, reduce: str) -> Tensor:
    """Inner products of feature blocks ``[i, C, P]`` and ``[j, C, P]``."""
    if reduce == "trace":
        return a.flatten(1) @ b.flatten(1).T
    if reduce == "diagonal":
        return torch.einsum("icp,jcp->ijc", a, b)
    i, j, c = a.shape[0], b.shape[0], a.shape[1]
    return (a.flatten(0, 1) @ b.flatten(0, 1).T).reshape(i, c, j, b.shape[1]).transpose(1, 2)


def _weight_row(weight: Tree | None, parameters: Tree) -> Tensor | None:
    """The diagonal weight as one row ``[P]``; scalars stand for a whole parameter."""
    if weight is None:
        return None
    if not isinstance(weight, dict) or set(weight) != set(parameters):
        raise ValueError(
            "weight must be a dict with one entry per trainable parameter "
            f"({', '.join(parameters)}), got "
            f"{list(weight) if isinstance(weight, dict) else weight!r}"
        )
    rows = []
    for name, p in parameters.items():
        w = torch.as_tensor(weight[name], dtype=p.dtype, device=p.device)
        if w.shape not in ((), p.shape):
            raise ValueError(
                f"weight[{name!r}] must be a scalar or have shape {tuple(p.shape)}, "
                f"got {tuple(w.shape)}"
            )
        if not torch.isfinite(w).all() or (w < 0).any():
            raise ValueError(f"weight[{name!r}] must be finite and not negative")
        rows.append(w.expand(p.shape).flatten())
    return torch.cat(rows)


def _rows(n: int, width: int, chunk: int | None, dtype: torch.dtype) -> list[slice]:
    """Slices of the samples whose features fit in the scratch memory."""
    if chunk is None:
        chunk = max(1, _SCRATCH_BYTES // max(1, width * dtype.itemsize))
    require_whole(chunk, "chunk")
    return [slice(i, min(i + chunk, n)) for i in range(0, n, chunk)]


def gram(
    model: nn.Module,
    x1: Tensor,
    x2: Tensor | None = None,
    *,
    reduce: str = "trace",
    weight: Tree | None = None,
    parameters1: Tree | None = None,
    parameters2: Tree | None = None,
    chunk: int | None = None,
) -> Tensor:
    r"""Inner products :math:`\nabla f(x_1,\theta_1)\,A\,\nabla f(x_2,\theta_2)^\top`.

    The general form behind every kernel of :mod:`pkbook.kernels`: two inputs, two parameter
    states, a diagonal weight :math:`A`.  ``x2=None`` means ``x1`` again.  The features are
    computed in chunks of samples (``chunk``; default what fits in 256 MiB), so memory does not
    grow with ``n``.  Shapes and errors: see :func:`pkbook.gradient_kernel`.
    """
    require_choice(reduce, "reduce", REDUCTIONS)
    symmetric = x2 is None and parameters2 is None
    x2 = x1 if x2 is None else x2
    p1 = _checked(model, x1, parameters1, "x1")
    p2 = p1 if parameters2 is None else parameters2
    p2 = _checked(model, x2, p2, "x2")
    row = _weight_row(weight, p1)
    c = evaluate(model, x1[:1], p1, None).shape[1]

    def block(x: Tensor, p: Tree) -> Tensor:
        tree = features(model, x, p)
        return torch.cat([tree[name].flatten(2) for name in p], dim=2)

    width = c * count(p1)
    rows1, rows2 = (_rows(len(x), width, chunk, next(iter(p1.values())).dtype) for x in (x1, x2))
    shape = {"trace": (), "diagonal": (c,), "full": (c, c)}[reduce]
    out = next(iter(p1.values())).new_empty(len(x1), len(x2), *shape)
    for a, i in enumerate(rows1):
        left = block(x1[i], p1)
        heavy = left if row is None else left * row
        for b, j in enumerate(rows2[a:] if symmetric else rows2, start=a if symmetric else 0):
            right = left if symmetric and a == b else block(x2[j], p2)
            out[i, j] = _contract(heavy, right, reduce)
            if symmetric and a != b:
                mirrored = out[i, j].transpose(0, 1)
                out[j, i] = mirrored.transpose(2, 3) if reduce == "full" else mirrored
    if not torch.isfinite(out).all():
        raise ValueError("the kernel is not finite: a gradient of the model overflowed or is NaN")
    return out


def pushforward(
    forward: Callable[[Tree], Tensor], parameters: Tree, directions: Tree
) -> tuple[Tensor, Tensor]:
    r"""Outputs :math:`f_i` and their derivatives along directions, :math:`\nabla f_i\,u_m`.

    ``forward`` maps a tree of parameters to outputs ``[n, C]``; ``directions`` holds
    ``{name: [M, *shape]}``.  Returns outputs ``[n, C]`` and derivatives ``[M, n, C]``.

    Forward-mode products by two reverse passes: :math:`J^\top v` is linear in :math:`v`, and its
    derivative with respect to :math:`v` along :math:`u` is :math:`J u`.  One forward pass serves
    all directions, so dropout masks and batch statistics are those of that one pass.
    """
    leaves = {name: p.detach().requires_grad_() for name, p in parameters.items()}
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):  # fused attention: no second derivative
        outputs = forward(leaves)
        v = torch.zeros_like(outputs, requires_grad=True)
        pulled = torch.autograd.grad(
            outputs, list(leaves.values()), v, create_graph=True, materialize_grads=True
        )
        live = [(name, g) for name, g in zip(leaves, pulled, strict=True) if g.requires_grad]
        many = next(iter(directions.values())).shape[0]
        pushed = outputs.new_zeros(many, *outputs.shape)
        for m in range(many if live else 0):
            (pushed[m],) = torch.autograd.grad(
                [g for _, g in live],
                v,
                [directions[name][m] for name, _ in live],
                retain_graph=True,
            )
    return outputs.detach(), pushed
