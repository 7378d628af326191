"""Independent, slow, obvious computations that the package is checked against."""

import copy

import numpy as np
import torch
from torch import nn


def jacobian(model, x):
    """Tangent features [n, C, P] by one autograd call per sample and output."""
    rows = []
    wanted = [p for p in model.parameters() if p.requires_grad]
    for xi in x:
        outputs = model(xi[None]).reshape(-1)
        grads = [
            torch.autograd.grad(o, wanted, retain_graph=True, materialize_grads=True)
            for o in outputs
        ]
        rows.append(torch.stack([torch.cat([g.flatten() for g in gs]) for gs in grads]))
    return torch.stack(rows)


def kernel(model, x1, x2):
    """The full kernel [n1, n2, C, C] from naive Jacobians."""
    return torch.einsum("icp,jdp->ijcd", jacobian(model, x1), jacobian(model, x2))


def set_vector(model, vector):
    """A copy of the model with its trainable parameters taken from one vector [P]."""
    model = copy.deepcopy(model)
    position = 0
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.copy_(vector[position : position + p.numel()].reshape(p.shape))
                position += p.numel()
    return model


def vector(model):
    return torch.cat([p.detach().flatten() for p in model.parameters() if p.requires_grad])


def forward_attribution(model, loss, data, batches, query, *, lr, momentum=0.0, dampening=0.0,
                        nesterov=False, decay=0.0, nodes=24):  # fmt: skip
    """Contributions [N, m, C] the other way round: every sample carries its own momentum forward.

    Plain SGD written out by hand, one momentum vector per sample; the query's gradient is averaged
    with many nodes.  No backward recursion, no torch.optim, no vmap.  Also returns the part of the
    weight decay and the model at the end.
    """
    x, y = data
    theta = vector(model).clone()
    n, width = len(x), len(theta)
    own = torch.zeros(n, width, dtype=theta.dtype)
    pull = torch.zeros(width, dtype=theta.dtype)  # the weight decay's momentum
    out = torch.zeros(n, *model(query).shape, dtype=theta.dtype)
    decayed = torch.zeros_like(model(query)).detach()
    t, w = np.polynomial.legendre.leggauss(nodes)
    for k, batch in enumerate(batches):
        here = set_vector(model, theta)
        g = torch.zeros(n, width, dtype=theta.dtype)
        for i in batch.tolist():
            value = loss(here(x[i : i + 1]), y[i : i + 1]).sum() / len(batch)
            g[i] = torch.cat([p.flatten() for p in torch.autograd.grad(value, here.parameters())])
        gd = decay * theta
        rate = lr(k)
        if momentum:
            keep = 1.0 if k == 0 else 1.0 - dampening
            own, pull = momentum * own + keep * g, momentum * pull + keep * gd
            steps = g + momentum * own if nesterov else own
            step_d = gd + momentum * pull if nesterov else pull
        else:
            steps, step_d = g, gd
        delta = -rate * (steps.sum(0) + step_d)
        phi = sum(
            b / 2 * jacobian(set_vector(model, theta + (1 + a) / 2 * delta), query)
            for a, b in zip(t, w, strict=True)
        )
        out += torch.einsum("mcp,ip->imc", phi, -rate * steps)
        decayed += phi @ (-rate * step_d)
        theta = theta + delta
    return out, decayed, set_vector(model, theta)


class Tied(nn.Module):
    """One matrix used twice: its gradient is the sum over both uses."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(5, 5), nn.Linear(5, 5)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))
