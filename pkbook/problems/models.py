"""The networks of the paper's Sections 3.4, 5 and 6, plain ``Sequential`` with named layers."""

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise

import torch
from torch import Tensor, nn

from pkbook.basics.checks import is_finite_number
from pkbook.basics.randomness import seeded

activations: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "softplus": nn.Softplus,
    "silu": nn.SiLU,
}
pools: dict[str, Callable[[int], nn.Module]] = {"max": nn.MaxPool2d, "average": nn.AvgPool2d}


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
    _check_widths(widths, bias, "mlp(2, 64, 1)")
    activate = _named("activation", activation, activations)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    with _initialised(seed):
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
    _check_widths(widths, bias, "ntk_mlp(1, 256, 1)")
    activate = _named("activation", activation, activations)
    if not is_finite_number(scale):
        raise TypeError(f"scale: expected a finite number, came {scale!r}; write scale=1.0")
    if scale <= 0:
        raise ValueError(f"scale: expected a positive number, came {scale}; write scale=1.0")
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    with _initialised(seed):
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


def mnist_cnn(
    activation: str = "relu",
    pool: str = "max",
    dropout: float = 0.3,
    classes: int = 10,
    seed: int | None = None,
) -> nn.Sequential:
    """The paper's convolutional network for MNIST (Figures 2, 4, 5 and 6).

    Three stages of a 3 x 3 convolution with padding 1 (16, 32 and 64 channels), the activation
    and 2 x 2 pooling; the 64 x 3 x 3 features are flattened, then come a layer of 128 units, the
    activation, dropout, and one output a class. 98,442 parameters for ten classes.
    Input [n, 1, 28, 28], output [n, classes].

    With "tanh" and "average" every step is smooth, as the theorems assume; "relu" and "max" are
    what the paper trained.

    Args:
        activation: as for ``mlp``.
        pool: "max" or "average".
        dropout: probability from 0 up to, not including, 1; 0 leaves the layer out.
        classes: number of outputs.
        seed: as for ``mlp``.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: an unknown activation or pool, a dropout outside [0, 1), no class.

    >>> import torch
    >>> mnist_cnn(seed=0)(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """
    return _cnn((1, 16, 32, 64), (64 * 3 * 3, 128), activation, pool, dropout, classes, seed)


def cifar_cnn(
    activation: str = "relu",
    pool: str = "max",
    dropout: float = 0.3,
    classes: int = 10,
    seed: int | None = None,
) -> nn.Sequential:
    """The paper's convolutional network for CIFAR-10 (Figure 2).

    As ``mnist_cnn`` with 32, 64 and 128 channels, a head of 256 and 128 units on the
    128 x 4 x 4 features, and dropout after both. 651,978 parameters for ten classes.
    Input [n, 3, 32, 32], output [n, classes]. Arguments and errors as for ``mnist_cnn``.

    >>> import torch
    >>> cifar_cnn(seed=0)(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """
    return _cnn((3, 32, 64, 128), (128 * 4 * 4, 256, 128), activation, pool, dropout, classes, seed)


def _cnn(
    channels: tuple[int, ...],
    head: tuple[int, ...],
    activation: str,
    pool: str,
    dropout: float,
    classes: int,
    seed: int | None,
) -> nn.Sequential:
    """Convolution stages over ``channels``, then fully connected layers over ``head``."""
    activate = _named("activation", activation, activations)
    pooling = _named("pool", pool, pools)
    _check_dropout(dropout)
    _check_count("classes", classes, "classes=10")
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    with _initialised(seed):
        for i, (inputs, outputs) in enumerate(pairwise(channels), start=1):
            layers[f"conv{i}"] = nn.Conv2d(inputs, outputs, kernel_size=3, padding=1)
            layers[f"act{i}"] = activate()
            layers[f"pool{i}"] = pooling(2)
        layers["flatten"] = nn.Flatten()
        for i, (inputs, outputs) in enumerate(pairwise(head), start=1):
            layers[f"fc{i}"] = nn.Linear(inputs, outputs)
            layers[f"act{len(channels) - 1 + i}"] = activate()
            if dropout > 0:
                layers[f"dropout{i}"] = nn.Dropout(dropout)
        layers[f"fc{len(head)}"] = nn.Linear(head[-1], classes)
        return nn.Sequential(layers)


