"""The networks of the paper's Sections 3.4, 5 and 6, plain ``Sequential`` with named layers."""

from pkbook.problems.models.building import activations, pools
from pkbook.problems.models.convolutional import cifar_cnn, mnist_cnn
from pkbook.problems.models.fully_connected import Scale, mlp, ntk_mlp
from pkbook.problems.models.language import gpt
from pkbook.problems.models.transformer import vit

__all__ = [
    "Scale",
    "activations",
    "cifar_cnn",
    "gpt",
    "mlp",
    "mnist_cnn",
    "ntk_mlp",
    "pools",
    "vit",
]
