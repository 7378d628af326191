"""C4: scores and their numbers against scikit-learn and scipy; planted memories."""

from dataclasses import replace

import pytest
import torch
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

import pkbook as pk
from pkbook.lab.experiments import alignment, feature_memory
from pkbook.lab.experiments.machinery.claims import finding

TINY = feature_memory.Config(
    architectures=("MLP", "CNN"), per_class=3, held_out=3, nearest=2, batch=10, epochs=2,
    seeds=(5, 6),
)  # fmt: skip


@pytest.fixture(scope="module")
def tiny():
    return feature_memory.run(TINY)


def test_every_score_counted_again(tiny):
    """The CNN, seed 6: a plain loop of Adam, the package's kernel, means of sorted lists."""
    generator = torch.Generator().manual_seed(6)
    asked, truth = pk.data.mnist("test", per_class=3, generator=generator)
    x, y = pk.data.mnist("train", per_class=3, generator=generator)
    model = alignment.NETWORKS["small"]["CNN"](6)
    optimizer = torch.optim.Adam(model.parameters(), lr=TINY.rate)
    for batch in pk.batches(30, size=10, steps=6, seed=6):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
        optimizer.step()
    outputs, memory = model(asked).detach(), tiny.memories["CNN"]
    assert torch.equal(memory.right[1], outputs.argmax(1) == truth)
    kernel = pk.normalised_kernel(model, asked, x)
    pixels = torch.nn.functional.cosine_similarity(asked.flatten(1)[:, None], x.flatten(1), dim=2)
    for k in range(0, 30, 7):
        for score, row in (("kernel", kernel[k]), ("pixels", pixels[k])):
            top = sorted(row.tolist())[-2:]
            assert memory.of(score)[1, k].item() == pytest.approx(sum(top) / 2, abs=1e-3)
        means = [sum(sorted(kernel[k][y == c].tolist())[-2:]) / 2 for c in range(10)]
        own = means.pop(int(outputs[k].argmax()))
        assert memory.of("margin")[1, k].item() == pytest.approx(own - max(means), abs=1e-3)
        sure = outputs[k].softmax(0).max().item()
        assert memory.of("confidence")[1, k].item() == pytest.approx(sure, abs=1e-4)
        loss = -outputs[k].log_softmax(0)[truth[k]].item()
        assert memory.loss[1, k].item() == pytest.approx(loss, abs=1e-3)


def test_areas_and_rank_correlations_are_those_of_the_libraries():
    """With weights, an image that counts three times stands in the sample three times."""
    draw = torch.Generator().manual_seed(0)
    score = torch.randn(40, generator=draw).mul(3).round()  # with ties
    loss = torch.rand(40, generator=draw)
    right = torch.rand(40, generator=draw) < 0.6
    weights = torch.randint(0, 4, (3, 40), generator=draw).double()
    one = torch.ones(1, 40, dtype=torch.float64)
    assert feature_memory.auroc(score, right, one).item() == pytest.approx(
        roc_auc_score(right, score)
    )
    assert feature_memory.rank_correlation(score, loss, one).item() == pytest.approx(
        spearmanr(score, loss).statistic
    )
    for found, often in zip(feature_memory.auroc(score, right, weights), weights, strict=True):
        at = torch.arange(40).repeat_interleave(often.long())
        assert found.item() == pytest.approx(roc_auc_score(right[at], score[at]))
    assert feature_memory.auroc(score, torch.ones(40).bool(), one).isnan().all()


def planted(scores, right, loss):
    return feature_memory.Memory(scores, right, loss)


def test_the_interval_finds_what_is_planted_and_nothing_where_nothing_is():
    """Three seeds of 200 images: a score that is right plus noise, and one that is noise alone.

    The standard error of the area for noise is 0.024 in each mean of three; 0.1 is four of them.
    """
    draw = torch.Generator().manual_seed(0)
    right = torch.rand(3, 200, generator=draw) < 0.7
    noise = torch.randn(4, 3, 200, generator=draw)
    told = right.float() * 2 + noise[0]
    scores = torch.stack([told, noise[1], noise[2], noise[3]], 1)
    memory = planted(scores, right, (~right).float() * 3 + noise[2].abs())
    seen = feature_memory.bootstrapped(memory, feature_memory.area("kernel"))
    blind = feature_memory.bootstrapped(memory, feature_memory.area("pixels"))
    assert seen.low > 0.85
    assert blind.low < 0.5 < blind.high
    assert abs(blind.mean - 0.5) < 0.1
    gain = feature_memory.bootstrapped(memory, feature_memory.gain)
    assert gain.mean == pytest.approx(seen.mean - blind.mean)
    assert feature_memory.bootstrapped(memory, feature_memory.with_loss).high < -0.2


def test_fifths_are_counted_by_hand_and_drawn(tiny):
    memory = tiny.memories["MLP"]
    order = sorted(range(30), key=lambda k: memory.of("kernel")[1, k].item())
    for fifth in range(5):
        chosen = order[6 * fifth : 6 * fifth + 6]
        share = sum(bool(memory.right[1, k]) for k in chosen) / 6
        assert feature_memory.by_fifths(memory)[1, fifth].item() == pytest.approx(share)
    (figure,) = feature_memory.figures(tiny).values()
    assert "<svg" in pk.plots.svg(figure, "A drawing of a tiny run, for the test only.")


def test_findings_are_one_setting_a_network(tiny, tmp_path, monkeypatch):
    told = feature_memory.findings(tiny)["C4"]
    assert list(told) == ["MLP", "CNN"]
    assert finding("C4", told).settings == told
    small = replace(TINY, architectures=("CNN",), seeds=(6,))
    before = torch.get_rng_state()
    once = feature_memory.run(small, folder=tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    monkeypatch.setattr(feature_memory, "fit", None)  # what is kept is not made again
    again = feature_memory.run(small, folder=tmp_path)
    for result in (once, again):
        assert torch.equal(result.memories["CNN"].scores[0], tiny.memories["CNN"].scores[1])


@pytest.mark.parametrize(
    ("change", "words"),
    [({"nearest": 4}, "nearest must be at most 3"), ({"batch": 40}, "batch must be at most 30")],
)
def test_refuses_settings_that_make_no_sense(change, words):
    with pytest.raises(ValueError, match=words):
        replace(TINY, **change)


def test_c4_on_a_seed_that_the_chapter_does_not_use():
    config = feature_memory.Config(architectures=("MLP",), seeds=(90,))
    memory = feature_memory.run(config).memories["MLP"]
    found = feature_memory.bootstrapped(memory, feature_memory.area("kernel"))
    assert found.mean > 0.6
