r"""Matrices on the right: :math:`z_t=a_t^\top w`, with the gradient :math:`\sum_ta_tg_t^\top`."""

from torch import Tensor

from pkbook.basics.parameters import Tree
from pkbook.kernels.factors import Layout, Transposed
from pkbook.kernels.layers.layer import Layer, Named, Reading, Use
from pkbook.kernels.layers.linear import products


class Product(Layer):
    """``torch.matmul`` (``x @ w``) of an activation and a matrix."""

    def read(self, input, other) -> Reading | None:
        if not isinstance(other, Tensor) or other.ndim != 2 or input.ndim < 2:
            return None
        return Reading(input, other, None)

    def leading(self, use: Use) -> int:
        return use.inputs.ndim - 1

    def factors(self, use: Use, layout: Layout, g: list[Tensor], parameters: Tree) -> Named:
        outer, bias = products(use, layout, g, self.leading(use))
        yield use.weight, Transposed(outer)
        yield use.bias, bias


class ProductWithBias(Product):
    """``torch.addmm``, as in the linear layers of GPT-2 (``Conv1D`` of transformers)."""

    def read(self, input, mat1, mat2, *, beta=1, alpha=1) -> Reading | None:  # type: ignore[override]
        whole = input.ndim == 1 and input.shape == mat2.shape[1:]
        return Reading(mat1, mat2, input) if whole and beta == alpha == 1 else None
