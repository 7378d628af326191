r"""A faster way for the networks of the book: chains of linear layers and element-wise functions.

In a layer :math:`z=Wa+b` the gradient of :math:`\sum_iw_i\ell_i` is
:math:`\sum_iw_i\,\delta_ia_i^\top` with :math:`\delta_i=\partial\ell_i/\partial z_i`.  Neither
:math:`\delta` nor :math:`a` knows the weights.  So one forward and one backward pass serve any
number of rows of weights, the squares of the single gradients, and the queries as well.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.func import vmap

ELEMENTWISE = (nn.Tanh, nn.ReLU, nn.GELU, nn.SiLU, nn.Softplus, nn.Sigmoid, nn.Identity)
Pass = tuple[Tensor, Tensor | None, Tensor | None]
"""Rows ``[R, k, P]``, and where asked for the queries ``[R, m, P]`` and variances ``[R, P]``."""


def layers_of(model: nn.Module, names: list[str]) -> list[nn.Module] | None:
    """The layers where ``model`` is such a chain and all of its parameters train, else None."""
    layers = list(model.children())
    if type(model) is not nn.Sequential or len(layers) != len(model):
        return None
    plain = all(
        type(layer) is nn.Linear
        or (type(layer) in ELEMENTWISE and not getattr(layer, "inplace", False))
        for layer in layers
    )
    every = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    return layers if plain and every == names else None


@dataclass(frozen=True)
class Chain:
    """The layers of such a network, its loss, its data and the output that is followed."""

    layers: list[nn.Module]
    loss: Callable[[Tensor, Tensor], Tensor]
    data: tuple[Tensor, Tensor]
    output: int

    def forward(self, theta: Tensor, x: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Outputs ``[R, n, C]``, and what enters and leaves each linear layer."""
        a, entering, leaving = x.expand(len(theta), -1, -1), [], []
        for layer, weight, bias in self._parameters(theta):
            if weight is None:
                a = layer(a)
                continue
            entering.append(a)
            a = a @ weight.mT if bias is None else torch.baddbmm(bias.unsqueeze(1), a, weight.mT)
            # The derivatives start at the first layer's outcome, not at the parameters.
            leaving.append(a if a.requires_grad else a.requires_grad_(torch.is_grad_enabled()))
        return a, entering, leaving

    def pull(
        self,
        theta: Tensor,
        weights: Tensor,
        x: Tensor | None = None,
        variance: bool = False,
        batch: Tensor | None = None,
    ) -> Pass:
        """One pass over the data and the queries, or over each path's ``batch [R, B]``."""
        inputs, y = self.data if batch is None else (part[batch] for part in self.data)
        n, same = inputs.shape[-2], None if batch is None else 0
        with torch.enable_grad():
            both = inputs if x is None else torch.cat([inputs, x])
            f, entering, leaving = self.forward(theta, both)
            losses = vmap(self.loss, in_dims=(0, same))(f[:, :n], y)
            total = losses.sum() + f[:, n:, self.output].sum()
            deltas = torch.autograd.grad(total, leaving)
        if variance:
            weights = torch.cat([weights, torch.full_like(weights[:, :1], 1 / n)], 1)
        rows, query, squares = [], [], []
        linear = [layer for layer in self.layers if isinstance(layer, nn.Linear)]
        for layer, entered, delta in zip(linear, entering, deltas, strict=True):
            bias = layer.bias is not None
            (a, aq), (d, dq) = (t.detach().tensor_split([n], 1) for t in (entered, delta))
            rows += _sums(weights, d, a, bias)
            if x is not None:
                query += [(dq.unsqueeze(3) * aq.unsqueeze(2)).flatten(2)] + [dq] * bias
            if variance:
                squares += _sums(weights[:, -1:], d.square(), a.square(), bias)
        found, asked = torch.cat(rows, 2), torch.cat(query, 2) if query else None
        if not variance:
            return found, asked, None
        spread = torch.cat(squares, 2)[:, 0] - found[:, -1].square()
        return found[:, :-1], asked, spread.clamp_min(0)

    def _parameters(
        self, theta: Tensor
    ) -> Iterator[tuple[nn.Module, Tensor | None, Tensor | None]]:
        """Each layer with its weights ``[R, out, in]`` and biases ``[R, out]`` in ``theta``."""
        parts = iter(theta.split(self._sizes, 1))
        for layer, shapes in self._shapes:
            found = [next(parts).view(-1, *shape) for shape in shapes]
            weight, bias, *_ = [*found, None, None]
            yield layer, weight, bias

    @cached_property
    def _shapes(self) -> list[tuple[nn.Module, list[torch.Size]]]:
        """Each layer with the shapes of its parameters, asked once: a run asks for them always."""
        return [(layer, [p.shape for p in layer.parameters()]) for layer in self.layers]

    @cached_property
    def _sizes(self) -> list[int]:
        return [shape.numel() for _, shapes in self._shapes for shape in shapes]


def _sums(weights: Tensor, delta: Tensor, a: Tensor, bias: bool) -> list[Tensor]:
    r""":math:`\sum_iw_i\,\delta_ia_i^\top` and :math:`\sum_iw_i\,\delta_i`, each ``[R, k, :]``."""
    if a.shape[2] <= delta.shape[2]:
        outer = _weighed(weights, a, delta).mT
    else:
        outer = _weighed(weights, delta, a)
    return [outer.flatten(2)] + [weights @ delta] * bias


def _weighed(weights: Tensor, narrow: Tensor, wide: Tensor) -> Tensor:
    """One product for all rows of weights, which go to the narrower side, ``[R, k, ., .]``."""
    left = weights.unsqueeze(2) * narrow.mT.unsqueeze(1)
    return (left.flatten(1, 2) @ wide).unflatten(1, left.shape[1:3])
