"""A graph network: does a small graph hold a triangle? Batches join graphs into one."""

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch_geometric.data import Batch, Data
from torch_geometric.nn import GCNConv, global_add_pool

from .workload import Workload, final, shuffled


class Network(nn.Module):
    """Two rounds of messages, then one row a graph."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.first, self.second = GCNConv(2, width), GCNConv(width, width)
        self.head = nn.Linear(width, 2)

    def forward(self, data: Data) -> Tensor:
        x = self.first(data.x, data.edge_index).relu()
        x = functional.dropout(x, 0.1, self.training)
        x = self.second(x, data.edge_index).relu()
        return self.head(global_add_pool(x, data.batch))


def graph(generator: torch.Generator) -> Data:
    """Six to ten nodes; the label says whether three of them are joined to each other."""
    n = int(torch.randint(6, 11, (), generator=generator))
    upper = (torch.rand(n, n, generator=generator) < 1.6 / n).triu(diagonal=1)
    joined = (upper | upper.T).float()
    triangles = (joined @ joined @ joined).diagonal().sum()
    x = torch.stack([joined.sum(dim=1), torch.ones(n)], dim=1)
    return Data(x=x, edge_index=joined.nonzero().T.contiguous(), y=(triangles > 0).long())


def loss(model: nn.Module, batch: Batch) -> Tensor:
    return functional.cross_entropy(model(batch), batch.y, reduction="none")


def scalar(model: nn.Module, batch: Batch) -> Tensor:
    return functional.cross_entropy(model(batch), batch.y)


def make(seed: int = 0) -> Workload:
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    dataset = [graph(generator) for _ in range(60)]
    queries = Batch.from_data_list([graph(generator) for _ in range(4)])
    model = Network()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, weight_decay=5e-4)
    batches = shuffled(len(dataset), 12, 20, seed)
    return Workload(
        model, optimizer, None, dataset, batches, loss, scalar,
        lambda model, graphs: model(graphs), queries, collate=Batch.from_data_list, seed=seed,
    )  # fmt: skip


def train_plain(w: Workload) -> dict[str, Tensor]:
    torch.manual_seed(w.seed)
    w.model.train()
    for data in w.loader():
        w.optimizer.zero_grad()
        value = functional.cross_entropy(w.model(data), data.y)
        value.backward()
        w.optimizer.step()
        w.losses.append(value.item())
    return final(w.model)
