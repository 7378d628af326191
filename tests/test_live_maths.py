"""The mathematics of single explorers, in JavaScript, held to the package in float64."""

import json
import subprocess

import pytest
import torch
from test_live_core import BOUND, LIVE, ROOT, apart, node
from torch.nn.utils import parameters_to_vector

import pkbook as pk
from pkbook import function_space as fs, generative as gen
from pkbook.diagnostics import rank_gap
from pkbook.experiments import rank_gap as e8
from pkbook.experiments.parts import relu_line


def ask(job: str, **given) -> dict:
    task = json.dumps(
        {"job": job, "given": given, "folder": str(LIVE)}, default=torch.Tensor.tolist
    )
    command = [node(), str(ROOT / "tests" / "live_maths.mjs")]
    done = subprocess.run(command, input=task, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def drawn(seed: int, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def start(net: torch.nn.Module) -> torch.Tensor:
    return parameters_to_vector(net.parameters()).detach()


class Square(torch.nn.Module):
    def forward(self, x):
        return x.square() / 3


def test_parts_and_the_integral_operator():
    n, net = 20, pk.models.mlp(1, 6, 1, activation="tanh", seed=2).double()
    g = drawn(0, n)
    told = ask("parity", width=6, start=start(net), n=n, values=g)
    mu = fs.interval(-3.0, 3.0, n, rule="midpoint", dtype=torch.float64)
    operator = fs.population(torch.nn.Sequential(Square(), net), mu)
    even, odd = (g + g.flip(0)) / 2, (g - g.flip(0)) / 2
    assert apart(told["x"], mu.nodes) < BOUND
    assert apart(told["parts"], torch.stack([even, odd])) < BOUND
    assert apart(told["energies"], [mu.mean(v.square()).item() for v in (even, odd)]) < BOUND
    assert apart(told["applied"][0], operator(even)) < BOUND
    assert max(map(abs, told["applied"][1])) < 1e-14 * operator(even).abs().max()
    x, wanted = mu.nodes[:, 0], []
    for wave in (torch.cos, torch.sin):
        wanted.append(wave(2 * x) / mu.mean(wave(2 * x).square()).sqrt())
    assert apart(told["waves"], torch.stack(wanted)) < BOUND


@pytest.mark.parametrize("trained", ["biases", "both"])
@pytest.mark.parametrize("outside", [0.6, 1.2])
def test_units_on_a_line_train_and_count_as_in_the_package(trained, outside):
    config = e8.Config(seeds=(3,), trained=trained, steps=400)
    begun, (x, other) = e8.start(config), e8.inputs(config)
    t, a, y = begun.thresholds[0, 0].clone(), begun.weights[0], e8.wanted(config, x)[0]
    t[-1] = outside
    matrix = drawn(5, 9, 6)
    matrix[:6] += matrix[:6].T.clone()  # its upper square is symmetric
    told = ask("relu", t=t, a=a, x=x, y=y, other=other, rate=0.1, steps=400, trained=trained,
               query=1.4, matrix=matrix)  # fmt: skip
    assert apart(told["first"], relu_line.features(t, a, x, trained)) < BOUND
    pull = torch.zeros_like(t)
    run = relu_line.descend(t, a, x, y, rate=0.1, steps=400, trained=trained)
    *before, (_, t, a, _) = run
    for _, _, _, gradient in before:
        pull = torch.maximum(pull, gradient)
    for name, wanted in {"t": t, "a": a, "pull": pull}.items():
        assert apart(told[name], wanted) < BOUND, name
    assert apart(told["f"], relu_line.outputs(t, a, other)) < BOUND
    net = relu_line.network(t, a, trained)
    gap = rank_gap(net, x[:, None], other[:, None])
    assert told["ranks"] == {
        "training": gap.training.value, "mixture": gap.mixture.value, "gap": gap.value
    }  # fmt: skip
    assert (gap.value > 0) == (outside > 1)
    phi = relu_line.features(t, a, torch.cat([x, torch.tensor([1.4])]), trained)
    own = phi.unflatten(1, (-1, 8))[:, :, 1]
    assert apart(told["through"], own[:-1] @ own[-1]) < BOUND
    assert apart(told["singular"], torch.linalg.svdvals(matrix)) < BOUND
    values, vectors = torch.linalg.eigh(matrix[:6])
    assert apart(told["eigen"]["values"], values.flip(0)) < BOUND
    found = torch.tensor(told["eigen"]["vectors"], dtype=torch.float64)
    assert ((found * vectors.T.flip(0)).sum(1).abs() - 1).abs().max() < BOUND


def test_the_forecast_of_the_first_kernel():
    net = pk.models.ntk_mlp(1, 12, 1, scale=1.5, seed=0).double()
    x, asked, residual, other = drawn(1, 7, 1), drawn(2, 4, 1), drawn(3, 7), drawn(4, 49)
    told = ask("lazy", width=12, scale=1.5, start=start(net), x=x.flatten(), time=6.0, other=other,
               asked=asked.flatten(), residual=residual)  # fmt: skip
    kernel, query = pk.gradient_kernel(net, x), pk.gradient_kernel(net, asked, x)
    assert apart(told["kernel"], kernel) < BOUND
    assert apart(told["asked"], fs.lazy_training(kernel, residual, 6.0, query=query)) < BOUND
    assert apart(told["here"], fs.lazy_training(kernel, residual, 6.0)) < BOUND
    assert apart([told["drift"]], [fs.kernel_drift(kernel, other.view(7, 7))]) < BOUND
    values, vectors = torch.linalg.eigh(kernel / 7)
    assert apart(told["rates"], values.flip(0)) < BOUND
    parts = (vectors.T.flip(0) @ residual).abs()
    assert apart([abs(v) for v in told["parts"]], parts) < BOUND


def test_a_noise_predictor_trains_and_is_taken_apart():
    levels, width, points = 8, 4, drawn(1, 5, 2)
    schedule, table = (
        gen.linear_schedule(levels, first=0.1, last=6.0),
        gen.sinusoidal(levels, width),
    )
    rows = gen.noised(points, schedule, copies=2, generator=torch.Generator().manual_seed(0))
    model = gen.NoisePredictor(2, table, hidden=(6,), seed=0).double()
    model.embedding = table  # float32 by itself
    begun = start(model)
    # the page's rows: copy, sample, level
    level = torch.arange(1, levels + 1).repeat(10)
    sample = torch.arange(5).repeat_interleave(levels).repeat(2)
    noise = drawn(2, 80, 2)
    z = gen.with_level(schedule.noisy(points[sample], noise, level), level, schedule)
    chosen = [b.tolist() for b in pk.batches(80, size=8, steps=40, seed=0)]
    x, predicted, xi, direction = drawn(3, 3, 2), drawn(4, 3, 2), drawn(5, 3, 2), drawn(6, 2)
    trained = {"start": begun, "width": 6, "batches": chosen}
    told = ask("noising", T=levels, width=width, points=points.flatten(), noise=noise.flatten(),
               x=x.flatten(), predicted=predicted.flatten(), xi=xi.flatten(), tau=4, run=trained,
               direction=direction)  # fmt: skip
    assert len(rows.z) == told["rows"]["n"] == 80
    assert apart(told["kept"][1:], schedule.kept) < BOUND
    assert apart(told["embedding"], table) < BOUND
    seen = torch.tensor(told["rows"]["x"], dtype=torch.float64).view(80, -1)
    assert apart(seen[:, :2], z[:, :2]) < BOUND
    assert apart(seen[:, 2:], table[level - 1]) < BOUND
    beta, kept = schedule.betas[3], torch.cat([torch.ones(1).double(), schedule.kept])
    back = (x - beta / (1 - kept[4]).sqrt() * predicted) / (1 - beta).sqrt()
    back = back + (beta * (1 - kept[3]) / (1 - kept[4])).sqrt() * xi
    assert apart(told["back"], back) < BOUND
    adam = torch.optim.Adam(model.parameters(), lr=0.02)
    run = pk.Trajectory(model, pk.losses.squared, adam, (z, noise))
    for batch in chosen:
        run.step(torch.tensor(batch))
    assert apart(told["theta"], start(model)) < BOUND
    query = gen.with_level(x[1:2], torch.tensor([4]), schedule)
    wanted = run.interpolate(query, tolerance=None).contributions[:, 0]
    assert apart(told["parts"], wanted @ direction) < BOUND


@pytest.mark.parametrize("loss", ["non-saturating", "minimax"])
def test_two_networks_learn_against_each_other(loss):
    generator = pk.models.mlp(2, 5, 2, activation="tanh", seed=0).double()
    network = pk.models.mlp(2, 5, 1, activation="tanh", seed=1).double()
    z, real, query = drawn(1, 7, 2), drawn(2, 6, 2) + 1, drawn(3, 1, 2)
    told = ask("game", width=5, g=start(generator), d=start(network), z=z.flatten(), loss=loss,
               real=real.flatten(), query=query.flatten(), steps=60)  # fmt: skip
    points = generator(z).detach().requires_grad_()
    chance = network(points)[:, 0].sigmoid()
    value = -chance.log() if loss == "non-saturating" else (1 - chance).log()
    s = torch.autograd.grad(value.sum(), points)[0]
    kernel = pk.gradient_kernel(generator, query, z, reduce="full")[0]
    assert apart(told["s"], s) < BOUND
    assert apart(told["chance"], chance.detach()) < BOUND
    assert apart(told["sent"], torch.einsum("nab,nb->na", kernel, s)) < BOUND
    adam = torch.optim.Adam(network.parameters(), lr=0.02, betas=(0.5, 0.999))
    learned = gen.Learned(network, adam, lambda n: real, loss=loss)
    sgd = torch.optim.SGD(generator.parameters(), lr=0.1)
    for k in range(60):
        s = learned(generator, z, generator(z).detach(), k).sum(0)
        sgd.zero_grad()
        (generator(z) * s).sum(1).mean().backward()
        sgd.step()
    assert apart(told["g"], start(generator)) < BOUND
    assert apart(told["d"], start(network)) < BOUND
