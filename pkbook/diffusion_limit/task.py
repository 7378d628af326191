r"""A model, a loss and data, evaluated at thousands of parameter vectors at once.

A path is one row of ``theta [R, P]``.  Every gradient here is a gradient of weighted losses,
:math:`\nabla\sum_iw_i\ell_i(\theta)`: full batch, mini-batch and the noise of a diffusion are the
same computation with other weights, and no :math:`P\times P` matrix is ever formed.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import grad, vjp, vmap

from pkbook.basics.checks import (
    evaluating,
    require_deterministic,
    require_finite,
    require_inputs,
    require_module,
    require_tensor,
    require_whole,
)
from pkbook.basics.parameters import trainable
from pkbook.basics.replaced import replaced
from pkbook.diffusion_limit.chain import Chain, layers_of

CHUNK_BYTES = 2**23  # of what is kept for backward passes at once: it stays in the caches
CHUNK_BYTES_GPU = 2**28


@dataclass(frozen=True)
class Pulled:
    """What is known about every path after one evaluation of the data."""

    rows: Tensor
    r""":math:`\nabla\sum_iw_i\ell_i`, one row for each row of weights, ``[R, k, P]``."""
    query: Tensor | None = None
    r""":math:`\nabla f(x,\theta)` at the queries, where given, ``[R, m, P]``."""
    variance: Tensor | None = None
    r""":math:`\frac1N\sum_i(\nabla\ell_i-\nabla L)^2`, where asked for, ``[R, P]``."""

    @property
    def asked(self) -> Tensor:
        """``query``; ``ValueError`` where no query was given."""
        if self.query is None:
            raise ValueError("query was not asked for; give pull the queries x")
        return self.query


def _joined(parts: list[Tensor | None]) -> Tensor | None:
    """The pieces of all paths, None where there are none."""
    found = [part for part in parts if part is not None]
    return torch.cat(found) if found else None


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
    sample_bytes: int = field(init=False)
    """What one sample's loss keeps for its backward pass, with a share of the parameters."""
    chain: Chain | None = field(init=False)
    """The faster way of :meth:`pull`, where the network allows it."""

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
            f = self.model(x.clone())
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
        put(self, "sample_bytes", self._measured())
        put(self, "chain", self._chain(f))

    def _chain(self, f: Tensor) -> Chain | None:
        """The faster way, if it finds the model's own outputs ``f``."""
        layers = layers_of(self.model, self.names)
        if layers is None or self.data[0].ndim != 2:
            return None
        chain = Chain(layers, self.loss, self.data, self.output)
        same = chain.forward(self.theta.unsqueeze(0), self.data[0])[0][0]
        # A hook, say, may change what the layers' types do not tell.
        return chain if torch.allclose(same.detach(), f, rtol=1e-3, atol=1e-5) else None

    def _measured(self) -> int:
        kept: list[int] = []
        with (
            evaluating(self.model),
            torch.enable_grad(),
            torch.autograd.graph.saved_tensors_hooks(
                lambda t: (kept.append(t.nbytes), t)[1], lambda t: t
            ),
        ):
            self._losses(self.theta.clone().requires_grad_(), *self.data)
        return sum(kept) // self.samples + 1

    @property
    def samples(self) -> int:
        """N."""
        return len(self.data[0])

    def parameters(self, theta: Tensor) -> dict[str, Tensor]:
        """One parameter vector ``[P]`` by name."""
        sizes = [s.numel() for s in self.shapes]
        parts = theta.split(sizes)
        return {n: p.view(s) for n, p, s in zip(self.names, parts, self.shapes, strict=True)}

    def _call(self, theta: Tensor, x: Tensor) -> Tensor:
        with replaced(self.model, self.parameters(theta)):
            return self.model(x.clone())  # a model may work in place on its input

    def _outputs(self, theta: Tensor, x: Tensor) -> Tensor:
        return self._call(theta, x).reshape(len(x), -1)

    def _losses(self, theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return self.loss(self._call(theta, x), y)

    def _chunk(self, samples: int, rows: int) -> int:
        """Paths evaluated at once, each with so many samples and rows of gradients."""
        each = samples * self.sample_bytes + rows * self.theta.nbytes
        return max(1, (CHUNK_BYTES_GPU if self.theta.is_cuda else CHUNK_BYTES) // each)

    def _over_paths(
        self, function: Callable, *arguments: Tensor, samples: int, rows: int
    ) -> Tensor:
        with evaluating(self.model):
            return vmap(function, chunk_size=self._chunk(samples, rows))(*arguments)

    def outputs(self, theta: Tensor, x: Tensor) -> Tensor:
        """Predictions at queries ``x [m, ...]``, ``[R, m]``."""

        def one(t: Tensor) -> Tensor:
            return self._outputs(t, x)[:, self.output]

        with torch.no_grad():
            return self._over_paths(one, theta, samples=len(x), rows=1)

    def query_gradients(self, theta: Tensor, x: Tensor) -> Tensor:
        r""":math:`\nabla f(x,\theta)`, ``[R, m, P]``."""

        def one(t: Tensor, xi: Tensor) -> Tensor:
            return self._outputs(t, xi.unsqueeze(0))[0, self.output]

        def all_(t: Tensor) -> Tensor:
            return vmap(grad(one), in_dims=(None, 0))(t, x)

        return self._over_paths(all_, theta, samples=len(x), rows=len(x))

    def weighted_gradients(self, theta: Tensor, weights: Tensor) -> Tensor:
        r""":math:`\nabla\sum_iw_i\ell_i(\theta)` for ``weights [R, k, N]``, ``[R, k, P]``."""
        return self.pull(theta, weights).rows

    def pull(
        self, theta: Tensor, weights: Tensor, x: Tensor | None = None, variance: bool = False
    ) -> Pulled:
        """Weighted gradients, and what else is asked at the same point of each path.

        ``weights [R, k, N]``, queries ``x [m, ...]``.  Chains of linear layers and element-wise
        functions take the faster way of ``chain.Chain``.
        """
        if self.chain is None:
            return self._pull(theta, weights, x, variance)
        extra = 0 if x is None else len(x)
        size = self._chunk(self.samples + extra, weights.shape[1] + extra)
        pieces = zip(theta.split(size), weights.split(size), strict=True)
        found = [self.chain.pull(t, w, x, variance) for t, w in pieces]
        rows = torch.cat([part for part, _, _ in found])
        return Pulled(rows, *(_joined([part[j] for part in found]) for j in (1, 2)))

    def _pull(self, theta: Tensor, weights: Tensor, x: Tensor | None, variance: bool) -> Pulled:
        """The same for any model: one forward pass for all rows of weights."""
        (inputs, y), n, k = self.data, self.samples, weights.shape[1]
        query = None if x is None else self.query_gradients(theta, x)

        def one(t: Tensor, w: Tensor) -> Tensor:
            _, pull = vjp(lambda p: self._losses(p, inputs, y), t)[:2]
            return vmap(lambda v: pull(v)[0])(w)

        def with_variance(t: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
            each = self._each(t)
            return w @ each, each.var(0, correction=0)

        if not variance:
            return Pulled(self._over_paths(one, theta, weights, samples=n * k, rows=k), query)
        rows, spread = self._over_paths(with_variance, theta, weights, samples=n, rows=n + k)
        return Pulled(rows, query, spread)

    def batch_gradients(self, theta: Tensor, batch: Tensor) -> Tensor:
        """The mean gradient over each path's own batch ``[R, B]`` of sample numbers, ``[R, P]``."""
        x, y = self.data
        size = batch.shape[1]
        if self.chain is not None:
            weights = theta.new_full((1, 1, size), 1 / size)
            pieces = [part.split(self._chunk(size, 1)) for part in (theta, batch)]
            parts = [self.chain.pull(t, weights, batch=b) for t, b in zip(*pieces, strict=True)]
            return torch.cat([rows[:, 0] for rows, _, _ in parts])

        def one(t: Tensor, xb: Tensor, yb: Tensor) -> Tensor:
            return grad(lambda p: self._losses(p, xb, yb).mean())(t)

        return self._over_paths(one, theta, x[batch], y[batch], samples=size, rows=1)

    def _each(self, theta: Tensor) -> Tensor:
        """The gradients of single samples for one parameter vector, ``[N, P]``."""

        def one(xi: Tensor, yi: Tensor) -> Tensor:
            return grad(lambda t: self._losses(t, xi.unsqueeze(0), yi.unsqueeze(0))[0])(theta)

        return vmap(one)(*self.data)

    def sample_gradients(self, theta: Tensor) -> Tensor:
        r""":math:`\nabla\ell_i(\theta)`, ``[R, N, P]``."""
        return self._over_paths(self._each, theta, samples=self.samples, rows=self.samples)

    def hessian_products(self, theta: Tensor, vectors: Tensor) -> Tensor:
        r""":math:`\nabla^2L(\theta)\,v` for ``vectors [R, k, P]``, ``[R, k, P]``."""

        def one(t: Tensor, v: Tensor) -> Tensor:
            return vmap(partial(_turned, lambda s: self._losses(s, *self.data).mean(), t))(v)

        rows = vectors.shape[1]
        return self._over_paths(one, theta, vectors, samples=self.samples * rows, rows=rows)

    def loss_curvatures(self, theta: Tensor, left: Tensor, right: Tensor) -> Tensor:
        r""":math:`u^\top\nabla^2\ell_i(\theta)\,v` of every sample, ``[R, N, m]``.

        ``left [R, m, P]`` holds one :math:`u` a query, ``right [R, P]`` is :math:`v`.
        """

        def one(t: Tensor, u: Tensor, v: Tensor) -> Tensor:
            def of(xi: Tensor, yi: Tensor) -> Tensor:
                x, y = xi.unsqueeze(0), yi.unsqueeze(0)
                return _turned(lambda s: self._losses(s, x, y)[0], t, v)

            return vmap(of)(*self.data) @ u.T

        n = self.samples
        return self._over_paths(one, theta, left, right, samples=2 * n, rows=n)

    def query_curvatures(self, theta: Tensor, x: Tensor, left: Tensor, right: Tensor) -> Tensor:
        r""":math:`u_i^\top\nabla^2f(x,\theta)\,v_i` for queries ``x [m, ...]``, ``[R, N, m]``.

        ``left`` and ``right [R, N, P]`` hold one :math:`u_i` and one :math:`v_i` a sample.
        """

        def one(t: Tensor, u: Tensor, v: Tensor) -> Tensor:
            def of(xi: Tensor) -> Tensor:
                at = lambda s: self._outputs(s, xi.unsqueeze(0))[0, self.output]  # noqa: E731
                return (vmap(partial(_turned, at, t))(v) * u).sum(1)

            return vmap(of, out_dims=1)(x)

        size = len(x) * left.shape[1]
        return self._over_paths(one, theta, left, right, samples=2 * size, rows=size)


def _turned(function: Callable[[Tensor], Tensor], theta: Tensor, v: Tensor) -> Tensor:
    """The Hessian of a scalar ``function`` at ``theta``, applied to ``v [P]``, ``[P]``."""
    return grad(lambda t: grad(function)(t) @ v)(theta)
