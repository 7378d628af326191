"""E5 to E7 and the failure scores: numbers recounted with other tools."""

import importlib
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from scipy import ndimage
from scipy.stats import mannwhitneyu, rankdata

import pkbook as pk
from pkbook.lab.experiments import failure_scores, printed_digits, unseen_digits
from pkbook.lab.experiments.alignment import spearman
from pkbook.lab.experiments.figures import printed_digits as figures
from pkbook.lab.experiments.machinery import claims
from pkbook.lab.experiments.parts.shifted_inputs import noisy, turned

explorer = importlib.import_module("pkbook.lab.explorers.turned_pictures")

TINY = printed_digits.Config(
    per_class=6,
    shown=2,
    faces=2,
    held_out=2,
    sizes=(20, 10),
    letters="BI",
    batch=10,
    epochs=(0, 4),
    seeds=(0, 5),
)
FEW = unseen_digits.Config(
    splits=("0123", "79"), per_class=6, held_out=4, neighbours=3, batch=6, epochs=3, seeds=(0, 4)
)


@pytest.fixture(scope="module")
def trained():
    return printed_digits.run(TINY)


@pytest.fixture(scope="module")
def scores(trained):
    return failure_scores.run(trained)


@pytest.fixture(scope="module")
def unseen():
    return unseen_digits.run(FEW)


def naive_cosines(model, x):
    """Normalised kernel by one backward pass for every output of every input, in float64."""
    model, rows = model.double().eval(), []
    for one in x.double():
        outputs = model(one[None])[0]
        parts = [torch.autograd.grad(f, list(model.parameters()), retain_graph=True)
                 for f in outputs]  # fmt: skip
        rows.append(torch.cat([p.flatten() for part in parts for p in part]))
    rows = torch.nn.functional.normalize(torch.stack(rows), dim=1)
    return rows @ rows.T


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, tuple) and a and isinstance(a[0], dict):
        return all(equal(x[k], y[k]) for x, y in zip(a, b, strict=True) for k in x)
    return a == b


def same(one, two):
    return all(equal(getattr(one, n), getattr(two, n)) for n in one.__dataclass_fields__)


# ---- E6 and E7 ------------------------------------------------------------------------------


def test_kernels_are_those_of_naive_autograd(trained):
    cosines = naive_cosines(trained.network(), trained.x)
    assert trained.kernels[-1].double() == pytest.approx(cosines, abs=1e-4)
    start = pk.models.mnist_cnn(seed=0)
    assert trained.kernels[0].double() == pytest.approx(naive_cosines(start, trained.x), abs=1e-4)


def test_class_means_are_those_of_a_plain_loop(trained):
    kernel, y = trained.kernels[-1].tolist(), trained.y.tolist()
    n = 10 * TINY.shown
    for row in range(10):
        for column in range(22):
            pairs = [
                kernel[i][j]
                for i in range(n)
                for j in range(len(y))
                if i != j and y[i] == row and y[j] == column
            ]
            mean = sum(pairs) / len(pairs)
            assert trained.means[0, -1, row, column].item() == pytest.approx(mean, abs=1e-6)
    assert torch.allclose(trained.sized_means[0, 0], trained.means[0, -1, :, 10:20].diagonal())


def test_the_three_kinds_of_pairs_are_the_means_over_all_pairs(trained):
    kinds, n = printed_digits.alike(trained), 10 * TINY.shown
    kernel, y = trained.kernels[-1], trained.y
    own = y[:n, None] == y[:n]
    pairs = {
        "one class": kernel[:n, :n][own & ~torch.eye(n, dtype=torch.bool)],
        "two classes": kernel[:n, :n][~own],
        "letters": kernel[:n, y >= 20],
    }
    for name, values in pairs.items():
        assert kinds[name][0, -1].item() == pytest.approx(values.mean().item(), abs=1e-6)


def test_accuracy_is_counted_on_the_pictures_named(trained):
    model = trained.network(1)
    for place, size in enumerate(TINY.sizes):
        x, y = printed_digits.printed(TINY, size)
        right = (model(x).argmax(1) == y).float().view(10, 2).mean(1)
        assert torch.equal(trained.sized_accuracy[1, place], right)
    assert torch.equal(trained.sized_accuracy[:, 0], trained.accuracy[:, -1])
    held = pk.data.mnist("test", per_class=2)
    right = (model(held.x).argmax(1) == held.y).float().mean()
    assert trained.handwriting[1, -1].item() == pytest.approx(right.item())


