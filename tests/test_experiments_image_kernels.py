"""E3: kernels and runs written out again, layer by layer; neighbours counted one by one."""

import math
from dataclasses import replace

import pytest
import torch
from matplotlib.figure import Figure
from oracles import jacobian
from torch import nn

import pkbook as pk
from pkbook.lab.experiments import image_kernels
from pkbook.lab.experiments.figures import image_kernels as draw
from pkbook.lab.experiments.image_kernels import PROBES, Config, Task, class_means
from pkbook.lab.experiments.machinery import claims

TINY = Config(
    tasks=(Task("MNIST", 3, (0, 1, 4)), Task("CIFAR-10", 3, (0, 2))),
    shown=2,
    batch=10,
    dropout=0.0,
    seeds=(0, 5),
)


@pytest.fixture(scope="module")
def tiny():
    return image_kernels.run(TINY)


def means_by_hand(kernel, y):
    """Two loops over pairs."""
    told = {True: [], False: []}
    for i in range(len(y)):
        for j in range(len(y)):
            if i != j:
                told[bool(y[i] == y[j])].append(kernel[i, j].item())
    return tuple(sum(v) / len(v) for v in (told[True], told[False]))


def drawn_by_hand(source, seed):
    """Images as TINY has them: the same draws, standardised with numpy."""
    generator = torch.Generator().manual_seed(seed)
    x, y = source("train", per_class=3, generator=generator)
    held = source("test", per_class=50, generator=generator)
    pixels = x.numpy().astype("float64")
    mean, std = pixels.mean(), pixels.std(ddof=1)
    return ((x - mean) / std, y), ((held.x - mean) / std, held.y)


def trained_by_hand(model, x, y, seed, steps):
    """Momentum written out; no torch.optim, no loop of the package."""
    memory = [torch.zeros_like(p) for p in model.parameters()]
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        batch = torch.randperm(len(x), generator=generator)[:10]
        loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            for p, v, g in zip(model.parameters(), memory, gradients, strict=True):
                v.mul_(0.9).add_(g)
                p -= 0.02 * v
    return model


def parts_by_hand(model, x):
    """{layer: kernel} from Jacobians, one autograd call for each image and output."""
    columns, place, rows = {}, 0, jacobian(model, x)
    for name, p in model.named_parameters():
        columns.setdefault(name.split(".")[0], []).append(rows[..., place : place + p.numel()])
        place += p.numel()
    joined = {layer: torch.cat(blocks, -1) for layer, blocks in columns.items()}
    return {layer: torch.einsum("icp,jcp->ij", f, f) for layer, f in joined.items()}


def test_every_number_of_a_run_counted_again(tiny):
    found, seed = tiny.outcomes["MNIST"], 5
    sides = drawn_by_hand(pk.data.mnist, seed)
    start = pk.models.mnist_cnn(dropout=0.0, seed=seed)
    model = trained_by_hand(start, *sides[0], seed, steps=4 * 3)
    for side, (each, (x, y)) in enumerate(zip((3, 50), sides, strict=True)):
        right = (model(x).argmax(1) == y).double().mean().item()
        assert found.accuracy[1, -1, side].item() == pytest.approx(right, abs=1.5 / len(x))
        rows = [each * c + i for c in range(10) for i in (0, 1)]
        points, labels = x[rows].double(), y[rows]
        parts = parts_by_hand(pk.models.mnist_cnn(dropout=0.0).double(), points[:1])
        assert list(parts) == list(found.layers)
        twin = pk.models.mnist_cnn(dropout=0.0).double()
        twin.load_state_dict({k: v.double() for k, v in model.state_dict().items()})
        parts = parts_by_hand(twin, points)
        whole = sum(parts.values())
        roots = whole.diagonal().sqrt()
        for place, part in enumerate([whole, *parts.values()]):
            own = part.diagonal().sqrt()
            within, across = means_by_hand(part / own / own[:, None], labels)
            at = (1, -1, side, place)
            assert found.within[at].item() == pytest.approx(within, abs=2e-3)
            assert found.across[at].item() == pytest.approx(across, abs=2e-3)
        for place, part in enumerate(parts.values()):
            within, across = means_by_hand(part / roots / roots[:, None], labels)
            gives, share = found.carried[1, -1, side, place], found.share[1, -1, side, place]
            assert gives.item() == pytest.approx(within - across, abs=2e-3)
            assert share.item() == pytest.approx((part.trace() / whole.trace()).item(), abs=2e-3)
        images = points.flatten(1)
        cosine = nn.functional.cosine_similarity(images[:, None], images, dim=2)
        within, across = means_by_hand(cosine, labels)
        assert found.pixels[1, side].item() == pytest.approx(within - across, abs=1e-5)
    x, y = sides[0]
    loss = nn.functional.cross_entropy(model(x), y).item()
    assert found.loss[1, -1].item() == pytest.approx(loss, rel=1e-3)


