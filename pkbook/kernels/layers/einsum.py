r"""``torch.einsum`` of an activation and a parameter, as in a mixture of experts.

With ``nd,kde->nke`` the gradient of sample n by the parameter is ``nd,nke->nkde``: the same sum, in
which the sample's letter stays.
"""

import torch
from torch import Tensor

from pkbook.basics.parameters import Tree
from pkbook.kernels.factors import Dense, Layout, widen
from pkbook.kernels.layers.layer import Layer, Named, Reading, Use


class Einsum(Layer):
    """A sum over two operands, of which one has the samples first, and so has the result."""

    def read(self, equation, *operands) -> Reading | None:
        if len(operands) == 1 and isinstance(operands[0], list | tuple):
            operands = tuple(operands[0])
        if not isinstance(equation, str) or len(operands) != 2:
            return None
        left, arrow, result = equation.replace(" ", "").partition("->")
        terms = left.split(",")
        plain = all(len(set(term)) == len(term) and term.isalpha() for term in (*terms, result))
        if not arrow or len(terms) != 2 or not plain:  # an ellipsis, a diagonal, a single number
            return None
        if terms[1][0] == result[0]:
            terms, operands = terms[::-1], operands[::-1]
        inputs, weight = terms
        summed_alone = set(weight) - set(inputs) - set(result)
        if inputs[0] != result[0] or result[0] in weight or summed_alone:
            return None
        formula = f"{inputs},{result}->{result[0]}{weight}"
        return Reading(operands[0], operands[1], None, {"formula": formula})

    def leading(self, use: Use) -> int:
        return 1

    def factors(self, use: Use, layout: Layout, g: list[Tensor], parameters: Tree) -> Named:
        x = layout.split(widen(use.inputs), 1)  # [n, T, ...]
        formula = use.options["formula"]
        parts = [layout.split(widen(part), 1) for part in g]
        rows = [torch.einsum(formula, x.flatten(0, 1), part.flatten(0, 1)) for part in parts]
        yield use.weight, Dense(torch.stack([_summed(r, *x.shape[:2]) for r in rows]))


def _summed(rows: Tensor, samples: int, positions: int) -> Tensor:
    """Several rows of one sample added up, ``[n, P]``."""
    return rows.reshape(samples, positions, -1).sum(1)
