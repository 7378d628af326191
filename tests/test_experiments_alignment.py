"""E11: numbers counted again by naive autograd and plain formulas, on seeds of their own too."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from oracles import kernel as naive_kernel
from scipy.stats import kendalltau, spearmanr

import pkbook as pk
from pkbook.lab.experiments import alignment
from pkbook.lab.experiments.figures import alignment as alignment_figures
from pkbook.lab.experiments.machinery import results

TINY = alignment.Config(
    samples=40,
    probes=20,
    sizes=(30, 50),
    batch=10,
    steps=(0, 1, 3),
    shares=(0.0, 1.0),
    seeds=(0, 5),
)


@pytest.fixture(scope="module")
def tiny():
    return alignment.run(TINY)


def cka_by_hand(k, labels, debiased):
    """Matrices H written out; Song's estimate with all its sums for the debiased one."""
    k, n = k.double().numpy(), len(labels)
    same = (labels[:, None] == labels[None, :]).double().numpy()

    def plain(a, b):
        h = np.eye(n) - np.ones((n, n)) / n
        return np.trace(a @ h @ b @ h)

    def song(a, b):
        a, b, one = a - np.diag(np.diag(a)), b - np.diag(np.diag(b)), np.ones(n)
        middle = (one @ a @ one) * (one @ b @ one) / ((n - 1) * (n - 2))
        return np.trace(a @ b) + middle - 2 / (n - 2) * (one @ a @ b @ one)

    hsic = song if debiased else plain
    return hsic(k, same) / math.sqrt(hsic(k, k) * hsic(same, same))


def trained_by_hand(name, x, y, seed, steps):
    """Adam written out: no torch.optim, no loop of the package."""
    model = alignment.NETWORKS["small"][name](seed)
    parameters = list(model.parameters())
    m, v = ([torch.zeros_like(p) for p in parameters] for _ in range(2))
    generator = torch.Generator().manual_seed(seed)
    for k in range(1, steps + 1):
        batch = torch.randperm(len(x), generator=generator)[: TINY.batch]
        loss = torch.nn.functional.cross_entropy(model(x[batch]), y[batch])
        for i, g in enumerate(torch.autograd.grad(loss, parameters)):
            m[i], v[i] = 0.9 * m[i] + 0.1 * g, 0.999 * v[i] + 0.001 * g * g
            step = m[i] / (1 - 0.9**k) / ((v[i] / (1 - 0.999**k)).sqrt() + 1e-8)
            with torch.no_grad():
                parameters[i] -= TINY.rate * step
    return model


@pytest.mark.parametrize("name", alignment.ARCHITECTURES)
def test_every_number_of_a_run_counted_again(tiny, name):
    run = tiny.of(name, 1.0)[1]
    generator = torch.Generator().manual_seed(5)
    held, truth = pk.data.mnist("test", per_class=50, generator=generator)
    x, y = pk.data.mnist("train", per_class=4, generator=generator)
    y = alignment.relabelled(y, 1.0, generator)
    model = trained_by_hand(name, x, y, 5, 3)
    for found, a, b in ((run.fitted, x, y), (run.accuracy, held, truth)):
        share = (model(a).argmax(1) == b).double().mean().item()
        assert found[-1].item() == pytest.approx(share, abs=1.5 / len(a))  # one image may tip over
    probes = [4 * c + i for c in range(10) for i in (0, 1)]
    held_probes = [50 * c + i for c in range(10) for i in (0, 1)]
    sides = (x[probes], y[probes]), (held[held_probes], truth[held_probes])
    for place, where, (a, b) in zip((0, 1), alignment.PLACES, sides, strict=True):
        assert torch.equal(run.labels[place], b)
        k = naive_kernel(model, a, a).diagonal(dim1=2, dim2=3).sum(-1)
        scale = k.abs().max().item()
        torch.testing.assert_close(run.kernels[place, -1], k, rtol=2e-3, atol=1e-3 * scale)
        for normalised in (False, True):
            root = k.diagonal().sqrt() if normalised else torch.ones(len(k))
            for debiased in (False, True):
                expected = cka_by_hand(k / root / root[:, None], b, debiased)
                told = run.alignment(where, normalised=normalised, debiased=debiased)[-1]
                assert told.item() == pytest.approx(expected, abs=5e-3)


