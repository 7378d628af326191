"""How good an account is: against other libraries, cases known beforehand, and real trainings."""

import pytest
import torch
from scipy.stats import spearmanr
from test_influence import OPTIMIZERS, N, Q, mlp, recorded

import pkbook as pk
from pkbook import evaluation
from pkbook.evaluation import (
    leave_one_out,
    linear_datamodeling_score,
    mislabelled,
    removal_curve,
    subsets,
)

G = torch.Generator().manual_seed(5)


def test_subsets_have_their_size_and_are_fair():
    rows = subsets(10, 400, 0.3, seed=2)
    assert bool((rows.sum(1) == 3).all())
    counts = rows.sum(0)  # binomial: 400 times 0.3, standard deviation 9.2
    assert float((counts - 120).abs().max()) < 4 * 9.2
    assert torch.equal(rows, subsets(10, 400, 0.3, seed=2))
    assert not torch.equal(rows, subsets(10, 400, 0.3, seed=3))


def test_the_score_is_the_mean_of_spearmans_correlations():
    scores, real = torch.randn(12, 3, generator=G), torch.randn(9, 3, generator=G)
    rows = subsets(12, 9)
    wanted = [spearmanr((rows @ scores.double())[:, j], real[:, j]).statistic for j in range(3)]
    told = linear_datamodeling_score(scores, rows, real)
    assert told.value == pytest.approx(sum(wanted) / 3, abs=1e-12)
    assert told.low < told.value < told.high


def test_a_linear_world_is_forecast_perfectly_and_noise_not_at_all():
    rows, tau = subsets(30, 60), torch.randn(30, 2, generator=G).double()
    assert linear_datamodeling_score(tau, rows, 3 + rows @ tau).value == pytest.approx(1.0)
    assert linear_datamodeling_score(-tau, rows, rows @ tau).value == pytest.approx(-1.0)
    constant = linear_datamodeling_score(torch.ones(30, 2), rows, rows @ tau)
    assert constant.value == 0.0
    missed = 0
    for _ in range(40):  # an interval of 95 per cent misses zero in two of forty
        noise = torch.randn(60, 1, generator=G)
        told = linear_datamodeling_score(tau[:, :1], rows, noise, bootstrap=200)
        missed += not told.low <= 0 <= told.high
    assert missed <= 8  # more has a chance of 1e-3


def test_detection_agrees_with_counting_pairs():
    scores, marked = torch.randn(40, generator=G), torch.rand(40, generator=G) < 0.3
    told = mislabelled(scores, marked)
    pairs = scores[marked][:, None] > scores[~marked][None]
    assert told.auroc.value == pytest.approx(float(pairs.double().mean()))
    order = scores.argsort(descending=True)
    hits = marked[order].double()
    precision = hits.cumsum(0) / torch.arange(1, 41)
    assert told.average_precision.value == pytest.approx(float(precision[hits > 0].mean()))
    assert told.auroc.low <= told.auroc.value <= told.auroc.high


def test_leaving_one_out_is_a_training_of_its_own():
    run = recorded(mlp(), OPTIMIZERS["Adam"])
    found = leave_one_out(run, Q, [2, 5])
    for row, i in zip(found, (2, 5), strict=True):
        alone = run.without([i]).model.eval()
        torch.testing.assert_close(row, (alone(Q) - run.model(Q)).detach(), rtol=1e-7, atol=1e-10)
    everybody = leave_one_out(
        run, Q, of=pk.of.loss_of(torch.nn.MSELoss(reduction="none"), Q[:, :1])
    )
    assert everybody.shape == (N, 2, 1)


def test_influence_forecasts_leaving_one_out_on_a_smooth_network():
    """Derivatives against real removals: one of nine samples, so not a small change."""
    run = recorded(mlp(), OPTIMIZERS["SGD"])
    real = leave_one_out(run, Q)[..., 0]
    forecast = -run.influence(Q).effects[..., 0]
    for j in range(2):
        assert torch.corrcoef(torch.stack([real[:, j], forecast[:, j]]))[0, 1] > 0.9


def test_a_removal_curve_removes_what_the_scores_say():
    run = recorded(mlp(), OPTIMIZERS["SGD"])
    scores, labels = torch.arange(float(N)), torch.arange(N) % 2
    curve = removal_curve(run, scores, Q[:1], [1, 3], labels=labels, repeats=2, seed=1)
    for k, change in zip((1, 3), curve.top, strict=True):
        alone = run.without(list(range(N - k, N))).model.eval()
        assert float(change) == pytest.approx(float((alone(Q[:1]) - run.model(Q[:1])).detach()))
    assert curve.random.shape == (2, 2)


@pytest.mark.parametrize(("ask", "match"), [
    (lambda: linear_datamodeling_score(torch.ones(3, 1), subsets(4, 5), torch.ones(5, 1)), "fit"),
    (lambda: linear_datamodeling_score(torch.ones(4), subsets(4, 2), torch.ones(2)), "three"),
    (lambda: linear_datamodeling_score(torch.ones(4, 1, 1), subsets(4, 5), torch.ones(5)),
     r"must be \[N, m\]"),
    (lambda: subsets(4, 2, 0.01), "fraction must leave"),
    (lambda: mislabelled(torch.ones(4), torch.ones(4, dtype=torch.bool)), "some samples and not"),
    (lambda: mislabelled(torch.ones(4), torch.ones(4)), "must be a bool"),
    (lambda: removal_curve(recorded(mlp(), OPTIMIZERS["SGD"]), torch.ones(N), Q[:1], [N]), "1..8"),
    (lambda: removal_curve(recorded(mlp(), OPTIMIZERS["SGD"]), torch.ones(N), Q, [2]), "x must"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(ask, match):
    with pytest.raises(ValueError, match=match):
        ask()


def test_everything_public_is_documented():
    for name in evaluation.__all__:
        assert getattr(evaluation, name).__doc__
