"""Graphs of torch_geometric: as samples, as batches that are kept, and as queries."""

import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pkbook as pk
from pkbook.basics.nested import mapped, outline, rebuilt, tensors_in
from pkbook.runs.kept_batches import packed, unpacked
from pkbook.runs.sources import content

pytest.importorskip("torch_geometric", reason="see requirements-integrations.txt")


def plain_graph() -> Any:
    from integrations.workloads.graph import graph

    return graph(torch.Generator().manual_seed(1))


def of_two_kinds() -> Any:
    from torch_geometric.data import HeteroData

    graph = HeteroData()
    graph["reader"].x = torch.arange(4.0).reshape(2, 2)
    graph["reader", "knows", "reader"].edge_index = torch.tensor([[0, 1], [1, 0]])
    graph.y, graph.name = torch.ones(1), "two readers"
    return graph


GRAPHS = {"one kind": plain_graph, "two kinds": of_two_kinds}


def joined(graph: Any, copies: int = 3) -> Any:
    from torch_geometric.data import Batch

    return Batch.from_data_list([graph] * copies)


@pytest.mark.parametrize("make", GRAPHS.values(), ids=GRAPHS.keys())
@pytest.mark.parametrize("batched", [False, True])
def test_a_graph_that_is_kept_comes_back(make, batched) -> None:
    graph = joined(make()) if batched else make()
    back = unpacked(packed(graph))
    assert type(back) is type(graph)
    assert str(back.to_dict()) == str(graph.to_dict())
    assert content(back) == content(graph)
    if batched:
        assert str(back.to_data_list()) == str(graph.to_data_list())


@pytest.mark.parametrize("make", GRAPHS.values(), ids=GRAPHS.keys())
def test_what_a_graph_holds_is_told_from_other_contents(make) -> None:
    graph = make()
    before = str(graph.to_dict())
    other = mapped(graph, lambda t: t + 1)
    assert content(other) != content(graph)
    assert str(graph.to_dict()) == before  # the first is as it was
    assert outline(other) == outline(graph)
    assert outline(joined(graph)) != outline(graph)
    assert content(rebuilt(other, tensors_in(graph))) == content(graph)


def test_a_kind_of_graph_that_is_not_imported_is_named(monkeypatch) -> None:
    from torch_geometric.data import Data

    mine = type("Mine", (Data,), {"__module__": "my_graphs"})
    monkeypatch.setitem(sys.modules, "my_graphs", type("module", (), {"Mine": mine}))
    kept = packed(mine(x=torch.ones(2)))
    assert type(unpacked(kept)) is mine
    monkeypatch.delitem(sys.modules, "my_graphs")
    with pytest.raises(ValueError, match="import my_graphs before the record is opened"):
        unpacked(kept)


def trained(folder: Any, recorder: bool) -> tuple[nn.Module, Any]:
    """Graphs in PyG's loader, trained by Lightning."""
    lightning = pytest.importorskip("lightning", reason="see requirements-integrations.txt")
    from integrations.workloads import graph as workload
    from torch.nn import functional
    from torch_geometric.loader import DataLoader

    from pkbook.integrations.lightning import Recorder

    class Triangles(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = workload.Network(8)

        def forward(self, batch: Any) -> Tensor:
            return self.network(batch)

        def training_step(self, batch: Any, number: int) -> Tensor:
            return functional.cross_entropy(self(batch), batch.y)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), lr=1e-2)

    with torch.random.fork_rng():
        torch.manual_seed(0)
        module, g = Triangles(), torch.Generator().manual_seed(0)
        loader = DataLoader([workload.graph(g) for _ in range(12)], batch_size=4, shuffle=True)
        recorders = [Recorder(folder=folder)] if recorder else []
        lightning.Trainer(
            accelerator="cpu", max_epochs=2, callbacks=recorders, logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        ).fit(module, loader)  # fmt: skip
    return module, recorders[0].run if recorder else None


@pytest.mark.filterwarnings("ignore")
def test_pygs_loader_in_lightnings_trainer_is_recorded_bit_for_bit(tmp_path) -> None:
    plain, _ = trained(None, recorder=False)
    module, run = trained(tmp_path / "run", recorder=True)
    for (name, p), q in zip(plain.named_parameters(), module.parameters(), strict=True):
        assert torch.equal(p, q), name
    assert run.verify() == 0
    query = plain_graph()
    told = pk.interpolate(run, query)
    assert float(told.completeness.max()) < 1e-3
    with torch.no_grad():
        torch.testing.assert_close(told.final[0], module.eval()(query)[0], rtol=0, atol=1e-5)
    same = pk.interpolate(run, query.to_dict(), of=lambda model, q: model(type(query)(**q)))
    torch.testing.assert_close(same.contributions, told.contributions)


def test_graphs_joined_are_no_queries() -> None:
    model = nn.Linear(2, 1)
    with pytest.raises(ValueError, match="one graph, got 3 joined into one"):
        pk.gradient_kernel(model, joined(plain_graph()))
