r"""What a run descends: samples, a loss, and how the losses of a step make one number.

A loss comes in two forms.  ``loss(outputs, targets)`` is for batches that are pairs ``(x, y)``;
``loss(model, batch)`` is for any batch, and calls the model itself.  Either gives one value per
sample ``[n]`` or one number, and ``reduction`` says what the step follows:

* ``"mean"``: each micro-batch's mean, averaged over the micro-batches;
* ``"sum"``: their sums;
* a function of a batch, the number of its items (tokens, say): the sum over all items of a step,
  divided by their number.  One number is then the mean over a micro-batch's items, values ``[n]``
  are sums over those of each sample.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import Parameter, signature
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pkbook.basics.checks import require_tensor
from pkbook.basics.outputs import outputs_of, the_tensor
from pkbook.runs.sources import Source

Loss = Callable[..., Tensor]
Clipped = Literal["trained", "all", "groups"]
Reduction = Literal["mean", "sum"] | Callable[[Any], int | float | Tensor]


@dataclass(frozen=True)
class Problem:
    """What a step needs beside the model and the optimizer."""

    loss: Loss
    source: Source
    of_batch: bool = False
    """Whether the loss is one of ``(model, batch)``, and not of ``(outputs, targets)``."""
    reduction: Reduction = "mean"
    clip_norm: float | None = None
    clip_value: float | None = None
    clipped: Clipped = "trained"
    """Whose gradients are clipped together: those of the trained parameters in the model's order,
    of all parameters of the model, or of the optimizer's in its groups' order."""
    weights: Tensor | None = None
    """What the gradient of each sample's own loss is multiplied with ``[N]``; None: all by one."""
    whole: bool = True
    """Whether a mean is divided by the number of samples in a batch, whatever their weights; else
    by the sum of their weights."""

    def weights_of(self, numbers: Sequence[int]) -> Tensor | None:
        """The weights of a micro-batch ``[n]``, with which its mean is taken."""
        if self.weights is None:
            return None
        found = self.weights[torch.as_tensor(numbers, device=self.weights.device)]
        return found if self.whole else found * (len(numbers) / found.sum())

    def outputs(self, model: nn.Module, batch: Any) -> tuple[Any, Any]:
        """What the model returns for a pair ``(x, y)``, and ``y``."""
        x, y = batch
        if isinstance(x, Tensor):
            return model(x), y
        return the_tensor(outputs_of(model, x)), y

    def losses(self, model: nn.Module, batch: Any, n: int) -> Tensor:
        """The loss of a batch of ``n`` samples: ``[n]``, or one number."""
        if self.of_batch:
            return self.checked(self.loss(model, batch), n)
        return self.of_outputs(*self.outputs(model, batch), n)

    def of_outputs(self, outputs: Any, targets: Any, n: int) -> Tensor:
        """The loss ``[n]`` or one number, by outputs and targets."""
        return self.checked(self.loss(outputs, targets), n)

    def checked(self, value: object, n: int) -> Tensor:
        """``TypeError`` or ``ValueError`` for what is no loss of ``n`` samples."""
        value = require_tensor(value, "the value of loss")
        if value.ndim and value.shape != (n,):
            raise ValueError(
                f"loss must return a scalar or one value per sample [{n}], "
                f"got shape {tuple(value.shape)}; sum over the outputs of a sample inside the loss"
                + ("; does collate leave samples out?" if value.ndim == 1 else "")
            )
        return value

    def items(self, batches: Sequence[Any]) -> list[float]:
        """The number of items in each micro-batch; empty where that plays no part."""
        if not callable(self.reduction):
            return []
        found = [float(self.reduction(batch)) for batch in batches]
        if any(not 0 < number < float("inf") for number in found):
            raise ValueError(f"reduction must give a positive number of items, got {found}")
        return found

    def reduced(self, losses: Tensor, parts: float, items: Sequence[float], j: int) -> Tensor:
        """What micro-batch ``j`` of a step gives to the number that the step descends.

        ``parts`` is the number of micro-batches that a mean goes over.
        """
        if callable(self.reduction):
            share = losses.sum() if losses.ndim else losses * items[j]
            return share / sum(items)
        if self.reduction == "sum":
            return losses.sum() if losses.ndim else losses
        return (losses.mean() if losses.ndim else losses) / parts


def is_of_batch(loss: object) -> bool:
    """Whether a loss says that it wants the model: its first argument is called so.

    >>> is_of_batch(lambda model, batch: model(batch)), is_of_batch(nn.MSELoss())
    (True, False)
    """
    try:
        first = next(iter(signature(loss).parameters.values()))  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError, StopIteration):
        return False
    return first.name == "model" and first.kind is not Parameter.KEYWORD_ONLY


def is_pair(batch: object) -> bool:
    """Whether a batch is ``(x, y)``."""
    return isinstance(batch, list | tuple) and len(batch) == 2


def require_reduction(reduction: object) -> Reduction:
    """``"mean"``, ``"sum"``, or a function of a batch."""
    if reduction in ("mean", "sum") or callable(reduction):
        return reduction  # pyright: ignore[reportReturnType]
    raise ValueError(
        "reduction must be 'mean', 'sum' or a function that gives the number of items in a batch, "
        f"got {reduction!r}"
    )
