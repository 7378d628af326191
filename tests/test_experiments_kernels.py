"""E1 and E2: numbers recounted by hand, faults planted on purpose, claims on fresh seeds."""

import math
from dataclasses import replace

import pytest
import torch
from matplotlib.figure import Figure

import pkbook as pk
from pkbook.lab.experiments import neighbours, one_dimensional

TINY = neighbours.Config(
    widths=(8,), samples=40, neighbours=7, batch=10, epochs=(0, 1, 3), seeds=(0, 5)
)
TINY_LINE = one_dimensional.Config(width=6, samples=16, steps=5, seeds=(0, 5), more_jumps=0)


def equal(a, b):
    pairs = ((getattr(a, name), getattr(b, name)) for name in a.__dataclass_fields__)
    return all(torch.equal(v, w) if isinstance(v, torch.Tensor) else v == w for v, w in pairs)


@pytest.fixture(scope="module")
def ring():
    return neighbours.run(TINY)


@pytest.fixture(scope="module")
def line():
    return one_dimensional.run(TINY_LINE)


# ---- E1 -------------------------------------------------------------------------------------


def share_by_hand(similarity, y, count):
    """Plain lists and sorting; ties do not occur among real numbers."""
    rows, labels, shares = similarity.tolist(), y.flatten().tolist(), []
    for i, row in enumerate(rows):
        others = sorted((j for j in range(len(row)) if j != i), key=lambda j: -row[j])
        shares.append(sum(labels[j] == labels[i] for j in others[:count]) / count)
    return shares


def test_the_share_is_what_counting_by_hand_gives(ring):
    assert ring.share.shape == ring.accuracy.shape == ring.push.shape == (2, 3)
    for epoch in range(3):
        by_hand = share_by_hand(ring.kernels[epoch], ring.y, 7)
        assert ring.share[0, epoch].item() == pytest.approx(sum(by_hand) / 40, abs=1e-6)
    by_hand = share_by_hand(-torch.cdist(ring.x, ring.x), ring.y, 7)
    assert ring.euclidean[0].item() == pytest.approx(sum(by_hand) / 40, abs=1e-6)


def test_the_kernels_are_those_of_a_plain_loop(ring):
    """The first seed trained again without the package's loop, kernels by naive autograd."""
    x, y = pk.data.ring_and_disk(40, generator=torch.Generator().manual_seed(0))
    model = pk.models.mlp(2, 8, 1, seed=0)
    for batch in pk.batches(40, size=10, steps=12, seed=0):
        loss = 0.5 * (model(x[batch]) - y[batch]).square().mean()
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter -= 0.4 * gradient
    arrows = []
    for point in x:
        gradients = torch.autograd.grad(model(point).sum(), list(model.parameters()))
        arrows.append(torch.cat([gradient.flatten() for gradient in gradients]))
    unit = torch.stack(arrows) / torch.stack(arrows).norm(dim=1, keepdim=True)
    expected = unit @ unit.T
    torch.testing.assert_close(ring.kernels[-1], expected, rtol=1e-3, atol=1e-4)
    f = model(x).detach()
    assert ring.push[0, -1].item() == pytest.approx((f - y).abs().mean().item(), rel=1e-3)
    assert ring.accuracy[0, -1].item() == ((f > 0) == (y > 0)).float().mean().item()


def test_shuffled_labels_leave_half_of_the_neighbours_alike():
    """A planted fault: labels that have nothing to do with the points.

    600 anchors with 100 neighbours each; from one shuffle to the next the mean share varies by
    about 0.01, so 0.04 is four standard deviations, and 0.75 (the right labels) far outside.
    """
    x, y = pk.data.ring_and_disk(600)
    similarity = -torch.cdist(x, x)
    shuffled = y[torch.randperm(600, generator=torch.Generator().manual_seed(0))]
    right = neighbours.homogeneity(similarity, y, 100).mean().item()
    wrong = neighbours.homogeneity(similarity, shuffled, 100).mean().item()
    assert abs(wrong - 0.5) < 0.04 < 0.2 < right - 0.5


def test_a_run_repeats_itself_and_leaves_the_global_state_alone(ring):
    before = torch.get_rng_state()
    assert equal(neighbours.run(TINY), ring)
    assert torch.equal(torch.get_rng_state(), before)
    other = neighbours.run(replace(TINY, rate=0.1))
    assert not torch.equal(other.share, ring.share)


def test_settings_side_by_side_end_where_each_ends_alone(tmp_path):
    """Alone with a folder, which trains one network after another by another loop."""
    settings = [TINY, replace(TINY, loss="logistic"), replace(TINY, points="circle")]
    for setting, found in zip(settings, neighbours.together(settings), strict=True):
        alone = neighbours.run(setting, folder=tmp_path / f"{setting.loss}-{setting.points}")
        assert found.config == setting
        for name in ("euclidean", "x", "y"):
            assert torch.equal(getattr(found, name), getattr(alone, name))
        for name in ("share", "push", "kernels", "outputs"):
            told = getattr(found, name), getattr(alone, name)
            torch.testing.assert_close(*told, rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match="differ in loss and points only"):
        neighbours.together([TINY, replace(TINY, rate=0.1)])


