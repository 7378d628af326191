"""Loops whose passes and steps are told, what libraries put around a model, and their clipping."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pkbook as pk
from pkbook.integrations.numbered import Numbered, Numbering, require_all_seen, require_numbers
from pkbook.runs.copies import copied

G = torch.Generator().manual_seed(3)
X, Y = torch.randn(12, 3, generator=G), torch.randint(4, (12,), generator=G)
Q = torch.randn(2, 3, generator=G)


def net() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 4))


def mean(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch["x"]), batch["y"])


class Around:
    """A decorator that is an object, as Accelerate's cast of outputs is."""

    def __init__(self, forward) -> None:
        self.forward = forward

    def __call__(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return self.forward(x).float()


def patched(model: nn.Module) -> nn.Module:
    """``forward`` closes over the model, by an object and a function."""
    around = Around(model.forward)

    def forward(x: Tensor) -> Tensor:
        return around(x)

    model.forward = forward
    return model


def test_a_copy_of_a_patched_model_computes_with_its_own_weights():
    model = patched(net().eval())
    before = model(Q)
    other, again = copied(model)[0], None
    with torch.no_grad():
        for p in other.parameters():
            p.zero_()
    assert torch.equal(model(Q), before)
    assert not other(Q).any()
    again = copied(other)[0]
    with torch.no_grad():
        again[3].bias.fill_(1.0)
    assert torch.equal(again(Q), torch.ones(2, 4))
    assert not other(Q).any()


def test_a_patched_model_is_recorded_and_replayed_with_the_weights_of_copies():
    model = patched(net())
    adam = torch.optim.Adam(model.parameters(), 1e-2)
    with pk.record(model, adam, loss=mean, data={"x": X, "y": Y}, every=2) as run:
        for k in range(6):
            numbers = [k, k + 3, k + 6]
            run.saw(numbers)
            adam.zero_grad()
            mean(model, {"x": X[numbers], "y": Y[numbers]}).backward()
            adam.step()
    assert run.verify() == 0
    assert float(run.interpolate(Q, tolerance=0.05).completeness.max()) < 0.05


class LossInside(nn.Module):
    """Returns its outputs cast, and a loss made of what they were before."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net().double()

    def forward(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        f = self.net(x.double())
        found = {"logits": f.float()}
        return found if y is None else found | {"loss": F.cross_entropy(f, y)}


def test_a_loss_of_outputs_before_their_cast_is_cut_there():
    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return model(**batch)["loss"]

    def plain(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(model(batch["x"])["logits"], batch["y"], reduction="none")

    told = []
    for chosen in (loss, plain):
        model = LossInside().eval()
        sgd = torch.optim.SGD(model.parameters(), 0.3)
        run = pk.Trajectory(model, chosen, sgd, {"x": X, "y": Y})
        for k in range(4):
            run.step([k, k + 1, k + 5])
        told.append(run.interpolate({"x": Q}, of=lambda m, q: m(**q)["logits"]))
    assert float(told[0].completeness.max()) < 1e-3
    torch.testing.assert_close(told[0].contributions, told[1].contributions, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("clipped", ["all", "groups"])
def test_clipping_goes_over_the_parameters_of_the_library(clipped):
    """The plain loop: its norm counts a weight that is not trained, or is summed by groups."""
    model = net()
    first = [model[0].weight] if clipped == "all" else model[0].parameters()
    own = [*model[3].parameters(), *first]
    adam = torch.optim.Adam(own, 1e-2)
    over = list(model.parameters()) if clipped == "all" else own
    run = pk.Trajectory(model, mean, adam, {"x": X, "y": Y}, clip_norm=0.05)
    run.problem = replace(run.problem, clipped=clipped)
    loop = run.follow_loop(None, passes=False, steps=False)
    for k in range(5):
        numbers = [k, k + 4, k + 7]
        model.zero_grad()
        batch = {"x": X[numbers], "y": Y[numbers]}
        loop.begin(numbers, batch, 2.0)
        (mean(model, batch) / 2.0).backward()
        loop.complete()
        nn.utils.clip_grad_norm_(over, 0.05)
        adam.step()
    loop.end()
    assert len(run) == 5
    assert run.verify() == 0
    told = run.interpolate(Q)
    assert float(told.completeness.max()) < 1e-3
    run.problem = replace(run.problem, clipped="trained")
    if clipped == "all":
        with pytest.raises(pk.ReplayError):
            run.verify()


def test_a_loss_is_tried_on_a_copy_of_what_the_model_keeps():
    class Counts(nn.Linear):
        seen = 0

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)

    def loss(model: Counts, batch: dict[str, Tensor]) -> Tensor:
        model.seen += 1
        return mean(model, batch)

    model = Counts(3, 4)
    pk.Trajectory(model, loss, torch.optim.SGD(model.parameters(), 0.1), {"x": X, "y": Y})
    assert model.seen == 0


def test_compiled_models_and_prepared_optimizers_are_taken_for_what_they_are():
    class State:
        num_steps = 2

    class Prepared(torch.optim.Optimizer):
        def __init__(self, optimizer) -> None:
            self.optimizer, self.gradient_state, self.scaler = optimizer, State(), None

    model = net()
    compiled = torch.compile(model, backend="eager")
    adam = torch.optim.Adam(model.parameters(), 1e-2)
    with pk.record(compiled, Prepared(adam), loss=mean, data={"x": X, "y": Y}) as run:
        for parts in ([[0, 1], [2, 3]], [[4, 5]]):  # the last step is short, and halved as well
            adam.zero_grad()
            for numbers in parts:
                run.saw(numbers)
                (mean(compiled, {"x": X[numbers], "y": Y[numbers]}) / 2).backward()
            adam.step()
    assert run.model is model
    assert [p["divided_by"] for r in run.store.steps for p in r.passes] == [2.0] * 3
    assert run.verify() == 0


def test_samples_bring_their_numbers():
    class Whole(list):
        def __getitems__(self, numbers):
            return [self[k] for k in numbers]

    put = Numbering(torch.stack, lambda batch, numbers: (batch, numbers.tolist()))
    for plain in (X, Whole(X)):
        data = Numbered(plain)
        assert len(data) == 12
        batch, numbers = put(data.__getitems__([4, 2]))
        assert numbers == [4, 2]
        assert torch.equal(batch, X[[4, 2]])

    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(())

    with pytest.raises(TypeError, match="train_dataset must be a Dataset whose samples have numb"):
        require_numbers(Stream(), "train_dataset")
    with pytest.raises(pk.ReplayError, match="made 4 steps, of which 3 were seen"):
        require_all_seen(3, 4, "record all")
