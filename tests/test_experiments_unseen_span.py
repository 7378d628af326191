"""Unseen digits outside the span: recounted with features by autograd; settings refused."""

from dataclasses import replace

import pytest
import torch
from matplotlib.figure import Figure
from torch.nn import functional

import pkbook as pk
from pkbook.lab.experiments import unseen_span

TINY = unseen_span.Config(
    seen=(7, 1, 0, 3, 2), per_class=2, held_out=1, epochs=2, batch=5, seeds=(4,),
    tolerances=(1e-6, 0.2),
)  # fmt: skip


@pytest.fixture(scope="module")
def tiny():
    return unseen_span.run(TINY)


def features(net, x):
    """By one backward pass for each output of each image, ``[n, C, P]``."""
    rows = []
    for image in x:
        outputs = net(image[None])[0]
        each = [torch.autograd.grad(f, list(net.parameters()), retain_graph=True) for f in outputs]
        rows.append(torch.stack([torch.cat([g.flatten() for g in grads]) for grads in each]))
    return torch.stack(rows)


def left_out(train, asked):
    """Share of features ``[m, C, P]`` outside the rows of ``train``, by least squares."""
    shares = []
    for phi in asked:
        best = torch.linalg.lstsq(train.T, phi.T, driver="gelsd").solution
        shares.append(((phi.T - train.T @ best).square().sum() / phi.square().sum()).item())
    return shares


def test_images_are_of_the_digits_asked_for_and_follow_from_the_seed():
    x, y, held = unseen_span.images(TINY, 4)
    assert x.shape == (20, 1, 28, 28)
    assert y.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert held.tolist() == [0, 1, 2, 3, 4]
    assert TINY.unseen == (4, 5, 6, 8, 9)
    generator = torch.Generator().manual_seed(4)
    first = pk.data.mnist("train", per_class=2, classes=TINY.seen, generator=generator).x
    assert torch.equal(x[:10], first)
    assert not torch.equal(unseen_span.images(TINY, 5)[0], x)


def test_before_training_every_number_recounted(tiny):
    x, *_ = unseen_span.images(TINY, 4)
    net = pk.models.mnist_cnn(classes=5, seed=4).double().eval()
    phi = features(net, x.double())
    train = phi[:10].flatten(0, 1)
    shares = left_out(train, phi[10:])
    assert tiny.share[0, 0, 0].flatten().tolist() == pytest.approx(shares, rel=1e-6)
    values = torch.linalg.svdvals(train)
    torch.testing.assert_close(tiny.training[0, 0], values, rtol=1e-6, atol=1e-9)
    for g, rows in enumerate((slice(10, 15), slice(15, 20))):
        mixed = torch.linalg.svdvals(torch.cat([train, phi[rows].flatten(0, 1)]))
        torch.testing.assert_close(tiny.mixture[0, 0, g], mixed, rtol=1e-6, atol=1e-9)
    sure = net(x[10:].double()).softmax(1).max(1).values.detach()
    torch.testing.assert_close(tiny.doubt[0, 0].flatten(), 1 - sure)
    flat = x.double().flatten(1)
    pixels = left_out(flat[:10], flat[10:, None])
    assert tiny.pixels.flatten().tolist() == pytest.approx(pixels, rel=1e-6)


def test_training_is_that_of_the_paper_and_accuracy_is_on_held_out_seen_digits(tiny):
    """Two epochs written out, with the batches and the dropout that follow from the seed."""
    x, y, held = unseen_span.images(TINY, 4)
    net = pk.models.mnist_cnn(classes=5, seed=4)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    draws = pk.batches(10, size=5, steps=4, seed=4)
    for epoch in range(2):
        with torch.random.fork_rng():
            torch.manual_seed(4 * 1_000_003 + epoch)
            for _ in range(2):
                batch = next(draws)
                optimizer.zero_grad()
                functional.cross_entropy(net(x[batch]), y[batch]).backward()
                optimizer.step()
    net.eval()
    right = (net(x[10:15]).argmax(1) == held).double().mean()
    assert tiny.accuracy.tolist() == [right.item()]
    sure = net.double()(x[10:].double()).softmax(1).max(1).values.detach()
    torch.testing.assert_close(tiny.doubt[0, 1].flatten(), 1 - sure, rtol=1e-4, atol=1e-7)
    phi = features(net, x.double())
    shares = left_out(phi[:10].flatten(0, 1), phi[10:])
    assert tiny.share[0, 1, 0].flatten().tolist() == pytest.approx(shares, rel=1e-3)
    # The last step's own geometry, from Adam's memory; singular values below 1e-2 left out.
    square = torch.cat([optimizer.state[p]["exp_avg_sq"].flatten() for p in net.parameters()])
    weighted = phi.double() / ((square.double() / (1 - 0.999**4)).sqrt() + 1e-8).sqrt()
    u, s, _ = torch.linalg.svd(weighted[:10].flatten(0, 1).T, full_matrices=False)
    u = u[:, s > 1e-2 * s[0]]
    rest = weighted[10:]
    inside = (rest @ u).square().sum((1, 2)) / rest.square().sum((1, 2))
    assert tiny.step_share.flatten().tolist() == pytest.approx((1 - inside).tolist(), abs=2e-3)


