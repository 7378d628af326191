"""Accounts of a language model: against naive autograd, and the numbers that judge them."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr

import pkbook as pk
from pkbook.lab.experiments import language, passages
from pkbook.lab.experiments.machinery.claims import claim, finding

TINY = passages.Config(
    passages=20, width=8, steps=12, size=4, queries=4, left_out=(0.05, 0.2), trainings=8,
    seeds=(0, 1),
)  # fmt: skip
RATE = TINY.rates[-1]


@pytest.fixture(scope="module")
def tiny():
    return passages.run(TINY)


@pytest.fixture(scope="module")
def study():
    reading = TINY.reading(RATE, 1)
    read = reading.passages()
    asked = passages.prompts(read, 4, 6)
    return passages.Study(language.train(reading, read), read, asked, reading)


def rows(model, values):
    """The gradient of each value by the trained parameters, ``[n, P]``."""
    held = list(model.parameters())
    return torch.stack([
        torch.cat([g.flatten() for g in torch.autograd.grad(v, held, retain_graph=True)])
        for v in values
    ])  # fmt: skip


def losses(model, read):
    each = [F.cross_entropy(model(x[None])[0], y) for x, y in zip(read.x, read.y, strict=True)]
    return rows(model, each)


def odds_of(model, asked):
    rows_, last, words = asked
    p = model(rows_).softmax(-1)[torch.arange(len(words)), last, words]
    return (p / (1 - p)).log()


def test_prompts_begin_passages_or_run_from_one_into_the_next():
    read = TINY.reading(RATE, 0).passages()
    filled, last, words = passages.prompts(read, 4, 6)
    stream = [int(v) for row in read.x for v in row]
    assert last.tolist() == [5] * 4
    assert (filled[:, 6:] == 0).all()
    found = [[*row, word] for row, word in zip(filled[:, :6].tolist(), words.tolist(), strict=True)]
    assert found == [stream[start : start + 7] for start in (0, 216, 9, 225)]


def test_gradients_are_autograds(study):
    model = study.run.model_at(12)
    torch.testing.assert_close(
        study.losses_of(model), losses(model, study.passages), rtol=1e-3, atol=1e-6
    )
    wanted = rows(model, odds_of(model, study.asked))
    torch.testing.assert_close(study.odds(model), wanted, rtol=1e-3, atol=1e-6)


def test_tracin_adds_up_the_epochs_with_their_rates(study):
    total = 0.0
    for k in (5, 10):
        model = study.run.model_at(k)
        rate = RATE * min((k + 1) / 10, 1 - k / 12)
        gradients = losses(model, study.passages), rows(model, odds_of(model, study.asked))
        total = total - rate * gradients[0] @ gradients[1].T
    torch.testing.assert_close(passages.tracin(study), total, rtol=1e-3, atol=1e-5)


def test_ours_are_the_packages_and_add_up(study):
    found = passages.contributions(study)
    ends = [odds_of(study.run.model_at(k), study.asked).detach() for k in (0, 12)]
    told = study.run.interpolate(study.asked, of=passages.log_odds, nodes=2, tolerance=None)
    torch.testing.assert_close(found, told.contributions[..., 0])
    whole = found.sum(0) + sum(told.other.values())[:, 0]
    torch.testing.assert_close(whole.float(), ends[1] - ends[0], rtol=1e-2, atol=1e-3)


def test_influence_is_the_difference_of_trainings_with_a_little_more_of_a_passage(study):
    weights = torch.ones(20, dtype=torch.float64)
    answers = []
    for h in (0.01, -0.01):
        weights[3] = 1 + h
        again = study.run.reweighted(weights).model.eval()
        answers.append(odds_of(again, study.asked).detach().double())
    slope = (answers[0] - answers[1]) / 0.02
    found = passages.influence(study)[3].double()
    torch.testing.assert_close(found, slope, rtol=0.05, atol=0.02 * float(slope.abs().max()))


def test_trak_is_regression_on_projected_gradients(study):
    model = study.run.model_at(12)
    own, asked = losses(model, study.passages), rows(model, odds_of(model, study.asked))
    through = torch.randn(own.shape[1], 10, generator=torch.Generator().manual_seed(1))
    own, asked = (own @ through).double(), (asked @ through).double()
    wanted = -own @ torch.linalg.inv(own.T @ own) @ asked.T
    torch.testing.assert_close(passages.trak(study), wanted, rtol=1e-2, atol=1e-4)


def test_shared_words_are_counted(study):
    rows_, _, words = study.asked
    for i, passage in enumerate(study.passages.x.tolist()):
        for j in range(4):
            here = [*rows_[j, :6].tolist(), int(words[j])]
            assert passages.shared_words(study)[i, j] == sum(v in passage for v in here)


def test_scores_are_spearmans_mean_over_prompts(tiny):
    numbers = tiny.numbers[RATE]
    forecast = tiny.weights[1] @ numbers["scores, influence"][1]
    pairs = zip(forecast.T, numbers["answers"][1, 1].T, strict=True)
    wanted = sum(spearmanr(a, b).statistic for a, b in pairs) / 4
    assert tiny.judged(RATE, "influence", 1)[1] == pytest.approx(wanted, abs=1e-9)


def test_findings_answer_their_claim_and_the_table_holds_every_account(tiny):
    told = passages.findings(tiny)
    assert finding("C26", told["C26"]).verdict
    assert list(told["C26"]["20 passages, AdamW"]) == [c.name for c in claim("C26").criteria]
    table = passages.table(tiny)
    assert set(table) == {f"{rate:g}" for rate in TINY.rates}
    assert set(passages.ACCOUNTS) < set(table[f"{RATE:g}"])
    assert "<svg" in pk.plots.svg(passages.draw_scores(tiny), "Scores of a tiny run, for a test.")


def test_the_line_names_what_is_trained():
    line = TINY.trained()._repr_markdown_()
    for part in ("AdamW", "20 passages of 12 tokens", "rates 0.001, 0.01"):
        assert part in line


def test_finished_trainings_are_taken_up(tiny, tmp_path, monkeypatch):
    config = passages.Config(**{**vars(TINY), "seeds": (1,)})
    first = passages.run(config, folder=tmp_path)
    monkeypatch.setattr(passages, "one_run", None)
    again = passages.run(config, folder=tmp_path)
    for rate in config.rates:
        for key, value in again.numbers[rate].items():
            torch.testing.assert_close(value, first.numbers[rate][key])
            if not key.startswith("seconds"):
                torch.testing.assert_close(value[0], tiny.numbers[rate][key][1], msg=key)


def test_the_long_run_that_is_shipped_is_that_of_the_findings():
    shipped, full = passages.long_run(), passages.Config.full()
    assert set(shipped) == {f"{rate:g}" for rate in full.rates}
    path = Path(__file__).parents[1] / "results" / "C26-full.json"
    (kept,) = json.loads(path.read_text())["settings"].values()
    scores = shipped[f"{full.rates[-1]:g}"]["influence"]["0.05 left out"]
    assert sum(scores) / len(scores) == pytest.approx(
        kept["large rate: score of influence"]["mean"]
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rates": (0.01,)}, "rates must be two or more that rise"),
        ({"rates": (0.01, 0.001)}, "rates must be two or more that rise"),
        ({"left_out": (0.5,)}, "left_out must hold 0.05"),
        ({"queries": 3}, "queries must be a multiple of 2"),
    ],
)
def test_settings_are_refused_with_words(change, message):
    with pytest.raises(ValueError, match=message):
        passages.Config(**{**vars(TINY), **change})
