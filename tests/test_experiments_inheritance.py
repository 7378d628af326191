"""E12: pictures moved by hand, cosines of naive features, and the algebra of symmetric networks."""

from dataclasses import replace

import pytest
import torch
from matplotlib.figure import Figure
from oracles import jacobian, kernel as naive_kernel
from scipy.stats import spearmanr
from torch import nn

import pkbook as pk
from pkbook.lab.experiments import attended, inheritance
from pkbook.lab.experiments.figures import inheritance as inheritance_figures
from pkbook.lab.experiments.inheritance import averaging_cnn, by_layer, centred, compare, moved
from pkbook.lab.experiments.machinery import claims

TINY = inheritance.Config(per_class=3, held_out=2, batch=10, shifts=(0, 2), epochs=(0, 2))
TINY = replace(TINY, seeds=(4, 5))


@pytest.fixture(scope="module")
def tiny():
    return inheritance.run(TINY)


@pytest.fixture(scope="module")
def letters():
    config = attended.Config(places=4, letters=3, width=6, samples=100, shown=7, epochs=(0, 2))
    return attended.run(replace(config, seeds=(3, 4)))


@pytest.mark.parametrize("way", inheritance.WAYS)
def test_moved_is_what_roll_gives_inside_a_margin(way):
    x = torch.zeros(2, 9, 9)
    x[:, 3:6, 3:6] = torch.rand(2, 3, 3, generator=torch.Generator().manual_seed(0))
    for pixels in (0, 1, 3):
        rolled = x.roll((way[0] * pixels, way[1] * pixels), (1, 2))
        assert torch.equal(moved(x, pixels, way), rolled)
    assert moved(x, 6, way).count_nonzero() == 0  # nothing comes in again


def test_compare_counts_pairs_of_naive_features():
    generator = torch.Generator().manual_seed(1)
    y = torch.tensor([0, 0, 1, 1, 2])
    features = torch.randn(3, 5, 7, generator=generator).double() + 1
    flat = features.flatten(0, 1)
    curves, levels = compare(flat @ flat.T, y)
    assert curves.shape == (2, 3, 5)
    for kind, mean in enumerate((0.0, features[0].mean(0))):
        f = features - mean
        cosine = torch.nn.functional.cosine_similarity(f, f[:1], dim=2)
        torch.testing.assert_close(curves[kind], cosine)
        own = torch.nn.functional.cosine_similarity(f[0][:, None], f[0][None], dim=2)
        same = [own[0, 1], own[2, 3]]
        other = [own[i, j] for i in range(5) for j in range(i) if y[i] != y[j]]
        expected = torch.stack([torch.stack(same).mean(), torch.stack(other).mean()])
        torch.testing.assert_close(levels[kind], expected)
    shift = torch.randn(7, generator=generator).double()
    again = (flat + shift) @ (flat + shift).T
    torch.testing.assert_close(centred(again, 5), centred(flat @ flat.T, 5))


def test_every_number_of_a_run_counted_again(tiny):
    """The untrained MLP, seed 5: pictures, naive autograd in float64, plain means."""
    train, held, copies = inheritance.queries(TINY, 5)
    generator = torch.Generator().manual_seed(5)
    expected = pk.data.mnist("test", per_class=2, generator=generator)
    assert torch.equal(held.x, expected.x)
    assert torch.equal(train.x, pk.data.mnist("train", per_class=3, generator=generator).x)
    for i, (x, copy) in enumerate(zip(held.x, copies[1], strict=True)):
        assert torch.equal(copies[0, i], x)
        assert torch.equal(copy, moved(x, 2, inheritance.WAYS[i % 4]))
    model = inheritance.network(TINY, "MLP", 5)
    place = tiny.place("MLP")
    right = (model(copies[1]).argmax(1) == held.y).double().mean()
    assert tiny.accuracy[place, 1, 0, 1] == right
    model = model.double()
    a, b = (jacobian(model, x.double()).flatten(1) for x in (held.x, copies[1]))
    for kind, mean in enumerate((0.0, a.mean(0))):
        cosine = torch.nn.functional.cosine_similarity(a - mean, b - mean, dim=1)
        told = tiny.similarity[place, 1, 0, kind]
        torch.testing.assert_close(told[1], cosine, atol=2e-4, rtol=0)
        assert (told[0] - 1).abs().max() < 1e-5
        assert tiny.at("MLP", 2, 0, centred=bool(kind))[1] == pytest.approx(
            cosine.mean().item(), abs=2e-4
        )
    flat = [x.flatten(1).double() for x in (held.x, copies[1])]
    cosine = torch.nn.functional.cosine_similarity(*flat, dim=1)
    torch.testing.assert_close(tiny.pixels[1, 0, 1], cosine)


