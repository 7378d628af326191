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

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import vjp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from pkbook.basics.budget import LARGEST_DEFAULT, free_memory
from pkbook.basics.checks import (
    as_matrix,
    require_choice,
    require_deterministic,
    require_finite,
    require_inputs,
    require_module,
    require_whole,
)
from pkbook.basics.parameters import Tree, trainable
from pkbook.basics.randomness import kept
from pkbook.kernels.contraction import Sum, contract, write_out
from pkbook.kernels.factors import Dense
from pkbook.kernels.passes import (
    Forward,
    PathChanged,
    Plan,
    Side,
    calling,
    plan,
    require_alone,
    side,
    widen,
)

REDUCTIONS = ("trace", "full", "diagonal")
SLICE = 2**28  # bytes; buffers of this size are used again, larger ones are fresh pages each time


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
    parameters = own if parameters is None else _checked_parameters(parameters, own)
    for key, value in parameters.items():
        require_finite(value, f"parameter {key!r}")
    return parameters


def _checked_parameters(parameters: Tree, own: Tree) -> Tree:
    if not isinstance(parameters, dict) or not all(
        isinstance(p, Tensor) for p in parameters.values()
    ):
        raise TypeError(
            f"parameters must be a dict {{name: tensor}}, got {type(parameters).__name__}; "
            "write run.parameters(k) or dict(model.named_parameters())"
        )
    if {k: v.shape for k, v in parameters.items()} != {k: v.shape for k, v in own.items()}:
        raise ValueError(
            "parameters must have the names and shapes of the model's trainable parameters "
            f"({', '.join(own)}), got {', '.join(parameters)}"
        )
    for name, p in parameters.items():
        if p.dtype != own[name].dtype or p.device != own[name].device:
            raise TypeError(
                f"parameters must have the model's dtype and device ({own[name].dtype} on "
                f"{own[name].device}), got {p.dtype} on {p.device} for {name!r}"
            )
    return {name: parameters[name].detach() for name in own}


def selection(outputs: int | Tensor | None, n: int, device: torch.device) -> Tensor | None:
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
    """Outputs ``[n, C]`` at ``parameters``, or the chosen ones ``[n, 1]``; nothing is changed."""
    with torch.no_grad(), kept(x.device):
        f = calling(model, x)(parameters, None, lambda out: as_matrix(out, x.shape[0]))
    if chosen is None:
        return f
    if int(chosen.min()) < -f.shape[1] or int(chosen.max()) >= f.shape[1]:
        raise ValueError(
            f"outputs must lie in 0..{f.shape[1] - 1} for this model, got "
            f"{chosen.tolist() if chosen.numel() < 9 else [int(chosen.min()), int(chosen.max())]}"
        )
    return f.gather(1, (chosen % f.shape[1])[:, None])


