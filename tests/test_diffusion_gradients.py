"""Gradients of all paths at once: the fast way of plain networks, and the general one."""

import pytest
import torch
from torch import nn

import pkbook as pk
from pkbook import diffusion_limit as dl


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def networks():
    """Chains of linear layers and element-wise functions: [name, model, output, loss]."""
    torch_layers = [nn.Linear(2, 7), nn.GELU(), nn.Linear(7, 7, bias=False), nn.ReLU()]
    one = pk.losses.squared
    return {
        "one hidden layer": (pk.models.mlp(2, 5, 1, activation="tanh", seed=0), 0, one),
        "deep, several outputs": (
            nn.Sequential(*torch_layers, nn.Linear(7, 3), nn.Softplus()), 2, one,
        ),
        "wide to narrow, no bias": (pk.models.mlp(2, 9, 4, 2, bias=False, seed=1), 1, one),
        "classes": (pk.models.mlp(2, 6, 3, activation="silu", seed=2), 1, pk.losses.cross_entropy),
        "line": (nn.Sequential(nn.Linear(2, 1)), 0, one),
    }  # fmt: skip


def _chain_task(name):
    model, output, loss = networks()[name]
    generator = seeded(4)
    x = torch.randn(6, 2, generator=generator).double()
    width = model.double()(x).shape[1]
    y = torch.randn(6, width, generator=generator).double()
    if loss is pk.losses.cross_entropy:
        y = torch.arange(6) % width
    return dl.Task(model, loss, (x, y), output=output)


@pytest.mark.parametrize("size", [2**23, 1])  # of a chunk
@pytest.mark.parametrize("name", networks())
def test_the_fast_way_of_chains_equals_the_general_one(name, size, monkeypatch):
    monkeypatch.setattr("pkbook.diffusion_limit.task.CHUNK_BYTES", size)
    task = _chain_task(name)
    assert task.chain is not None
    monkeypatch.setattr("pkbook.diffusion_limit.task.layers_of", lambda *_: None)
    general = _chain_task(name)
    assert general.chain is None
    generator = seeded(5)
    theta = task.theta + 0.5 * torch.randn(3, len(task.theta), generator=generator).double()
    weights = torch.randn(3, 2, 6, generator=generator).double()
    query = torch.randn(4, 2, generator=generator).double()
    batch = torch.tensor([[0, 1, 5], [2, 2, 4], [3, 0, 1]])

    def close(ours, theirs):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)

    fast, slow = (t.pull(theta, weights, query, variance=True) for t in (task, general))
    for part in ("rows", "query", "variance"):
        close(getattr(fast, part), getattr(slow, part))
    only = task.pull(theta, weights)
    assert only.query is None
    assert only.variance is None
    close(only.rows, general.pull(theta, weights).rows)
    close(task.batch_gradients(theta, batch), general.batch_gradients(theta, batch))


class Doubled(nn.Linear):
    """A linear layer that is none."""

    def forward(self, x):
        return 2 * super().forward(x)


def _frozen():
    model = pk.models.mlp(2, 4, 1, activation="tanh", seed=0)
    model.fc1.weight.requires_grad_(False)
    return model


def _tied():
    middle = nn.Linear(4, 4)
    return nn.Sequential(nn.Linear(2, 4), middle, nn.Tanh(), middle, nn.Linear(4, 1))


def _shared_weight():
    model = nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    model[3].weight = model[1].weight
    return model.append(nn.Linear(4, 1))


def _hooked():
    model = pk.models.mlp(2, 4, 1, activation="tanh", seed=0)
    model.fc1.register_forward_hook(lambda module, given, found: 3 * found)
    return model


OTHERS = {
    "own layer": lambda: nn.Sequential(Doubled(2, 4), nn.Tanh(), nn.Linear(4, 1)),
    "frozen": _frozen,
    "a layer twice": _tied,
    "shared weight": _shared_weight,
    "hooked": _hooked,
    "normalised": lambda: nn.Sequential(nn.Linear(2, 4), nn.LayerNorm(4), nn.Linear(4, 1)),
    "in place": lambda: nn.Sequential(nn.Linear(2, 4), nn.ReLU(inplace=True), nn.Linear(4, 1)),
    "nested": lambda: nn.Sequential(nn.Sequential(nn.Linear(2, 4), nn.Tanh()), nn.Linear(4, 1)),
    "a layer alone": lambda: nn.Linear(2, 1),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_networks_take_the_general_way_to_the_same_end(name):
    """Against gradients by autograd, of one path at a time; the model keeps its parameters."""
    model = OTHERS[name]().double()
    x, y = torch.randn(5, 2, generator=seeded(0)).double(), torch.ones(5, 1).double()
    task = dl.Task(model, pk.losses.squared, (x, y))
    assert task.chain is None
    theta = task.theta + 0.3 * torch.randn(2, len(task.theta), generator=seeded(1)).double()
    weights = torch.randn(2, 1, 5, generator=seeded(2)).double()
    found = task.pull(theta, weights, x[:2], variance=True)
    own = {k: p for k, p in model.named_parameters() if p.requires_grad}
    assert torch.equal(torch.cat([p.flatten() for p in own.values()]), task.theta)
    for r in range(2):
        with torch.no_grad():
            for p, value in zip(own.values(), task.parameters(theta[r]).values(), strict=True):
                p.copy_(value)
        losses = pk.losses.squared(model(x), y)
        grads = [torch.autograd.grad(v, own.values(), retain_graph=True) for v in losses]
        each = torch.stack([torch.cat([g.flatten() for g in row]) for row in grads])
        torch.testing.assert_close(found.rows[r], weights[r] @ each)
        torch.testing.assert_close(found.variance[r], each.var(0, correction=0))