def test_findings_are_the_claims_numbers(trained):
    found = printed_digits.findings(trained)
    assert list(found) == ["E6", "E7"]
    for id, settings in found.items():
        claims.finding(id, settings)  # refuses other criteria
    gap, rank = found["E6"]["printed digits 10 pixels large instead of 20"].values()
    accuracy, kernel = trained.sized_accuracy[:, 1], trained.sized_means[:, 1]
    assert gap.mean == pytest.approx((trained.handwriting[:, -1] - accuracy.mean(1)).mean().item())
    by_hand = [
        np.corrcoef(rankdata(k), rankdata(a))[0, 1] for k, a in zip(kernel, accuracy, strict=True)
    ]
    assert (rank.low, rank.high) == pytest.approx((min(by_hand), max(by_hand)))
    kinds = {name: v[:, -1] for name, v in printed_digits.alike(trained).items()}
    one, two, letter = next(iter(found["E7"].values())).values()
    assert one.mean == pytest.approx(kinds["one class"].mean().item())
    assert two.mean == pytest.approx((kinds["two classes"] / kinds["one class"]).mean().item())
    assert letter.mean == pytest.approx((kinds["letters"] / kinds["one class"]).mean().item())


def test_the_steps_geometry_is_that_of_adams_memory(trained):
    """One more training of the second seed, its memory read by hand, its kernel by autograd."""
    samples = printed_digits.digits(TINY, 5)
    model = printed_digits.network(5)
    optimizer = torch.optim.Adam(model.parameters(), lr=TINY.rate)
    list(printed_digits.train(TINY, model, samples, 5, optimizer=optimizer))
    made = 4 * (len(samples.y) // TINY.batch)
    for name, p in model.named_parameters():
        root = (optimizer.state[p]["exp_avg_sq"] / (1 - 0.999**made)).sqrt()
        by_hand = TINY.rate * 0.1 / (1 - 0.9**made) / (root + 1e-8)
        torch.testing.assert_close(trained.weights[1][name], by_hand, rtol=1e-4, atol=0)
    n = 10 * TINY.shown
    x = torch.cat([printed_digits.shown(TINY, samples).x, trained.x[n:]])
    weight = torch.cat([w.flatten() for w in trained.weights[1].values()]).double()
    phi = pk.tangent_features(model.double(), x.double()).detach() * weight.sqrt()
    kernel = torch.einsum("icp,jcp->ij", phi[:n], phi)
    torch.testing.assert_close(trained.step_kernels[1].double(), kernel, rtol=1e-3, atol=1e-5)
    lengths = phi.flatten(1).norm(dim=1)
    torch.testing.assert_close(trained.step_lengths[1].double(), lengths, rtol=1e-3, atol=0)
    means = printed_digits.class_means(kernel / lengths[:n, None] / lengths, trained.y)
    torch.testing.assert_close(trained.step_means[1].double(), means, rtol=1e-3, atol=1e-4)
    two = list(printed_digits.findings(trained)["E7"].values())[1]
    kinds = printed_digits.kinds(trained.step_means[:, None])
    assert two["digits of one class"].mean == pytest.approx(kinds["one class"].mean().item())


def test_a_constant_accuracy_has_no_rank_correlation():
    assert np.isnan(spearman(torch.arange(3.0), torch.ones(3)))
    assert spearman(torch.arange(3.0), -torch.arange(3.0)) == -1


def test_an_interrupted_run_ends_as_a_whole_one(trained, tmp_path):
    cut = replace(TINY, seeds=(0,))
    printed_digits.run(cut, folder=tmp_path)
    assert len(list((tmp_path / "seed0").glob("epoch4-*.safetensors"))) == 1
    assert same(printed_digits.run(TINY, folder=tmp_path), trained)


def test_full_is_the_papers_scale():
    full = printed_digits.Config.full()
    assert full.per_class == unseen_digits.Config.full().per_class == 600
    assert full.faces == 10
    assert full.letters == "ABCDEFGHIJ"
    assert len(full.seeds) >= 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shown": 7}, "shown must be at most 6, the training digits of a class, got 7"),
        ({"shown": 1}, "shown must be at least 2"),
        ({"faces": 99}, "faces must be at most 21"),
        ({"sizes": (40,)}, "sizes must hold pixels from 1 to 28"),
        ({"rate": 0.0}, "rate must be a positive number"),
        ({"seeds": ()}, "seeds must hold at least one"),
        ({"batch": 0}, "batch must be at least 1"),
    ],
)
def test_settings_that_cannot_be_met_are_refused(change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        replace(TINY, **change)


# ---- E5 -------------------------------------------------------------------------------------


def purity_by_hand(kernel, y, count, chosen):
    shares = []
    for i in chosen:
        others = sorted((j for j in range(len(y)) if j != i), key=lambda j: -kernel[i][j])
        shares.append(sum(y[j] == y[i] for j in others[:count]) / count)
    return sum(shares) / len(shares)


@pytest.mark.parametrize("when", [0, 1])
def test_purity_is_what_counting_by_hand_gives(unseen, when):
    kernel, y = unseen.kernels[when].tolist(), unseen.y.tolist()
    for place, group in enumerate((range(4), range(4, 10))):
        chosen = [i for i, digit in enumerate(y) if digit in group]
        everywhere = purity_by_hand(kernel, y, 3, chosen)
        assert unseen.purity[0, 0, when, place].item() == pytest.approx(everywhere, abs=1e-6)
        own = [[kernel[i][j] for j in chosen] for i in chosen]
        alone = purity_by_hand(own, [y[i] for i in chosen], 3, range(len(chosen)))
        assert unseen.within[0, 0, when, place].item() == pytest.approx(alone, abs=1e-6)


def test_networks_never_see_the_unseen_digits():
    """Training on pictures of the seen digits alone ends with the same parameters."""
    (_, model) = [m for m in unseen_digits.train(FEW, "79", 4)][:2]
    assert model.fc2.out_features == 2
    x, y = pk.data.mnist(
        "train", per_class=6, classes=(7, 9), generator=torch.Generator().manual_seed(4)
    )
    alone = pk.models.mnist_cnn(classes=2, seed=4).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(alone.parameters(), lr=1e-3)
    settings = {"epochs": (0, 3), "batch": 6, "seed": 4}
    fit = importlib.import_module("pkbook.lab.experiments.machinery.training").fit
    list(fit(alone, pk.losses.cross_entropy, optimizer, (x, (y == 9).long()), **settings))
    assert all(map(torch.equal, alone.parameters(), model.parameters()))


def test_kernels_of_e5_are_those_of_naive_autograd(unseen):
    rows = torch.arange(0, len(unseen.y), 5)
    *_, model = unseen_digits.train(FEW, "0123", 0)
    cosines = naive_cosines(model, unseen.x[rows])
    assert unseen.kernels[1][rows][:, rows].double() == pytest.approx(cosines, abs=1e-4)


def test_findings_of_e5_are_differences_of_purity(unseen):
    found = unseen_digits.findings(unseen)["E5"]
    claims.finding("E5", found)
    assert next(iter(found)) == "0 to 3 seen, 4 to 9 unseen"
    assert list(found)[1] == "7, 9 seen, 0, 1, 2, 3, 4, 5, 6, 8 unseen"
    seen, apart, gain = list(found.values())[1].values()
    p = unseen.purity[1]
    assert seen.mean == pytest.approx((p[:, 1, 0] - p[:, 0, 0]).mean().item(), abs=1e-6)
    assert apart.mean == pytest.approx((p[:, 1, 0] - p[:, 1, 1]).mean().item(), abs=1e-6)
    assert gain.mean == pytest.approx((p[:, 1, 1] - p[:, 0, 1]).mean().item(), abs=1e-6)


def test_the_last_setting_of_e5_asks_the_kernel_of_adams_last_step(unseen):
    *_, (model, optimizer) = unseen_digits._with_optimizer(FEW, "0123", 0, "cpu")
    x, y = unseen_digits.held_out(FEW, 0)
    made = float(next(iter(optimizer.state.values()))["step"])
    square = torch.cat([optimizer.state[p]["exp_avg_sq"].flatten() for p in model.parameters()])
    weight = 1 / ((square.double() / (1 - 0.999**made)).sqrt() + 1e-8)
    phi = pk.tangent_features(model.double(), x.double()).detach() * weight.sqrt()
    unit = torch.nn.functional.normalize(phi.flatten(1), dim=1)
    shares = pk.diagnostics.homogeneity(unit @ unit.T, y, FEW.neighbours)
    known = unseen_digits.seen("0123", y)
    by_hand = torch.stack([shares[known].mean(), shares[~known].mean()])
    torch.testing.assert_close(unseen.step_purity[0], by_hand)
    name, last = list(unseen_digits.findings(unseen)["E5"].items())[-1]
    assert name == "0 to 3 seen, 4 to 9 unseen, in the geometry of Adam's last step"
    apart = unseen.step_purity[:, 0] - unseen.step_purity[:, 1]
    assert last["purity after training, seen minus unseen"].mean == pytest.approx(
        apart.mean().item(), abs=1e-6
    )


def test_ten_outputs_keep_the_digits_names():
    config = replace(FEW, splits=("79",), outputs=10, seeds=(0,))
    found = unseen_digits.run(config)
    *_, model = unseen_digits.train(config, "79", 0)
    rows = (found.y == 7) | (found.y == 9)
    right = (model(found.x[rows]).argmax(1) == found.y[rows]).float().mean()
    assert found.accuracy.item() == pytest.approx(right.item())


def test_an_interrupted_e5_ends_as_a_whole_one(unseen, tmp_path):
    unseen_digits.run(replace(FEW, splits=("0123",)), folder=tmp_path)
    assert same(unseen_digits.run(FEW, folder=tmp_path), unseen)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"splits": ("0",)}, "splits must hold 2 to 8 of the ten digits"),
        ({"splits": ("00",)}, "splits must hold 2 to 8 of the ten digits"),
        ({"splits": ()}, "splits must hold at least one"),
        ({"outputs": 5}, "outputs must be at least 10"),
        ({"neighbours": 8}, "neighbours must be at most 7, fewer than the 8 pictures"),
        ({"rate": -1}, "rate must be a positive number"),
        ({"seeds": ()}, "seeds must hold at least one"),
    ],
)
def test_settings_of_e5_that_cannot_be_met_are_refused(change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        replace(FEW, **change)


def test_the_map_keeps_two_far_groups_apart():
    """Twenty inputs alike and twenty others alike; the map parts them, the same way each time."""
    kernel = torch.block_diag(*[torch.full((20, 20), 0.9)] * 2)
    noise = torch.rand(40, 40, generator=torch.Generator().manual_seed(0)) * 0.02
    kernel = (kernel + noise + noise.T).fill_diagonal_(1.0)
    places = unseen_digits.flat_map(kernel)
    gap = (places[:20].mean(0) - places[20:].mean(0)).norm()
    size = max((part - part.mean(0)).norm(dim=1).mean() for part in places.split(20))
    assert gap > 2 * size
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert torch.equal(places, unseen_digits.flat_map(kernel))
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(threads)
    with pytest.raises(ValueError, match="at most 400 points, came 401"):
        unseen_digits.flat_map(torch.eye(401))


# ---- pictures that moved --------------------------------------------------------------------


@pytest.mark.parametrize("degrees", [0.0, 90.0, 180.0, -90.0])
def test_right_angles_are_those_of_rot90(degrees):
    x = pk.data.mnist("test", per_class=1, dtype=torch.float64).x
    wanted = torch.rot90(x, round(degrees / 90), dims=(2, 3))
    assert torch.allclose(turned(x, degrees), wanted, atol=1e-12)


def test_turning_agrees_with_scipy():
    x = pk.data.mnist("test", per_class=1, dtype=torch.float64).x
    theirs = ndimage.rotate(x.numpy(), 30.0, axes=(3, 2), reshape=False, order=1)
    assert turned(x, 30.0).numpy() == pytest.approx(theirs, abs=1e-6)


def test_half_size_is_the_mean_of_four_pixels():
    x = pk.data.mnist("test", per_class=1, dtype=torch.float64).x
    small = turned(x, scale=0.5)
    assert torch.allclose(small[:, :, 7:21, 7:21], torch.nn.functional.avg_pool2d(x, 2))
    assert small[:, :, :6].abs().max() == 0


def test_noise_has_the_size_asked_for():
    x = torch.full((1, 1, 200, 200), 0.5)
    found = noisy(x, 0.1, torch.Generator().manual_seed(0))
    assert found.std().item() == pytest.approx(0.1, rel=0.03)  # 5 standard errors are 1.8 percent
    assert ((found >= 0) & (found <= 1)).all()


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: turned(torch.ones(28, 28)), ValueError),
        (lambda: turned(torch.ones(1, 1, 28, 28), scale=0), ValueError),
        (lambda: turned(torch.ones(1, 1, 28, 28), float("nan")), TypeError),
        (lambda: turned("x"), TypeError),
        (lambda: noisy(torch.ones(1, 1, 2, 2), -1.0, torch.Generator()), ValueError),
    ],
)
def test_pictures_that_cannot_be_moved_are_refused(call, error):
    with pytest.raises(error):
        call()


