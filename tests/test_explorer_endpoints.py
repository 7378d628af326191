"""Where SGD and its diffusion end: frames show what the runs gave, and closed forms agree."""

import importlib
import itertools
import re

import pytest
import torch

from pkbook.lab.explorers import Explorer, endpoints

module = importlib.import_module("pkbook.lab.explorers.endpoints")
study = module.study  # one test puts another in its place


def problem():
    """Designs, targets and start of the line, without the package."""
    noise = torch.randn(8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = torch.linspace(-1, 2, 8, dtype=torch.float64)
    designs = torch.stack([x, torch.ones(8, dtype=torch.float64)], 1)
    return designs, 0.5 + x - 0.5 * x**2 + 0.5 * noise, torch.tensor([-1.0, -1.0]).double()


QUERY = torch.tensor([1.5, 1.0], dtype=torch.float64)


def flow(time):
    """The gradient flow's prediction: an exponential of the Hessian."""
    a, y, start = problem()
    hessian = a.T @ a / 8
    best = torch.linalg.solve(hessian, a.T @ y / 8)
    return QUERY @ (best + torch.linalg.matrix_exp(-time * hessian) @ (start - best))


def all_endings(rate, steps):
    """SGD with single samples along every sequence of batches, less the flow: [8 ** steps]."""
    a, y, start = problem()
    found = []
    for order in itertools.product(range(8), repeat=steps):
        theta = start
        for i in order:
            theta = theta - rate * (a[i] @ theta - y[i]) * a[i]
        found.append(QUERY @ theta - flow(1.0))
    return torch.stack(found)


@pytest.fixture(scope="module")
def found():
    return study(0.1, 2, paths=50)


def test_runs_of_two_steps_end_at_some_of_all_64_endings():
    told, every = study(0.5, 1, paths=300), all_endings(0.5, 2)
    nearest = (told.ends["SGD"][:, None] - every).abs().min(1).values
    assert nearest.max() < 1e-10
    assert told.ends["SGD"].unique().numel() > 40  # of 64
    assert told.mean["SGD"] == pytest.approx(every.mean().item(), abs=1e-9)
    assert told.spread["SGD"] == pytest.approx(every.std(correction=0).item(), rel=1e-9)


def test_without_noise_it_is_gradient_descent_against_its_flow():
    a, y, theta = problem()
    told, path = study(0.1, 8), []
    for k in range(11):
        path.append((QUERY @ theta - flow(0.1 * k)).item())
        theta = theta - 0.1 * a.T @ (a @ theta - y) / 8
    assert told.pairs["SGD"].shape == (11, 1)
    assert told.pairs["SGD"][:, 0].tolist() == pytest.approx(path, abs=1e-9)
    assert told.pairs["diffusion"].abs().max() < 0.005  # its time step
    assert told.spread["diffusion"] < 1e-6
    assert "no noise" in module.words(told)


def off(ends, mean, spread):
    """Whether 20,000 runs contradict a mean or a spread by 4.5 standard errors: once in 70,000."""
    square = (ends - mean).square()
    z = [(ends.mean() - mean) / ends.std(), (square.mean() - spread**2) / square.std()]
    return torch.stack(z).abs().max().item() * len(ends) ** 0.5 > 4.5


@pytest.fixture(scope="module")
def many():
    return study(0.1, 2, paths=20_000, seed=1)


@pytest.mark.parametrize("name", ["SGD", "diffusion"])
def test_runs_agree_with_closed_forms_and_five_percent_would_be_noticed(many, name):
    """The time step makes the diffusion's spread too large by two percent, which the bound takes:
    that is some two standard errors."""
    ends, mean, spread = many.ends[name], many.mean[name], many.spread[name]
    assert not off(ends, mean, spread)
    assert off(ends + 0.05 * spread, mean, spread)
    assert off(mean + 1.05 * (ends - mean), mean, spread)


def test_partners_share_their_random_numbers(found):
    both = torch.corrcoef(torch.stack([found.ends["SGD"], found.ends["diffusion"]]))
    assert both[0, 1] > 0.4  # 50 pairs without it: below 0.4 but once in 200
    apart = (found.ends["SGD"] - found.ends["diffusion"]).square().mean() ** 0.5
    assert found.apart == pytest.approx(apart.item())


def test_the_means_do_not_depend_on_the_batch_but_on_the_rate():
    gaps = [study(rate, 2, paths=1).mean["SGD"] for rate in (0.1, 0.05)]
    assert gaps[0] / gaps[1] == pytest.approx(2, abs=0.15)
    assert study(0.1, 4, paths=1).mean["SGD"] == pytest.approx(gaps[0], abs=1e-9)


def test_the_global_state_is_left_alone_and_frames_repeat():
    before = torch.get_rng_state()
    one, two = study(0.25, 1, paths=5), study(0.25, 1, paths=5)
    assert all(torch.equal(one.ends[name], two.ends[name]) for name in one.ends)
    assert torch.equal(torch.get_rng_state(), before)


def test_words_state_the_numbers(found):
    said = [float(n) for n in re.findall(r"[+-]?\d\.\d{3}", module.words(found))]
    told = [*found.mean.values(), *found.spread.values(), found.apart]
    assert said == pytest.approx(told, abs=6e-4)
    assert module.words(found).startswith("10 steps.")


def test_runs_that_leave_the_picture_are_counted():
    assert "leave the picture" not in module.words(study(0.025, 4, paths=50))
    wide = study(0.5, 1, paths=100)
    share = (wide.ends["SGD"].abs() > 1).double().mean()
    assert module.words(wide).endswith(f"{share:.0%} of SGD's runs leave the picture.")


def test_curves_and_bars_are_the_runs(found):
    above, below = module.draw(found).axes
    lines = [line.get_xdata() for line in above.lines]
    paths = [path for values in found.pairs.values() for path in values.T]
    for drawn, path in zip(lines, paths, strict=True):
        assert drawn == pytest.approx(path.numpy())
    places = [line.get_xdata()[0] for line in below.lines]
    assert places == pytest.approx(list(found.mean.values()))
    for patch, ends in zip(below.patches, found.ends.values(), strict=True):
        values, edges, _ = patch.get_data()
        for share, low, high in zip(values, edges[:-1], edges[1:], strict=True):
            inside = ((ends >= low) & (ends < high)).double().mean().item()
            assert share == pytest.approx(inside)


def test_explorer_draws_its_whole_grid_once(monkeypatch):
    ran = []

    def short(rate, batch):
        ran.append((rate, batch))
        return study(rate, batch, paths=20)

    monkeypatch.setattr(module, "study", short)
    explorer = endpoints()
    assert isinstance(explorer, Explorer)
    html = explorer.html()
    assert ran == list(itertools.product((0.05, 0.1, 0.25), (1, 2, 8)))
    assert len(re.findall("<div data-frame", html)) == 9
    assert len(html) < 400_000
    assert explorer.sliders["rate"].value == 0.05


@pytest.mark.parametrize(
    ("rate", "batch", "message"), [(-0.1, 2, "lr must be"), (0.1, 9, "batch_size")]
)
def test_refuses(rate, batch, message):
    with pytest.raises(ValueError, match=message):
        study(rate, batch)
