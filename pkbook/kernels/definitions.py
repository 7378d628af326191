r"""The gradient kernels of the paper: plain, normalised, weighted, two-time.

Every kernel is a Gram matrix of tangent features; :mod:`pkbook.kernels.features` contracts them.
Source: arXiv 2603.13872, Definitions 2.1, 3.2 and 3.3.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from pkbook.basics.checks import require_module
from pkbook.basics.parameters import Tree
from pkbook.kernels.asked import both_asked
from pkbook.kernels.gram import gram, gram_by_group, squared_lengths
from pkbook.kernels.inputs import Which
from pkbook.kernels.out import Out
from pkbook.kernels.weight import Weight


def gradient_kernel(
    model: nn.Module,
    x1: Any,
    x2: Any = None,
    *,
    of: Any = None,
    outputs: int | Tensor | None = None,
    reduce: str = "trace",
    parameters: Which = None,
    memory: int | None = None,
    out: Out | None = None,
) -> Tensor:
    r"""The gradient kernel, eq. (2) of arXiv 2603.13872:

    .. math:: K_{x,x'}(\theta)=\langle\nabla_\theta f(x,\theta),\nabla_\theta f(x',\theta)\rangle .

    For :math:`C` outputs it is the :math:`C\times C` block
    :math:`\nabla f(x)\,\nabla f(x')^\top`.

    Parameters
    ----------
    model
        any ``nn.Module`` returning ``[n, C]``; eval mode if it has dropout or BatchNorm.
    x1, x2
        inputs ``[n1, ...]`` and ``[n2, ...]``; ``x2=None`` means ``x1``.  A dictionary, tuple or
        data class of tensors is given to the model by keyword or by place.
    of
        what is asked instead of the outputs: a tuple of indices, ``(t, v)`` for outputs
        ``[n, T, V]``, a function ``f(model, x)`` returning ``[n]`` or ``[n, C]``, or one of
        :mod:`pkbook.kernels.of`.
    outputs
        one output of :math:`C` instead of all; flat, so ``t * V + v`` for outputs ``[n, T, V]``.
        One for each input ``[n1]`` where ``x2`` is None.
    reduce
        ``"trace"`` for ``[n1, n2]``, the sum over outputs; ``"diagonal"`` for
        ``[n1, n2, C]``; ``"full"`` for ``[n1, n2, C, C]``.
    parameters
        the point :math:`\theta` as ``{name: tensor}``; default the model's own.  The name of a
        parameter or a pattern (``"head.*"``), or a list of those, takes the gradient by these
        parameters alone.
    memory
        bytes that the computation may use; default a quarter of what is free, at most 1 GiB.
    out
        where to put the kernel: a tensor of its shape and dtype, on the model's device or the CPU;
        or a path ending in ``.npy`` that does not exist, written block by block within ``memory``.
        The tensor returned is then a memory map of the file: what is written to it is in the file.
        Until it is whole the file is called ``NAME.npy.partial``.

    Raises
    ------
    TypeError, ValueError
        for wrong types, empty or non-finite inputs, another device or dtype, a model without
        trainable parameters or in train mode with dropout or BatchNorm, an
        ``out`` that does not fit or a file that exists.
    StorageError
        where the disk has no room for ``out``.

    Examples
    --------
    >>> import torch
    >>> line = torch.nn.Linear(2, 1)
    >>> x = torch.tensor([[1.0, 2.0], [3.0, 0.0]])
    >>> gradient_kernel(line, x)                    # x x'^T + 1, whatever the weights are
    tensor([[ 6.,  4.],
            [ 4., 10.]])
    """
    x1, x2 = both_asked(x1, x2, of, outputs)
    return gram(model, x1, x2, reduce=reduce, parameters1=parameters, memory=memory, out=out)


def kernels_by_layer(
    model: nn.Module,
    x1: Any,
    x2: Any = None,
    *,
    of: Any = None,
    outputs: int | Tensor | None = None,
    by: Callable[[str], str] | None = None,
    reduce: str = "trace",
    parameters: Which = None,
    memory: int | None = None,
) -> dict[str, Tensor]:
    r"""Each layer's part of the kernel, ``{layer: [n1, n2]}``; their sum is :math:`K`.

    .. math:: K_{x,x'}=\sum_\ell K^{(\ell)}_{x,x'}, \qquad
        K^{(\ell)}_{x,x'}=\langle\nabla_{\theta_\ell}f(x),\nabla_{\theta_\ell}f(x')\rangle

    Layers are the direct children of ``model`` that have trainable parameters, see
    ``layer_names``; with ``by``, what that function makes of a parameter's name.  All parts come
    from the same forward and backward passes.  Arguments, shapes and errors as in
    :func:`gradient_kernel`; ValueError for a parameter outside of the layers, or in two of them.

    >>> import torch
    >>> parts = kernels_by_layer(torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1)),
    ...                          torch.ones(4, 2))
    >>> {name: tuple(part.shape) for name, part in parts.items()}
    {'0': (4, 4), '1': (4, 4)}
    """
    x1, x2 = both_asked(x1, x2, of, outputs)
    if by is None:
        _require_layers(require_module(model))
    return gram_by_group(
        model,
        x1,
        x2,
        group=by or (lambda name: name.partition(".")[0]),
        reduce=reduce,
        parameters1=parameters,
        memory=memory,
    )


def layer_names(model: nn.Module) -> tuple[str, ...]:
    """The direct children with trainable parameters.

    >>> import torch
    >>> layer_names(torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU()))
    ('0',)
    """
    layers = require_module(model).named_children()
    return tuple(n for n, layer in layers if any(p.requires_grad for p in layer.parameters()))


def _require_layers(model: nn.Module) -> None:
    """Every trainable parameter is in one layer and in no other."""
    place: dict[int, str] = {}
    for name, p in model.named_parameters(remove_duplicate=False):
        layer, _, inside = name.partition(".")
        if not p.requires_grad:
            continue
        if not inside:
            raise ValueError(
                f"model: expected parameters in layers only, came {name!r} outside of them; "
                "wrap the model in torch.nn.Sequential(model) to count it as one layer"
            )
        if place.setdefault(id(p), layer) != layer:
            raise ValueError(
                f"model: expected each parameter in one layer, came {name!r} that is in layer "
                f"{place[id(p)]!r} too; wrap the two in one module to count them as one layer"
            )


def normalised_kernel(
    model: nn.Module,
    x1: Any,
    x2: Any = None,
    *,
    of: Any = None,
    outputs: int | Tensor | None = None,
    weight: Weight | None = None,
    parameters: Which = None,
    memory: int | None = None,
) -> Tensor:
    r"""The cosine between tangent features, ``[n1, n2]`` with entries in :math:`[-1,1]`:

    .. math:: \hat K_{x,x'}=\frac{K_{x,x'}}{\sqrt{K_{x,x}\,K_{x',x'}}}

    with the trace over outputs for :math:`C>1` (arXiv 2603.13872, Section 5).  With a diagonal
    ``weight`` as in :func:`weighted_kernel` it is the cosine in that geometry, of
    :math:`K^A` instead of :math:`K`: a run's ``run.weight(k)`` gives that of one of its steps.
    Arguments and errors as in :func:`gradient_kernel`; an input with a zero gradient is refused,
    because its cosine is not defined.

    >>> import torch
    >>> line = torch.nn.Linear(1, 1, bias=False)
    >>> normalised_kernel(line, torch.tensor([[1.0], [-2.0]]))
    tensor([[ 1., -1.],
            [-1.,  1.]])
    """
    x1, x2 = both_asked(x1, x2, of, outputs)
    how = {"weight": weight, "memory": memory}
    k = gram(model, x1, x2, parameters1=parameters, **how)
    if x2 is None:
        left = right = k.diagonal().sqrt()
    else:
        left = feature_norms(model, x1, parameters=parameters, **how)
        right = feature_norms(model, x2, parameters=parameters, **how)
    for name, norms in (("x1", left), ("x2", right)):
        if (norms == 0).any():
            raise ValueError(
                f"{name}[{int((norms == 0).nonzero()[0])}] has a zero gradient, so its normalised "
                "kernel is not defined; leave that input out or use gradient_kernel"
            )
    return (k / left[:, None] / right[None, :]).clamp(-1.0, 1.0)


def feature_norms(
    model: nn.Module,
    x: Any,
    *,
    of: Any = None,
    outputs: int | Tensor | None = None,
    weight: Weight | None = None,
    parameters: Which = None,
    memory: int | None = None,
) -> Tensor:
    r""":math:`\sqrt{K_{x,x}}` for each input, ``[n]``: the length of its tangent feature.

    The diagonal of :func:`gradient_kernel` without the rest of it; arguments and errors as there.
    With a ``weight`` that of :func:`weighted_kernel`, :math:`\sqrt{K^A_{x,x}}`.

    >>> import torch
    >>> feature_norms(torch.nn.Linear(2, 1, bias=False), torch.tensor([[3.0, 4.0]]))
    tensor([5.])
    """
    rows = both_asked(x, None, of, outputs)[0]
    return squared_lengths(model, rows, weight=weight, parameters=parameters, memory=memory).sqrt()


def weighted_kernel(
    model: nn.Module,
    x1: Any,
    x2: Any = None,
    *,
    of: Any = None,
    outputs: int | Tensor | None = None,
    weight: Tree,
    reduce: str = "trace",
    parameters: Which = None,
    memory: int | None = None,
    out: Out | None = None,
) -> Tensor:
    r"""The kernel in the geometry of a diagonal weight :math:`A`, eq. (10) of arXiv 2603.13872:

    .. math:: K^{A}_{x,x'}=\nabla f(x,\theta)^\top A\,\nabla f(x',\theta) .

    ``weight`` maps each trainable parameter's name to a scalar or a tensor of its shape, finite
    and not negative: the preconditioner of RMSprop or Adam, or the learning rate of each group.
    With all ones it is :func:`gradient_kernel`; shapes, ``out`` and errors
    are the same.

    >>> import torch
    >>> line = torch.nn.Linear(1, 1)
    >>> weighted_kernel(line, torch.tensor([[2.0]]), weight={"weight": 10.0, "bias": 1.0})
    tensor([[41.]])
    """
    x1, x2 = both_asked(x1, x2, of, outputs)
    return gram(
        model,
        x1,
        x2,
        reduce=reduce,
        weight=weight,
        parameters1=parameters,
        memory=memory,
        out=out,
    )


def two_time_kernel(
    model: nn.Module,
    x1: Any,
    x2: Any = None,
    *,
    of: Any = None,
    outputs: int | Tensor | None = None,
    parameters1: Tree,
    parameters2: Tree,
    weight: Tree | None = None,
    reduce: str = "trace",
    memory: int | None = None,
    out: Out | None = None,
) -> Tensor:
    r"""The kernel between two moments of training, eq. (9) of arXiv 2603.13872:

    .. math:: K_{x,x'}(t,s)=\langle\nabla f(x,\theta_t),\nabla f(x',\theta_s)\rangle ,

    with ``parameters1`` :math:`=\theta_t` for ``x1`` and ``parameters2`` :math:`=\theta_s` for
    ``x2``; an optional diagonal ``weight`` as in :func:`weighted_kernel`.  It is not symmetric
    unless the two moments coincide.  Shapes, ``out`` and errors as in :func:`gradient_kernel`.

    >>> import torch
    >>> line = torch.nn.Linear(1, 1, bias=False)
    >>> early = {"weight": torch.tensor([[0.0]])}; late = {"weight": torch.tensor([[9.0]])}
    >>> two_time_kernel(line, torch.tensor([[2.0]]), parameters1=late, parameters2=early)
    tensor([[4.]])
    """
    x1, x2 = both_asked(x1, x2, of, outputs)
    return gram(
        model,
        x1,
        x2,
        reduce=reduce,
        weight=weight,
        parameters1=parameters1,
        parameters2=parameters2,
        memory=memory,
        out=out,
    )