# ---- scores ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def risks(trained):
    training = printed_digits.digits(TINY, 0)
    shown = printed_digits.shown(TINY, training)
    asked = printed_digits.letters(TINY).x
    found = failure_scores.risks(trained.network(), shown.x, training, asked)
    return found, shown.x, training, asked


def test_nearest_and_span_are_those_of_the_features(trained, risks):
    found, shown, _, asked = risks
    cosines = naive_cosines(trained.network(), torch.cat([shown, asked]))[
        len(shown) :, : len(shown)
    ]
    nearest = -cosines.sort(1, descending=True).values[:, :5].mean(1)
    assert found["nearest, kernel"].double() == pytest.approx(nearest, abs=1e-4)
    model = trained.network().double()
    features = pk.tangent_features(model, torch.cat([shown, asked]).double()).detach().flatten(1)
    u, s, _ = torch.linalg.svd(features[: len(shown)].T, full_matrices=False)
    u = u[:, s > failure_scores.TOLERANCE * s[0]]
    rest = features[len(shown) :]
    share = 1 - (rest @ u).square().sum(1) / rest.square().sum(1)
    assert found["outside the span"] == pytest.approx(share, abs=1e-3)


def test_usual_scores_are_those_of_numpy(trained, risks):
    found, _, training, asked = risks
    model = trained.network()
    with torch.no_grad():
        logits, last = (m(asked).double().numpy() for m in (model, model[:-1]))
        features = model[:-1](training.x).double().numpy()
    odds = np.exp(logits - logits.max(1, keepdims=True))
    chance = odds.max(1) / odds.sum(1)
    assert found["max softmax"].double().numpy() == pytest.approx(-chance, rel=1e-5)
    energy = np.log(np.exp(logits).sum(1))
    assert found["energy"].double().numpy() == pytest.approx(-energy, rel=1e-5)
    y = training.y.numpy()
    means = np.stack([features[y == c].mean(0) for c in range(10)])
    rest = features - means[y]
    n, d = rest.shape
    cov = rest.T @ rest / n  # Ledoit and Wolf, Section 3, written out
    mu = np.trace(cov) / d
    far = ((cov - mu * np.eye(d)) ** 2).sum() / d
    noise = sum(((np.outer(r, r) - cov) ** 2).sum() for r in rest) / n**2 / d
    shrink = min(noise, far) / far
    inverse = np.linalg.inv((1 - shrink) * cov + shrink * mu * np.eye(d))
    apart = last[:, None] - means
    wanted = np.einsum("mcd,de,mce->mc", apart, inverse, apart).min(1)
    assert found["Mahalanobis"].numpy() == pytest.approx(wanted, rel=1e-3)


