"""E4: machines refitted on features written out, areas recounted, runs taken up again."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import SVC

import pkbook as pk
from pkbook.lab.experiments import separability
from pkbook.lab.experiments.figures import separability as figures
from pkbook.lab.experiments.machinery import claims, results
from pkbook.lab.experiments.parts.support_vectors import STRENGTHS, machine, turned
from pkbook.lab.experiments.separability import CIRCLE, ELLIPSE, MACHINES, Case, Config

TINY = Config(
    sizes=(40, 60),
    few=40,
    swept=60,
    radii=(0.9,),
    ratios=(1.0, 2.0),
    widths=(8,),
    batch=10,
    steps=40,
    asked=50,
    grid=8,
    seeds=(0, 5),
)
PART = replace(TINY, sizes=(60,), few=60, radii=(), ratios=())  # two of the cases


@pytest.fixture(scope="module")
def tiny():
    return separability.run(TINY)


def trained_by_hand(x, y, seed):
    """Both ends of the run, and no code of the package but the network."""
    model = pk.models.mlp(2, 8, 1, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    yield model
    for _ in range(40):
        batch = torch.randperm(len(x), generator=generator)[:10]
        model.zero_grad()
        (0.5 * (model(x[batch]) - y[batch]).square()).mean().backward()
        with torch.no_grad():
            for p in model.parameters():
                p -= 0.4 * p.grad
    yield model


def features(model, x):
    rows = []
    for point in x:
        gradients = torch.autograd.grad(model(point).sum(), list(model.parameters()))
        rows.append(torch.cat([g.flatten() for g in gradients]))
    return torch.stack(rows).double().numpy()


def middles(grid):
    side = [1.25 * ((2 * i + 1) / grid - 1) for i in range(grid)]
    return torch.tensor([[column, row] for row in side for column in side])


@pytest.mark.parametrize("seed", TINY.seeds)
@pytest.mark.parametrize("axes", [CIRCLE, (1.0, 0.5)])
def test_plain_machines_are_those_on_features_written_out(tiny, axes, seed):
    s, found = TINY.seeds.index(seed), tiny.at(axes, 40)
    generator = torch.Generator().manual_seed(seed)
    x, y = pk.data.ellipse(40, axes=axes, generator=generator)
    later = torch.Generator().manual_seed(seed + 1_000_000)
    fresh = pk.data.ellipse(50, axes=axes, generator=later)
    labels, places = y[:, 0].numpy(), torch.cat([fresh.x, middles(8)])
    decided = {}
    gamma = 1 / (2 * x.numpy().var())
    bumps = [torch.exp(-gamma * torch.cdist(p, x) ** 2).numpy() for p in (x, places)]
    rbf = SVC(kernel="precomputed", C=1).fit(bumps[0], labels)
    decided["RBF, plain"] = rbf.decision_function(bumps[1]), len(rbf.support_)
    for name, model in zip(("untrained", "tangent"), trained_by_hand(x, y, seed), strict=True):
        plane = SVC(kernel="linear", C=1).fit(features(model, x), labels)
        side = plane.decision_function(features(model, places))
        decided[f"{name}, plain"] = side, len(plane.support_)
    decided["network"] = model(places)[:, 0].detach().numpy(), math.nan
    for name, (side, vectors) in decided.items():
        m = MACHINES.index(name)
        right = [(v > 0) == (t > 0) for v, t in zip(side[:50], fresh.y[:, 0], strict=True)]
        assert found.accuracy[s, m].item() == pytest.approx(np.mean(right), abs=1e-9)
        assert found.vectors[s, m].item() == pytest.approx(vectors, nan_ok=True)
        if s == 0:
            shown = found.values[m].flatten().numpy()
            np.testing.assert_allclose(shown, side[50:], rtol=0, atol=5e-3)


def test_areas_are_counted_cell_by_cell(tiny):
    for (axes, _), found in tiny.outcomes.items():
        for m in range(len(MACHINES)):
            wrong = 0
            for (a, b), value in zip(
                middles(8).tolist(), found.values[m].flatten().tolist(), strict=True
            ):
                inside = math.hypot(a / axes[0], b / axes[1]) < 1
                wrong += inside == (value > 0)
            assert found.area[0, m].item() == pytest.approx(wrong * (2.5 / 8) ** 2)


def test_the_true_set_is_that_of_the_data():
    for axes in (CIRCLE, ELLIPSE, (1.0, 0.125)):
        x, y = pk.data.ellipse(500, axes=axes)
        assert torch.equal(separability.truth(x, axes), y[:, 0])
        cells = separability.cells(200)
        share = (separability.truth(cells, axes) < 0).float().mean().item()
        assert share * 6.25 == pytest.approx(math.pi * axes[0] * axes[1], rel=0.01)
        assert Case(axes, 1).area == pytest.approx(math.pi * axes[0] * axes[1])
    torch.testing.assert_close(separability.cells(8), middles(8))


@pytest.mark.parametrize("kind", ["RBF", "tangent"])
def test_tuned_machines_choose_what_a_plain_loop_chooses(kind):
    x, y = (t.numpy() for t in pk.data.ellipse(80, generator=torch.Generator().manual_seed(2)))
    y, kernel = y[:, 0], (1 + x @ x.T) ** 2
    scale = 1 / (2 * x.var()) if kind == "RBF" else kernel.diagonal().mean()
    penalties, folds = (1, 10, 100, 1000, 10000), StratifiedKFold(5, shuffle=True, random_state=3)
    best, chosen = -1.0, None
    for c, g in itertools.product(penalties, (0.25, 1, 4, 16) if kind == "RBF" else (1,)):
        scores = []
        for a, b in folds.split(x, y):
            if kind == "RBF":
                score = SVC(C=c, gamma=g * scale).fit(x[a], y[a]).score(x[b], y[b])
            else:
                plane = SVC(kernel="precomputed", C=c / scale).fit(kernel[np.ix_(a, a)], y[a])
                score = plane.score(kernel[np.ix_(b, a)], y[b])
            scores.append(score)
        if np.mean(scores) > best + 1e-12:
            best, chosen = np.mean(scores), (c, g)
    made = machine(kind, x if kind == "RBF" else kernel, y, tune=True, seed=3)
    if kind == "RBF":
        assert (made.C, made.gamma) == pytest.approx((chosen[0], chosen[1] * scale))
    else:
        assert made.C == pytest.approx(chosen[0] / scale)
    assert chosen != (1, 1)  # else the default would pass as well


def test_turning_the_penalty_does_not_depend_on_the_scale_of_features():
    x, y = (t.numpy() for t in pk.data.circle(90))
    y, kernel = y[:, 0], (1 + x @ x[:60].T) ** 2
    found = turned("tangent", kernel, y[:60], y[60:])
    assert found == turned("tangent", 37.0 * kernel, y[:60], y[60:])
    assert len(found) == len(STRENGTHS)
    strength = STRENGTHS[3] / kernel[:60].diagonal().mean()
    feature = np.stack([np.ones(90), *(2**0.5 * x.T), *(x.T**2), 2**0.5 * x[:, 0] * x[:, 1]], 1)
    plane = SVC(kernel="linear", C=strength).fit(feature[:60], y[:60])
    assert found[3] == plane.score(feature[60:], y[60:])
    rbf = turned("RBF", x, y[:60], y[60:])
    assert rbf[1] == SVC().fit(x[:60], y[:60]).score(x[60:], y[60:])


def test_findings_are_the_differences_of_the_outcomes(tiny):
    found = separability.findings(tiny)["E4"]
    finding = claims.finding("E4", found)  # refuses other names
    assert len(found) == 5
    (setting, numbers), *others = found.items()
    assert "60 samples" in setting
    assert [n for n, _ in others if "axes 2 to 1" in n]
    circle, ellipse = tiny.at(CIRCLE), tiny.at(ELLIPSE)
    tangent, rbf = (MACHINES.index(f"{kind}, plain") for kind in ("tangent", "RBF"))
    wanted = [
        circle.accuracy[:, tangent],
        ellipse.accuracy[:, tangent],
        circle.accuracy[:, tangent] - circle.accuracy[:, rbf],
        ellipse.accuracy[:, tangent] - ellipse.accuracy[:, rbf],
        ellipse.area[:, rbf] / ellipse.area[:, tangent],
    ]
    for number, values in zip(numbers.values(), wanted, strict=True):
        assert number.count == 2
        assert number.mean == pytest.approx(values.mean().item())
        assert number.low == pytest.approx(values.min().item())
        assert number.high == pytest.approx(values.max().item())
    assert finding.verdict in results.VERDICTS


def test_a_perfect_machine_leaves_a_cell_to_divide_by(tiny):
    outcome = tiny.at(ELLIPSE)
    perfect = replace(outcome, area=torch.zeros_like(outcome.area))
    other = separability.Result(TINY, tiny.outcomes | {Case(ELLIPSE, 60): perfect})
    ratio = list(next(iter(separability.findings(other)["E4"].values())).values())[-1]
    assert ratio.mean == 1.0


def test_every_case_is_measured_once(tiny):
    cases = TINY.cases
    assert len(cases) == len(set(cases)) == 5  # circle and ellipse at two sizes, one more radius
    assert set(tiny.outcomes) == set(cases)
    assert Case((0.9, 0.9), 60) in cases
    assert tiny.at(separability.thin(2.0), 60) is tiny.at(ELLIPSE)


def test_a_run_repeats_itself_and_leaves_the_global_state_alone(tiny):
    before = torch.get_rng_state()
    again = separability.run(PART)
    assert torch.equal(torch.get_rng_state(), before)
    for case, outcome in again.outcomes.items():
        assert torch.equal(outcome.values, tiny.outcomes[case].values)
        assert torch.equal(outcome.turned, tiny.outcomes[case].turned)


def test_an_interrupted_run_goes_on(tiny, tmp_path, monkeypatch):
    measure, seen = separability.measure, []

    def breaks(*arguments):
        if len(seen) == 3:
            raise KeyboardInterrupt
        seen.append(arguments[1:3])
        return measure(*arguments)

    monkeypatch.setattr(separability, "measure", breaks)
    with pytest.raises(KeyboardInterrupt):
        separability.run(PART, folder=tmp_path)
    seen.clear()
    monkeypatch.setattr(separability, "measure", lambda *a: seen.append(a[1:3]) or measure(*a))
    found = separability.run(PART, folder=tmp_path)
    assert len(seen) == 2 * len(PART.cases) - 3
    for case, outcome in found.outcomes.items():
        assert torch.equal(outcome.area, tiny.outcomes[case].area)
        assert torch.equal(outcome.values, tiny.outcomes[case].values)
    seen.clear()
    separability.run(PART, folder=tmp_path)
    assert not seen


def test_the_plain_claim_on_a_seed_that_the_chapter_does_not_use():
    config = Config.quick(sizes=(600,), few=600, swept=600, radii=(), ratios=(2.0,), seeds=(7,))
    result = separability.run(config)
    assert len(result.outcomes) == 2
    for axes in (CIRCLE, ELLIPSE):
        found = result.at(axes)
        assert found.of("accuracy", "tangent, plain").item() >= 0.95
        lead = found.of("accuracy", "tangent, plain") - found.of("accuracy", "RBF, plain")
        assert lead.item() >= -0.02
        assert found.of("training", "untrained, tuned").item() > 0.97  # parted without training
        errors = 1 - found.turned[0]
        assert (errors[2, :2] < errors[1, :2]).all()  # soft penalties: training pays


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sizes": ()}, "sizes must be increasing"),
        ({"sizes": (100, 50)}, "sizes must be increasing"),
        ({"few": 70}, "few must be one of the sizes"),
        ({"swept": 70}, "swept must be one of the sizes"),
        ({"batch": 101}, "batch must be at most 100"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"grid": -1}, "grid must be at least 1"),
        ({"radii": (1.3,)}, "radii must hold numbers from 1e-6 to 1.25"),
        ({"ratios": (0.5,)}, "ratios must hold numbers from 1 on"),
        ({"ratios": ("2",)}, "ratios must hold numbers from 1 on"),
        ({"seeds": ()}, "seeds must hold at least one"),
    ],
)
def test_refuses_settings_that_make_no_sense(change, message):
    with pytest.raises(ValueError, match=message):
        Config(**change)


def test_refuses_to_tune_with_a_class_that_is_too_rare():
    x, y = np.random.default_rng(0).normal(size=(30, 2)), -np.ones(30)
    y[:4] = 1
    with pytest.raises(ValueError, match="samples: expected at least 5 of each class, came 4"):
        machine("RBF", x, y, tune=True)
    assert machine("RBF", x, y).C == 1


def test_full_is_larger_than_quick():
    quick, full = Config.quick(), Config.full(seeds=(3,))
    assert full.steps > quick.steps
    assert full.sizes[-1] > quick.sizes[-1]
    assert full.seeds == (3,)
    assert full.few in full.sizes


def test_draws_its_figures(tiny):
    drawn = figures.figures(tiny)
    assert set(drawn) == {"boundaries", "penalty", "samples", "ratios"}
    drawn["trio"] = figures.trio(tiny, Case(ELLIPSE, 60), "tuned")
    for figure in drawn.values():
        assert isinstance(figure, Figure)
        assert "<svg" in pk.plots.svg(figure, "A drawing of a tiny run, for the test only.")


def test_panels_say_how_much_is_astray_and_curves_are_means(tiny):
    figure = figures.boundaries(tiny, "tuned")
    panels = iter(figure.axes)
    for axes in (CIRCLE, ELLIPSE):
        for kind in ("RBF", "tangent"):
            share = tiny.at(axes).of("area", f"{kind}, tuned")[0] / (math.pi * axes[0] * axes[1])
            assert next(panels).get_xlabel() == f"{share:.0%} astray"
    left = figures.samples(tiny).axes[0]
    for line, name in zip(left.lines, ("RBF, plain", "RBF, tuned", "tangent, tuned"), strict=True):
        wanted = [1 - tiny.at(CIRCLE, n).of("accuracy", name).mean().item() for n in TINY.sizes]
        assert line.get_ydata() == pytest.approx(wanted, abs=1e-6)
