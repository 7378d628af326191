"""How good is an account: the accounts against naive autograd, and the numbers that judge them."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression

import pkbook as pk
from pkbook.lab.experiments import accounts
from pkbook.lab.experiments.figures import accounts as figures
from pkbook.lab.experiments.machinery.claims import claim, finding
from pkbook.lab.experiments.parts import other_accounts as others
from pkbook.lab.experiments.parts.small_digits import Training, digits
from pkbook.lab.experiments.parts.study import Study

TINY = accounts.Config(
    samples=100, queries=10, optimizers=("momentum",), epochs=1, batch=25, trainings=8,
    removed=3, removal_queries=1, repeats=2, seeds=(0, 1),
)  # fmt: skip


@pytest.fixture(scope="module")
def tiny():
    return accounts.run(TINY)


@pytest.fixture(scope="module")
def study():
    x, y = digits("train", 40)
    q, labels = digits("test", 10)
    training = Training("AdamW", "tanh", 2, 20, 0)
    return Study(training.on(x, y), x, y, q, labels, 2, training.rate)


def rows(model, values):
    """The gradient of each value by the trained parameters, ``[n, P]``."""
    held = list(model.parameters())
    return torch.stack([
        torch.cat([g.flatten() for g in torch.autograd.grad(v, held, retain_graph=True)])
        for v in values
    ])  # fmt: skip


def losses(model, study):
    return rows(model, F.cross_entropy(model(study.x), study.y, reduction="none"))


def odds(model, study, x=None, y=None):
    x, y = (study.queries, study.labels) if x is None else (x, y)
    p = model(x).softmax(1).gather(1, y[:, None])[:, 0]
    return rows(model, (p / (1 - p)).log())


def test_gradients_at_the_end_and_along_the_way_are_autograds(study):
    run = study.run
    wanted = [-losses(m, study) @ odds(m, study).T for m in map(run.model_at, (2, 4))]
    torch.testing.assert_close(others.gradient_dot(study), wanted[1], rtol=1e-3, atol=1e-4)
    total = study.rate * (wanted[0] + wanted[1])
    torch.testing.assert_close(others.tracin(study), total, rtol=1e-3, atol=1e-5)


def test_gauss_newton_influence_is_the_inverse_by_woodbury(study):
    model = study.end
    f = model(study.x)
    j = torch.stack([rows(model, row) for row in f]).double()  # [N, C, P]
    p = f.detach().softmax(1).double()
    hessians = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    values, vectors = torch.linalg.eigh(hessians)
    root = vectors @ torch.diag_embed(values.clamp_min(0).sqrt()) @ vectors.mT
    b = (root @ j).flatten(0, 1) / len(f) ** 0.5
    damping = others.DAMPING * b.square().sum() / 2698
    right = odds(model, study).double().T
    small = b @ b.T + damping * torch.eye(len(b), dtype=torch.float64)
    solved = (right - b.T @ torch.linalg.solve(small, b @ right)) / damping
    wanted = -losses(model, study).double() @ solved
    torch.testing.assert_close(others.gauss_newton(study), wanted, rtol=2e-3, atol=1e-3)


def test_trak_is_ridgeless_regression_on_projected_gradients(study):
    model = study.end
    draw = torch.Generator().manual_seed(0)
    through = torch.randn(2698, 20, generator=draw)
    own = (odds(model, study, study.x, study.y) @ through).double()
    asked = (odds(model, study) @ through).double()
    p = model(study.x).softmax(1).gather(1, study.y[:, None]).double()
    wanted = (asked @ torch.linalg.inv(own.T @ own) @ own.T).T * (1 - p)
    torch.testing.assert_close(others.trak(study), wanted, rtol=1e-2, atol=1e-5)


def test_representer_points_add_up_to_the_margin_of_the_last_layers_optimum(study):
    h, q = (others.last_features(study.end, x).double() for x in (study.x, study.queries))
    fit = LogisticRegression(
        C=1 / (others.DECAY * len(h)), fit_intercept=False, tol=1e-9, max_iter=5000
    )
    w = torch.from_numpy(fit.fit(h.numpy(), study.y.numpy()).coef_).T
    f = q @ w
    away = f.scatter(1, study.labels[:, None], -torch.inf).softmax(1)
    wanted = f.gather(1, study.labels[:, None])[:, 0] - (away * f).sum(1)
    found = others.representer(study).sum(0)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)


def test_kernel_regression_adds_up_to_its_prediction(study):
    start = study.run.model_at(0)
    own = pk.gradient_kernel(start, study.x).double()
    other = pk.gradient_kernel(start, study.queries, study.x).double()
    own += others.RIDGE * own.trace() / len(own) * torch.eye(len(own))
    f = other @ torch.linalg.inv(own) @ F.one_hot(study.y, 10).double()
    right = f.gather(1, study.labels[:, None])[:, 0]
    wanted = right - (f.sum(1) - right) / 9
    torch.testing.assert_close(others.ntk_regression(study).sum(0), wanted, rtol=1e-2, atol=1e-3)


def test_ours_are_the_packages(study):
    asked = pk.of.log_odds(study.labels)
    told = study.run.interpolate(study.queries, of=asked, nodes=2, tolerance=None)
    found = accounts.account(study, "contributions")
    torch.testing.assert_close(found, told.contributions[..., 0])
    ends = [asked(study.run.model_at(k), study.queries).detach() for k in (0, 4)]
    assert (found.sum(0) - (ends[1] - ends[0])).abs().max() < 1e-3
    effects = study.run.influence(study.queries, of=asked).effects[..., 0]
    torch.testing.assert_close(accounts.account(study, "influence"), effects)


def test_a_training_with_all_digits_says_what_the_run_said(study):
    given = accounts.trained_again(study, torch.ones(2, 40, dtype=torch.float64))
    said = pk.of.log_odds(study.labels)(study.end, study.queries).detach().double()
    torch.testing.assert_close(given, said.expand(2, -1), rtol=1e-4, atol=1e-4)


def test_scores_are_spearmans_mean_over_queries(tiny):
    numbers = tiny.numbers["momentum"]
    forecast = tiny.weights[1] @ numbers["scores, TRAK"][1]
    real = numbers["answers"][1, 1]
    pairs = zip(forecast.T, real.T, strict=True)
    wanted = sum(spearmanr(a, b).statistic for a, b in pairs) / 10
    assert tiny.judged("momentum", "TRAK", 1)[1] == pytest.approx(wanted, abs=1e-9)
    other = numbers["answers"][0, 1]
    pairs = zip(forecast.T, other.T, strict=True)
    wanted = sum(spearmanr(a, b).statistic for a, b in pairs) / 10
    assert tiny.judged("momentum", "TRAK", 1, 1)[1] == pytest.approx(wanted, abs=1e-9)


def test_a_removal_is_a_training_without_the_first(tiny):
    x, y = digits("train", 100)
    q, labels = digits("test", 10)
    recorded = TINY.training("momentum", 1).on(x, y)
    scores = tiny.numbers["momentum"]["scores, pixels"][1, :, 0]
    first = scores.argsort(descending=True)[:3]
    again = recorded.without(first, divisor="rest").model.eval()
    asked = pk.of.log_odds(labels)
    lost = (asked(recorded.model.eval(), q) - asked(again, q))[0].item()
    assert tiny.numbers["momentum"]["lost, pixels"][1, 0].item() == pytest.approx(lost, abs=1e-3)


def test_findings_answer_their_claims_and_the_table_holds_every_account(tiny):
    told = accounts.findings(tiny)
    for id in ("C22", "C23", "C24", "C25"):
        assert finding(id, told[id]).verdict
        assert list(told[id]["100 digits, momentum"]) == [c.name for c in claim(id).criteria]
    table = accounts.table(tiny)["momentum"]
    assert set(TINY.accounts) < set(table)
    assert len(table["TRAK"]["0.5 left out, another seed"]) == 2
    assert 0 <= min(table["wrong labels, random"]["auroc"])


def test_the_long_run_that_is_shipped_is_that_of_the_findings():
    shipped = accounts.long_run()
    assert set(shipped) == set(accounts.Config.full().optimizers)
    path = Path(__file__).parents[1] / "results" / "C23-full.json"
    kept = json.loads(path.read_text())["settings"]
    for name, rows in shipped.items():
        assert set(accounts.Config.full().accounts) < set(rows)
        scores = rows["contributions"]["0.5 left out"]
        told = kept[f"1000 digits, {name}"]["half left out: score of contributions"]
        assert sum(scores) / len(scores) == pytest.approx(told["mean"])


def test_finished_trainings_are_kept_and_taken_up(tiny, tmp_path, monkeypatch):
    config = accounts.Config(**{**vars(TINY), "seeds": (1,)})
    first = accounts.run(config, folder=tmp_path)
    assert len(list(tmp_path.glob("momentum-seed1-*.safetensors"))) == 1
    monkeypatch.setattr(accounts, "one_run", None)
    again = accounts.run(config, folder=tmp_path)
    for key, value in again.numbers["momentum"].items():
        torch.testing.assert_close(value, first.numbers["momentum"][key])
        if not key.startswith("seconds"):
            torch.testing.assert_close(value[0], tiny.numbers["momentum"][key][1], msg=key)


def test_draws_its_figures(tiny):
    made = figures.figures(tiny)
    line = made["accounts_shares"].axes[0].lines[0]
    mean = [sum(tiny.judged("momentum", "influence", k)) / 2 for k in range(2)]
    assert line.get_ydata() == pytest.approx(mean)
    for figure in made.values():
        assert "<svg" in pk.plots.svg(figure, "A drawing of a tiny run, for the test only.")


def test_ekfac_says_what_it_needs(study):
    try:
        import kronfluence  # noqa: F401
    except ModuleNotFoundError:
        with pytest.raises(ImportError, match=r"pip install 'pkbook\[ekfac\]'"):
            others.ekfac(study)
    else:
        found, curved = others.ekfac(study).double(), others.gauss_newton(study)
        assert torch.corrcoef(torch.stack([found.flatten(), curved.flatten()]))[0, 1] > 0.3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"samples": 105}, "samples must be a multiple of 10"),
        ({"left_out": (0.5,)}, "left_out must hold 0.05 and 0.5"),
        ({"others": ("TRAK",)}, "others must hold"),
        ({"optimizers": ("Adagrad",)}, "optimizers must"),
        ({"wrong": 0.9}, "wrong must be between"),
    ],
)
def test_refuses_settings_that_make_no_sense(change, message):
    with pytest.raises((TypeError, ValueError), match=message):
        accounts.Config(**change)