def planted(kernel, labels, **changes):
    """A run with one kernel for everything, to put faults into."""
    told = {"architecture": "MLP", "share": 0.0, "samples": 40, "seed": 0, "steps": (0, 1, 2)}
    told |= {"fitted": torch.tensor([0.1, 0.2, 0.3]), "accuracy": torch.tensor([0.1, 0.3, 0.2])}
    return alignment.Run(
        **told | changes,
        kernels=kernel.expand(2, 3, *kernel.shape[-2:]),
        labels=labels.expand(2, len(labels)),
    )


def test_alignment_of_planted_kernels():
    """One for the label kernel, about zero for shuffled labels, blind to scales if normalised.

    Shuffled: 100 images of 10 classes, debiased; the standard deviation over shuffles of a label
    kernel with itself is 0.014, so 0.07 is five of them.
    """
    labels = torch.arange(10).repeat_interleave(10)
    generator = torch.Generator().manual_seed(0)
    same = (labels[:, None] == labels).float()
    assert planted(same, labels).alignment("training").tolist() == pytest.approx([1.0] * 3)
    shuffled = labels[torch.randperm(100, generator=generator)]
    assert planted(same, shuffled).alignment().abs().max() < 0.07
    scale = torch.rand(100, generator=generator) * 9 + 0.1
    stretched = planted((same + 0.5 * torch.eye(100)) * scale * scale[:, None], labels)
    plain = planted(same + 0.5 * torch.eye(100), labels)
    assert stretched.alignment(normalised=True).tolist() == pytest.approx(
        plain.alignment(normalised=True).tolist()
    )
    assert (stretched.alignment() - plain.alignment()).abs().min() > 0.05
    with pytest.raises(ValueError, match="where must be one of 'training', 'held-out'"):
        plain.alignment("test")


def test_relabelled_draws_exactly_the_share():
    y = torch.arange(10).repeat_interleave(200)
    told = {}
    for share in (0.0, 0.3, 1.0):
        z = alignment.relabelled(y, share, torch.Generator().manual_seed(3))
        told[share] = (z != y).double().mean().item()
        assert z.min() >= 0
        assert z.max() <= 9
    assert told[0.0] == 0
    # A tenth of the drawn labels come out right; 4.5 standard deviations of a binomial.
    for share in (0.3, 1.0):
        assert abs(told[share] - 0.9 * share) < 4.5 * (0.09 * share / 2000) ** 0.5


def test_rank_correlation_is_that_of_the_closed_form():
    a, b = torch.tensor([3.0, 1.0, 2.0, 5.0, 4.0]), torch.tensor([1.0, 2.0, 4.0, 3.0, 5.0])
    gaps = torch.tensor([3, 1, 2, 5, 4]) - torch.tensor([1, 2, 4, 3, 5])
    expected = 1 - 6 * (gaps**2).sum().item() / (5 * 24)
    assert alignment.spearman(a, b) == pytest.approx(expected)
    assert alignment.spearman(a, b) != pytest.approx(kendalltau(a, b).statistic)
    assert math.isnan(alignment.spearman(a, torch.ones(5)))


def test_correlations_take_the_accuracy_of_the_same_images(tiny):
    for run, value, own in zip(
        tiny.of("CNN"),
        alignment.correlations(tiny, "CNN"),
        alignment.correlations(tiny, "CNN", where="training"),
        strict=True,
    ):
        assert value.item() == pytest.approx(
            alignment.spearman(run.alignment(), run.accuracy), nan_ok=True
        )
        assert own.item() == pytest.approx(
            alignment.spearman(run.alignment("training"), run.fitted), nan_ok=True
        )


