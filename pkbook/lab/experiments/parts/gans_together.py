r"""Many GANs trained side by side, with stacked parameters; what each batch did to the queries.

A run alone spends most of its time between the small products of its networks.  The generators'
Adam is written out, since its pieces are what the exact formula is made of.  With the gradient
:math:`g_k` of batch k, its mean :math:`m_j=\beta m_{j-1}+(1-\beta)g_j` and the step
:math:`-D_jm_j`, a query moves in step j by
:math:`-\bar J_jD_jm_j`, where :math:`\bar J_j` is the query's Jacobian averaged over the step.  So
batch k did :math:`-(1-\beta)\sum_{j\ge k}\beta^{j-k}\bar J_jD_jg_k`, then and later.
`tests/test_experiments_mode_collapse.py` compares this with a recorded run of the package.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap
from torch.nn.functional import softplus
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from pkbook.interpolation.quadrature import gauss_legendre

SECOND, EPS = 0.999, 1e-8  # Adam's second beta and what it adds below the line


class Stack:
    """R networks of one build."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        self.network = networks[0]
        named = dict(self.network.named_parameters())
        self.shapes = {name: p.shape for name, p in named.items()}
        self.rows = torch.stack([parameters_to_vector(n.parameters()) for n in networks]).detach()
        """The parameters of each, ``[R, P]``."""

    def alone(self, row: Tensor) -> nn.Module:
        """A network with the parameters ``row [P]``."""
        network = copy.deepcopy(self.network)
        vector_to_parameters(row, network.parameters())
        return network

    def one(self, row: Tensor, x: Tensor) -> Tensor:
        """The network with the parameters ``row [P]`` at ``x``."""
        parts = row.split([shape.numel() for shape in self.shapes.values()])
        named = {n: p.view(s) for (n, s), p in zip(self.shapes.items(), parts, strict=True)}
        return functional_call(self.network, named, (x,))

    def __call__(self, rows: Tensor, x: Tensor) -> Tensor:
        """Each network at its own points ``x [R, n, d]``."""
        return vmap(self.one)(rows, x)

    def jacobians(self, rows: Tensor, x: Tensor) -> Tensor:
        """``[R, n, outputs, P]``."""
        return vmap(vmap(jacrev(self.one), (None, 0)))(rows, x)


class Adam:
    """For R rows of parameters, with a rate and a first beta for each row."""

    def __init__(self, rows: Tensor, rates: Sequence[float], betas: Sequence[float]) -> None:
        self.rate, self.beta = (rows.new_tensor(v)[:, None] for v in (rates, betas))
        self.mean, self.square = torch.zeros_like(rows), torch.zeros_like(rows)
        self.count = 0

    def scale(self, gradient: Tensor) -> Tensor:
        """Take a gradient in; what the step multiplies the mean by, ``[R, P]``."""
        self.count += 1
        self.mean = self.beta * self.mean + (1 - self.beta) * gradient
        self.square = SECOND * self.square + (1 - SECOND) * gradient.square()
        root = (self.square / (1 - SECOND**self.count)).sqrt() + EPS
        return self.rate / (1 - self.beta**self.count) / root


@dataclass(frozen=True)
class Together:
    """R runs of K steps."""

    generators: Stack
    critics: list[nn.Module]
    """The discriminators at the end."""
    beta: Tensor
    """First betas of the generators' Adam, ``[R, 1]``."""
    states: Tensor
    """Parameters before each step and after the last, ``[K + 1, R, P]``."""
    gradients: Tensor
    scales: Tensor
    """Of each step, ``[K, R, P]`` both."""
    feedback: Tensor
    r""":math:`s_i` of each step's batch, ``[R, K, B, d]``."""

    @torch.no_grad()
    def places(self, asked: Tensor, every: int = 1) -> Tensor:
        """Where each generator puts ``asked [R, m, 2]``, ``[R, K / every + 1, m, d]``."""
        return torch.stack([self.generators(state, asked) for state in self.states[::every]], 1)

    @torch.no_grad()
    def carried(self, asked: Tensor, nodes: int) -> Tensor:
        """What each step's batch did to the latents, then and later, ``[R, K, m, d]``."""
        later, found = 0.0, []
        for k in reversed(range(len(self.scales))):
            start, end = self.states[k], self.states[k + 1]
            mean = sum(
                w * self.generators.jacobians(start + t * (end - start), asked)
                for t, w in gauss_legendre(nodes)
            )
            later = self.beta[..., None, None] * later + mean * self.scales[k][:, None, None]
            row = (1 - self.beta) * self.gradients[k]
            found.append(-torch.einsum("rmdp,rp->rmd", later, row))
        return torch.stack(found[::-1], 1)


def train(
    generators: Sequence[nn.Module],
    critics: Sequence[nn.Module],
    latents: Tensor,
    chosen: Tensor,
    sample: Callable[[int], Tensor],
    *,
    rates: tuple[Sequence[float], Sequence[float]],
    betas: Sequence[float],
) -> Together:
    """Non-saturating GANs, one step of each discriminator before one of its generator.

    Parameters
    ----------
    generators, critics
        R of each, of one build.
    latents, chosen
        ``[R, N, 2]``, and which of them each step's batch holds, ``[R, K, B]``.
    sample
        fresh data of every run, ``[R, B, d]``, when asked for B.
    rates, betas
        of the generators and of the discriminators; first betas of the generators' Adam.
    """
    makers, judges = Stack(generators), Stack(critics)
    for_makers = Adam(makers.rows, rates[0], betas)
    for_judges = Adam(judges.rows, rates[1], [0.5] * len(critics))
    theta, phi = makers.rows, judges.rows
    each = torch.arange(len(latents))[:, None]
    states, gradients, scales, feedback = [theta], [], [], []
    for batch in chosen.unbind(1):
        theta.requires_grad_()
        made = makers(theta, latents[each, batch])
        x = made.detach()
        phi.requires_grad_()
        logits = judges(phi, torch.cat([sample(x.shape[1]), x], 1))[..., 0].chunk(2, 1)
        loss = (softplus(-logits[0]).mean(1) + softplus(logits[1]).mean(1)).sum()
        (slope,) = torch.autograd.grad(loss, phi)
        phi = phi.detach()
        phi = phi - for_judges.scale(slope) * for_judges.mean
        x.requires_grad_()
        (told,) = torch.autograd.grad(softplus(-judges(phi, x)).sum(), x)
        (gradient,) = torch.autograd.grad(made, theta, told / x.shape[1])
        theta, scale = theta.detach(), for_makers.scale(gradient)
        theta = theta - scale * for_makers.mean
        for kept, value in zip(
            (states, gradients, scales, feedback), (theta, gradient, scale, told), strict=True
        ):
            kept.append(value)
    return Together(
        makers,
        [judges.alone(row) for row in phi],
        for_makers.beta,
        torch.stack([s.detach() for s in states]),
        torch.stack(gradients),
        torch.stack(scales),
        torch.stack(feedback, 1),
    )
