"""Runs on data of any kind give the contributions of the same run on two tensors."""

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset

import pkbook as pk

D = torch.float64
G = torch.Generator().manual_seed(2)
X, Y = torch.randn(12, 3, generator=G, dtype=D), torch.randint(4, (12,), generator=G)
Q = torch.randn(3, 3, generator=G, dtype=D)
EACH = nn.CrossEntropyLoss(reduction="none")


def net():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4)).double()


STEPS = [[0, 1, 2], [3, 4, 5, 6], [[7, 8], [9, 10, 11]], [2, 5]]


def run_of(data, loss, steps=STEPS, model=None, **options):
    model = net() if model is None else model
    adam = torch.optim.Adam(model.parameters(), 1e-2)
    run = pk.Trajectory(model, loss, adam, data, every=2, **options)
    for batch in steps:
        run.step(batch)
    return run


class Pairs(Dataset):
    def __init__(self, noise=0.0):
        self.noise = noise

    def __len__(self):
        return len(X)

    def __getitem__(self, i):
        return X[i] + self.noise * torch.randn(3, dtype=D), Y[i]


class Words(Pairs):
    def __getitem__(self, i):
        x, y = super().__getitem__(i)
        return {"input": x, "label": int(y), "name": f"sample {i}"}


@dataclass
class Both:
    x: Tensor
    y: Tensor


def by_name(model, batch):
    return F.cross_entropy(model(batch["input"]), batch["label"], reduction="none")


def one_number(m, b):  # arguments of other names
    return F.cross_entropy(m(b["input"]), b["label"])


class Named(nn.Module):
    """Takes and gives dictionaries, as transformers do."""

    def __init__(self):
        super().__init__()
        self.net = net()

    def forward(self, input, scale=1.0, label=None):
        f = self.net(input * scale)
        loss = None if label is None else F.cross_entropy(f, label)
        return {"loss": loss, "logits": f}


def collate(samples):
    return {
        "input": torch.stack([s["input"] for s in samples]),
        "label": torch.tensor([s["label"] for s in samples]),
    }


WAYS = {
    "dataset of pairs": (Pairs(), nn.CrossEntropyLoss(), {}),
    "dataset of dicts": (Words(), by_name, {}),
    "one number": (Words(), one_number, {}),
    "own collate": (Words(), by_name, {"collate": collate}),
    "list of samples": ([Words()[i] for i in range(12)], by_name, {}),
    "dict of tensors": ({"input": X, "label": Y}, by_name, {}),
    "pair, loss of the model": ((X, Y), lambda m, b: EACH(m(b[0]), b[1]), {}),
    "data class": (Both(X, Y), lambda model, b: EACH(model(b.x), b.y), {}),
    "three tensors": ((X, torch.ones(12, 1, dtype=D), Y),
                      lambda model, b: EACH(model(b[0] * b[1]), b[2]), {}),
    "inputs in a dict": (({"input": X}, Y), nn.CrossEntropyLoss(), {}),
    "a model of dicts": ({"input": X, "scale": torch.ones(12, 1, dtype=D), "label": Y},
                         lambda model, b: model(**b)["loss"], {}),
}  # fmt: skip


@pytest.fixture(scope="module")
def plain():
    return run_of((X, Y), EACH).interpolate(Q)


@pytest.mark.parametrize("way", WAYS)
def test_any_kind_of_data_gives_the_same_sum(way, plain, tmp_path):
    data, loss, options = WAYS[way]
    dicts = way in ("inputs in a dict", "a model of dicts")

    model = Named() if dicts else None
    run = run_of(data, loss, model=model, folder=tmp_path / "run", **options)
    asked = {"input": Q, "scale": torch.ones(3, 1, dtype=D)} if way == "a model of dicts" else Q
    asked = {"input": Q} if way == "inputs in a dict" else asked
    told = run.interpolate(asked)
    torch.testing.assert_close(told.contributions, plain.contributions, rtol=1e-9, atol=1e-13)
    assert run.verify() == 0