def test_training_moves_the_networks(tiny):
    for name in inheritance.ARCHITECTURES:
        assert (tiny.curve(name, 0) - tiny.curve(name, 1))[:, 1].abs().min() > 1e-4
    assert tiny.similarity.shape == (4, 2, 2, 2, 2, 20)
    assert tiny.others.shape == (4, 2, 2, 2, 2)
    with pytest.raises(ValueError, match="architecture must be one of"):
        tiny.place("RNN")
    with pytest.raises(ValueError, match=r"pixels: expected one of \(0, 2\), came 1"):
        tiny.at("MLP", 1)


def test_findings_are_differences_at_two_pixels(tiny):
    told = inheritance.findings(tiny)["E12"]
    assert list(told) == list(inheritance.SETTINGS)
    finding = claims.finding("E12", told)
    assert len(finding.claim.criteria) == 5
    names, kinds = ("CNN", "CNN", "averaging CNN"), (0, 1, 0)
    for numbers, cnn, kind in zip(told.values(), names, kinds, strict=True):
        found = [n.mean for n in numbers.values()]
        look = tiny.similarity[:, :, :, kind, 1].mean((1, 3))  # [A, E]
        of = dict(zip(inheritance.ARCHITECTURES, look.tolist(), strict=True))
        expected = [of[cnn][0] - of["MLP"][0], of[cnn][1] - of["MLP"][1]]
        expected += [of[name][1] for name in (cnn, "MLP", "transformer")]
        assert found == pytest.approx(expected)
        assert {n.count for n in numbers.values()} == {2}


def test_c6_asks_which_letter_is_attended():
    """Planted attention and kernels: the top letters agree in two of three sequences."""
    attention = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.2, 0.1, 0.7]])
    single = torch.tensor([[0.4, 0.9, 0.8], [0.9, 0.8, 0.7], [0.9, 1.0, 0.1]])
    changed = torch.stack([single.min(1).values, single.max(1).values] * 2)
    planted = attended.Result(
        attended.Config(), torch.ones(1, 2), attention.expand(1, 2, 3, 3),
        single.expand(1, 2, 3, 3), changed.expand(1, 2, 4, 3), torch.tensor([[0, 1, 2]]),
    )  # fmt: skip
    assert attended.followed(planted).item() == pytest.approx(2 / 3)
    told = attended.findings(planted, planted, planted)["C6"]
    (numbers,) = told.values()
    top, gap, *_, ranks = (number.mean for number in numbers.values())
    assert top == pytest.approx(2 / 3)
    assert gap == pytest.approx((changed[1] - changed[0]).mean().item())
    wanted = spearmanr(attention.flatten(), 1 - single.flatten()).statistic
    assert ranks == pytest.approx(wanted)
    assert claims.finding("C6", told).verdict == "not reproduced"