def test_ranks_count_singular_values_above_one_bound(tiny):
    for tolerance in (1e-6, 0.05):
        training, mixture = tiny.ranks(tolerance)
        for e in range(2):
            bound = tolerance * tiny.mixture[0, e, :, 0].max()
            assert training[0, e] == (tiny.training[0, e] > bound).sum()
            assert mixture[0, e].tolist() == (tiny.mixture[0, e] > bound).sum(-1).tolist()
        assert torch.equal(tiny.gap(tolerance), mixture - training[..., None])
    assert tiny.ranks(1e-6)[0].tolist() == [[50, 50]]  # ten images of five outputs: all there is
    assert tiny.gap(1e-6).flatten().tolist() == [25] * 4


def test_a_coarser_tolerance_leaves_more_outside(tiny):
    assert (tiny.share[:, :, 1] >= tiny.share[:, :, 0] - 1e-9).all()
    assert (tiny.share[:, :, 1] > tiny.share[:, :, 0] + 1e-4).any()


def test_auroc_is_the_share_of_pairs_in_order():
    values = torch.tensor([[[1.0, 2.0, 3.0], [2.0, 4.0, 0.0]], [[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]])
    seen, unseen = values[0]
    pairs = [1.0 if b > a else 0.5 if b == a else 0.0 for a in seen for b in unseen]
    assert unseen_span.auroc(values).tolist() == pytest.approx([sum(pairs) / 9, 1.0])
    assert unseen_span.auroc(values[0]).shape == ()


def test_rates_are_of_the_moment_and_the_tolerance_they_name(tiny):
    found = unseen_span.rates(tiny)
    assert torch.equal(found["share, after training"], unseen_span.auroc(tiny.share[:, 1, 0]))
    assert torch.equal(found["share, before"], unseen_span.auroc(tiny.share[:, 0, 0]))
    assert torch.equal(found["doubt of the softmax"], unseen_span.auroc(tiny.doubt[:, 1]))


def test_same_seed_same_numbers_and_a_kept_study_is_read_again(tiny, tmp_path, monkeypatch):
    before = torch.get_rng_state()
    first = unseen_span.run(TINY, folder=tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    monkeypatch.setattr(unseen_span, "_study", None)
    again = unseen_span.run(TINY, folder=tmp_path)
    for name in ("share", "pixels", "doubt", "training", "mixture", "accuracy"):
        assert torch.equal(getattr(first, name), getattr(tiny, name))
        assert torch.equal(getattr(again, name), getattr(tiny, name))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seen": (0, 1, 2)}, "seen must hold five different digits"),
        ({"seen": (0, 1, 2, 3, 3)}, "seen must hold five different digits"),
        ({"seen": (0, 1, 2, 3, 10)}, "seen must hold five different digits"),
        ({"per_class": 0}, "per_class must be at least 1"),
        ({"held_out": 0}, "held_out must be at least 1"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"seeds": ()}, "must hold at least one"),
        ({"tolerances": ()}, "must hold at least one"),
    ],
)
def test_refuses_settings_that_make_no_sense(change, message):
    with pytest.raises(ValueError, match=message):
        unseen_span.Config(**change)


def test_full_is_larger_than_quick():
    quick, full = unseen_span.Config.quick(), unseen_span.Config.full(seeds=(3,))
    assert full.per_class > quick.per_class
    assert full.seeds == (3,)


def test_draws_its_figures(tiny):
    two = replace(tiny, **{
        name: torch.cat([getattr(tiny, name)] * 2)
        for name in ("share", "pixels", "doubt", "accuracy", "training", "mixture")
    })  # fmt: skip
    for draw in (unseen_span.draw, unseen_span.draw_gap, unseen_span.draw_auroc):
        for result in (tiny, two):
            figure = draw(result)
            assert isinstance(figure, Figure)
            assert "<svg" in pk.plots.svg(figure, "A drawing of a tiny run, for the test only.")