def test_runs_are_those_that_were_planned(tiny):
    assert len(tiny.runs) == 3 * 2 * (2 + 2)
    for run in tiny.runs:
        looks = 3 if run.samples == 40 else 1
        assert run.kernels.shape == (2, looks, 20, 20)
        assert run.accuracy.shape == (looks,)
    assert [r.seed for r in tiny.of("transformer", samples=50)] == [0, 5]
    with pytest.raises(ValueError, match="no run has"):
        tiny.of("MLP", 0.5)


def test_a_run_repeats_itself_and_is_taken_up_again(tiny, tmp_path, monkeypatch):
    small = replace(TINY, architectures=("MLP",), seeds=(5,))
    before = torch.get_rng_state()
    once = alignment.run(small, folder=tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    monkeypatch.setattr(alignment, "_train", None)  # what is kept is not trained again
    again = alignment.run(small, folder=tmp_path)
    expected = [r for r in tiny.runs if (r.architecture, r.seed) == ("MLP", 5)]
    for one, two, three in zip(once.runs, again.runs, expected, strict=True):
        for name in ("fitted", "accuracy", "kernels", "labels"):
            assert torch.equal(getattr(one, name), getattr(two, name))
            assert torch.equal(getattr(one, name), getattr(three, name))


def test_findings_are_the_correlations(tiny):
    told = alignment.findings(tiny)["E11"]
    assert list(told) == list(alignment.SETTINGS)
    for setting, how in alignment.SETTINGS.items():
        for name, number in zip(alignment.ARCHITECTURES, told[setting].values(), strict=False):
            values = alignment.correlations(tiny, name, **how)
            assert number.mean == pytest.approx(values.mean().item(), nan_ok=True)
            assert number.count == 2


def ranked(a, b):
    """Scipy's rank correlation, which warns where one of the two stands still."""
    still = len(set(a)) == 1 or len(set(b)) == 1
    return math.nan if still else spearmanr(a, b).statistic


def test_runs_of_equal_length_are_compared_within_a_seed(tiny):
    """By hand: two shares of random labels, and three numbers of images."""
    for how in alignment.SETTINGS.values():
        numbers = list(alignment.findings(tiny)["E11"][_name(how)].values())
        families = ([(0.0, 40), (1.0, 40)], [(0.0, 30), (0.0, 40), (0.0, 50)])
        for number, family in zip(numbers[3:5], families, strict=True):
            found = []
            for place in (0, 1):
                own = []
                for name in alignment.ARCHITECTURES:
                    runs = [tiny.of(name, *setting)[place] for setting in family]
                    ends = [r.alignment(**how)[-1].item() for r in runs]
                    own.append(ranked(ends, [r.accuracy[-1].item() for r in runs]))
                found.append(np.mean(own))
            assert number.mean == pytest.approx(np.mean(found), nan_ok=True)
        clock = [ranked(r.steps, r.accuracy.tolist())
                 for name in alignment.ARCHITECTURES for r in tiny.of(name)]  # fmt: skip
        assert numbers[5].mean == pytest.approx(np.mean(clock), nan_ok=True)


def _name(how):
    return next(name for name, found in alignment.SETTINGS.items() if found == how)


def test_c5_pools_networks_and_seeds_with_an_interval(tiny):
    told = alignment.findings(tiny)["C5"]
    runs = [r for name in alignment.ARCHITECTURES for r in tiny.of(name)]
    ends = [(r.alignment()[-1].item(), r.accuracy[-1].item()) for r in runs]
    own, every = told["debiased CKA"].values()
    assert own.mean == pytest.approx(ranked(*zip(*ends, strict=True)))
    assert (own.count, every.count) == (6, 18)
    assert own.low < own.mean < own.high
    assert every.high - every.low < own.high - own.low


def test_the_rank_interval_covers_as_it_promises():
    """400 samples of 12 pairs of normals, correlation 0.6: Spearman's own value is 0.582.

    A 95 % interval that covers in fewer than 91 % of 400 draws would be four standard errors off.
    """
    draw, covered = np.random.default_rng(0), 0
    for _ in range(400):
        pairs = draw.multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], 12)
        found = results.rank_interval(spearmanr(pairs).statistic, 12)
        covered += found.low <= 6 / np.pi * np.arcsin(0.3) <= found.high
    assert covered / 400 > 0.91
    with pytest.raises(ValueError, match="at least 4"):
        results.rank_interval(0.5, 3)


