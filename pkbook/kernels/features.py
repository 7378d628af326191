r"""Tangent features: gradients of the outputs, one by one.

The tangent feature of an input is the gradient of the network's outputs with respect to its
trainable parameters, :math:`\varphi_\theta(x) = \nabla_\theta f(x,\theta)`.  Everything in this
package is an inner product of such features.  This module gives

* :func:`tangent_features`, the features themselves, per parameter;
* :func:`pushforward`, the products :math:`\nabla_\theta f(x_i,\theta)\,u` for a whole batch,
  without any per-sample gradient.

Source: arXiv 2603.13872, Definition 2.1.
"""

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vjp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from pkbook.basics.parameters import Tree, sum_of
from pkbook.kernels.asked import Asked, Inputs, asked, tensors_of, with_tensors
from pkbook.kernels.inputs import Which, checked, evaluate, selection
from pkbook.kernels.passes import Forward, calling, watched


def inner(features: Tree, vector: Tree) -> Tensor:
    r"""Features ``[..., *shape]`` times a vector ``[*shape]``: :math:`\langle\varphi,v\rangle`."""
    parts = []
    for name, v in vector.items():
        part = features[name].flatten(-v.ndim) if v.ndim else features[name].unsqueeze(-1)
        parts.append(part @ v.flatten() if v.ndim else part @ v.reshape(1))
    return sum_of(parts)


def features(
    model: nn.Module,
    x: Inputs,
    parameters: Tree,
    chosen: Tensor | None = None,
    names: list[str] | None = None,
) -> Tree:
    r"""Tangent features by parameter, ``{name: [n, C, *shape]}``, without any check.

    Reverse mode, one sample at a time under ``vmap``, with respect to the parameters ``names``
    (default all): :math:`C` backward passes.  A model that ``vmap`` cannot follow (recurrent
    layers, control flow that looks at the data) is differentiated sample by sample in a loop.
    """
    moving = parameters if names is None else {name: parameters[name] for name in names}

    def one(p: Tree, xi: list[Tensor], index: Tensor | None) -> Tensor:
        alone = with_tensors(x, [t.unsqueeze(0) for t in xi])
        with calling(model, alone)(parameters | p) as out:
            f = out.reshape(-1)
        return f if index is None else f.gather(0, (index % len(f)).reshape(1))

    def rows(xi: list[Tensor], index: Tensor | None) -> Tree:
        f, back = vjp(lambda p: one(p, xi, index), moving)[:2]
        # Output by output: a second vmap inside this one mixes up dimensions in some rules (PReLU).
        eye = torch.eye(f.shape[0], dtype=f.dtype, device=f.device)
        pulled = [back(seed)[0] for seed in eye]
        return {name: torch.stack([tree[name] for tree in pulled]) for name in moving}

    if isinstance(x, Asked) and x.whole:
        return _features_in_a_loop(model, moving, parameters, x, chosen)
    try:
        with warnings.catch_warnings(), sdpa_kernel(SDPBackend.MATH):
            warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
            return vmap(rows, in_dims=(0, None if chosen is None else 0))(tensors_of(x), chosen)
    except (RuntimeError, NotImplementedError, TypeError) as error:
        if "random" in str(error):
            raise ValueError(
                "model draws random numbers in its forward pass, so the kernel between two inputs "
                "is not defined; make it deterministic in eval mode"
            ) from error
    return _features_in_a_loop(model, moving, parameters, x, chosen)


def _features_in_a_loop(
    model: nn.Module, moving: Tree, parameters: Tree, x: Inputs, chosen: Tensor | None
) -> Tree:
    """The same by ordinary autograd, one sample and one output at a time."""
    rows: dict[str, list[Tensor]] = {name: [] for name in moving}
    for i in range(len(x)):
        leaves = {name: p.detach().requires_grad_() for name, p in moving.items()}
        call = calling(model, x[i : i + 1])
        with torch.inference_mode(False), torch.enable_grad(), call(parameters | leaves) as out:
            f = out.reshape(-1)
            f = f if chosen is None else f.gather(0, (chosen[i] % len(f)).reshape(1))
            got = _each_gradient(f, list(leaves.values()))
        for k, name in enumerate(moving):
            grads = [g[k].to_dense() if g[k].is_sparse else g[k] for g in got]
            rows[name].append(torch.stack(grads))
    return {name: torch.stack(found) for name, found in rows.items()}


def _each_gradient(f: Tensor, wanted: list[Tensor]) -> list[tuple[Tensor, ...]]:
    """The gradients of every entry of ``f [C]``."""
    if not f.requires_grad:
        return [tuple(torch.zeros_like(p) for p in wanted)] * len(f)
    return [torch.autograd.grad(fc, wanted, retain_graph=True, materialize_grads=True) for fc in f]