@pytest.mark.parametrize("y", [-1.0, 1.0])
@pytest.mark.parametrize("f", [-2.0, 0.3, 1.7])
def test_the_two_twin_losses_are_their_formulas(f, y):
    output, target = torch.tensor([[f]], dtype=torch.float64), torch.tensor([[y]]).double()
    hinge = 0.5 * max(0.0, 1 - y * f) ** 2
    soft = 0.9 * math.log1p(math.exp(-y * f)) + 0.1 * math.log1p(math.exp(y * f))
    assert neighbours.squared_hinge(output, target).tolist() == pytest.approx([hinge])
    assert neighbours.soft_logistic(output, target).tolist() == pytest.approx([soft])


def test_two_sided_losses_pull_back_and_one_sided_ones_do_not():
    far, target = torch.full((1, 1), 8.0, requires_grad=True), torch.ones(1, 1)
    for name, loss in neighbours.LOSSES.items():
        (slope,) = torch.autograd.grad(loss(far, target).sum(), far)
        assert (slope.item() > 0.05) == (name in neighbours.TWO_SIDED)


def test_e1_on_a_seed_that_the_chapter_does_not_use():
    shares = {}
    for loss in ("squared", "logistic"):
        config = neighbours.Config.quick(loss=loss, seeds=(7,))
        result = neighbours.run(config)
        assert result.accuracy[0, -1] == 1
        shares[loss] = result.share[0].tolist()
    assert shares["squared"][0] == pytest.approx(0.75, abs=0.05)
    assert shares["squared"][-1] >= 0.93
    assert shares["logistic"][-1] < 0.93


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": "cubic"}, "loss must be one of 'squared'"),
        ({"points": "square"}, "points must be one of 'ring', 'circle'"),
        ({"epochs": ()}, "epochs must be increasing numbers"),
        ({"epochs": (5, 0)}, "epochs must be increasing numbers"),
        ({"neighbours": 600}, "neighbours must be at most 599"),
        ({"batch": 0}, "batch must be at least 1"),
        ({"batch": 601}, "batch must be at most 600"),
        ({"seeds": ()}, "seeds must hold at least one"),
    ],
)
def test_e1_refuses_settings_that_make_no_sense(change, message):
    with pytest.raises(ValueError, match=message):
        neighbours.Config(**change)


def test_e1_draws_its_three_figures(ring):
    other = neighbours.run(replace(TINY, loss="logistic"))
    for figure in (
        neighbours.draw(ring),
        neighbours.draw_regions([ring, other]),
        neighbours.draw_losses([ring, other]),
    ):
        assert isinstance(figure, Figure)
        assert "<svg" in pk.plots.svg(figure, "A drawing of a tiny run, for the test only.")


def test_the_circle_is_a_circle_around_the_same_disk(ring):
    found = neighbours.run(replace(TINY, points="circle", epochs=(0,), seeds=(0,)))
    outer, inner = found.x[found.y[:, 0] > 0], found.x[found.y[:, 0] < 0]
    torch.testing.assert_close(outer.norm(dim=1), torch.full((20,), 0.9))
    assert (inner.norm(dim=1) <= 0.6).all()
    names = [next(iter(neighbours.findings(one)["E1"])) for one in (found, ring)]
    assert names == ["circle, squared loss, relu", "ring, squared loss, relu"]


def test_the_anchors_carry_the_label_of_their_name(ring):
    for name, place in neighbours.anchors(ring.x, ring.y).items():
        assert ring.y[place].item() == (1 if name.startswith("ring") else -1)


# ---- E2 -------------------------------------------------------------------------------------


def profile_by_hand(kernel, h):
    n, across, inside = len(kernel), [], []
    for i in range(n - h):
        (across if i < n / 2 <= i + h else inside).append(kernel[i, i + h].item())
    return sum(across) / len(across), sum(inside) / len(inside)


def test_the_profile_is_what_averaging_by_hand_gives(line):
    for f in range(2):
        for h in range(1, 5):
            across, inside = profile_by_hand(line.kernels[f], h)
            assert line.across[f, 0, h - 1].item() == pytest.approx(across, abs=1e-6)
            assert line.inside[f, 0, h - 1].item() == pytest.approx(inside, abs=1e-6)
            step = (line.x[h] - line.x[0]).item()
            assert line.distance[h - 1].item() == pytest.approx(step, rel=1e-5)


def test_a_kernel_of_the_distance_alone_has_no_gap():
    """What the measure must not see: a smooth kernel that does not know where the jump is."""
    x, _ = pk.data.sine(100)
    across, inside = one_dimensional.profile(torch.exp(-((x - x.T) ** 2)))
    torch.testing.assert_close(across, inside)
    jump = torch.sign(x) * torch.sign(x.T)
    across, inside = one_dimensional.profile(jump)
    assert (inside == 1).all()
    assert (across == -1).all()


