"""A network that solves u'' = -u with u(0) = 0 and u(pi/2) = 1, so u = sin.

The loss of a point inside is the square of its residual, by derivatives of the network; the loss
of a boundary point is the square of its distance to the value there.
"""

import math

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from .workload import Workload, final, shuffled

END = math.pi / 2


class Points(Dataset):
    """Thirty points inside, and each boundary point."""

    def __init__(self) -> None:
        inside = torch.linspace(0.02, END - 0.02, 30)
        self.t = torch.cat([inside, torch.tensor([0.0, END])])[:, None]
        self.u = torch.zeros(32, 1)
        self.u[-1] = 1.0
        self.boundary = torch.arange(32) >= 30

    def __len__(self) -> int:
        return len(self.t)

    def __getitem__(self, k: int) -> dict[str, Tensor]:
        return {"t": self.t[k], "u": self.u[k], "boundary": self.boundary[k]}


def residual(model: nn.Module, t: Tensor) -> Tensor:
    """u'' + u, which is zero for a solution."""
    t = t.requires_grad_()
    u = model(t)
    (first,) = torch.autograd.grad(u.sum(), t, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), t, create_graph=True)
    return second + u


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    equation = residual(model, batch["t"].clone()).square()
    value = (model(batch["t"]) - batch["u"]).square()
    return torch.where(batch["boundary"][:, None], 10 * value, equation).squeeze(1)


def scalar(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return loss(model, batch).mean()


def make(seed: int = 0) -> Workload:
    torch.manual_seed(seed)
    hidden = [nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh()]
    model = nn.Sequential(*hidden, nn.Linear(32, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    dataset = Points()
    batches = shuffled(len(dataset), 16, 20, seed)
    return Workload(
        model, optimizer, None, dataset, batches, loss, scalar,
        lambda model, t: model(t), torch.tensor([[0.3], [0.8], [1.2]]), seed=seed,
    )  # fmt: skip


def train_plain(w: Workload) -> dict[str, Tensor]:
    torch.manual_seed(w.seed)
    for batch in w.loader():
        w.optimizer.zero_grad()
        value = loss(w.model, batch).mean()
        value.backward()
        w.optimizer.step()
        w.losses.append(value.item())
    return final(w.model)