def test_e11_on_a_seed_that_the_chapter_does_not_use():
    config = alignment.Config.quick(
        architectures=("MLP", "CNN"), shares=(0.0, 1.0), sizes=(), seeds=(7,)
    )
    result = alignment.run(config)
    for name in config.architectures:
        (right,), (random,) = result.of(name), result.of(name, 1.0)
        assert alignment.correlations(result, name, normalised=True).item() >= 0.5
        assert random.fitted[-1] > 0.5 > 0.2 > random.accuracy[-1]
        assert random.alignment("training")[-1] > random.alignment("training")[0] + 0.03
        assert random.alignment()[-1] < right.alignment()[-1]


def test_pictures_show_the_numbers(tiny):
    figures = alignment_figures.figures(tiny)
    assert set(figures) == {"labels-0-random", "labels-1-random", "equal-steps"}
    assert all(isinstance(fig, Figure) for fig in figures.values())
    drawn = figures["labels-1-random"].axes
    runs = tiny.of("CNN", 1.0)
    curves = {line.get_label(): line.get_ydata() for line in drawn[2].lines}
    expected = torch.stack([r.accuracy for r in runs]).mean(0)
    assert curves["held-out images"] == pytest.approx(expected.numpy())
    below = {line.get_label(): line.get_ydata() for line in drawn[3].lines}
    expected = torch.stack([r.alignment("training", normalised=True) for r in runs]).mean(0)
    assert below["training images"] == pytest.approx(expected.numpy())
    points = {tuple(p) for line in figures["equal-steps"].axes[1].lines for p in line.get_xydata()}
    run = tiny.of("transformer", samples=50)[0]
    wanted = run.alignment(normalised=True)[-1].item(), run.accuracy[-1].item()
    assert any(p == pytest.approx(wanted) for p in points)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"networks": "huge"}, ["networks", "'small', 'large'", "'huge'"]),
        ({"architectures": ("MLP", "RNN")}, ["architectures", "'RNN'"]),
        ({"architectures": ()}, ["architectures", "at least one"]),
        ({"seeds": ()}, ["at least one"]),
        ({"steps": (0, 1)}, ["steps", "at least three", "(0, 1)"]),
        ({"steps": (0, 3, 3)}, ["steps", "increasing"]),
        ({"steps": (-1, 3, 4)}, ["steps", "(-1, 3, 4)"]),
        ({"shares": (0.0, 1.5)}, ["shares", "from 0 to 1", "1.5"]),
        ({"samples": 305}, ["samples", "multiple of 10", "305"]),
        ({"probes": 10}, ["probes", "at least 20", "10"]),
        ({"sizes": (50,)}, ["probes", "at most 50", "100"]),
        ({"batch": 400, "sizes": ()}, ["batch", "at most 300", "400"]),
    ],
)
def test_refused(changes, words):
    with pytest.raises(ValueError, match="must ") as caught:
        alignment.Config(**changes)
    for word in words:
        assert word in str(caught.value)


def test_presets_are_settings_that_are_taken():
    quick, full = alignment.Config.quick(), alignment.Config.full(seeds=(1,))
    assert quick.shares[0] == full.shares[0] == 0
    assert full.seeds == (1,)
    for builders in alignment.NETWORKS.values():
        for build in builders.values():
            assert build(0)(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def test_what_the_chapter_says_of_the_full_run_is_in_it():
    path = Path(__file__).parents[1] / "results" / "C5-full.json"
    settings = json.loads(path.read_text())["settings"]
    name, bound = "right labels: rank correlation over networks and seeds", 0.5
    assert settings["debiased CKA"][name]["low"] > bound
    assert settings["debiased CKA of the normalised kernel"][name]["mean"] < bound
