"""What would have happened: against differences of whole trainings, in float64."""

import copy

import pytest
import torch
from torch import nn
from weighted_training import by_differences, trained

import pkbook as pk
from pkbook.runs import register

D = torch.float64
G = torch.Generator().manual_seed(3)
N, ASKED = 9, [0, 4, 7]
X, Y = torch.randn(N, 2, generator=G, dtype=D), torch.randn(N, 1, generator=G, dtype=D)
Q = torch.randn(2, 2, generator=G, dtype=D)
BATCHES = [b.tolist() for b in pk.batches(N, size=4, steps=14, seed=1)]


def squared(f, y):
    return 0.5 * (f - y).square().sum(1)


def mlp():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 2), nn.Softplus(),
                             nn.Linear(2, 1)).double()  # fmt: skip


OPTIMIZERS = {
    "SGD": lambda m: torch.optim.SGD(m.parameters(), 0.1),
    "momentum": lambda m: torch.optim.SGD(m.parameters(), 0.05, momentum=0.9),
    "Nesterov": lambda m: torch.optim.SGD(m.parameters(), 0.05, momentum=0.8, nesterov=True,
                                          weight_decay=0.1),
    "dampening": lambda m: torch.optim.SGD(m.parameters(), 0.1, momentum=0.8, dampening=0.3,
                                           maximize=False, weight_decay=0.01),
    "RMSprop": lambda m: torch.optim.RMSprop(m.parameters(), 0.01, alpha=0.9),
    "RMSprop, centered, momentum": lambda m: torch.optim.RMSprop(
        m.parameters(), 0.003, alpha=0.9, centered=True, momentum=0.7, eps=1e-3),
    "Adagrad": lambda m: torch.optim.Adagrad(m.parameters(), 0.05, lr_decay=0.01),
    "Adam": lambda m: torch.optim.Adam(m.parameters(), 0.01, betas=(0.8, 0.95)),
    "Adam, amsgrad, decay": lambda m: torch.optim.Adam(m.parameters(), 0.01, betas=(0.8, 0.95),
                                                       amsgrad=True, weight_decay=0.1),
    "AdamW": lambda m: torch.optim.AdamW(m.parameters(), 0.01, weight_decay=0.3),
    "NAdam": lambda m: torch.optim.NAdam(m.parameters(), 0.01),
    "RAdam": lambda m: torch.optim.RAdam(m.parameters(), 0.01, betas=(0.8, 0.9)),
    "groups": lambda m: torch.optim.AdamW([
        {"params": m[0].parameters(), "lr": 0.02, "betas": (0.5, 0.9)},
        {"params": m[2].parameters(), "lr": 0.01, "weight_decay": 0.2}]),
}  # fmt: skip


def recorded(model, make, data=(X, Y), batches=BATCHES, loss=pk.losses.squared, **options):
    schedule = options.pop("schedule", None)
    optimizer = make(model)
    if schedule is not None:
        options["scheduler"] = schedule(optimizer)
    run = pk.Trajectory(model, loss, optimizer, data, every=5, **options)
    for batch in batches:
        run.step(batch)
    return run


def compared(model, make, *, data=(X, Y), queries=Q, batches=BATCHES, losses=squared,
             loss=pk.losses.squared, of=None, answer=None, near=1e-6, **options):  # fmt: skip
    """The influence of some samples against whole trainings with their weights changed."""
    start = mlp() if model is None else model

    def train(weights):
        return trained(start, losses, make, data, batches, weights, **options)

    wanted = by_differences(answer or (lambda m: m(queries)), train, len(data[0]), ASKED)
    told = recorded(copy.deepcopy(start), make, data, batches, loss, **options).influence(
        queries, of=of
    )
    got = told.effects[ASKED]
    gap = float((got - wanted.reshape(got.shape)).abs().max() / wanted.abs().max())
    assert gap < near, gap
    return told


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_derivative_of_the_whole_training(name):
    told = compared(None, OPTIMIZERS[name])
    assert told.effects.shape == (N, 2, 1)


