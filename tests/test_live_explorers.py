"""What the explorers in the page compute beyond their core, held to the package and to torch."""

import json
import subprocess

import pytest
import torch
from test_live_core import BOUND, LIVE, ROOT, apart, node
from torch.nn.utils import parameters_to_vector, vector_to_parameters

import pkbook as pk
from pkbook.lab.explorers.digits import packed_digits, small_digits

STEPS, QUERY, LEFT, PAIR = 20, 39, 3, (9, 7)


def ask(job: str, **given) -> dict:
    task = json.dumps({"job": job, "given": given, "live": str(LIVE)})
    command = [node(), str(ROOT / "tests" / "live_explorers.mjs")]
    done = subprocess.run(command, input=task, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def digits(optimizer: str, steps: int = STEPS) -> dict:
    settings = {"optimizer": optimizer, "seed": 0}
    return ask("digits", data=packed_digits(), settings=settings, steps=steps, query=QUERY,
               left=LEFT, pair=PAIR)  # fmt: skip


def as_trained(told: dict):
    """The page's network before its training, its data and its query."""
    net = pk.models.mlp(196, 32, 10, activation="tanh", seed=0).double()
    vector_to_parameters(torch.tensor(told["start"], dtype=torch.float64), net.parameters())
    return net, *small_digits("train", 600), small_digits("test", 200)[0][QUERY : QUERY + 1]


def lead(net, x) -> float:
    f = net(x)[0]
    return (f[PAIR[0]] - f[PAIR[1]]).item()


RULES = {
    "momentum": lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.2),
    "adam": lambda p: torch.optim.Adam(p, lr=0.004),
}


def test_the_packed_digits_are_those_of_the_package():
    packed = packed_digits()
    assert 60_000 < len(json.dumps(packed)) < 120_000  # of the site once, not of each page
    x, y = pk.data.mnist("train")
    pooled = x[:600, 0].double().unfold(1, 2, 2).unfold(2, 2, 2).mean((-1, -2)).flatten(1)
    told = torch.tensor(digits("sgd", 10)["pixels"], dtype=torch.float64).view(600, 196)
    assert (told - pooled).abs().max() <= 1 / 30 + 1e-6  # half a shade; the package is in float32
    assert packed["trainLabels"] == "".join(map(str, y[:600].tolist()))


@pytest.mark.parametrize("optimizer", RULES)
def test_the_digit_memory_is_that_of_the_package(optimizer):
    told = digits(optimizer)
    net, x, y, query = as_trained(told)
    run = pk.Trajectory(net, pk.losses.cross_entropy, RULES[optimizer](net.parameters()), (x, y))
    for batch in told["batches"]:
        run.step(torch.tensor(batch))
    of = pk.of.margin(*PAIR)
    want = run.interpolate(query, of=of, nodes=3, tolerance=None, by_parameter=True)
    layers = [want.by_parameter[f"fc{k}.weight"] + want.by_parameter[f"fc{k}.bias"] for k in (1, 2)]
    assert apart(told["theta"], parameters_to_vector(net.parameters()).detach()) < BOUND
    assert apart(told["parts"], want.contributions) < BOUND
    assert apart(told["layers"][0], layers[0]) < BOUND
    assert apart(told["layers"][1], layers[1]) < BOUND
    in_time = torch.tensor(told["tenths"], dtype=torch.float64).sum(0)
    assert apart(in_time, want.contributions) < BOUND
    assert apart(told["answer"], [want.initial.item(), want.final.item()]) < BOUND
    assert told["gap"] < BOUND


def test_each_tenth_of_a_plain_descent_is_one_step_of_ten():
    told = digits("sgd", 10)
    net, x, y, query = as_trained(told)
    optimizer, leads = RULES["sgd"](net.parameters()), [lead(net, query)]
    for batch in told["batches"]:
        optimizer.zero_grad()
        pk.losses.cross_entropy(net(x[batch]), y[batch]).mean().backward()
        optimizer.step()
        leads.append(lead(net, query))
    moved = torch.tensor(leads, dtype=torch.float64).diff()
    # Rounding is relative to the samples' pushes, which nearly cancel within a step.
    tenths = torch.tensor(told["tenths"], dtype=torch.float64)
    assert ((tenths.sum(1) - moved).abs() < 1e-6 * tenths.abs().sum(1)).all()


def test_a_digit_left_out_is_really_left_out():
    told = digits("momentum")
    net, x, y, query = as_trained(told)
    optimizer = RULES["momentum"](net.parameters())
    for batch in told["batches"]:
        kept = [i for i in batch if i != LEFT]
        optimizer.zero_grad()
        (pk.losses.cross_entropy(net(x[kept]), y[kept]).sum() / len(batch)).backward()
        optimizer.step()
    assert any(LEFT in batch for batch in told["batches"])
    change = lead(net, query) - told["answer"][1]
    assert told["change"] == pytest.approx(change, rel=1e-7)