def test_a_run_repeats_itself_and_is_taken_up_again(tiny, tmp_path):
    small = replace(TINY, architectures=("CNN",), seeds=(5,))
    before = torch.get_rng_state()
    once = inheritance.run(small, folder=tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    assert len(list((tmp_path / "CNN-5").glob("epoch2-*.safetensors"))) == 1
    again = inheritance.run(small, folder=tmp_path)
    assert torch.equal(once.similarity, again.similarity)
    torch.testing.assert_close(once.similarity[0, 0], tiny.similarity[1, 1])


def test_the_averaging_network_is_the_papers_up_to_its_head():
    one, two = averaging_cnn(3).eval(), pk.models.mnist_cnn(seed=3).eval()
    x = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    maps = two[:9](x)
    assert torch.equal(one[:9](x), maps)
    torch.testing.assert_close(one(x), one.fc(maps.flatten(2).mean(2)))


def test_layers_sum_to_the_kernel_and_flags_come_back():
    model = averaging_cnn(0).eval()
    model.conv1.bias.requires_grad_(False)
    flags = [p.requires_grad for p in model.parameters()]
    x = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    parts = by_layer(model, x)
    assert [p.requires_grad for p in model.parameters()] == flags
    assert list(parts) == ["conv1", "conv2", "conv3", "fc"]
    model.requires_grad_(True)
    whole = naive_kernel(model, x, x).diagonal(dim1=2, dim2=3).sum(-1)
    torch.testing.assert_close(sum(parts.values()), whole, rtol=1e-4, atol=1e-4)


def test_a_network_that_does_not_see_the_shift_has_a_kernel_of_one():
    conv = nn.Conv2d(1, 4, 3, padding=1, padding_mode="circular")
    model = nn.Sequential(conv, nn.Tanh(), inheritance.OverPlaces(), nn.Linear(4, 3)).double()
    x = torch.rand(2, 1, 6, 6, generator=torch.Generator().manual_seed(0)).double()
    rolled = x.roll((1, 2), (2, 3))
    k = pk.normalised_kernel(model, x, rolled)
    assert (k.diagonal() - 1).abs().max() < 1e-12
    assert pk.normalised_kernel(model, x)[0, 1] < 1 - 1e-6  # and not for all


# ---- the reader of letters ------------------------------------------------------------------


def test_copies_change_what_they_should():
    config = attended.Config(places=5, letters=3)
    generator = torch.Generator().manual_seed(0)
    own, marked, y = attended.sequences(config, 200, generator)
    assert torch.equal(y, own.gather(1, marked[:, None])[:, 0])
    altered = attended.copies(config, own, marked, generator)
    differs = altered != own[:, None]
    assert torch.equal(differs[:, :5], torch.eye(5, dtype=torch.bool).expand(200, 5, 5))
    assert torch.equal(~differs[:, 5], nn.functional.one_hot(marked, 5).bool())
    assert differs[:, 6].all()
    assert altered.max() == 2
    x = attended.written(own, marked, 3)
    assert torch.equal(x[..., :3].argmax(2), own)
    assert torch.equal(x[..., 3].argmax(1), marked)
    assert torch.equal(x.sum((1, 2)), torch.full((200,), 6.0))


def test_frequent_letters_are_counted():
    config = attended.Config(task="frequent", places=5, letters=3)
    own, _, y = attended.sequences(config, 100, torch.Generator().manual_seed(1))
    expected = [int(row.count(1) > row.count(0)) for row in own.tolist()]
    assert y.tolist() == expected


@pytest.mark.parametrize("pool", attended.POOLS)
def test_reader_written_out(pool):
    model = attended.network(attended.Config(pool=pool, letters=3, places=4, width=5), 7)
    own, marked, _ = attended.sequences(
        attended.Config(letters=3, places=4), 2, torch.Generator().manual_seed(0)
    )
    x = attended.written(own, marked, 3)
    for one, told, weights in zip(x, model(x), model.weights(x), strict=True):
        z = [model.embed.weight @ token for token in one]
        if pool == "attention":
            score = torch.stack([model.query @ (model.key.weight @ t) for t in z]).exp()
            a = score / score.sum()
        else:
            a = torch.full((4,), 0.25)
        torch.testing.assert_close(weights, a)
        read = sum(w * (model.value.weight @ t) for w, t in zip(a, z, strict=True))
        expected = model.out.weight @ read.clamp_min(0) + model.out.bias
        torch.testing.assert_close(told, expected)


def test_kernels_of_copies_by_naive_autograd(letters):
    config, seed = letters.config, 4
    look = torch.Generator().manual_seed(seed + attended.FRESH)
    own, marked, _ = attended.sequences(config, config.shown, look)
    altered = attended.copies(config, own, marked, look)
    model = attended.network(config, seed).double()
    assert torch.equal(letters.marked[1], marked)
    for i in (0, 6):
        both = torch.cat([own[i : i + 1], altered[i]])
        x = attended.written(both, marked[i].expand(len(both)), config.letters).double()
        j = jacobian(model, x).flatten(1)
        cosine = torch.nn.functional.cosine_similarity(j[:1], j[1:], dim=1)
        torch.testing.assert_close(letters.single[1, 0, i].double(), cosine[:4], atol=1e-5, rtol=0)
        rest = [k for k in range(4) if k != marked[i]]
        expected = torch.stack([cosine[marked[i]], cosine[rest].mean(), *cosine[4:]])
        torch.testing.assert_close(
            letters.changed[1, 0, :, i].double(), expected, atol=1e-5, rtol=0
        )
    means = letters.changed.mean(-1)
    torch.testing.assert_close(attended.gap(letters, 0), means[:, 0, 1] - means[:, 0, 0])


def test_a_trained_reader_heeds_the_marked_letter_on_a_seed_of_its_own():
    result = attended.run(attended.Config.quick(seeds=(9,)))
    assert attended.gap(result, 0).abs() < 0.1
    assert attended.gap(result) > 0.3
    assert result.accuracy[0, -1] > 0.95


def test_pictures_show_the_numbers(tiny, letters):
    figures = inheritance_figures.figures(tiny)
    assert set(figures) == {"as-they-are", "mean-taken-off", "accuracy", "against-others"}
    curves = {
        line.get_label(): line.get_ydata() for line in figures["mean-taken-off"].axes[1].lines
    }
    for name in inheritance.ARCHITECTURES:
        assert curves[name] == pytest.approx(tiny.curve(name, centred=True).mean(0).numpy())
    assert curves["pixels"] == pytest.approx(tiny.pixels[:, 1].mean((0, 2)).numpy())
    curves = {line.get_label(): line.get_ydata() for line in figures["accuracy"].axes[0].lines}
    assert curves["CNN"] == pytest.approx(tiny.accuracy[1, :, -1].mean(0).numpy())
    panel = figures["against-others"].axes[1]
    assert panel.get_title() == "CNN"
    same = {line.get_label(): line.get_ydata() for line in panel.lines}["another of the class"]
    assert same[0] == pytest.approx(tiny.unmoved("CNN")[:, 0].mean().item())
    fig = attended.draw([letters])
    assert isinstance(fig, Figure)
    dots = [line.get_xdata() for line in fig.axes[0].lines if line.get_label() == "after"]
    assert dots[1] == pytest.approx(letters.changed[1, -1].mean(-1).numpy())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"networks": "huge"}, ["networks", "'huge'"]),
        ({"architectures": ("RNN",)}, ["architectures", "'RNN'"]),
        ({"architectures": ()}, ["at least one"]),
        ({"seeds": ()}, ["at least one"]),
        ({"held_out": 1}, ["held_out", "at least 2"]),
        ({"shifts": (1, 2)}, ["shifts", "(1, 2)", "begin with 0"]),
        ({"shifts": (0, 28)}, ["shifts", "27"]),
        ({"shifts": ()}, ["shifts"]),
        ({"rate": 0.0}, ["rate", "rate=0.003"]),
        ({"epochs": (1, 2)}, ["epochs", "(0, 10)"]),
    ],
)
def test_refused(changes, words):
    with pytest.raises(ValueError, match="must ") as caught:
        inheritance.Config(**changes)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"task": "sort"}, "'sort'"),
        ({"pool": "max"}, "'max'"),
        ({"letters": 2}, "letters"),
        ({"rate": -1.0}, "rate"),
        ({"seeds": ()}, "seeds"),
    ],
)
def test_refused_by_the_reader(changes, word):
    with pytest.raises(ValueError, match=word):
        attended.Config(**changes)
    with pytest.raises(ValueError, match="pool must be one of"):
        attended.Reader(3, 4, "max")


def test_moved_refuses_what_is_no_image():
    with pytest.raises(TypeError, match=r"x must be a torch\.Tensor"):
        moved([[1.0]], 1)
    with pytest.raises(ValueError, match="images"):
        moved(torch.ones(3), 1)
    with pytest.raises(ValueError, match="way must be one of"):
        moved(torch.ones(3, 3), 1, (2, 0))
    with pytest.raises(ValueError, match="pixels"):
        moved(torch.ones(3, 3), -1)


def test_presets_are_settings_that_are_taken():
    full = inheritance.Config.full(batch=20)
    assert (full.per_class, full.batch, len(full.seeds)) == (600, 20, 5)
    assert inheritance.Config.full(seeds=(1,)).seeds == (1,)
    assert attended.Config.full(seeds=(1,)).seeds == (1,)
    for name in inheritance.ARCHITECTURES:
        assert inheritance.network(full, name, 0)(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