def test_area_is_the_share_of_pairs_in_order():
    generator = torch.Generator().manual_seed(1)
    risk = torch.randn(30, generator=generator)
    bad = torch.rand(30, generator=generator) < 0.4
    u = mannwhitneyu(risk[bad].numpy(), risk[~bad].numpy()).statistic
    wanted = u / (bad.sum().item() * (~bad).sum().item())
    assert failure_scores.area(risk, bad, ~bad) == pytest.approx(wanted)
    assert np.isnan(failure_scores.area(risk, bad & ~bad, ~bad))


def test_queries_are_what_their_names_say():
    sets = failure_scores.queries(3, faces=2, letters="BI")
    assert set(sets) == {"held-out digits", *failure_scores.SHIFTED}
    held, round_ = sets["held-out digits"], sets["turned digits"]
    assert torch.equal(round_.x[0], turned(held.x[:1], 45.0)[0])
    assert torch.equal(round_.x[1], turned(held.x[1:2], -45.0)[0])
    assert torch.equal(held.y, round_.y)
    assert (sets["letters"].y == -1).all()


def test_scores_have_one_area_for_each_set(trained, scores):
    assert scores.unlike.shape == scores.failure.shape == (2, len(failure_scores.SCORES), 4)
    assert scores.step_unlike.shape == scores.step_failure.shape == (2, 2, 4)
    sets = failure_scores.queries(5, 2, "BI")
    blocks = failure_scores.step_blocks(trained, 1, sets)
    model, weight = trained.network(1), trained.weights[1]
    shown = printed_digits.shown(TINY, printed_digits.digits(TINY, 5)).x
    x = torch.cat([some.x for some in sets.values()])
    for got, expected in zip(
        blocks,
        (
            pk.weighted_kernel(model, shown, weight=weight),
            pk.weighted_kernel(model, x, shown, weight=weight),
            pk.feature_norms(model, x, weight=weight),
        ),
        strict=True,
    ):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)
    wrong = [
        (trained.network(1)(sets[name].x).argmax(1) != sets[name].y).double().mean().item()
        for name in failure_scores.FAILING[:3]
    ]
    assert scores.wrong[1, :3].tolist() == pytest.approx(wrong)
    pixels = scores.unlike[:, failure_scores.SCORES.index("nearest, pixels")]
    assert (pixels[:, failure_scores.SHIFTED.index("noisy digits")] > 0.5).all()