def test_layers_sum_to_the_kernel_and_to_its_contrast(tiny):
    for outcome in tiny.outcomes.values():
        total = outcome.carried.sum(-1)
        torch.testing.assert_close(total, outcome.contrast[..., 0], rtol=0, atol=1e-9)
        torch.testing.assert_close(outcome.share.sum(-1), torch.ones_like(total))
        kernel, y = outcome.kernels[-1, 1, 0], outcome.labels
        within, across = means_by_hand(kernel, y)
        assert outcome.contrast[0, -1, 1, 0].item() == pytest.approx(within - across, abs=1e-5)
    net = pk.models.mlp(3, 5, 4, 2, activation="tanh", seed=1).double()
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)).double()
    net.fc2.bias.requires_grad_(False)
    parts = pk.kernels_by_layer(net, x)
    torch.testing.assert_close(sum(parts.values()), pk.gradient_kernel(net, x))
    wanted = [p.requires_grad for p in net.parameters()]
    assert wanted == [True, True, True, False, True, True]  # as it went in


def test_a_linear_layer_is_the_product_of_two_cosines():
    net = pk.models.mlp(3, 5, 4, activation="tanh", seed=2).double()
    x = torch.randn(7, 3, generator=torch.Generator().manual_seed(0)).double()
    parts = pk.kernels_by_layer(net, x)
    hidden = torch.tanh(x @ net.fc1.weight.T + net.fc1.bias)
    slopes = net.fc2.weight[None] * (1 - hidden**2)[:, None]  # [n, C, o]

    def cosine(rows):
        rows = rows.flatten(1)
        return nn.functional.cosine_similarity(rows[:, None], rows, dim=2)

    one = torch.ones(7, 1, dtype=torch.float64)
    wanted = {
        "fc1": cosine(torch.cat([x, one], 1)) * cosine(slopes),
        "fc2": cosine(torch.cat([hidden, one], 1)),
    }
    for name, part in parts.items():
        roots = part.diagonal().sqrt()
        torch.testing.assert_close(part / roots / roots[:, None], wanted[name].detach())


def test_class_means_of_planted_matrices():
    y = torch.arange(5).repeat_interleave(4)
    same = (y[:, None] == y).double()
    within, across = class_means(0.7 * same + 0.1 * (1 - same) + 9 * torch.eye(20), y)
    assert within.item() == pytest.approx(0.7)  # the diagonal does not count
    assert across.item() == pytest.approx(0.1)
    random = torch.rand(20, 20, generator=torch.Generator().manual_seed(0))
    assert [m.item() for m in class_means(random, y)] == pytest.approx(means_by_hand(random, y))
    with pytest.raises(ValueError, match="a class with two images"):
        class_means(torch.eye(3), torch.arange(3))
    with pytest.raises(ValueError, match="at least two classes"):
        class_means(torch.eye(3), torch.ones(3))


def test_findings_are_those_of_the_two_probes(tiny):
    found = image_kernels.findings(tiny)["E3"]
    claims.finding("E3", found)  # refuses other names
    assert list(found) == [f"2 {probes} a class" for probes in PROBES]
    for side, numbers in enumerate(found.values()):
        ratios, ends = list(numbers.values())[::2], list(numbers.values())[1::2]
        for source, ratio, end in zip(tiny.outcomes, ratios, ends, strict=True):
            gap = tiny.outcomes[source].within - tiny.outcomes[source].across
            first, last = gap[:, 0, side, 0], gap[:, -1, side, 0]
            assert ratio.mean == pytest.approx((last / first).mean().item())
            assert (end.low, end.high) == pytest.approx((last.min().item(), last.max().item()))
            assert end.count == 2


