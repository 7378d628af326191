"""E9 and E10: numbers recounted by hand, settings refused, claims on a seed of their own."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from matplotlib.figure import Figure

import pkbook as pk
from pkbook.lab.experiments import neighbours, optimizers
from pkbook.lab.experiments.figures import optimizers as figures
from pkbook.lab.experiments.parts.curve_shapes import first_below, largest_rise

TINY = optimizers.Config(
    widths=(8,), samples=40, neighbours=7, batch=10, epochs=(0, 1, 3), loss=0.525, seeds=(0, 5)
)


@pytest.fixture(scope="module")
def tiny():
    return optimizers.run(TINY)


def by_hand(name, seed, epochs):
    """The run written out with torch.optim's own defaults named, and no code of the package."""
    x, y = pk.data.ring_and_disk(40, generator=torch.Generator().manual_seed(seed))
    model = pk.models.mlp(2, 8, 1, seed=seed)
    make = {
        "SGD": lambda p: torch.optim.SGD(p, lr=0.4),
        "SGDM": lambda p: torch.optim.SGD(p, lr=0.04, momentum=0.9, dampening=0),
        "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.001, alpha=0.99, eps=1e-8),
        "Adam": lambda p: torch.optim.Adam(p, lr=0.001, betas=(0.9, 0.999), eps=1e-8),
    }
    optimizer, models = make[name](model.parameters()), [copy.deepcopy(model)]
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for _ in range(4):
            batch = torch.randperm(40, generator=generator)[:10]
            optimizer.zero_grad()
            (0.5 * (model(x[batch]) - y[batch]).square()).mean().backward()
            optimizer.step()
        models.append(copy.deepcopy(model))
    return x, y, models


def kernel_by_hand(model, x):
    rows = []
    for point in x:
        gradients = torch.autograd.grad(model(point).sum(), list(model.parameters()))
        rows.append(torch.cat([g.flatten() for g in gradients]))
    unit = torch.stack(rows) / torch.stack(rows).norm(dim=1, keepdim=True)
    return unit @ unit.T


@pytest.mark.parametrize("o", range(4))
def test_every_number_of_a_run_counted_again(tiny, o):
    """The second seed, epoch by epoch, with kernels by naive autograd and counts by sorting."""
    x, y, models = by_hand(TINY.optimizers[o], 5, 3)
    places = list(neighbours.anchors(x, y).values())
    losses = []
    for epoch, model in enumerate(models):
        f = model(x).detach()
        losses.append((0.5 * (f - y).square()).mean().item())
        if epoch not in TINY.epochs:
            continue
        e, kernel = tiny.at(epoch), kernel_by_hand(model, x)
        assert tiny.loss[o, 1, e].item() == pytest.approx(losses[-1], rel=1e-4)
        assert tiny.accuracy[o, 1, e].item() == ((f * y) > 0).float().mean().item()
        torch.testing.assert_close(
            tiny.between[o, 1, e], kernel[places][:, places], rtol=1e-3, atol=1e-4
        )
        shares = []
        for i, row in enumerate(kernel.tolist()):
            near = sorted((j for j in range(40) if j != i), key=lambda j: -row[j])[:7]
            shares.append(sum(y[j] == y[i] for j in near).item() / 7)
        assert tiny.share[o, 1, e].item() == pytest.approx(sum(shares) / 40, abs=1e-6)
    first = next((k for k, loss in enumerate(losses) if loss <= TINY.loss), None)
    if first is None:
        assert math.isnan(tiny.level_epoch[o, 1])
        assert math.isnan(tiny.level_share[o, 1])
    else:
        assert tiny.level_epoch[o, 1] == first
        if first in TINY.epochs:
            assert tiny.level_share[o, 1] == tiny.share[o, 1, tiny.at(first)]


def test_some_tiny_runs_reach_the_level_and_some_do_not(tiny):
    """Else the test above checks one of its branches only."""
    assert 0 < tiny.level_epoch.isnan().sum() < 8


