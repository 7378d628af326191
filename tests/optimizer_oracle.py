"""The same contributions the other way round: every sample carries its own memory forward.

The update rules are written out from the optimizers' papers and documentation, for one flat vector
of parameters; no backward recursion, no torch.optim, no engine.
"""

import math

import numpy as np
import torch
from oracles import jacobian, set_vector, vector


class Rule:
    """Splits one step into the samples' parts ``[N, P]`` and the part of the weight decay."""

    def __init__(self, n, width, dtype, **options):
        self.h = options
        self.own = torch.zeros(n, width, dtype=dtype)
        self.pull = torch.zeros(width, dtype=dtype)
        self.v = torch.zeros(width, dtype=dtype)
        self.mean = torch.zeros(width, dtype=dtype)
        self.vmax = torch.zeros(width, dtype=dtype)
        self.k = 0

    def get(self, name, default=0.0):
        return self.h.get(name, default)

    def __call__(self, g, theta, rate):
        self.k += 1
        decay = self.get("weight_decay")
        decoupled = self.get("decoupled_weight_decay", False)
        gd = torch.zeros_like(theta) if decoupled else decay * theta
        steps, step_d = self.split(g, gd)
        if decoupled:
            step_d = step_d + decay * theta
        return -rate * steps, -rate * step_d

    def remember(self, g, gd, keep, take):
        self.own, self.pull = keep * self.own + take * g, keep * self.pull + take * gd

    def square(self, g, gd, keep):
        self.v = keep * self.v + (1 - keep) * (g.sum(0) + gd) ** 2


class SGD(Rule):
    def split(self, g, gd):
        mu = self.get("momentum")
        if not mu:
            return g, gd
        self.remember(g, gd, mu, 1.0 if self.k == 1 else 1 - self.get("dampening"))
        if self.get("nesterov"):
            return g + mu * self.own, gd + mu * self.pull
        return self.own, self.pull


class RMSprop(Rule):
    def split(self, g, gd):
        a = self.get("alpha", 0.99)
        self.square(g, gd, a)
        self.mean = a * self.mean + (1 - a) * (g.sum(0) + gd)
        variance = self.v - self.mean**2 if self.get("centered") else self.v
        scale = variance.sqrt() + self.get("eps", 1e-8)
        if not self.get("momentum"):
            return g / scale, gd / scale
        self.remember(g / scale, gd / scale, self.get("momentum"), 1.0)
        return self.own, self.pull


class Adagrad(Rule):
    def split(self, g, gd):
        self.v = self.v + (g.sum(0) + gd) ** 2
        scale = (1 + (self.k - 1) * self.get("lr_decay")) * (self.v.sqrt() + 1e-10)
        return g / scale, gd / scale


class Adam(Rule):
    def split(self, g, gd):
        b1, b2 = self.get("betas", (0.9, 0.999))
        self.remember(g, gd, b1, 1 - b1)
        self.square(g, gd, b2)
        self.vmax = torch.maximum(self.vmax, self.v)
        v = self.vmax if self.get("amsgrad") else self.v
        scale = (1 - b1**self.k) * ((v / (1 - b2**self.k)).sqrt() + self.get("eps", 1e-8))
        return self.own / scale, self.pull / scale


class NAdam(Rule):
    def split(self, g, gd):
        b1, b2 = self.get("betas", (0.9, 0.999))
        psi = self.get("momentum_decay", 4e-3)
        mus = [b1 * (1 - 0.5 * 0.96 ** (k * psi)) for k in range(1, self.k + 2)]
        self.remember(g, gd, b1, 1 - b1)
        self.square(g, gd, b2)
        scale = (self.v / (1 - b2**self.k)).sqrt() + 1e-8
        now = (1 - mus[-2]) / (1 - math.prod(mus[:-1]))
        later = mus[-1] / (1 - math.prod(mus))
        return tuple((later * m + now * x) / scale for m, x in ((self.own, g), (self.pull, gd)))


class RAdam(Rule):
    def split(self, g, gd):
        b1, b2 = self.get("betas", (0.9, 0.999))
        self.remember(g, gd, b1, 1 - b1)
        self.square(g, gd, b2)
        longest = 2 / (1 - b2) - 1
        length = longest - 2 * self.k * b2**self.k / (1 - b2**self.k)
        scale = torch.ones_like(self.v)
        if length > 5:
            r = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
            scale = (self.v.sqrt() + 1e-8) / math.sqrt(r * (1 - b2**self.k))
        scale = (1 - b1**self.k) * scale
        return self.own / scale, self.pull / scale


RULES = {"SGD": SGD, "RMSprop": RMSprop, "Adagrad": Adagrad, "Adam": Adam, "AdamW": Adam,
         "NAdam": NAdam, "RAdam": RAdam}  # fmt: skip


def forward_contributions(name, options, model, loss, data, batches, query, *, clip=None, nodes=24):
    """Contributions ``[N, m, C]``, the weight decay's part, and the model at the end.

    ``clip`` maps the batch gradient to the factor it is multiplied with.
    """
    options = dict(options)
    rate = options.pop("lr")
    if name == "AdamW":
        options = {"weight_decay": 1e-2, "decoupled_weight_decay": True} | options
    x, y = data
    theta = vector(model).clone()
    rule = RULES[name](len(x), len(theta), theta.dtype, **options)
    out = torch.zeros(len(x), *model(query).shape, dtype=theta.dtype)
    decayed = torch.zeros_like(model(query)).detach()
    t, w = np.polynomial.legendre.leggauss(nodes)
    for batch in batches:
        here = set_vector(model, theta)
        g = torch.zeros(len(x), len(theta), dtype=theta.dtype)
        for i in batch.tolist():
            value = loss(here(x[i : i + 1]), y[i : i + 1]).sum() / len(batch)
            g[i] = torch.cat([p.flatten() for p in torch.autograd.grad(value, here.parameters())])
        g = g * (1.0 if clip is None else clip(g.sum(0)))
        parts, own = rule(-g if options.get("maximize") else g, theta, rate)
        delta = parts.sum(0) + own
        phi = sum(
            b / 2 * jacobian(set_vector(model, theta + (1 + a) / 2 * delta), query)
            for a, b in zip(t, w, strict=True)
        )
        out += torch.einsum("mcp,ip->imc", phi, parts)
        decayed += phi @ own
        theta = theta + delta
    return out, decayed, set_vector(model, theta)