CLIPS = {"norm": {"clip_norm": 0.3}, "value": {"clip_value": 0.05}}
SCHEDULES = {
    "cosine": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 10),
    "steps": lambda o: torch.optim.lr_scheduler.StepLR(o, 4, 0.5),
}


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("name", ["momentum", "AdamW"])
def test_clipping_is_differentiated(name, clip):
    compared(None, OPTIMIZERS[name], **CLIPS[clip])


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_are_what_they_were(name):
    compared(None, OPTIMIZERS["Adam"], schedule=SCHEDULES[name])


def test_accumulated_batches():
    batches = [[BATCHES[2 * k], BATCHES[2 * k + 1][:3]] for k in range(6)]
    numbers = [[torch.tensor(part) for part in parts] for parts in batches]
    start, make = mlp(), OPTIMIZERS["momentum"]
    wanted = by_differences(
        lambda m: m(Q), lambda w: trained(start, squared, make, (X, Y), batches, w), N, ASKED
    )
    got = recorded(mlp(), make, batches=numbers).influence(Q).effects[ASKED]
    torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-8)


class Images(nn.Module):
    """Smooth: convolutions, batch statistics, mean pooling."""

    def __init__(self, momentum=0.1):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3, momentum=momentum), nn.Tanh(),
            nn.AvgPool2d(2), nn.Conv2d(3, 4, 2), nn.GroupNorm(2, 4), nn.SiLU(), nn.Flatten(),
            nn.Linear(4, 3),
        )  # fmt: skip

    def forward(self, x):
        return self.net(x)


IMAGES = torch.randn(N, 1, 4, 4, generator=G, dtype=D), torch.randint(3, (N,), generator=G)
ASKED_IMAGES = torch.randn(2, 1, 4, 4, generator=G, dtype=D)


def images(momentum=0.1):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(6)
        return Images(momentum).double()


@pytest.mark.parametrize("momentum", [0.1, None])
def test_a_network_of_convolutions_with_batch_statistics_and_running_ones(momentum):
    losses = nn.CrossEntropyLoss(reduction="none")
    compared(
        images(momentum), OPTIMIZERS["momentum"], data=IMAGES, queries=ASKED_IMAGES,
        losses=losses, loss=nn.CrossEntropyLoss(),
    )  # fmt: skip


def test_batch_statistics_of_accumulated_batches():
    batches = [[BATCHES[2 * k], BATCHES[2 * k + 1][:3]] for k in range(4)]
    numbers = [[torch.tensor(part) for part in parts] for parts in batches]
    losses, make = nn.CrossEntropyLoss(reduction="none"), OPTIMIZERS["Adam"]
    for momentum in (0.3, None):
        start = images(momentum)

        def train(w, start=start):
            return trained(start, losses, make, IMAGES, batches, w)

        wanted = by_differences(lambda m: m(ASKED_IMAGES), train, N, ASKED)
        run = recorded(images(momentum), make, IMAGES, numbers, nn.CrossEntropyLoss())
        got = run.influence(ASKED_IMAGES).effects[ASKED]
        torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-8)