def test_profiles_by_a_plain_loop():
    x, y = pk.data.ring_and_disk(30)
    kernel = torch.exp(-torch.cdist(x, x)) * (0.6 + 0.4 * (y * y.T))
    found = optimizers.by_distance(kernel, x, y)
    for h in range(optimizers.BINS):
        rows = [[], [], [], []]
        for i in range(30):
            for j in range(30):
                distance = math.dist(x[i].tolist(), x[j].tolist())
                if i == j or not 0.2 * h <= distance < 0.2 * (h + 1):
                    continue
                k = kernel[i, j].item()
                if y[i] == y[j]:
                    rows[0].append(k)
                    rows[2].append(k > 0.8)
                else:
                    rows[1].append(k)
                    rows[3].append(k < 0.3)
        for r, values in enumerate(rows):
            expected = sum(values) / len(values) if values else math.nan
            assert found[r, h].item() == pytest.approx(expected, abs=1e-5, nan_ok=True)


def test_curves_belong_to_the_classes_they_name(tiny):
    names = [name for name, _, _ in neighbours.SPOTS]
    for anchor in names:
        told = optimizers.curves(tiny, anchor)
        assert told["itself"].allclose(torch.ones(()))
        assert told["same class"].shape == (4, 2, 3)
        assert told["other class"].shape == (2, 4, 2, 3)
    i, j = names.index("ring right"), names.index("ring left")
    same = optimizers.curves(tiny, "ring right")["same class"]
    assert torch.equal(same, tiny.between[..., i, j])


def test_a_run_repeats_itself_and_leaves_the_global_state_alone(tiny):
    before = torch.get_rng_state()
    again = optimizers.run(TINY)
    assert torch.equal(torch.get_rng_state(), before)
    for name in ("share", "loss", "between", "kernels", "outputs"):
        assert torch.equal(getattr(again, name), getattr(tiny, name))
    other = optimizers.run(replace(TINY, seeds=(1,), optimizers=("Adam",)))
    assert other.share.shape == (1, 1, 3)
    assert not torch.equal(other.share[0, 0], tiny.share[3, 0])


def test_pictures_are_of_the_first_seed_at_the_end(tiny):
    x, _, models = by_hand("Adam", 0, 3)
    assert torch.equal(tiny.x, x)
    expected = kernel_by_hand(models[-1], x)
    torch.testing.assert_close(tiny.kernels[3], expected, rtol=1e-3, atol=1e-4)
    assert tiny.outputs.shape == (4, neighbours.GRID, neighbours.GRID)


def test_e9_and_what_decides_e10_on_a_seed_that_the_chapter_does_not_use():
    result = optimizers.run(optimizers.Config.quick(seeds=(7,), epochs=(0, 50)))
    assert (result.accuracy[..., -1] == 1).all()
    assert (result.share[..., -1] >= 0.9).all()
    assert (result.share[..., 0] < 0.85).all()
    near, far = result.alike[..., -1, 0], result.alike[..., -1, -2]
    assert (near > 0.8).all()  # pairs of one class above 0.8: the near ones, not the far ones
    assert (far < 0.5).all()
    assert (result.cross[..., -1, 2] < 0.3).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizers": ("Lion",)}, "optimizers must be one of 'SGD'"),
        ({"optimizers": ()}, "must hold at least one"),
        ({"seeds": ()}, "must hold at least one"),
        ({"epochs": ()}, "epochs must be increasing numbers"),
        ({"epochs": (1, 2)}, "epochs must be increasing numbers"),
        ({"neighbours": 600}, "neighbours must be at most 599"),
        ({"batch": 0}, "batch must be at least 1"),
        ({"batch": 601}, "batch must be at most 600"),
    ],
)
def test_refuses_settings_that_make_no_sense(change, message):
    with pytest.raises(ValueError, match=message):
        optimizers.Config(**change)


def test_full_is_larger_than_quick():
    quick, full = optimizers.Config.quick(), optimizers.Config.full(seeds=(3,))
    assert full.epochs[-1] > quick.epochs[-1]
    assert full.seeds == (3,)


