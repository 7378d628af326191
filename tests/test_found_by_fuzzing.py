"""What random networks found: each fault as small as it could be made, with the right value."""

import pytest
import torch
from odd_models import built
from test_guard import by_autograd, contributions, numbers, off, own_contributions
from torch import nn

import pkbook as pk


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
