r"""A model, a loss and data, evaluated at thousands of parameter vectors at once.

A path is one row of ``theta [R, P]``.  Every gradient here is a gradient of weighted losses,
:math:`\nabla\sum_iw_i\ell_i(\theta)`: full batch, mini-batch and the noise of a diffusion are the
same computation with other weights, and no :math:`P\times P` matrix is ever formed.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vjp, vmap

from pkbook.checks import (
    evaluating,
    require_deterministic,
    require_finite,
    require_inputs,
    require_module,
    require_tensor,
    require_whole,
)
from pkbook.tangent import trainable

CHUNK_BYTES = 2**28  # of gradients held at once while many paths are evaluated


@dataclass(frozen=True)
class Task:
    r"""What is trained: ``model`` on ``data`` with a loss of one value per sample.

    The model is used in eval mode; ``output`` is the one whose prediction is followed.
    """

    model: nn.Module
    loss: Callable[[Tensor, Tensor], Tensor]
    data: tuple[Tensor, Tensor]
    output: int = 0
    names: list[str] = field(init=False)
    shapes: list[torch.Size] = field(init=False)
    theta: Tensor = field(init=False)
    r""":math:`\theta_0`, ``[P]``: the model's own parameters."""

    def __post_init__(self) -> None:
        require_module(self.model)
        if not isinstance(self.data, tuple | list) or len(self.data) != 2:
            raise TypeError("data must be a pair (x, y) of tensors with one row per sample")
        x, y = self.data
        require_inputs(self.model, x, "x")
        require_finite(require_tensor(y, "y"), "y")
        if len(x) != len(y):
            raise ValueError(f"x and y must have one row per sample, got {len(x)} and {len(y)}")
        own = trainable(self.model)
        with evaluating(self.model), torch.no_grad():
            require_deterministic(self.model)
            f = self.model(x)
            losses = self.loss(f, y)
        if losses.shape != (len(x),):
            raise ValueError(
                f"loss must return one value per sample [{len(x)}], got {tuple(losses.shape)}; "
                "write reduction='none', or use pkbook.losses"
            )
        width = f.reshape(len(f), -1).shape[1]
        require_whole(self.output, "output", least=0)
        if self.output >= width:
            raise ValueError(f"output must lie in 0..{width - 1}, got {self.output}")
        put = object.__setattr__
        put(self, "names", list(own))
        put(self, "shapes", [p.shape for p in own.values()])
        put(self, "theta", torch.cat([p.flatten() for p in own.values()]))

    @property
    def samples(self) -> int:
        """N."""
        return len(self.data[0])

    def parameters(self, theta: Tensor) -> dict[str, Tensor]:
        """One parameter vector ``[P]`` by name."""
        sizes = [s.numel() for s in self.shapes]
        parts = theta.split(sizes)
        return {n: p.view(s) for n, p, s in zip(self.names, parts, self.shapes, strict=True)}

    def _outputs(self, theta: Tensor, x: Tensor) -> Tensor:
        f = functional_call(self.model, self.parameters(theta), (x,))
        return f.reshape(len(x), -1)

    def _losses(self, theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
        f = functional_call(self.model, self.parameters(theta), (x,))
        return self.loss(f, y)

    def _chunk(self, rows: int) -> int:
        """Paths evaluated at once when each holds so many rows of gradients."""
        each = self.theta.numel() * self.theta.element_size() * rows * 4
        return max(1, CHUNK_BYTES // each)

    def _over_paths(self, function: Callable, *arguments: Tensor, rows: int = 1) -> Tensor:
        with evaluating(self.model):
            return vmap(function, chunk_size=self._chunk(rows))(*arguments)

    def outputs(self, theta: Tensor, x: Tensor) -> Tensor:
        """Predictions at queries ``x [m, ...]``, ``[R, m]``."""
        with torch.no_grad():
            return self._over_paths(lambda t: self._outputs(t, x)[:, self.output], theta)

    def query_gradients(self, theta: Tensor, x: Tensor) -> Tensor:
        r""":math:`\nabla f(x,\theta)`, ``[R, m, P]``."""

        def one(t: Tensor, xi: Tensor) -> Tensor:
            return self._outputs(t, xi.unsqueeze(0))[0, self.output]

        def all_(t: Tensor) -> Tensor:
            return vmap(grad(one), in_dims=(None, 0))(t, x)

        return self._over_paths(all_, theta, rows=len(x))

    def weighted_gradients(self, theta: Tensor, weights: Tensor) -> Tensor:
        r""":math:`\nabla\sum_iw_i\ell_i(\theta)` for ``weights [R, k, N]``, ``[R, k, P]``."""
        x, y = self.data

        def one(t: Tensor, w: Tensor) -> Tensor:
            _, pull = vjp(lambda p: self._losses(p, x, y), t)
            return vmap(lambda v: pull(v)[0])(w)

        return self._over_paths(one, theta, weights, rows=weights.shape[1] + 1)

    def batch_gradients(self, theta: Tensor, batch: Tensor) -> Tensor:
        """The mean gradient over each path's own batch ``[R, B]`` of sample numbers, ``[R, P]``."""
        x, y = self.data

        def one(t: Tensor, xb: Tensor, yb: Tensor) -> Tensor:
            return grad(lambda p: self._losses(p, xb, yb).mean())(t)

        return self._over_paths(one, theta, x[batch], y[batch])

    def sample_gradients(self, theta: Tensor) -> Tensor:
        r""":math:`\nabla\ell_i(\theta)`, ``[R, N, P]``."""
        x, y = self.data

        def one(t: Tensor, xi: Tensor, yi: Tensor) -> Tensor:
            return self._losses(t, xi.unsqueeze(0), yi.unsqueeze(0))[0]

        def all_(t: Tensor) -> Tensor:
            return vmap(grad(one), in_dims=(None, 0, 0))(t, x, y)

        return self._over_paths(all_, theta, rows=self.samples)