def test_draws_its_three_figures(tiny):
    for figure in (
        figures.draw_regions(tiny),
        figures.draw_curves(tiny),
        figures.draw_distance(tiny),
        figures.draw_distance(tiny, epoch=1),
    ):
        assert isinstance(figure, Figure)
        assert "<svg" in pk.plots.svg(figure, "A drawing of a tiny run, for the test only.")


def test_appendix_d_is_recounted_curve_by_curve(tiny):
    """Straight lines between epochs, walked in small steps; rises by trying all pairs of epochs."""
    found, names = optimizers.findings(tiny), TINY.optimizers
    edge, centre, ring = 0, 3, (1, 2)
    rise, low = {}, {}
    for o, name in enumerate(names):
        for s in range(2):
            other = tiny.between[o, s][:, edge][:, list(ring)].double().T  # [2, E]
            mean, when = other.mean(0).tolist(), math.nan
            for i in range(30001):
                t = i / 10000
                a, b = (0, 1) if t <= 1 else (1, 2)
                t0, t1 = TINY.epochs[a], TINY.epochs[b]
                if mean[a] + (mean[b] - mean[a]) * (t - t0) / (t1 - t0) <= optimizers.HALF:
                    when = t
                    break
            told = optimizers.curves(tiny, "disk edge")["other class"][:, o, s].mean(0)
            counted = first_below(told, TINY.epochs, optimizers.HALF).item()
            assert counted == pytest.approx(when, abs=1e-3, nan_ok=True)
            low[name, s] = other.min().item()
            rise[name, s] = max(
                row[j] - row[i] for row in other.tolist() for j in range(3) for i in range(j + 1)
            )
    for name in names:
        lows = [low[name, s] for s in range(2)]
        (numbers,) = found["D2"].values()
        assert numbers[f"{name}: lowest value"].low == pytest.approx(min(lows), abs=1e-6)
        (numbers,) = found["D4"].values()
        ends = tiny.between[names.index(name), :, -1, edge, centre]
        assert numbers[f"{name}: same class at the end"].mean == pytest.approx(ends.mean().item())
    (numbers,) = found["D3"].values()
    for name in ("RMSprop", "Adam"):
        more = [rise[name, s] - max(rise["SGD", s], rise["SGDM", s]) for s in range(2)]
        number = numbers[f"{name}: largest rise less that of SGD and SGDM"]
        assert (number.low, number.high) == pytest.approx((min(more), max(more)), abs=1e-6)
    assert "D1" not in optimizers.findings(replace_optimizers(tiny, names[:1]))


def replace_optimizers(result, names):
    """The same result with some of its optimizers only."""
    keep = {name: getattr(result, name)[: len(names)] for name in OF_OPTIMIZERS}
    return replace(result, config=replace(result.config, optimizers=names), **keep)


OF_OPTIMIZERS = ("share", "between", "same", "cross", "alike", "apart")


def test_first_below_and_largest_rise_on_curves_done_by_hand():
    curves = torch.tensor([[1.0, 0.8, 0.2, 0.4], [0.3, 0.9, 0.1, 0.0], [0.9, 0.8, 0.9, 0.6]])
    found = first_below(curves, (0, 10, 20, 40), 0.5)
    assert found[:2].tolist() == pytest.approx([15.0, 0.0])
    assert found[2].isnan()
    assert largest_rise(curves).tolist() == pytest.approx([0.2, 0.6, 0.1])
    with pytest.raises(ValueError, match="one time for each"):
        first_below(curves, (0, 1), 0.5)
    with pytest.raises(ValueError, match="must increase"):
        first_below(curves, (0, 2, 1, 3), 0.5)
    with pytest.raises(TypeError, match=r"values must be a torch\.Tensor"):
        largest_rise([1.0, 0.5])


def test_one_line_names_what_is_trained():
    told = str(optimizers.what_is_trained(TINY))
    for part in ("network 2–8–1, ReLU", "3 epochs, batches of 10", "Adam at 0.001"):
        assert part in told