def test_an_augmented_data_set_is_replayed_with_the_same_pictures(tmp_path):
    state = torch.get_rng_state()
    run = run_of(Pairs(noise=0.3), nn.CrossEntropyLoss(), folder=tmp_path / "run")
    told = run.interpolate(Q)
    assert float(told.completeness.max()) < 1e-9
    assert run.verify() == 0
    assert torch.equal(state, torch.get_rng_state())
    seen = [run.batch([4], seed)[0] for seed in (1, 1, 2)]
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])
    run.close()
    model = net()
    again = pk.Trajectory.open(
        tmp_path / "run", model, nn.CrossEntropyLoss(),
        torch.optim.Adam(model.parameters(), 1e-2), Pairs(noise=0.3),
    )  # fmt: skip
    torch.testing.assert_close(again.interpolate(Q).contributions, told.contributions)


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_draw_what_the_step_would_draw_itself(workers):
    state = torch.get_rng_state()
    order = [[0, 1, 2], [3, 4], [5, 6, 7], [0, 8]]
    plain = run_of(Pairs(noise=0.3), nn.CrossEntropyLoss(), steps=order)
    model = net()
    run = pk.Trajectory(
        model, nn.CrossEntropyLoss(), torch.optim.Adam(model.parameters(), 1e-2), Pairs(noise=0.3)
    )
    for batch in run.loader(order[:2], num_workers=workers):
        run.step(batch)
    for batch in run.loader(order[2:], num_workers=workers):
        run.step(batch)
    for p, q in zip(model.parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(p, q)
    assert run.store.steps == plain.store.steps
    assert not run.problem.source._ready
    assert torch.equal(state, torch.get_rng_state())
    assert run.verify() == 0
    with pytest.raises(TypeError, match="loader is for data that are a Dataset"):
        run_of((X, Y), nn.CrossEntropyLoss()).loader(order)


def test_another_picture_in_the_replay_is_told_by_its_number():
    data = Pairs()
    run = run_of(data, nn.CrossEntropyLoss())
    data.noise = 0.1
    with pytest.raises(pk.ReplayError, match="sample 7 of the data is another one"):
        run.interpolate(Q)


class OwnGenerator(Pairs):
    generator = torch.Generator().manual_seed(0)

    def __getitem__(self, i):
        return X[i] + 0.1 * torch.randn(3, dtype=D, generator=self.generator), Y[i]


def test_random_numbers_of_a_generator_that_nobody_seeds_are_told_at_the_first_step():
    with pytest.raises(pk.ReplayError, match=r"sample 0 .*global generators"):
        run_of(OwnGenerator(), nn.CrossEntropyLoss())


TOKENS = {"words": torch.tensor([1, 2, 3, 4, 2, 1, 1, 3, 2, 4, 5, 1])}


@pytest.mark.parametrize("reduction", ["mean", "sum", "items"])
@pytest.mark.parametrize("scalar", [True, False])
def test_reductions_are_those_of_the_plain_loop(reduction, scalar):
    """Sums of weights, as of tokens: by plain autograd over all samples of the step."""
    data = {"input": X, "label": Y, "words": TOKENS["words"].double()}

    def each(model, batch):
        value = F.cross_entropy(model(batch["input"]), batch["label"], reduction="none")
        return value * batch["words"] if reduction == "items" else value

    def number(model, batch):
        value = each(model, batch)
        if reduction == "mean":
            return value.mean()
        return value.sum() / (batch["words"].sum() if reduction == "items" else 1)

    parts = [[0, 1, 2], [3, 4, 5, 6]]
    model, chosen = net(), reduction
    if reduction == "items":
        chosen = lambda batch: batch["words"].sum()  # noqa: E731
    run = pk.Trajectory(
        model, number if scalar else each, torch.optim.SGD(model.parameters(), 0.1), data,
        reduction=chosen,
    )  # fmt: skip
    run.step(parts)
    own = net()
    values = [each(own, {n: t[torch.tensor(p)] for n, t in data.items()}) for p in parts]
    total = {
        "mean": sum(v.mean() for v in values) / 2,
        "sum": sum(v.sum() for v in values),
        "items": sum(v.sum() for v in values) / TOKENS["words"][:7].sum(),
    }[reduction]
    total.backward(retain_graph=True)
    for p, trained in zip(own.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(p.detach() - 0.1 * p.grad, trained.detach())
    told = run.interpolate(Q)
    assert float(told.completeness.max()) < 1e-7  # one long step, three nodes
    slope = {
        "mean": values[0] / 3 / 2, "sum": values[0], "items": values[0] / TOKENS["words"][:7].sum()
    }[reduction]  # fmt: skip
    first = torch.autograd.grad(slope[1], own.parameters(), retain_graph=True)
    moved = torch.zeros(3, 4, dtype=D)
    for tau, weight in ((0.5 - 0.6**0.5 / 2, 5 / 18), (0.5, 8 / 18), (0.5 + 0.6**0.5 / 2, 5 / 18)):
        there = net()
        with torch.no_grad():
            for p, end in zip(there.parameters(), model.parameters(), strict=True):
                p.lerp_(end, tau)
        phi = pk.tangent_features(there, Q)
        moved -= 0.1 * weight * phi @ torch.cat([g.flatten() for g in first])
    torch.testing.assert_close(told.contributions[1], moved, rtol=1e-8, atol=1e-12)


class Torn(Pairs):
    def __getitem__(self, i):
        return (X[i], Y[i]) if i != 5 else (X[i], Y[i], "more")


class Stream(IterableDataset):
    def __iter__(self):
        return iter([])


def penalised(model, batch):
    return by_name(model, batch).mean() + 0.1 * model[0].weight.square().sum()


def half(samples):
    return collate(samples[: max(1, len(samples) // 2)])


@pytest.mark.parametrize(("data", "loss", "options", "match"), [
    (Torn(), nn.CrossEntropyLoss(), {}, r"samples of one structure.*sample 3.*sample 5"),
    (Stream(), nn.CrossEntropyLoss(), {}, r"a Dataset whose samples have numbers, got Stream"),
    (Words(), by_name, {"collate": half}, r"one value per sample \[2\].*collate leave samples out"),
    (Words(), penalised, {}, r"through the outputs of the model alone.*return one value per s"),
    (Words(), lambda model, b: by_name(model, b)[:, None], {}, r"one value per sample \[2\]"),
    (Words(), lambda model, b: model[2](model[1](model[0](b["input"]))).mean(), {},
     r"one value per sample \[n\], or call the model"),
    ({"input": X, "label": Y[:5]}, by_name, {}, r"one row per sample each"),
    ({"input": X, "label": Y}, by_name, {"collate": collate}, r"collate puts the samples of a Dat"),
    (Words(), by_name, {"reduction": "median"}, r"reduction must be 'mean', 'sum' or a function"),
    (Words(), by_name, {"reduction": lambda b: 0}, r"positive number of items"),
    ([], by_name, {}, r"data must hold at least one sample"),
    (7, by_name, {}, r"data must be a pair .*got int"),
])  # fmt: skip
def test_what_does_not_fit_is_refused_by_name(data, loss, options, match):
    with pytest.raises((TypeError, ValueError), match=match):
        run_of(data, loss, **options)


def test_losses_that_compare_samples_are_shares_of_own_losses():
    """In-batch negatives: a sample's share is that of its own loss, as with BatchNorm."""
    data = {"input": X, "label": Y}

    def contrast(model, batch):
        f = model(batch["input"])
        return F.cross_entropy(f @ f.T, torch.arange(len(f)), reduction="none")

    run = run_of(data, contrast, steps=[[0, 1, 2, 3], [4, 5, 6]])
    assert float(run.interpolate(Q).completeness.max()) < 1e-9


def test_own_losses_are_the_default_of_self_influence():
    told = pk.self_influence(run_of({"input": X, "label": Y}, by_name), [3, 4])
    assert told.shape == (2, 1)
    run = run_of({"input": X, "label": Y}, by_name)
    each = run.interpolate({"input": X[3:5], "label": Y[3:5]}, of=by_name).contributions
    torch.testing.assert_close(told[:, 0], each[[3, 4], [0, 1], 0])
    assert bool((told < 0).all())