class Words(nn.Module):
    """Attention, layer norms, an embedding used twice."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(5, 4)
        self.block = nn.TransformerEncoderLayer(4, 2, 6, 0.0, "gelu", batch_first=True)

    def forward(self, x):
        return self.block(self.words(x)).mean(1) @ self.words.weight.T


def test_attention_and_a_matrix_used_twice():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        model = Words().double()
    data = torch.randint(5, (N, 3), generator=G), torch.randint(5, (N,), generator=G)
    losses = nn.CrossEntropyLoss(reduction="none")
    compared(model, OPTIMIZERS["Adam"], data=data, queries=data[0][:2], losses=losses, loss=losses)


def test_a_loss_of_the_model_and_one_number():
    def one_number(model, batch):
        x, y = batch
        return squared(model(x), y).mean()

    def values(model, batch):
        x, y = batch
        return squared(model(x), y)

    plain = recorded(mlp(), OPTIMIZERS["Adam"]).influence(Q).effects
    for loss in (one_number, values):
        got = recorded(mlp(), OPTIMIZERS["Adam"], loss=loss).influence(Q).effects
        torch.testing.assert_close(got, plain, rtol=1e-9, atol=1e-12)


def test_what_is_asked_may_be_any_function():
    def surprise(model, queries):
        return model(queries).sin().sum(1)

    compared(None, OPTIMIZERS["AdamW"], of=surprise, answer=lambda m: surprise(m, Q))


@pytest.mark.parametrize("name", ["SGD", "RMSprop", "AdamW"])
def test_parts_by_step_and_by_parameter_add_up(name):
    run = recorded(mlp(), OPTIMIZERS[name])
    told = run.influence(Q, by_parameter=True)
    total = torch.zeros_like(told.effects)
    for numbers, values in told.by_step:
        total.index_add_(0, numbers, values)
    torch.testing.assert_close(total, told.effects)
    torch.testing.assert_close(sum(told.by_parameter.values()), told.effects)
    groups = told.by_group(torch.arange(N) % 2)
    torch.testing.assert_close(groups[0] + groups[1], told.effects.sum(0))
    torch.testing.assert_close(told.without([0, 2]), told.final - told.effects[[0, 2]].sum(0))


def test_gradient_descent_by_hand():
    r""":math:`f=\theta x`: :math:`\lambda_s=\prod(1-\eta x^2)`, on paper."""
    x, y, eta, steps = torch.tensor([[1.0], [2.0]], dtype=D), torch.tensor([[1.0], [-1.0]]), 0.1, 5
    line = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(line.weight, 0.5)
    run = pk.Trajectory(line, pk.losses.squared, torch.optim.SGD(line.parameters(), eta),
                        (x, y.double()))  # fmt: skip
    thetas = [0.5]
    for k in range(steps):
        i = k % 2
        run.step([i])
        thetas.append(thetas[-1] - eta * x[i].item() * (thetas[-1] * x[i].item() - y[i].item()))
    wanted, adjoint = [0.0, 0.0], 3.0  # the query is 3
    for k in reversed(range(steps)):
        i = k % 2
        xi = x[i].item()
        wanted[i] -= eta * adjoint * xi * (thetas[k] * xi - y[i].item())
        adjoint *= 1 - eta * xi * xi
    got = run.influence(torch.tensor([[3.0]], dtype=D)).effects.flatten().tolist()
    assert got == pytest.approx(wanted, rel=1e-12)


class Counting(nn.Module):
    """Keeps a running mean of its own."""

    def __init__(self):
        super().__init__()
        self.line = nn.Linear(2, 1)
        self.register_buffer("mean", torch.zeros(2))

    def forward(self, x):
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        return self.line(x - self.mean)


class Scaled(torch.optim.Optimizer):
    """An own optimizer with scales per entry."""

    def __init__(self, parameters):
        super().__init__(parameters, {"lr": 0.1})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p -= group["lr"] * p.grad / (1 + p.grad.abs().mean()).expand_as(p)
                    self.state[p]["scale"] = 1 / (1 + p.grad.abs().mean()).expand_as(p)


def test_what_has_no_known_derivative_is_refused_by_name():
    with pytest.raises(ValueError, match=r"moves the buffer 'mean'.*BatchNorm's running"):
        recorded(Counting().double(), OPTIMIZERS["SGD"]).influence(Q)
    register(Scaled, lambda h, state, fresh: pk.runs.Coefficients(
        direct=h["lr"], outer=state["scale"]))  # fmt: skip
    with pytest.raises(TypeError, match="Scaled, an optimizer of your own"):
        recorded(mlp(), lambda m: Scaled(m.parameters())).influence(Q)


def test_a_layer_that_changes_its_mode_is_refused():
    model = images()
    run = pk.Trajectory(model, nn.CrossEntropyLoss(), OPTIMIZERS["SGD"](model), IMAGES)
    run.step([0, 1, 2])
    model.net[1].eval()
    run.step([3, 4, 5])
    with pytest.raises(ValueError, match=r"step 1 uses .net\.1\.running_mean. in eval mode"):
        run.influence(ASKED_IMAGES)
    only = images().eval()
    frozen = pk.Trajectory(only, nn.CrossEntropyLoss(), OPTIMIZERS["SGD"](only), IMAGES)
    frozen.step([0, 1, 2])
    assert frozen.influence(ASKED_IMAGES).effects[:3].abs().min() > 0


def test_an_optimizer_of_your_own_whose_scales_are_numbers():
    class Plain(Scaled):
        @torch.no_grad()
        def step(self, closure=None):
            for group in self.param_groups:
                for p in group["params"]:
                    p -= group["lr"] * p.grad

    register(Plain, lambda h, state, fresh: pk.runs.Coefficients(direct=h["lr"]))
    got = recorded(mlp(), lambda m: Plain(m.parameters())).influence(Q).effects
    wanted = recorded(mlp(), OPTIMIZERS["SGD"]).influence(Q).effects
    torch.testing.assert_close(got, wanted)


def test_bad_queries_are_refused_at_the_door():
    run = recorded(mlp(), OPTIMIZERS["SGD"])
    with pytest.raises(ValueError, match="x must"):
        run.influence(Q[:0])
    model = mlp()
    fresh = pk.Trajectory(model, pk.losses.squared, OPTIMIZERS["SGD"](model), (X, Y))
    with pytest.raises(ValueError, match="no step yet"):
        fresh.influence(Q)
    told = run.influence(Q)
    for samples, match in ((torch.zeros(N, dtype=torch.bool), "mask.nonzero"), ([N], r"0..8")):
        with pytest.raises(ValueError, match=match):
            told.without(samples)


def test_it_is_kept_in_a_file(tmp_path):
    told = recorded(mlp(), OPTIMIZERS["Adam"]).influence(Q, by_parameter=True)
    told.save(tmp_path / "told.safetensors")
    again = pk.Influence.load(tmp_path / "told.safetensors")
    assert torch.equal(again.effects, told.effects)
    assert torch.equal(again.final, told.final)
    assert list(again.by_parameter) == list(told.by_parameter)
    for (a, b), (c, d) in zip(again.by_step, told.by_step, strict=True):
        assert torch.equal(a, c)
        assert torch.equal(b, d)
    with pytest.raises(ValueError, match="holds no interpolation"):
        pk.Interpolation.load(tmp_path / "told.safetensors")
    assert list(told.to_pandas().columns) == ["sample", "query", "output", "effect"]


def test_many_queries_to_a_folder_which_is_gone_on_with(tmp_path):
    run, many = recorded(mlp(), OPTIMIZERS["momentum"]), torch.cat([Q, 2 * Q])
    wanted = run.influence(many, by_parameter=True)
    folder = tmp_path / "told"
    told = pk.explain(run, many, kind="influence", folder=folder, chunk=3, by_parameter=True)
    torch.testing.assert_close(told.final, wanted.final)
    got = torch.cat([one.effects for one in told], 1)
    torch.testing.assert_close(got, wanted.effects)
    first = next((folder / "chunks").glob("000000000*"))
    first.unlink()
    again = pk.explain(run, many, kind="influence", folder=folder, by_parameter=True)
    torch.testing.assert_close(again[0].effects, wanted.effects[:, :1])
    assert again.verify() == 0.0
    assert torch.equal(again.top(3, 1)[0], wanted.top(3, 1)[0])
    assert len(again.to_pandas()) == N * 4
    with pytest.raises(ValueError, match="no completeness: derivatives do not add up"):
        _ = again.completeness
    with pytest.raises(ValueError, match="another told"):
        pk.explain(run, many, folder=folder, by_parameter=True)
    with pytest.raises(ValueError, match="kind='influence' has no quadrature"):
        pk.explain(run, many, kind="influence", nodes=5)
    with pytest.raises(ValueError, match="'contributions', 'influence'"):
        pk.explain(run, many, kind="both")
