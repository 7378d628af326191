"""The losses against closed forms written out by hand and against torch's own."""

import math

import pytest
import torch
from torch.nn import functional

from pkbook.problems.losses import cross_entropy, logistic, squared


def draws(n, c, seed=0):
    return torch.randn(n, c, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def signs(n, seed=1):
    return torch.where(draws(n, 1, seed) > 0, 1.0, -1.0).double()


def sensitivity(loss, outputs, targets):
    outputs = outputs.clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss(outputs, targets).sum(), outputs)
    return slope


def test_squared_agrees_with_plain_arithmetic():
    f, y = draws(7, 3), draws(7, 3, seed=1)
    by_hand = [
        sum((a - b) ** 2 for a, b in zip(*row, strict=True)) / 2
        for row in zip(f.tolist(), y.tolist(), strict=True)
    ]
    torch.testing.assert_close(squared(f, y), torch.tensor(by_hand, dtype=torch.float64))
    torch.testing.assert_close(squared(f, y).sum(), functional.mse_loss(f, y, reduction="sum") / 2)
    torch.testing.assert_close(sensitivity(squared, f, y), f - y)


def test_logistic_agrees_with_plain_arithmetic():
    f, y = 3 * draws(9, 1), signs(9)
    by_hand = [
        math.log1p(math.exp(-a * b))
        for a, b in zip(f[:, 0].tolist(), y[:, 0].tolist(), strict=True)
    ]
    torch.testing.assert_close(logistic(f, y), torch.tensor(by_hand, dtype=torch.float64))
    zero_one = (y + 1) / 2
    peer = functional.binary_cross_entropy_with_logits(f, zero_one, reduction="none")[:, 0]
    torch.testing.assert_close(logistic(f, y), peer)
    torch.testing.assert_close(sensitivity(logistic, f, y), -y / (1 + torch.exp(y * f)))


@pytest.mark.parametrize("margin", [-800.0, -21.0, 19.0, 21.0, 40.0])
def test_logistic_is_exact_far_from_zero(margin):
    """softplus is a straight line above 20; that would be a kink in the middle of training."""
    value = logistic(torch.tensor([[margin]]).double(), torch.ones(1, 1).double()).item()
    exact = math.log1p(math.exp(-margin)) if margin > -700 else -margin
    assert value == pytest.approx(exact, rel=1e-13)


def test_cross_entropy_agrees_with_plain_arithmetic():
    f, y = draws(8, 4), torch.arange(8) % 4
    by_hand = [
        math.log(sum(math.exp(a) for a in row)) - row[label]
        for row, label in zip(f.tolist(), y.tolist(), strict=True)
    ]
    torch.testing.assert_close(cross_entropy(f, y), torch.tensor(by_hand, dtype=torch.float64))
    torch.testing.assert_close(cross_entropy(f, y).mean(), functional.cross_entropy(f, y))
    unit = torch.eye(4, dtype=torch.float64)[y]
    torch.testing.assert_close(sensitivity(cross_entropy, f, y), f.softmax(1) - unit)


CASES = [
    (squared, draws(5, 2), draws(5, 2, seed=1)),
    (logistic, draws(5, 1), signs(5)),
    (cross_entropy, draws(5, 3), torch.tensor([0, 2, 1, 1, 0])),
]


@pytest.mark.parametrize(("loss", "outputs", "targets"), CASES)
def test_gradient_by_finite_differences(loss, outputs, targets):
    assert torch.autograd.gradcheck(
        lambda f: loss(f, targets), outputs.clone().requires_grad_(), atol=1e-8
    )