def vit(
    size: int = 28,
    channels: int = 1,
    *,
    patch: int = 7,
    width: int = 32,
    heads: int = 4,
    blocks: int = 2,
    activation: str = "gelu",
    classes: int = 10,
    seed: int | None = None,
) -> nn.Sequential:
    r"""A small vision transformer: patches of an image as tokens (Dosovitskiy et al. 2021).

    The image is cut into ``(size / patch)**2`` patches. A linear map turns each into a token of
    ``width`` numbers, and a trainable vector for its place is added. Then come ``blocks`` of

    .. math::

        z \leftarrow z + \mathrm{attention}(\mathrm{norm}(z)), \qquad
        z \leftarrow z + \mathrm{mlp}(\mathrm{norm}(z)),

    torch's own ``nn.TransformerEncoderLayer`` with ``norm_first``, 2 ``width`` hidden units and no
    dropout; a last norm, the mean over tokens, and one output a class. 19,594 parameters as it
    stands. Layers: patches, places, block1, ..., norm, mean, fc.
    Input [n, channels, size, size], output [n, classes].

    Args:
        size: height and width of the image, a multiple of ``patch``.
        channels: 1 for grey images, 3 for colour.
        patch: height and width of a patch.
        width: numbers in a token, a multiple of ``heads``.
        heads: of the attention in each block.
        blocks: how many of them.
        activation: of the hidden units, as for ``mlp``.
        classes: number of outputs.
        seed: as for ``mlp``.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: an unknown activation, a number below 1, a size that is no multiple of
            ``patch`` or a width that is none of ``heads``.

    >>> import torch
    >>> vit(patch=14, width=8, blocks=1, seed=0)(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """
    counts = {"size": size, "channels": channels, "patch": patch, "width": width}
    counts |= {"heads": heads, "blocks": blocks, "classes": classes}
    for name, value in counts.items():
        _check_count(name, value, "vit(28, 1, patch=7, width=32, heads=4)")
    for name, whole, part in (("size", size, "patch"), ("width", width, "heads")):
        if whole % counts[part]:
            raise ValueError(
                f"{name}: expected a multiple of {part}={counts[part]}, came {whole}; write "
                f"{name}={whole - whole % counts[part] or counts[part]}, or another {part}"
            )
    activate = _named("activation", activation, activations)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    with _initialised(seed):
        layers["patches"] = nn.Conv2d(channels, width, kernel_size=patch, stride=patch)
        layers["places"] = _Places((size // patch) ** 2, width)
        for i in range(1, blocks + 1):
            layers[f"block{i}"] = nn.TransformerEncoderLayer(
                width, heads, 2 * width, 0.0, activate(), batch_first=True, norm_first=True
            )
        layers["norm"] = nn.LayerNorm(width)
        layers["mean"] = _Mean()
        layers["fc"] = nn.Linear(width, classes)
        return nn.Sequential(layers)


class _Places(nn.Module):
    """From maps [n, width, rows, columns] to tokens [n, rows * columns, width] that know where."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.place = nn.Parameter(0.02 * torch.randn(tokens, width))

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return maps.flatten(2).transpose(1, 2) + self.place


class _Mean(nn.Module):
    """The mean over tokens, [n, tokens, width] to [n, width]."""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return tokens.mean(1)


@contextmanager
def _initialised(seed: int | None) -> Iterator[None]:
    """Layers made inside start from ``seed``; the global random state comes out as it went in."""
    if seed is None:
        with torch.device("cpu"):
            yield
        return
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"seed: expected a whole number or None, came {seed!r}; write seed=0")
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed: expected 0 up to 2**63 - 1, came {seed}; write seed=0")
    cpu = torch.device("cpu")
    with seeded(seed, cpu), cpu:
        yield


def _named(argument: str, name: object, known: dict[str, Callable]) -> Callable:
    if not isinstance(name, str) or name not in known:
        raise ValueError(
            f"{argument}: expected one of {', '.join(known)}, came {name!r}; "
            f'write {argument}="{next(iter(known))}", or build your own nn.Module, which works too'
        )
    return known[name]


def _check_widths(widths: tuple, bias: object, example: str) -> None:
    if len(widths) < 2:
        raise ValueError(
            f"widths: expected at least two, inputs and outputs, came {widths}; write {example}"
        )
    for width in widths:
        _check_count("widths", width, example)
    if not isinstance(bias, bool):
        raise TypeError(f"bias: expected True or False, came {bias!r}; write bias=True")


def _check_count(argument: str, value: object, example: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(
            f"{argument}: expected whole numbers, came {value!r}; write for example {example}"
        )
    if value < 1:
        raise ValueError(f"{argument}: expected at least 1, came {value}; write {example}")


def _check_dropout(dropout: object) -> None:
    if isinstance(dropout, bool) or not isinstance(dropout, int | float):
        raise TypeError(f"dropout: expected a probability, came {dropout!r}; write dropout=0.3")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout: expected 0 <= dropout < 1, came {dropout}; write dropout=0.3")
