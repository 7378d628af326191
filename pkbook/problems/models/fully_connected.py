"""Networks of linear layers, in torch's scaling and in that of the NTK."""

import math
from collections import OrderedDict
from itertools import pairwise

from torch import Tensor, nn

from pkbook.basics.checks import is_finite_number
from pkbook.problems.models.building import activations, check_widths, initialised, named


def mlp(
    *widths: int, activation: str = "relu", bias: bool = True, seed: int | None = None
) -> nn.Sequential:
    r"""A fully connected network, one linear layer between two neighbouring widths.

    .. math::

        f(x) = W_L\, \sigma(\cdots \sigma(W_1 x + b_1) \cdots) + b_L

    with the activation :math:`\sigma` after every layer but the last. ``mlp(1, 64, 1)`` is the
    paper's two-layer network of one input, 64 hidden units and one output. Layers: fc1, act1,
    fc2, ... Input [n, widths[0]], output [n, widths[-1]].

    Args:
        widths: at least two whole numbers, from inputs to outputs.
        activation: "relu", "tanh", "gelu", "softplus" or "silu". All but "relu" are smooth.
        bias: whether the layers have :math:`b`.
        seed: fixes torch's default initialisation and leaves the global random state as it is;
            None draws from the global state, as torch does.

    The model is built on the CPU; move it with ``.to(device)``.

    Raises:
        TypeError: a width, seed or bias of the wrong kind.
        ValueError: fewer than two widths, a width below 1, an unknown activation.

    >>> mlp(2, 8, 1, activation="tanh", seed=0)
    Sequential(
      (fc1): Linear(in_features=2, out_features=8, bias=True)
      (act1): Tanh()
      (fc2): Linear(in_features=8, out_features=1, bias=True)
    )
    """
    check_widths(widths, bias, "mlp(2, 64, 1)")
    activate = named("activation", activation, activations)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    with initialised(seed):
        for i, (inputs, outputs) in enumerate(pairwise(widths), start=1):
            layers[f"fc{i}"] = nn.Linear(inputs, outputs, bias=bias)
            layers[f"act{i}"] = activate()
        layers.popitem()  # the last layer has no activation
        return nn.Sequential(layers)


def ntk_mlp(
    *widths: int,
    activation: str = "tanh",
    scale: float = 1.0,
    bias: bool = True,
    seed: int | None = None,
) -> nn.Sequential:
    r"""A fully connected network in NTK scaling: roots of the widths outside the weights.

    With one hidden layer of width :math:`m`, the network of Remark 3.9 of arXiv 2603.13872 is

    .. math::

        f(x) = \frac{\alpha}{\sqrt m} \sum_{j=1}^m a_j\,
        \sigma\Big(\frac{\langle w_j, x\rangle}{\sqrt d} + b_j\Big),
        \qquad a_j, w_j, b_j \sim N(0, 1),

    for :math:`d` inputs. Further layers are built alike: what goes into a layer is divided by the
    root of its width, and the last layer has no :math:`b`. As the widths grow, the gradient kernel
    has a limit and training moves it less and less (Jacot, Gabriel and Hongler 2018). A large
    output scale :math:`\alpha` does the same at any width, at the rate :math:`\eta/\alpha^2`
    (Chizat, Oyallon and Bach 2019). Layers: scale1, fc1, act1, scale2, fc2, ...
    Input [n, widths[0]], output [n, widths[-1]].

    Args:
        widths: at least two whole numbers, from inputs to outputs.
        activation: "relu", "tanh", "gelu", "softplus" or "silu".
        scale: the output scale :math:`\alpha`, positive.
        bias: whether the hidden layers have :math:`b`. Without it a tanh network is odd.
        seed: as for ``mlp``.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: fewer than two widths, a width below 1, an unknown activation, a scale that is
            not positive.

    >>> ntk_mlp(1, 16, 1, scale=2.0, seed=0)
    Sequential(
      (scale1): Scale(1)
      (fc1): Linear(in_features=1, out_features=16, bias=True)
      (act1): Tanh()
      (scale2): Scale(0.5)
      (fc2): Linear(in_features=16, out_features=1, bias=False)
    )
    """
    check_widths(widths, bias, "ntk_mlp(1, 256, 1)")
    activate = named("activation", activation, activations)
    if not is_finite_number(scale):
        raise TypeError(f"scale: expected a finite number, came {scale!r}; write scale=1.0")
    if scale <= 0:
        raise ValueError(f"scale: expected a positive number, came {scale}; write scale=1.0")
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    with initialised(seed):
        for i, (inputs, outputs) in enumerate(pairwise(widths), start=1):
            last = i == len(widths) - 1
            layers[f"scale{i}"] = Scale((scale if last else 1.0) / math.sqrt(inputs))
            layers[f"fc{i}"] = linear = nn.Linear(inputs, outputs, bias=bias and not last)
            for p in linear.parameters():
                nn.init.normal_(p)
            if not last:
                layers[f"act{i}"] = activate()
        return nn.Sequential(layers)


class Scale(nn.Module):
    """Multiplies by a number.

    >>> import torch
    >>> Scale(0.5)(torch.tensor([4.0]))
    tensor([2.])
    """

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x

    def extra_repr(self) -> str:
        return f"{self.factor:g}"
