"""Shares by token of a training sequence: those of the loss at each place."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import pkbook as pk
from pkbook.interpolation.quadrature import gauss_legendre

D = torch.float64
G = torch.Generator().manual_seed(3)
WORDS = torch.randint(0, 7, (8, 6), generator=G)
QUERY = torch.randint(0, 7, (2, 5), generator=G)


class Reader(nn.Module):
    """Predicts the next word from a mean of those before it; outputs ``[n, T, V]``."""

    def __init__(self):
        super().__init__()
        self.words, self.hidden, self.head = nn.Embedding(7, 4), nn.Linear(4, 5), nn.Linear(5, 7)
        self.scale = nn.Parameter(torch.ones(5))  # met in no known layer

    def forward(self, words):
        h = self.words(words).cumsum(1)
        h = h / torch.arange(1, words.shape[1] + 1, dtype=h.dtype)[:, None]
        return self.head(torch.tanh(self.hidden(h)) * self.scale)


def reader():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return Reader().double()


def next_words(f, words):
    return F.cross_entropy(f[:, :-1].flatten(0, 1), words[:, 1:].flatten())


STEPS = [[0, 1, 2], [[3, 4], [5, 6]], [1, 7]]


def trained(way):
    model = reader()
    sgd = torch.optim.SGD(model.parameters(), 0.2)
    if way == "pair":
        run = pk.Trajectory(model, next_words, sgd, (WORDS, WORDS))
    else:
        run = pk.Trajectory(
            model, lambda model, b: next_words(model(b["words"]), b["words"]), sgd,
            {"words": WORDS},
        )  # fmt: skip
    for batch in STEPS:
        run.step(batch)
    return run


def oracle(run):
    """``[N, T, m, C]`` for the first logit of each query's last word, by autograd alone."""
    found = torch.zeros(8, 6, 2, 1, dtype=D)
    for k, step in enumerate(STEPS):
        here, after = run.model_at(k), run.model_at(k + 1)
        phi = 0
        for tau, weight in gauss_legendre(3):
            middle = reader()
            with torch.no_grad():
                for p, a, b in zip(middle.parameters(), here.parameters(), after.parameters(),
                                   strict=True):  # fmt: skip
                    p.copy_(torch.lerp(a, b, tau))
            values = middle(QUERY)[:, -1, 0]
            rows = [torch.autograd.grad(v, middle.parameters(), retain_graph=True) for v in values]
            phi = phi + weight * torch.stack([torch.cat([g.flatten() for g in r]) for r in rows])
        parts = step if isinstance(step[0], list) else [step]
        for part in parts:
            words = WORDS[part]
            each = F.cross_entropy(
                here(words)[:, :-1].flatten(0, 1), words[:, 1:].flatten(), reduction="none"
            ).unflatten(0, (len(part), 5)) / (len(part) * 5 * len(parts))
            for i, number in enumerate(part):
                for t in range(5):
                    g = torch.autograd.grad(each[i, t], here.parameters(), retain_graph=True)
                    move = -0.2 * torch.cat([p.flatten() for p in g])
                    found[number, t, :, 0] += phi @ move
    return found


@pytest.mark.parametrize("by_parameter", [False, True])
@pytest.mark.parametrize("way", ["pair", "batch"])
def test_tokens_have_the_shares_of_their_own_losses(way, by_parameter):
    run = trained(way)
    told = run.interpolate(QUERY, of=(4, 0), by_token=True, by_parameter=by_parameter)
    wanted = oracle(run)
    assert told.by_token.shape == wanted.shape
    torch.testing.assert_close(told.by_token, wanted, rtol=1e-6, atol=1e-10)
    torch.testing.assert_close(told.by_token.sum(1), told.contributions)
    plain = run.interpolate(QUERY, of=(4, 0))
    torch.testing.assert_close(told.contributions, plain.contributions)
    assert plain.by_token is None
    if by_parameter:
        torch.testing.assert_close(sum(told.by_parameter.values()), told.contributions)


def test_tokens_are_kept_in_files_and_by_explain(tmp_path):
    run = trained("pair")
    told = run.interpolate(QUERY, of=(4, 0), by_token=True)
    told.save(tmp_path / "told")
    assert torch.equal(pk.Interpolation.load(tmp_path / "told").by_token, told.by_token)
    apart = pk.explain(run, QUERY, of=(4, 0), by_token=True, folder=tmp_path / "apart", chunk=1)
    both = torch.cat([one.by_token for one in apart], 2)
    torch.testing.assert_close(both, told.by_token)


def collate(samples):
    """As long as the longest of the batch."""
    rows = nn.utils.rnn.pad_sequence([WORDS[i][:size] for i, size in samples], True, 0)
    return {"words": rows}


def test_batches_of_other_lengths_have_tokens_of_their_own():
    model = reader()
    run = pk.Trajectory(
        model, lambda model, b: next_words(model(b["words"]), b["words"]),
        torch.optim.SGD(model.parameters(), 0.2), [(i, 3 + i % 4) for i in range(8)],
        collate=collate,
    )  # fmt: skip
    for batch in ([0, 4], [3, 7], [1, 2]):
        run.step(batch)
    told = run.interpolate(QUERY, of=(4, 0), by_token=True)
    assert told.by_token.shape == (8, 6, 2, 1)
    assert float(told.by_token[[0, 4], 2:].abs().max()) == 0
    torch.testing.assert_close(told.by_token.sum(1), told.contributions)
    assert float(told.completeness.max()) < 1e-6


def test_where_there_are_no_tokens_it_is_said():
    model = nn.Linear(3, 2).double()
    x = torch.randn(4, 3, dtype=D)
    for loss, match in (
        (nn.MSELoss(), r"needs outputs \[n, T, \.\.\.\]"),
        (lambda model, b: (model(b[0]) - b[1]).square().sum(1), r"needs outputs \[n, T, \.\.\.\]"),
    ):
        run = pk.Trajectory(
            model, loss, torch.optim.SGD(model.parameters(), 0.1), (x, x[:, :2].clone())
        )
        run.step([0, 1])
        with pytest.raises(ValueError, match=match):
            run.interpolate(x, by_token=True)
