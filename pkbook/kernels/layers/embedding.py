"""Tables that are looked up by number: gradients of the rows that were looked up."""

from torch import Tensor

from pkbook.basics.parameters import Tree
from pkbook.kernels.factors import Layout, Lookup
from pkbook.kernels.layers.layer import Layer, Named, Reading, Use, split


class Embedding(Layer):
    """``F.embedding`` without rescaling of the table or of its gradients."""

    def read(self, input, weight, padding_idx=None, max_norm=None, norm_type=2.0,
             scale_grad_by_freq=False, sparse=False) -> Reading | None:  # fmt: skip
        if max_norm is not None or scale_grad_by_freq or sparse:
            return None
        return Reading(input, weight, None, {"padding_idx": padding_idx})

    def leading(self, use: Use) -> int:
        return use.inputs.ndim

    def factors(self, use: Use, layout: Layout, g: list[Tensor], parameters: Tree) -> Named:
        leading = self.leading(use)
        g = split(g, layout, leading)
        tokens = layout.split(use.inputs, leading)
        size, skip = parameters[str(use.weight)].shape[0], use.options["padding_idx"]
        if skip is not None:
            tokens = tokens.masked_fill(tokens == skip % size, -1)
        yield use.weight, Lookup(tokens, [part.transpose(1, 2) for part in g], size)