@pytest.mark.parametrize(("loss", "outputs", "targets"), CASES)
def test_one_number_a_sample_and_samples_do_not_mix(loss, outputs, targets):
    together = loss(outputs, targets)
    assert together.shape == (5,)
    alone = torch.cat([loss(outputs[i : i + 1], targets[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize(("loss", "outputs", "targets"), CASES)
def test_under_vmap(loss, outputs, targets):
    each = torch.func.vmap(lambda f, y: loss(f[None], y[None])[0])(outputs, targets)
    torch.testing.assert_close(each, loss(outputs, targets))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dtype_of_the_outputs_is_kept(dtype):
    for loss, outputs, targets in CASES:
        same = targets.to(dtype) if targets.is_floating_point() else targets
        assert loss(outputs.to(dtype), same).dtype == dtype


def column(*values):
    return torch.tensor(values)[:, None]


NAN = float("nan")
REFUSED = [
    (
        squared,
        torch.zeros(3, 1),
        torch.zeros(3, 1, dtype=torch.int64),
        TypeError,
        ["targets", "int64", "cross_entropy"],
    ),
    (
        squared,
        torch.zeros(3, 1),
        torch.zeros(3),
        ValueError,
        ["targets", "[3, 1]", "[3]", "targets[:, None]"],
    ),
    (squared, torch.zeros(3, 2), torch.zeros(3, 1), ValueError, ["targets", "[3, 2]", "[3, 1]"]),
    (squared, torch.zeros(3, 1), torch.zeros(4, 1), ValueError, ["targets", "[3, 1]", "[4, 1]"]),
    (
        squared,
        torch.zeros(3),
        torch.zeros(3),
        ValueError,
        ["outputs", "[n, C]", "[3]", "outputs[:, None]"],
    ),
    (
        squared,
        torch.zeros(0, 1),
        torch.zeros(0, 1),
        ValueError,
        ["outputs", "at least one sample", "[0, 1]"],
    ),
    (
        squared,
        torch.zeros(3, 1, dtype=torch.int64),
        torch.zeros(3, 1),
        TypeError,
        ["outputs", "int64", ".float()"],
    ),
    (squared, column(0.0, NAN), column(0.0, 0.0), ValueError, ["outputs", "NaN", "learning rate"]),
    (
        squared,
        column(0.0, 0.0),
        column(0.0, float("inf")),
        ValueError,
        ["targets", "infinity", "leave those samples out"],
    ),
    (squared, [[0.0]], column(0.0), TypeError, ["outputs", "list", "torch.as_tensor(outputs)"]),
    (squared, column(0.0), 1.0, TypeError, ["targets", "float", "torch.as_tensor(targets)"]),
    (
        squared,
        column(0.0),
        torch.zeros(1, 1, device="meta"),
        ValueError,
        ["targets", "cpu", "meta", "targets.to(outputs.device)"],
    ),
    (
        logistic,
        column(0.0, 0.0),
        column(0.0, 1.0),
        ValueError,
        ["targets", "+1 and -1", "2 * targets - 1"],
    ),
    (logistic, column(0.0, 0.0), column(NAN, 1.0), ValueError, ["targets", "+1 and -1"]),
    (logistic, column(0.0, 0.0), column(-1, 1), TypeError, ["targets", "int64", "targets.float()"]),
    (
        logistic,
        torch.zeros(2, 2),
        torch.ones(2, 2),
        ValueError,
        ["outputs", "[n, 1]", "[2, 2]", "cross_entropy"],
    ),
    (logistic, torch.zeros(2, 1), torch.ones(2), ValueError, ["targets", "[2]", "[:, None]"]),
    (
        cross_entropy,
        torch.zeros(2, 3),
        torch.zeros(2),
        TypeError,
        ["targets", "float32", "targets.long()"],
    ),
    (
        cross_entropy,
        torch.zeros(2, 3),
        torch.zeros(2, 3, dtype=torch.int64),
        ValueError,
        ["targets", "[2]", "[2, 3]"],
    ),
    (
        cross_entropy,
        torch.zeros(2, 3),
        torch.tensor([0, 3]),
        ValueError,
        ["targets", "0 to 2", "number the classes from 0"],
    ),
    (cross_entropy, torch.zeros(2, 3), torch.tensor([0, -100]), ValueError, ["targets", "0 to 2"]),
    (cross_entropy, torch.zeros(2, 3), torch.tensor([0, 1, 2]), ValueError, ["targets", "[3]"]),
    (
        cross_entropy,
        torch.zeros(2, 1),
        torch.tensor([0, 0]),
        ValueError,
        ["outputs", "at least 2", "logistic"],
    ),
]


@pytest.mark.parametrize(("loss", "outputs", "targets", "error", "words"), REFUSED)
def test_refused(loss, outputs, targets, error, words):
    with pytest.raises(error) as caught:
        loss(outputs, targets)
    for word in words:
        assert word in str(caught.value)
