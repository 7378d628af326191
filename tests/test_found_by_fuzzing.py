"""What random networks found: each fault as small as it could be made, with the right value."""

import odd_models as odd
import pytest
import torch
from odd_models import built
from test_guard import (
    Q,
    X,
    Y,
    by_autograd,
    contributions,
    numbers,
    off,
    own_contributions,
    pulled,
)
from torch import nn
from torch.nn.utils import parametrizations

import pkbook as pk
from pkbook.interpolation.quadrature import gauss_legendre


class Bag(nn.Module):
    """``nn.EmbeddingBag`` has no second derivative in torch."""

    def __init__(self, mode="mean"):
        super().__init__()
        self.table, self.b = nn.EmbeddingBag(9, 3, mode=mode), nn.Linear(3, 1)

    def forward(self, x):
        return self.b(torch.tanh(self.table(x)))


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
@pytest.mark.parametrize("mode", ["mean", "sum", "max"])
def test_layers_without_a_second_derivative(mode):
    tokens = torch.randint(0, 9, (12, 5), generator=torch.Generator().manual_seed(4))
    told = contributions(built(lambda: Bag(mode)), x=tokens, q=tokens[:4], tolerance=None)
    wanted = own_contributions(built(lambda: Bag(mode)), x=tokens, q=tokens[:4])
    assert off(told.contributions[..., 0], wanted) <= 1e-6


class Inner(odd.Two):
    """Mixes the samples between the first and the last, as a bounded capacity does."""

    def forward(self, x):
        inner = x[1:-1] + 0.3 * x[1:-1].roll(1, 0)
        return super().forward(torch.cat([x[:1], inner, x[1:][-1:]]))


class Capacity(odd.Two):
    """Drops the least sample of a batch of more than three."""

    def forward(self, x):
        h = torch.tanh(self.a(x))
        keep = torch.ones(len(h), 1, dtype=h.dtype)
        if len(h) > 3:
            keep[h.detach().sum(1).argmin()] = 0
        return self.b(h * keep)


class Place(odd.Two):
    """Writes to the third row, whichever sample that is."""

    def forward(self, x):
        h = self.a(x)
        h[2:3] = 0
        return self.b(torch.tanh(h))


@pytest.mark.parametrize("make", [Inner, Capacity, Place])
def test_samples_mixed_in_the_middle_of_a_batch_only_are_refused(make):
    """The first and the last sample alone do not show it, and autograd on the batch agrees."""
    model = built(make)
    for ask in (pk.gradient_kernel, pk.feature_norms):
        with pytest.raises(ValueError, match="mixes the samples of a batch"):
            ask(model, X)
    run = pk.Trajectory(
        model, pk.losses.squared, torch.optim.SGD(model.parameters(), 0.1), (X[:3], Y[:3])
    )
    run.step([0, 1])
    with pytest.raises(ValueError, match="mixes the samples of a batch"):
        run.interpolate(X)


class Turned(nn.Module):
    """Turns the gradient round where no operation of torch is seen."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 1)

    def forward(self, x):
        h = self.a(x)
        if h.requires_grad:
            h.register_hook(lambda g: g.flip(0))
        return self.b(torch.tanh(h))


def test_a_hook_that_mixes_gradients_is_refused():
    with pytest.raises(ValueError, match="backward pass mixes samples"):
        pk.gradient_kernel(built(Turned), X)


def test_two_sizes_of_input_with_other_numbers_of_outputs_are_refused():
    model = nn.Sequential(nn.Linear(4, 1), nn.Flatten()).double()
    for reduce in ("trace", "diagonal", "full"):
        with pytest.raises(ValueError, match="same number of outputs, got 3 and 5"):
            pk.gradient_kernel(model, numbers(5, 3, 4), numbers(6, 5, 4), reduce=reduce)


def test_each_part_of_an_accumulated_step_meets_the_buffers_it_met():
    """Spectral normalisation moves its vectors in every forward pass of training."""

    def model():
        net = odd.Two()
        net.a = parametrizations.spectral_norm(net.a)
        return net

    made = built(model).train()
    sgd = torch.optim.SGD(made.parameters(), 0.05)
    run = pk.Trajectory(made, pk.losses.squared, sgd, (X, Y))
    own = built(model).train()
    theta = list(own.parameters())
    parts = [torch.tensor([0, 1, 2]), torch.tensor([3, 4])]
    run.step(parts)
    before = {n: b.clone() for n, b in own.named_buffers()}
    grads = {}
    for part in parts:
        for i, v in zip(part.tolist(), (own(X[part]) - Y[part]).square().sum(1) / 2, strict=True):
            grads[i] = torch.cat([g.flatten() for g in pulled(v / len(part) / 2, theta)])
    delta = -0.05 * sum(grads.values())
    start = torch.nn.utils.parameters_to_vector(theta).detach()
    own.load_state_dict(before, strict=False)
    phi = 0
    for tau, weight in gauss_legendre(3):
        torch.nn.utils.vector_to_parameters(start + tau * delta, theta)
        phi = phi + weight * by_autograd(own.eval(), Q)[:, 0]
    told = run.interpolate(Q, tolerance=None, nodes=3).contributions[:5, :, 0]
    wanted = torch.stack([-0.05 * phi @ grads[i] for i in range(5)])
    assert off(told, wanted) <= 1e-9


def test_samples_with_other_numbers_of_different_tokens():
    """Alone they give four rows and five, together eight: twice the first one's by chance."""
    x = torch.tensor([[4, 5, 0, 5, 7], [1, 2, 5, 8, 0], [2, 3, 1, 8, 4]])
    model = built(odd.Unique)
    phi = by_autograd(model, x).flatten(1)
    assert off(pk.gradient_kernel(model, x), phi @ phi.T) <= 1e-12