def test_the_profile_with_several_jumps_compares_pairs_on_one_plateau():
    """By hand, and planted: a kernel of plateaus has a full gap, one of sides has part of it."""
    kernel = torch.rand(24, 24, generator=torch.Generator().manual_seed(0))
    found = one_dimensional.profile(kernel, 4)
    assert found.shape == (2, 3)
    for h in (1, 2, 3):
        pairs = [(i, i + h) for i in range(24 - h)]
        for row, crosses in zip(found, (True, False), strict=True):
            own = [kernel[i, j].item() for i, j in pairs if (i // 6 != j // 6) is crosses]
            assert row[h - 1].item() == pytest.approx(sum(own) / len(own), abs=1e-6)
    side = torch.arange(24) // 12
    plateau = torch.arange(24) // 6
    for label, gap in ((plateau, 1.0), (side, 1 / 3)):  # one of three jumps is between the sides
        across, inside = one_dimensional.profile((label[:, None] == label).float(), 4)
        torch.testing.assert_close(inside - across, torch.full((3,), gap))


def test_more_jumps_are_a_run_of_their_own():
    config = replace(TINY_LINE, more_jumps=3, samples=32)
    told = one_dimensional.run(config)
    own = one_dimensional.run(replace(config, jumps=3, more_jumps=0))
    assert equal(told.more, own)
    jumps = (told.more.y[1].diff(dim=0) != 0).sum()
    assert int(jumps) == 3
    found = one_dimensional.findings(told)["E2"]
    assert list(found) == ["tanh, Adam, 1 jump", "tanh, Adam, 3 jumps"]
    h = own.at(0.6)
    square = found["tanh, Adam, 3 jumps"]["square wave: on one plateau minus across the jump"]
    assert square.mean == pytest.approx((own.inside - own.across)[1, :, h].mean().item())


def test_e2_repeats_itself_and_leaves_the_global_state_alone(line):
    before = torch.get_rng_state()
    assert equal(one_dimensional.run(TINY_LINE), line)
    assert torch.equal(torch.get_rng_state(), before)


def test_e2_results_belong_to_the_network_they_name(line):
    model = pk.models.mlp(1, 6, 1, activation="tanh", seed=0)
    start = profile_by_hand(pk.normalised_kernel(model, line.x), 2)
    measured = (line.across_start[0, 1].item(), line.inside_start[0, 1].item())
    assert measured == pytest.approx(start, abs=1e-6)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(5):
        optimizer.zero_grad()
        (0.5 * (model(line.x) - line.y[1]).square().mean()).backward()
        optimizer.step()
    torch.testing.assert_close(line.fits[1], model(line.x).detach(), rtol=1e-3, atol=1e-4)
    loss = 0.5 * (model(line.x) - line.y[1]).square().mean().item()
    assert line.loss[1, 0].item() == pytest.approx(loss, rel=1e-3)


def test_e2_on_a_seed_that_the_chapter_does_not_use():
    result = one_dimensional.run(one_dimensional.Config.quick(seeds=(7,)))
    sine, square = (result.inside - result.across)[:, 0, result.at(0.6)].tolist()
    assert square > 0.3
    assert sine < 0.1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": ("cosine",)}, "targets must be one of 'sine', 'square wave'"),
        ({"samples": 15}, "samples must be a multiple of 2"),
        ({"jumps": 2}, "jumps must be odd, so that a jump lies at 0, got 2"),
        ({"more_jumps": 2}, "more_jumps must be odd"),
        ({"samples": 12}, "samples must be a multiple of the 4 plateaus, at least 4 on each"),
        ({"seeds": ()}, "must hold at least one"),
    ],
)
def test_e2_refuses_settings_that_make_no_sense(change, message):
    with pytest.raises(ValueError, match=message):
        one_dimensional.Config(**change)


def test_e2_draws_its_two_figures(line):
    for figure in (one_dimensional.draw(line), one_dimensional.draw_profile(line)):
        assert isinstance(figure, Figure)
        assert "<svg" in pk.plots.svg(figure, "A drawing of a tiny run, for the test only.")


@pytest.mark.parametrize("experiment", [neighbours, one_dimensional])
def test_full_is_larger_than_quick_and_both_take_changes(experiment):
    quick, full = experiment.Config.quick(), experiment.Config.full()
    assert len(full.seeds) > len(quick.seeds)
    assert experiment.Config.full(seeds=(3,)).seeds == experiment.Config.quick(seeds=(3,)).seeds


def test_the_line_is_trained_as_a_plain_loop_trains_it():
    """To the last bit, and with the global random state left alone."""
    x, y = pk.data.sine(16)
    net, other = (pk.models.mlp(1, 6, 1, activation="tanh", seed=3) for _ in range(2))
    optimizer = torch.optim.Adam(other.parameters(), lr=TINY_LINE.rate)
    for _ in range(TINY_LINE.steps):
        optimizer.zero_grad()
        (0.5 * (other(x) - y).square()).sum(1).mean().backward()
        optimizer.step()
    before = torch.get_rng_state()
    one_dimensional.train(TINY_LINE, net, x, y)
    assert torch.equal(torch.get_rng_state(), before)
    for p, q in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)