# ---- pictures -------------------------------------------------------------------------------


def test_figures_are_drawn(trained, unseen, scores):
    assert all(isinstance(f, Figure) for f in figures.figures(trained).values())
    for number in ("unlike", "failure"):
        axes = failure_scores.draw(scores, number).axes
        assert [t.get_text() for t in axes[0].get_yticklabels()] == list(failure_scores.SCORES)
    assert len(unseen_digits.draw_purity(unseen).axes) == 2
    assert len(unseen_digits.draw_near(unseen, 2).axes) == 6 * 3


def test_matrices_show_the_blocks_named(trained):
    left, right = figures.matrices(trained, "letters").axes[:2]
    n = 10 * TINY.shown
    for ax, kernel in ((left, trained.kernels[0]), (right, trained.kernels[-1])):
        shown = np.asarray(ax.images[0].get_array())
        assert shown == pytest.approx(kernel[:n, trained.y >= 20].numpy())
    assert [t.get_text() for t in right.get_xticklabels()] == ["B", "I"]


def test_frames_of_the_nearest_mark_the_right_digit(trained):
    fig = figures.nearest_training(trained, "1I", count=3)
    n = 10 * TINY.shown
    asked = int((trained.y == 11).nonzero()[0])
    found = trained.kernels[-1][asked, :n].topk(3).indices
    frames = [ax.spines["left"].get_edgecolor() for ax in fig.axes[1:4]]
    orange = [np.allclose(f[:3], (0xD5 / 255, 0x5E / 255, 0)) for f in frames]
    assert orange == (trained.y[found] == 1).tolist()


def test_the_explorer_shows_what_the_network_says(trained):
    found = explorer.study(trained)
    picture = turned(explorer.picture("printed 6")[None], 90)
    with torch.no_grad():
        chance = trained.network()(picture).softmax(1)[0]
    at = explorer.PICTURES.index("printed 6"), explorer.ANGLES.index(90)
    assert torch.allclose(found.chance[at], chance, atol=1e-5)
    text = explorer.words(found, "printed 6", 90)
    assert text.startswith("The printed 6 turned by 90 degrees. ")
    assert f"reads {int(chance.argmax())}, with {chance.max():.0%}" in text
    bars = [p.get_height() for p in explorer.draw(found, "printed 6", 90).axes[2].patches]
    assert bars == pytest.approx(chance.tolist(), abs=1e-5)
    made = explorer.turned_pictures(trained)
    assert len(made.frame(name="letter B", angle=0).alt) > 40