def features(
    model: nn.Module,
    x: Tensor,
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

    def one(p: Tree, xi: Tensor, index: Tensor | None) -> Tensor:
        call = calling(model, xi.unsqueeze(0))
        f = call(parameters | p, None, lambda out: out.reshape(-1))
        return f if index is None else f.gather(0, index.reshape(1))

    def rows(xi: Tensor, index: Tensor | None) -> Tree:
        f, back = vjp(lambda p: one(p, xi, index), moving)
        # Output by output: a second vmap inside this one mixes up dimensions in some rules (PReLU).
        eye = torch.eye(f.shape[0], dtype=f.dtype, device=f.device)
        pulled = [back(seed)[0] for seed in eye]
        return {name: torch.stack([tree[name] for tree in pulled]) for name in moving}

    try:
        with warnings.catch_warnings(), sdpa_kernel(SDPBackend.MATH):
            warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
            return vmap(rows, in_dims=(0, None if chosen is None else 0))(x, chosen)
    except (RuntimeError, NotImplementedError, TypeError) as error:
        if "random" in str(error):
            raise ValueError(
                "model draws random numbers in its forward pass, so the kernel between two inputs "
                "is not defined; make it deterministic in eval mode"
            ) from error
    return _features_in_a_loop(model, moving, parameters, x, chosen)


def _features_in_a_loop(
    model: nn.Module, moving: Tree, parameters: Tree, x: Tensor, chosen: Tensor | None
) -> Tree:
    """The same by ordinary autograd, one sample and one output at a time."""
    rows: dict[str, list[Tensor]] = {name: [] for name in moving}
    for i in range(len(x)):
        leaves = {name: p.detach().requires_grad_() for name, p in moving.items()}

        def pull(out: Tensor, leaves: Tree = leaves, i: int = i) -> list[tuple]:
            f = out.reshape(-1)
            f = f if chosen is None else f.gather(0, chosen[i].reshape(1))
            if not f.requires_grad:
                return [tuple(torch.zeros_like(p) for p in leaves.values())] * len(f)
            wanted = list(leaves.values())
            return [
                torch.autograd.grad(fc, wanted, retain_graph=True, materialize_grads=True)
                for fc in f
            ]

        with torch.inference_mode(False), torch.enable_grad():
            got = calling(model, x[i : i + 1])(parameters | leaves, None, pull)
        for k, name in enumerate(moving):
            grads = [g[k].to_dense() if g[k].is_sparse else g[k] for g in got]
            rows[name].append(torch.stack(grads))
    return {name: torch.stack(found) for name, found in rows.items()}


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
    model
        module with trainable parameters, in eval mode if it has dropout or BatchNorm.
    x
        inputs ``[n, ...]``.
    parameters
        a point in parameter space ``{name: tensor}``; default the model's own.
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
    parameters = _checked(model, x, parameters, "x")
    chosen = selection(outputs, x.shape[0], x.device)
    evaluate(model, x[:1], parameters, None if chosen is None else chosen[:1])
    tree = features(model, x, parameters, chosen)
    return torch.cat([tree[name].reshape(*tree[name].shape[:2], -1) for name in parameters], 2)


def _weights(weight: Tree | None, parameters: Tree) -> dict[str, Tensor | float | None]:
    """The diagonal weight by name; a number where it is the same for a whole parameter."""
    if weight is None:
        return dict.fromkeys(parameters)
    if not isinstance(weight, dict) or set(weight) != set(parameters):
        raise ValueError(
            "weight must be a dict with one entry per trainable parameter "
            f"({', '.join(parameters)}), got "
            f"{list(weight) if isinstance(weight, dict) else weight!r}"
        )
    found: dict[str, Tensor | float | None] = {}
    for name, p in parameters.items():
        w = torch.as_tensor(weight[name], dtype=p.dtype, device=p.device)
        if w.shape not in ((), p.shape):
            raise ValueError(
                f"weight[{name!r}] must be a scalar or have shape {tuple(p.shape)}, "
                f"got {tuple(w.shape)}"
            )
        if not torch.isfinite(w).all() or (w < 0).any():
            raise ValueError(f"weight[{name!r}] must be finite and not negative")
        found[name] = float(w) if w.ndim == 0 else w
    return found


def _plain(x: Tensor) -> Tensor:
    """Inputs without a gradient of their own, usable with gradients on."""
    return x.clone() if x.is_inference() else x.detach()


def _copied(parameters: Tree) -> Tree:
    """Copies, for a layer may change its weights in place (an embedding with ``max_norm``)."""
    return {name: p.clone() for name, p in parameters.items()}


def _slices(n: int, per_row: int, memory: int) -> list[slice]:
    """Slices of the samples whose gradients fit in half of the memory (two sides at once)."""
    rows = memory // (2 * max(1, per_row))
    if rows == 0:
        raise ValueError(
            f"memory must hold the gradients of one sample on each side, at least {2 * per_row} "
            f"bytes for this model, got {memory}"
        )
    return [slice(i, min(i + rows, n)) for i in range(0, n, rows)]


def _rest(made: Plan, parameters: Tree) -> list[str]:
    """Parameters that only per-sample autograd can treat."""
    return [name for name in parameters if name not in made.covered]


def _side(model: nn.Module, x: Tensor, parameters: Tree, made: Plan, planned=False) -> Side:
    """All parameters: the covered ones by factors, the rest by per-sample autograd.

    ``planned``: the plan was made with these samples, so their ends are known alone.
    """
    rows = list(range(len(x))) if made.looked else [0, len(x) - 1]
    alone = made.ends
    if made.looked or not planned:
        alone = torch.cat([evaluate(model, x[i : i + 1], parameters, None) for i in rows])
    if made.covered:
        found = side(calling(model, x), parameters, made, alone=(rows, alone))
    else:
        require_alone(evaluate(model, x, parameters, None)[rows], alone, made.term)
        found = {}
    rest = _rest(made, parameters)
    if rest:
        found |= {
            name: Dense(widen(_by_output(rows)))
            for name, rows in features(model, x, parameters, names=rest).items()
        }
    return found


def gram(
    model: nn.Module,
    x1: Tensor,
    x2: Tensor | None = None,
    *,
    reduce: str = "trace",
    weight: Tree | None = None,
    parameters1: Tree | None = None,
    parameters2: Tree | None = None,
    memory: int | None = None,
) -> Tensor:
    r"""Inner products :math:`\nabla f(x_1,\theta_1)\,A\,\nabla f(x_2,\theta_2)^\top`.

    The general form behind every kernel of :mod:`pkbook.kernels`: two inputs, two parameter
    states, a diagonal weight :math:`A`.  ``x2=None`` means ``x1`` again.  No Jacobian is formed
    where the product can be had from activations and output gradients
    (:mod:`pkbook.kernels.contraction`).
    The work is split by rows so that it stays within ``memory`` bytes, default a quarter of what is
    free and at most 1 GiB.  Shapes and errors: see :func:`pkbook.gradient_kernel`.
    """
    parts = gram_by_group(
        model,
        x1,
        x2,
        group=lambda _: "",
        reduce=reduce,
        weight=weight,
        parameters1=parameters1,
        parameters2=parameters2,
        memory=memory,
    )
    return parts[""]


def gram_by_group(
    model: nn.Module,
    x1: Tensor,
    x2: Tensor | None = None,
    *,
    group: Callable[[str], str],
    reduce: str = "trace",
    weight: Tree | None = None,
    parameters1: Tree | None = None,
    parameters2: Tree | None = None,
    memory: int | None = None,
) -> dict[str, Tensor]:
    """:func:`gram` in parts, one for each ``group`` of parameter names; their sum is the whole.

    All parts come from the same forward and backward passes.
    """
    require_choice(reduce, "reduce", REDUCTIONS)
    with torch.inference_mode(False):
        return _gram(model, x1, x2, reduce, weight, (parameters1, parameters2), memory, group)


def _gram(
    model: nn.Module, x1, x2, reduce: str, weight, parameters, memory, group
) -> dict[str, Tensor]:
    symmetric = x2 is None and parameters[1] is None
    p1 = _checked(model, x1, parameters[0], "x1")
    ends = [("x1", _plain(x1), _copied(p1))]
    if not symmetric:
        x2 = x1 if x2 is None else x2
        p2 = _checked(model, x2, p1 if parameters[1] is None else parameters[1], "x2")
        ends.append(("x2", _plain(x2), _copied(p2)))
    weights = _weights(weight, p1)
    if memory is None:
        memory = min(free_memory(x1.device) // 4, LARGEST_DEFAULT)
    require_whole(memory, "memory")
    one, two = ends[0][1:], ends[-1][1:]
    try:
        made = plan(model, *one)
    except Exception:
        require_fit(model, *one, "x1")  # says it better, where it is the inputs' fault
        raise
    if not symmetric:
        require_fit(model, *two, "x2")
    groups: dict[str, set[str]] = {}
    for name in p1:
        groups.setdefault(group(name), set()).add(name)
    parts = _blocks(
        model, one, two, made, reduce, weights, memory, symmetric, list(groups.values())
    )
    # A sum passes over the result once, and shows every NaN and infinity.
    if not all(torch.isfinite(o.sum()) or torch.isfinite(o).all() for o in parts):
        for name, x, p in ends:
            _require_finite_layers(model, x, p, name)
        raise ValueError("the kernel is not finite: a gradient of the model overflowed or is NaN")
    return dict(zip(groups, parts, strict=True))


def require_fit(model: nn.Module, x: Tensor, parameters: Tree, name: str) -> None:
    """The model can be applied to one input and returns finite outputs ``[1, C]`` for it."""
    try:
        f = evaluate(model, x[:1], parameters, None)
    except RuntimeError as error:
        raise ValueError(
            f"model cannot be applied to {name} of shape {tuple(x.shape)}: {error}"
        ) from error
    if not torch.isfinite(f).all():
        _require_finite_layers(model, x[:1], parameters, name)


def _require_finite_layers(model: nn.Module, x: Tensor, parameters: Tree, name: str) -> None:
    """``ValueError`` naming the first layer whose output is not finite."""

    def look(layer: str) -> Callable:
        def hook(module: nn.Module, _, out: object) -> None:
            if isinstance(out, Tensor) and not torch.isfinite(out).all():
                raise ValueError(
                    f"layer {layer or 'model'!r} ({type(module).__name__}) returns values that are "
                    f"not finite for {name}; look at its weights and at the scale of its inputs"
                )

        return hook

    handles = [m.register_forward_hook(look(layer)) for layer, m in model.named_modules()]
    try:
        evaluate(model, x, parameters, None)
    finally:
        for handle in handles:
            handle.remove()


def _blocks(
    model, one, two, made: Plan, reduce, weights, memory, symmetric, groups: list[set[str]]
) -> list[Tensor]:
    """The Gram matrix of each group of parameters, block by block.

    The blocks below the diagonal of a symmetric one are mirrored.
    """
    (x1, p1), (x2, p2) = one, two
    like = next(iter(p1.values()))
    c = made.outputs
    per_row = made.entries(c) + c * sum(p1[name].numel() for name in _rest(made, p1))
    per_row *= max(4, like.dtype.itemsize)
    rows1, rows2 = (_slices(len(x), per_row, memory) for x in (x1, x2))
    if len(rows2) == 1 and not symmetric:  # held whole, so that small slices repeat no work
        rows1 = _slices(len(x1), per_row, min(memory, max(SLICE, 2 * per_row * len(x2))))
    kind = torch.float32 if like.dtype.itemsize < 4 else like.dtype
    shape = {"trace": (), "diagonal": (c,), "full": (c, c)}[reduce]
    whole = len(rows1) == 1
    outs = [torch.empty(len(x1), len(x2), *shape, dtype=kind, device=like.device) for _ in groups]
    held = _side(model, x2, p2, made) if len(rows2) == 1 and not symmetric else None
    for a, i in enumerate(rows1):
        left = _side(model, x1[i], p1, made, planned=whole)
        if held and len(rows1) > 1 and a == 0:
            held = {
                n: write_out(left[n], held[n], reduce, isinstance(weights[n], Tensor)) for n in held
            }
        for b, j in enumerate(rows2):
            if symmetric and b < a:
                continue
            same = symmetric and a == b
            right = left if same else held or _side(model, x2[j], p2, made)
            size = i.stop - i.start, j.stop - j.start
            blocks = []
            for names in groups:
                total = Sum(reduce, *size, c, outs[0], same)
                contract(total, _of(left, names), _of(right, names), weights, made.twins)
                blocks.append(total.result())
            if whole and len(rows2) == 1:
                return blocks
            for out, block in zip(outs, blocks, strict=True):
                out[i, j] = block
                if symmetric and not same:
                    mirrored = block.transpose(0, 1)
                    out[j, i] = mirrored.transpose(2, 3) if reduce == "full" else mirrored
    return outs


def _of(side: Side, names: set[str]) -> Side:
    return {name: factor for name, factor in side.items() if name in names}


def try_plan(model: nn.Module, x: Tensor, parameters: Tree) -> Plan | None:
    """A plan, or None for a model that mixes the samples of a batch (autograd then does it all)."""
    try:
        return plan(model, x, parameters)
    except ValueError:
        return None


def query_side(
    model: nn.Module, x: Tensor, parameters: Tree, made: Plan | None, chosen: Tensor | None
) -> Side:
    """Gradients of all outputs, or of one chosen output for each input ``[n]``, unchecked.

    ``parameters`` are those that are differentiated; the model's others stay as they are.
    ``made`` is a plan, or None for a model that has none.
    """

    def seeds(f: Tensor) -> list[Tensor]:
        return [torch.zeros_like(f).scatter_(1, (chosen % f.shape[1])[:, None], 1.0)]

    found: Side = {}
    if made and not made.looked and made.covered:
        try:
            found = side(calling(model, x), parameters, made, None if chosen is None else seeds)
        except PathChanged:
            made = None
    covered = made.covered if made and not made.looked else frozenset()
    rest = [name for name in parameters if name not in covered]
    if rest:
        rows = features(model, x, parameters, chosen, rest)
        found |= {name: Dense(widen(_by_output(g))) for name, g in rows.items()}
    return found


def _by_output(g: Tensor) -> Tensor:
    """From ``[n, C, *shape]`` to ``[C, n, P]``."""
    return g.detach().reshape(*g.shape[:2], -1).transpose(0, 1)


def pushforward(forward: Forward, parameters: Tree, directions: Tree) -> tuple[Tensor, Tensor]:
    r"""Outputs :math:`f_i` and their derivatives along directions, :math:`\nabla f_i\,u_m`.

    ``directions`` holds ``{name: [M, *shape]}``.  Returns outputs ``[n, C]`` and derivatives
    ``[M, n, C]``.

    Forward-mode products by two reverse passes: :math:`J^\top v` is linear in :math:`v`, and its
    derivative with respect to :math:`v` along :math:`u` is :math:`J u`.  One forward pass serves
    all directions, so dropout masks and batch statistics are those of that one pass.
    """
    leaves = {name: p.detach().requires_grad_() for name, p in parameters.items()}

    def push(f: Tensor) -> tuple[Tensor, Tensor]:
        f = f.reshape(len(f), -1)
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

    # Fused attention has no second derivative.
    with torch.inference_mode(False), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        return forward(leaves, None, push)