def test_an_interrupted_run_goes_on_and_repeats_itself(tiny, tmp_path, monkeypatch):
    look, calls = image_kernels.look, []

    def breaks(*arguments):
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return look(*arguments)

    monkeypatch.setattr(image_kernels, "look", breaks)
    with pytest.raises(KeyboardInterrupt):
        image_kernels.run(TINY, folder=tmp_path)
    files = [path.relative_to(tmp_path) for path in tmp_path.rglob("*.safetensors")]
    kept = {(path.parent.as_posix(), path.stem.partition("-")[0]) for path in files}
    assert kept == {("MNIST-seed0", f"epoch{e}") for e in (0, 1, 4)}
    before = torch.get_rng_state()
    found = image_kernels.run(TINY, folder=tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    for source, outcome in found.outcomes.items():
        assert torch.equal(outcome.within, tiny.outcomes[source].within)
        assert torch.equal(outcome.kernels, tiny.outcomes[source].kernels)


def test_blocks_of_digits_on_a_seed_that_the_chapter_does_not_use():
    config = Config.quick(tasks=(Task("MNIST", 40, (0, 12)),), seeds=(11,))
    outcome = image_kernels.run(config).outcomes["MNIST"]
    assert outcome.accuracy[0, -1, 0] > 0.9
    for probes in PROBES:
        start, end = outcome.whole(probes)[0]
        assert end >= 3 * start > 0
    own = outcome.contrast[0, :, 0, 1:]
    assert own[0].argmin() == own[1].argmax() == len(outcome.layers) - 1


def test_neighbours_in_common_are_counted_one_by_one():
    tables = torch.stack([torch.randperm(7)[:3] for _ in range(20)]).unflatten(0, (2, 10))
    common = [len(set(p) & set(q)) / 3 for p, q in zip(*tables.tolist(), strict=True)]
    found = pk.diagnostics.overlap(*tables).item()
    assert found == pytest.approx(sum(common) / 10)
    with pytest.raises(ValueError, match="other: expected a table like near"):
        pk.diagnostics.overlap(tables[0], tables[1, :, :2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tasks": ()}, "tasks must hold at least one"),
        ({"tasks": ("MNIST",)}, "tasks must hold Tasks"),
        ({"shown": 4}, "shown must be at most 3"),
        ({"batch": 31}, "batch must be at most 30"),
        ({"rate": 0.0}, "rate must be a positive number"),
        ({"rate": math.inf}, "rate must be a positive number"),
        ({"momentum": 1.0}, "momentum must be a number from 0 to below 1"),
        ({"dropout": -0.1}, "dropout must be a number from 0 to below 1"),
        ({"seeds": ()}, "seeds must hold at least one"),
    ],
)
def test_refuses_settings_that_make_no_sense(change, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **change)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (("SVHN", 3, (0, 1)), "source must be one of 'MNIST', 'CIFAR-10'"),
        (("MNIST", 0, (0, 1)), "per_class must be at least 1"),
        (("MNIST", 3, (1, 2)), "epochs must be at least two increasing numbers that begin with 0"),
        (("MNIST", 3, (0,)), "epochs must be at least two increasing numbers that begin with 0"),
        (
            ("MNIST", 3, (0, 5, 2)),
            "epochs must be at least two increasing numbers that begin with 0",
        ),
    ],
)
def test_refuses_tasks_that_make_no_sense(task, message):
    with pytest.raises(ValueError, match=message):
        Task(*task)


def test_full_is_of_the_papers_size():
    mnist, cifar = Config.full(seeds=(3,)).tasks
    assert mnist.per_class == 600
    assert (cifar.per_class, cifar.epochs[-1]) == (250, 200)
    assert Config.full(seeds=(3,)).seeds == (3,)


def test_draws_its_figures(tiny):
    drawn = draw.figures(tiny)
    assert set(drawn) == {"contrast", "layers", "MNIST-matrices", "CIFAR-10-matrices"}
    images, labels = torch.rand(4, 1, 28, 28), torch.tensor([0, 0, 1, 1])
    near = torch.tensor([[1, 2], [0, 3], [3, 1], [2, 0]])
    drawn["faces"] = draw.faces(images, labels, {"SGDM": near}, 3)
    for figure in drawn.values():
        assert isinstance(figure, Figure)
        assert "<svg" in pk.plots.svg(figure, "A drawing of a tiny run, for the test only.")


def test_pictures_show_the_numbers(tiny):
    left, right = (ax for ax in draw.matrices(tiny, "MNIST").axes if ax.images)
    for ax, epoch in ((left, 0), (right, -1)):
        assert ax.images[0].get_clim() == (-1, 1)
        shown = torch.as_tensor(ax.images[0].get_array().data).float()
        torch.testing.assert_close(shown, tiny.outcomes["MNIST"].kernels[epoch, 0, 0])
    ax = draw.contrasts(tiny).axes[1]
    thick = [line for line in ax.lines if line.get_label() == "CIFAR-10"]
    wanted = tiny.outcomes["CIFAR-10"].contrast[:, :, 1, 0].mean(0)
    assert thick[0].get_ydata() == pytest.approx(wanted.numpy())
    ax = draw.layers(tiny).axes[0]
    bars = [patch.get_height() for patch in ax.containers[3]]
    outcome = tiny.outcomes["MNIST"]
    carried = outcome.carried[:, -1, 0] / outcome.contrast[:, -1, 0, :1]
    assert bars == pytest.approx(carried.mean(0).tolist())


def test_frames_show_another_class():
    images, labels = torch.rand(4, 1, 28, 28), torch.tensor([0, 0, 1, 1])
    near = torch.tensor([[1, 2], [0, 3], [3, 1], [2, 0]])
    panels = draw.faces(images, labels, {"SGDM": near}, 3).axes
    for ax, place in zip(panels, [3, *near[3].tolist()], strict=True):
        assert ax.spines["left"].get_visible() == bool(labels[place] != labels[3])
