r"""The losses of the book, one number a sample.

Domingos' theorem (Theorem 2.2) weighs a training sample by its *loss sensitivity*, the slope
:math:`\ell' = \partial\ell/\partial f` of its loss in the network's output.
Each docstring states it.

All three take ``outputs`` [n, C] and ``targets`` and return the n losses, not their mean, so that
a sample's share stays visible. They refuse what torch would broadcast or cast in silence.
"""

import torch
from torch import Tensor
from torch.nn import functional


def squared(outputs: Tensor, targets: Tensor) -> Tensor:
    r"""Half the squared distance, the quadratic loss of equation (5).

    .. math::

        \ell(f, y) = \tfrac12 \lVert f - y \rVert^2, \qquad \ell'(f, y) = f - y.

    Args:
        outputs: :math:`f`, floating [n, C].
        targets: :math:`y`, floating [n, C].

    Returns the losses [n], summed over the C outputs.

    Raises:
        TypeError: not tensors, or a dtype that is not floating.
        ValueError: shapes that differ, no sample, two devices, NaN or infinity.

    >>> import torch
    >>> squared(torch.tensor([[3.0, 1.0]]), torch.tensor([[1.0, 0.0]]))
    tensor([2.5000])
    """
    _check_outputs(outputs, targets)
    if not targets.is_floating_point():
        raise TypeError(
            f"targets: expected a floating dtype, came {targets.dtype}; write targets.float() for "
            "numbers, functional.one_hot(targets, C).float() for classes, or use "
            "pk.losses.cross_entropy"
        )
    _check_same_shape(outputs, targets)
    if not _finite(targets):
        raise ValueError(
            "targets: expected finite numbers, came NaN or infinity; leave those samples out"
        )
    return 0.5 * (outputs - targets).square().sum(dim=1)


def logistic(outputs: Tensor, targets: Tensor) -> Tensor:
    r"""The logistic loss for labels +1 and -1.

    .. math::

        \ell(f, y) = \log(1 + e^{-y f}), \qquad \ell'(f, y) = \frac{-y}{1 + e^{y f}}.

    Args:
        outputs: :math:`f`, floating [n, 1].
        targets: :math:`y`, floating [n, 1], each +1 or -1.

    Returns the losses [n].

    Raises:
        TypeError: not tensors, or a dtype that is not floating.
        ValueError: shapes other than [n, 1], labels other than +1 and -1, no sample, two devices,
            NaN or infinity.

    >>> import torch
    >>> logistic(torch.tensor([[0.0]]), torch.tensor([[-1.0]]))
    tensor([0.6931])
    """
    _check_outputs(outputs, targets)
    if outputs.shape[1] != 1:
        raise ValueError(
            f"outputs: expected [n, 1] for two classes, came {_shape(outputs)}; give the model one "
            "output, or use pk.losses.cross_entropy"
        )
    if not targets.is_floating_point():
        raise TypeError(
            f"targets: expected floating labels +1 and -1, came {targets.dtype}; write "
            "targets.float(), and 2 * targets.float() - 1 for labels 0 and 1"
        )
    _check_same_shape(outputs, targets)
    if not _known_all(targets.abs() == 1):
        raise ValueError(
            "targets: expected labels +1 and -1, came other values; write 2 * targets - 1 for "
            "labels 0 and 1"
        )
    # softplus turns into a straight line above 20, a kink; logsigmoid is exact everywhere.
    return -functional.logsigmoid(targets * outputs)[:, 0]


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    r"""Cross-entropy of the softmax, for C classes.

    .. math::

        \ell(f, y) = \log \sum_c e^{f_c} - f_y, \qquad
        \ell'(f, y) = \operatorname{softmax}(f) - e_y,

    with :math:`e_y` the unit vector of the class.

    Args:
        outputs: :math:`f`, floating [n, C] with C at least 2.
        targets: :math:`y`, int64 [n], each from 0 to C - 1.

    Returns the losses [n].

    Raises:
        TypeError: not tensors, outputs that are not floating, targets that are not int64.
        ValueError: other shapes, a class out of range, no sample, two devices, NaN or infinity.

    >>> import torch
    >>> cross_entropy(torch.zeros(1, 2), torch.tensor([1]))
    tensor([0.6931])
    """
    _check_outputs(outputs, targets)
    classes = outputs.shape[1]
    if classes < 2:
        raise ValueError(
            "outputs: expected [n, C] with at least 2 classes, came [n, 1], whose loss is always "
            "0; use pk.losses.logistic"
        )
    if targets.dtype != torch.int64:
        raise TypeError(
            f"targets: expected classes as int64, came {targets.dtype}; write targets.long(), and "
            "targets.argmax(dim=1) for one-hot rows"
        )
    if targets.shape != outputs.shape[:1]:
        raise ValueError(
            f"targets: expected [{len(outputs)}], one class a sample, came {_shape(targets)}; "
            "write targets.flatten() if only its axes differ"
        )
    if not _known_all((targets >= 0) & (targets < classes)):
        raise ValueError(
            f"targets: expected classes 0 to {classes - 1} for {classes} outputs, came others; "
            "number the classes from 0, or give the model more outputs"
        )
    return functional.cross_entropy(outputs, targets, reduction="none")


def _check_outputs(outputs: Tensor, targets: Tensor) -> None:
    """What all three losses ask: tensors on one device, and finite outputs [n, C]."""
    for name, value in (("outputs", outputs), ("targets", targets)):
        if not isinstance(value, Tensor):
            raise TypeError(
                f"{name}: expected a tensor, came {type(value).__name__}; "
                f"write torch.as_tensor({name})"
            )
    if not outputs.is_floating_point():
        raise TypeError(
            f"outputs: expected a floating dtype, came {outputs.dtype}; write outputs.float()"
        )
    if outputs.ndim != 2 or outputs.numel() == 0:
        raise ValueError(
            f"outputs: expected [n, C] with at least one sample, came {_shape(outputs)}; "
            "write outputs[:, None] for a model with one output"
        )
    if targets.device != outputs.device:
        raise ValueError(
            f"targets: expected on {outputs.device} like the outputs, came on {targets.device}; "
            "write targets.to(outputs.device)"
        )
    if not _finite(outputs):
        raise ValueError(
            "outputs: expected finite numbers, came NaN or infinity; check the inputs, and lower "
            "the learning rate if training has diverged"
        )


def _check_same_shape(outputs: Tensor, targets: Tensor) -> None:
    if targets.shape != outputs.shape:
        raise ValueError(
            f"targets: expected {_shape(outputs)} like the outputs, came {_shape(targets)}; "
            "write targets[:, None] for one number a sample, and give as many rows as the inputs"
        )


def _finite(values: Tensor) -> bool:
    """Whether all values are finite, True where they cannot be read.

    Of a batch of ``torch.func.vmap`` they cannot; asking all the same costs an exception.
    """
    within = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue]  # not in the stubs
    return within.is_batchedtensor(values) or _known_all(values.isfinite())


def _known_all(condition: Tensor) -> bool:
    """Whether the condition holds everywhere, True where its values cannot be read.

    Under ``torch.func.vmap`` a tensor has no values to look at; the checks of values then give
    way, those of shapes and dtypes stay.
    """
    try:
        return bool(condition.all())
    except RuntimeError as error:
        if "vmap" in str(error) or "data-dependent" in str(error):
            return True
        raise


def _shape(tensor: Tensor) -> str:
    return str(list(tensor.shape))
