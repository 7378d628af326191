"""Many trainings at once are those that are made one by one."""

import pytest
import torch
from test_influence import (
    ASKED_IMAGES,
    CLIPS,
    IMAGES,
    OPTIMIZERS,
    N,
    Q,
    X,
    Y,
    images,
    mlp,
    recorded,
    squared,
)
from torch import nn

import pkbook as pk
from pkbook.runs import retraining

G = torch.Generator().manual_seed(8)
ROWS = (torch.rand(5, N, generator=G) > 0.4).double()
ROWS[:, 1] = 1.0


def compared(run, queries, together=True, monkeypatch=None, **options):
    """Against one run after the other; whether they were made together."""
    seen = []
    if monkeypatch is not None:
        plain = retraining._together

        def watched(*arguments):
            seen.append(plain(*arguments) is not None)
            return plain(*arguments)

        monkeypatch.setattr(retraining, "_together", watched)
    found = run.retrained(ROWS, chunk=3, **options)
    got = found.outputs(queries)
    for r, row in enumerate(ROWS):
        alone = run.reweighted(row, **options).model.eval()
        wanted = alone(queries).detach()
        torch.testing.assert_close(got[r], wanted, rtol=1e-8, atol=1e-10)
        for name, b in alone.named_buffers():
            torch.testing.assert_close(found.parameters[name][r], b, rtol=1e-8, atol=1e-10)
    assert not seen or seen == [together] * 2
    assert len(found) == 5


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer(name, monkeypatch):
    compared(recorded(mlp(), OPTIMIZERS[name]), Q, True, monkeypatch)


@pytest.mark.parametrize("clip", CLIPS)
def test_clipping_is_each_trainings_own(clip, monkeypatch):
    compared(recorded(mlp(), OPTIMIZERS["AdamW"], **CLIPS[clip]), Q, True, monkeypatch)


def test_those_that_remain_take_the_place(monkeypatch):
    run = pk.Trajectory(model := mlp(), pk.losses.squared, OPTIMIZERS["SGD"](model), (X, Y))
    for k in range(6):
        run.step([1, k % N, (k + 2) % N])
    compared(run, Q, True, monkeypatch, divisor="rest")


@pytest.mark.parametrize("momentum", [0.1, None])
def test_batch_statistics(momentum, monkeypatch):
    run = recorded(images(momentum), OPTIMIZERS["momentum"], IMAGES, loss=nn.CrossEntropyLoss())
    compared(run, ASKED_IMAGES)


def test_dropout_and_accumulation(monkeypatch):
    model = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 1)).double()
    run = pk.Trajectory(model, pk.losses.squared, OPTIMIZERS["SGD"](model), (X, Y))
    for k in range(5):
        run.step([torch.tensor([k, k + 1]), torch.tensor([k + 2, k + 3, 1])])
    compared(run, Q, True, monkeypatch)


def test_a_parameter_that_is_never_used_stays(monkeypatch):
    model = mlp()
    model.register_parameter("unused", nn.Parameter(torch.ones(2, dtype=torch.float64)))
    run = recorded(model, lambda m: torch.optim.AdamW(m.parameters(), 0.01, weight_decay=0.5))
    compared(run, Q, True, monkeypatch)
    assert bool((run.retrained(ROWS).parameters["unused"] == 1).all())


class Looks(nn.Module):
    """Asks about values, which vmap cannot."""

    def __init__(self):
        super().__init__()
        self.line = nn.Linear(2, 1).double()

    def forward(self, x):
        f = self.line(x)
        return f * 2 if float(f.detach().sum()) > -1e9 else f


def test_what_does_not_go_together_goes_one_by_one(monkeypatch):
    compared(recorded(Looks(), OPTIMIZERS["Adam"]), Q, False, monkeypatch)

    def of_batch(model, batch):
        return squared(model(batch[0]), batch[1])

    run = recorded(mlp(), OPTIMIZERS["Adam"], loss=of_batch)
    plain = recorded(mlp(), OPTIMIZERS["Adam"])
    torch.testing.assert_close(run.retrained(ROWS).outputs(Q), plain.retrained(ROWS).outputs(Q))


@pytest.mark.parametrize(("weights", "match"), [
    (torch.ones(N), r"must be \[R, 9\]"),
    (torch.ones(0, N), r"must be \[R, 9\]"),
    (-torch.ones(1, N), "negative"),
])  # fmt: skip
def test_what_makes_no_sense_is_refused(weights, match):
    with pytest.raises(ValueError, match=match):
        recorded(mlp(), OPTIMIZERS["SGD"]).retrained(weights)
