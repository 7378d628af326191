"""Contributions through parts of parameters, such as the heads of an attention."""

import pytest
import torch
from torch import nn

import pkbook as pk

D = torch.float64
G = torch.Generator().manual_seed(5)
X, Y = torch.randn(9, 4, 6, generator=G, dtype=D), torch.randn(9, 2, generator=G, dtype=D)


class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.head = nn.Linear(6, 2)

    def forward(self, x):
        return self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))


@pytest.fixture(scope="module")
def run():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Attending().double()
    adam = torch.optim.Adam(model.parameters(), 0.01)
    run = pk.Trajectory(model, pk.losses.squared, adam, (X, Y), clip_norm=1.0)
    for batch in ([0, 1, 2], [[3, 4], [5, 6]], [7, 8, 0]):
        run.step(batch)
    return run


QUERIES = {f"head {h}": {"attention.out_proj.weight": (slice(None), slice(3 * h, 3 * h + 3)),
                         "head.weight": (slice(None), slice(3 * h, 3 * h + 3))}
           for h in range(2)}  # fmt: skip


def test_parts_that_are_the_whole_add_up_to_the_parameters(run, tmp_path):
    told = run.interpolate(X[:3], parts=QUERIES, by_parameter=True)
    assert list(told.by_part) == ["head 0", "head 1"]
    whole = told.by_parameter["attention.out_proj.weight"] + told.by_parameter["head.weight"]
    torch.testing.assert_close(sum(told.by_part.values()), whole)
    told.save(tmp_path / "told")
    again = pk.Interpolation.load(tmp_path / "told")
    assert torch.equal(again.by_part["head 1"], told.by_part["head 1"])


def test_all_samples_together_are_the_entries_of_the_part(run):
    place = "head.weight", (slice(None), slice(1, 4))
    told = run.interpolate(X[:3], parts={"some": dict([place])}, entries=["head.weight"])
    wanted = told.entries["head.weight"][:, :, :, 1:4].sum((2, 3))
    torch.testing.assert_close(told.by_part["some"].sum(0), wanted)


@pytest.mark.parametrize("parts", [
    {"a": {"heads": 0}}, {"a": "head.weight"}, {"a": {"head.weight": (0, 7)}},
])  # fmt: skip
def test_parts_that_are_none_are_refused_by_name(parts, run):
    with pytest.raises(ValueError, match=r"parts must give.*for 'a'"):
        run.interpolate(X[:3], parts=parts)