def test_a_drawing_becomes_a_picture_like_those_of_the_data():
    """Place and size of a drawing do not matter; its centre of mass comes to the middle."""
    hook = [[[0.2, 0.2], [0.6, 0.2], [0.4, 0.8]], [[0.3, 0.5], [0.5, 0.5]]]
    small = [[[5 + x / 3, y / 3 - 2] for x, y in stroke] for stroke in hook]
    told = ask("ink", drawings=[hook, small, [[[0.5, 0.5]]], []])
    one, other, dot, none = (torch.tensor(p).double().view(14, 14) for p in told["pictures"])
    assert (one - other).abs().max() <= 1 / 15 + 1e-9
    places = torch.arange(14).double() + 0.5
    for picture in (one, dot):
        middle = [(picture.sum(k) * places).sum() / picture.sum() for k in (0, 1)]
        assert max(abs(at - 7) for at in middle) < 0.1
    rows = one.sum(1).nonzero().flatten()
    x = small_digits("train", 600)[0].view(600, 14, 14)
    tall = [len(p.sum(1).nonzero()) for p in x]
    assert len(rows) == pytest.approx(sorted(tall)[300], abs=1)
    assert one.sum() == pytest.approx(x.sum((1, 2)).median().item(), rel=0.4)  # breadth of the pen
    assert dot.max() > 0.3  # four pixels share it
    assert none.sum() == 0
    assert told["again"] == told["pictures"]
    assert told["refused"] is None


MEMORY = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.8),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.1, alpha=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.8, 0.9)),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, betas=(0.8, 0.9), weight_decay=0.5),
}


def places_of(optimizer: str, g: list[float]) -> torch.Tensor:
    theta = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    made, places = MEMORY[optimizer]([theta]), []
    for value in g:
        theta.grad = torch.full_like(theta, value)
        made.step()
        places.append(theta.item())
    return torch.tensor(places, dtype=torch.float64)


@pytest.mark.parametrize("optimizer", MEMORY)
def test_the_plane_of_times_is_that_of_torch(optimizer):
    """A gradient with its sign turned leaves all squares alone, so it shows its own weight."""
    g = [0.5 + (k * 7 % 5) / 2 for k in range(12)]
    settings = {"optimizer": optimizer, "beta1": 0.8, "beta2": 0.9, "decay": 0.5}
    told = ask("memory", settings=settings, g=g)
    pushes = torch.zeros(12, 12, dtype=torch.float64)
    as_it_is = places_of(optimizer, g)
    for s in range(12):
        turned = [-v if k == s else v for k, v in enumerate(g)]
        pushes[:, s] = (places_of(optimizer, turned) - as_it_is) / (2 * g[s] * told["rate"])
    shrink = 0.1 * 0.5 if optimizer == "adamw" else 0.0
    weights = pushes.clone()
    weights[1:] -= (1 - shrink) * pushes[:-1]
    assert apart(told["pushes"], pushes) < BOUND
    assert apart(told["weights"], weights) < BOUND


def test_a_pair_of_paths_is_driven_by_the_same_normals():
    rate, size, steps, inner = 0.2, 2, 4, 3
    told = ask("pair", rate=rate, size=size, steps=steps, inner=inner)
    x = torch.tensor(told["x"], dtype=torch.float64)[:, None]
    net, n = pk.models.mlp(1, 8, 1, activation="tanh", seed=0).double(), len(x)
    start, query = (
        torch.tensor(told["start"], dtype=torch.float64),
        torch.full((1, 1), 1.5).double(),
    )

    def moved(theta, weights):
        """theta less the weighted sum of the samples' gradients, by autograd."""
        vector_to_parameters(theta.clone(), net.parameters())
        total = (weights * pk.losses.squared(net(x), x.sin()).flatten()).sum()
        grads = torch.autograd.grad(total, list(net.parameters()))
        return theta - torch.cat([g.flatten() for g in grads])

    def asked(theta):
        vector_to_parameters(theta.clone(), net.parameters())
        return net(query).item()

    normals = torch.tensor(told["normals"], dtype=torch.float64).view(steps, inner, n)
    factor = (n - size) / (size * (n - 1))
    sgd, diffusion = [asked(start)], [asked(start)]
    one = other = start
    for k in range(steps):
        weights = torch.zeros(n).double()
        weights[(normals[k].sum(0) / inner**0.5).topk(size).indices] = rate / size
        one, dt = moved(one, weights), rate / inner
        for xi in normals[k]:
            noise = (rate * dt * factor / n) ** 0.5 * (xi - xi.mean())
            other = moved(other, dt / n + noise)
        sgd.append(asked(one))
        diffusion.append(asked(other))
    assert apart(told["sgd"], sgd) < BOUND
    assert apart(told["diffusion"], diffusion) < BOUND


def test_distances_of_paths_and_of_means():
    values = torch.tensor([[1.0, 0.5], [0.0, 1.0], [2.0, 1.0], [1.0, 2.5]]).double()
    told, gaps = ask("cloud", values=values.tolist()), values[:, 0] - values[:, 1]
    assert told["strong"] == pytest.approx(gaps.square().mean().sqrt().item())
    assert told["weak"] == pytest.approx(gaps.mean().abs().item())
    assert told["error"] == pytest.approx(2 * gaps.std().item() / 2)
    assert told["sgd"]["middle"][0] == pytest.approx(values[:, 0].mean().item())
    assert told["sgd"]["error"][0] == pytest.approx(values[:, 0].std().item())  # 2 std / sqrt(4)