def tangent_features(
    model: nn.Module,
    x: Any,
    *,
    of: Any = None,
    parameters: Which = None,
    outputs: int | Tensor | None = None,
) -> Tensor:
    r"""The tangent features :math:`\varphi_\theta(x_i)=\nabla_\theta f(x_i,\theta)`, one row each.

    Parameters
    ----------
    model
        module with trainable parameters, in eval mode if it has dropout or BatchNorm.
    x, of
        inputs ``[n, ...]``, and what is asked of them, as for :func:`pkbook.gradient_kernel`.
    parameters
        a point in parameter space ``{name: tensor}``, or names; default the model's own.
    outputs
        None for all :math:`C` outputs, one index, or one index per input ``[n]``.

    Returns
    -------
    Tensor ``[n, C, P]`` (``[n, 1, P]`` when outputs are chosen); :math:`P` counts the trainable
    parameters in the order of ``model.named_parameters()``.

    Raises
    ------
    TypeError, ValueError
        for a model without trainable parameters or in train mode with dropout or BatchNorm, and
        for inputs that are empty, not finite, or on another device.

    References
    ----------
    arXiv 2603.13872, Definition 2.1 and Section 5.

    Examples
    --------
    >>> line = torch.nn.Linear(2, 1)
    >>> tangent_features(line, torch.tensor([[3.0, 5.0]]))      # gradient: the input, then 1
    tensor([[[3., 5., 1.]]])
    """
    x = asked(x, of)
    parameters = checked(model, x, parameters, "x")
    chosen = selection(outputs, len(x), x.device)
    evaluate(model, x[:1], parameters, None if chosen is None else chosen[:1])
    with watched(calling(model, x[:1]), parameters):
        pass  # refuses a model that reaches its parameters by another way
    tree = features(model, x, parameters, chosen)
    return torch.cat([tree[name].reshape(*tree[name].shape[:2], -1) for name in parameters], 2)


def pushforward(forward: Forward, parameters: Tree, directions: Tree) -> tuple[Tensor, Tensor]:
    r"""Outputs :math:`f_i` and their derivatives along directions, :math:`\nabla f_i\,u_m`.

    ``directions`` holds ``{name: [M, *shape]}``.  Returns outputs ``[n, C]`` and derivatives
    ``[M, n, C]``.

    Forward-mode products by two reverse passes: :math:`J^\top v` is linear in :math:`v`, and its
    derivative with respect to :math:`v` along :math:`u` is :math:`J u`.  One forward pass serves
    all directions, so dropout masks and batch statistics are those of that one pass.
    """
    leaves = {name: p.detach().requires_grad_() for name, p in parameters.items()}
    # Fused attention has no second derivative.
    with torch.inference_mode(False), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        with forward(leaves) as f:
            f = f.reshape(len(f), -1)
            try:
                return _pushed(f, leaves, directions)
            except RuntimeError as error:
                if "not implemented" not in str(error):
                    raise
                return _pushed_one_by_one(f, leaves, directions)


def _pushed(f: Tensor, leaves: Tree, directions: Tree) -> tuple[Tensor, Tensor]:
    many = next(iter(directions.values())).shape[0]
    pushed = f.new_zeros(many, *f.shape)
    if not f.requires_grad:  # none of these parameters has any influence
        return f.detach(), pushed
    v = torch.zeros_like(f, requires_grad=True)
    pulled = torch.autograd.grad(
        f, list(leaves.values()), v, create_graph=True, materialize_grads=True
    )
    live = [(name, g) for name, g in zip(leaves, pulled, strict=True) if g.requires_grad]
    for m in range(many if live else 0):
        along = [directions[name][m] for name, _ in live]
        (pushed[m],) = torch.autograd.grad(
            [g for _, g in live], v, along, retain_graph=True, materialize_grads=True
        )
    return f.detach(), pushed


def _pushed_one_by_one(f: Tensor, leaves: Tree, directions: Tree) -> tuple[Tensor, Tensor]:
    """The same by one backward pass for each entry: some layers have no second derivative."""
    many = next(iter(directions.values())).shape[0]
    pushed = f.new_zeros(many, *f.shape)
    for i, row in enumerate(f):
        for c, entry in enumerate(row):
            got = _each_gradient(entry[None], list(leaves.values()))[0]
            along = {n: g.to_dense() for n, g in zip(leaves, got, strict=True)}
            pushed[:, i, c] = inner(directions, along)
    return f.detach(), pushed
