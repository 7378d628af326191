"""The networks: counted by hand, reproducible, and leaving the global random state alone."""

import pytest
import torch
from oracles import kernel
from torch import nn

from pkbook import gradient_kernel
from pkbook.basics.parameters import trainable
from pkbook.kernels.plan import plan
from pkbook.problems.models import activations, cifar_cnn, gpt, mlp, mnist_cnn, ntk_mlp, vit

BUILDERS = {
    "mlp": lambda **options: mlp(3, 5, 2, **options),
    "ntk": lambda **options: ntk_mlp(3, 5, 2, **options),
    "mnist": lambda **options: mnist_cnn(**options),
    "cifar": lambda **options: cifar_cnn(**options),
    "vit": lambda **options: vit(**options),
    "gpt": lambda **options: gpt(11, 6, width=8, heads=2, **options),
}
builder = pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS.keys())


def count(model):
    return sum(p.numel() for p in model.parameters())


def same(first, second):
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    return all(torch.equal(p, q) for p, q in pairs)


@pytest.mark.parametrize("widths", [(2, 1), (1, 64, 1), (2, 64, 64, 64, 1)])
@pytest.mark.parametrize("bias", [True, False])
def test_mlp_parameters_by_hand(widths, bias):
    by_hand = sum(widths[i] * widths[i + 1] + bias * widths[i + 1] for i in range(len(widths) - 1))
    assert count(mlp(*widths, bias=bias, seed=0)) == by_hand


@pytest.mark.parametrize("classes", [10, 5])
def test_cnn_parameters_by_hand(classes):
    def stage(i, o):
        return 9 * i * o + o

    mnist = stage(1, 16) + stage(16, 32) + stage(32, 64)
    mnist += (64 * 3 * 3) * 128 + 128 + 128 * classes + classes
    cifar = stage(3, 32) + stage(32, 64) + stage(64, 128)
    cifar += (128 * 4 * 4) * 256 + 256 + 256 * 128 + 128 + 128 * classes + classes
    assert count(mnist_cnn(classes=classes, seed=0)) == mnist
    assert count(cifar_cnn(classes=classes, seed=0)) == cifar


@pytest.mark.parametrize(("channels", "blocks", "classes"), [(1, 2, 10), (3, 1, 4)])
def test_vit_parameters_by_hand(channels, blocks, classes):
    def linear(i, o):
        return i * o + o

    block = linear(32, 3 * 32) + linear(32, 32) + linear(32, 64) + linear(64, 32) + 2 * 64
    total = linear(49 * channels, 32) + 16 * 32 + blocks * block + 64 + linear(32, classes)
    assert count(vit(28, channels, blocks=blocks, classes=classes, seed=0)) == total


def test_counts_stated_in_the_docstrings():
    assert f"{count(vit()):,} parameters" in vit.__doc__
    assert f"{count(mnist_cnn()):,} parameters" in mnist_cnn.__doc__
    assert f"{count(cifar_cnn()):,} parameters" in cifar_cnn.__doc__


def test_mlp_is_its_formula():
    model = mlp(3, 4, 2, activation="tanh", seed=0).double()
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    hidden = torch.tanh(x @ model.fc1.weight.T + model.fc1.bias)
    torch.testing.assert_close(model(x), hidden @ model.fc2.weight.T + model.fc2.bias)


def attention(block, z, heads):
    """Attention of a block written out, [n, tokens, width] to the same."""
    own, (n, tokens, width) = block.self_attn, z.shape
    q, k, v = (
        (z @ w.T + b).reshape(n, tokens, heads, -1).transpose(1, 2)
        for w, b in zip(own.in_proj_weight.chunk(3), own.in_proj_bias.chunk(3), strict=True)
    )
    weights = (q @ k.transpose(2, 3) / (width // heads) ** 0.5).softmax(-1)
    mixed = (weights @ v).transpose(1, 2).reshape(n, tokens, width)
    return mixed @ own.out_proj.weight.T + own.out_proj.bias


def test_vit_is_its_formula():
    model = vit(6, 2, patch=3, width=4, heads=2, blocks=2, classes=3, seed=0).double()
    with torch.no_grad():  # torch starts norms and some biases at ones and zeros, which hide them
        for i, p in enumerate(model.parameters()):
            p += 0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(i))
    x = torch.randn(5, 2, 6, 6, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    cut = [x[:, :, i : i + 3, j : j + 3].flatten(1) for i in (0, 3) for j in (0, 3)]
    z = torch.stack(cut, 1) @ model.patches.weight.flatten(1).T + model.patches.bias
    z = z + model.places.place
    for block in (model.block1, model.block2):
        z = z + attention(block, block.norm1(z), heads=2)
        hidden = nn.functional.gelu(block.linear1(block.norm2(z)))
        z = z + block.linear2(hidden)
    expected = model.fc(model.norm(z).mean(1))
    torch.testing.assert_close(model(x), expected, rtol=1e-12, atol=1e-12)
    with torch.no_grad():  # torch takes another way through the block here
        torch.testing.assert_close(model.eval()(x), expected, rtol=1e-12, atol=1e-12)


def test_vit_would_not_know_where_a_patch_was_without_the_places():
    model = vit(seed=0).double()
    x = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    turned = x.roll(7, 3)  # the same patches elsewhere
    assert (model(x) - model(turned)).abs().max() > 1e-4
    with torch.no_grad():
        model.places.place.zero_()
    torch.testing.assert_close(model(x), model(turned))


@pytest.mark.parametrize("reduce", ["trace", "full"])
def test_kernel_of_vit_is_that_of_naive_autograd(reduce):
    model = vit(patch=14, width=8, heads=2, blocks=2, classes=3, seed=0).double()
    x = torch.rand(5, 1, 28, 28, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = kernel(model, x[:3], x[2:])
    if reduce == "trace":
        expected = expected.diagonal(dim1=2, dim2=3).sum(-1)
    found = gradient_kernel(model, x[:3], x[2:], reduce=reduce)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("bias", [True, False])
def test_ntk_mlp_is_its_formula(bias):
    """Neuron by neuron: alpha / sqrt(m) * sum_j a_j sigma(<w_j, x> / sqrt(d) + b_j)."""
    model = ntk_mlp(3, 5, 1, activation="softplus", scale=4.0, bias=bias, seed=0).double()
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    (w, a), b = (model.fc1.weight, model.fc2.weight[0]), model.fc1.bias if bias else [0.0] * 5
    for row, f in zip(x, model(x), strict=True):
        total = sum(a[j] * nn.functional.softplus(w[j] @ row / 3**0.5 + b[j]) for j in range(5))
        torch.testing.assert_close(f[0], 4 / 5**0.5 * total)
    assert model.fc2.bias is None


def test_ntk_mlp_of_two_hidden_layers_is_its_formula():
    model = ntk_mlp(2, 4, 3, 2, activation="silu", scale=0.5, seed=1).double()
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    first = nn.functional.silu(x @ model.fc1.weight.T / 2**0.5 + model.fc1.bias)
    second = nn.functional.silu(first @ model.fc2.weight.T / 4**0.5 + model.fc2.bias)
    torch.testing.assert_close(model(x), 0.5 * second @ model.fc3.weight.T / 3**0.5)


def test_ntk_mlp_parameters_are_standard_normal():
    """Mean and mean square of twice 90,000 numbers; each bound is five standard errors."""
    model = ntk_mlp(300, 300, 300, seed=0)
    for p in (model.fc1.weight, model.fc2.weight):
        assert p.mean().abs() < 5 / 300
        assert (p.square().mean() - 1).abs() < 5 * 2**0.5 / 300
    assert model.fc1.bias.std() > 0.8


def test_ntk_mlp_without_bias_is_odd():
    model = ntk_mlp(1, 7, 7, 1, bias=False, seed=0).double()
    x = torch.linspace(0.1, 3, 9, dtype=torch.float64)[:, None]
    torch.testing.assert_close(model(-x), -model(x), rtol=0, atol=1e-14)
    assert (model(x).abs() > 1e-3).any()


def test_the_kernel_of_an_ntk_mlp_keeps_its_size_as_the_width_grows():
    """Its mean over inputs is that of the limit, which a wide network must hit within noise."""
    x = torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None]
    narrow, wide = (
        torch.stack([
            gradient_kernel(ntk_mlp(1, m, 1, seed=s).double(), x) for s in range(20)
        ]).mean((1, 2))
        for m in (100, 1600)
    )  # fmt: skip
    error = (narrow.var() / 20 + wide.var() / 20).sqrt()
    assert (narrow.mean() - wide.mean()).abs() < 4 * error
    assert wide.std() < narrow.std() / 2  # a quarter, as 1 / sqrt(width)
    plain = [gradient_kernel(mlp(1, m, 1, activation="tanh", seed=0), x.float()).mean()
             for m in (100, 1600)]  # fmt: skip
    assert plain[1] > 4 * plain[0]  # torch's own scaling: the kernel grows like the width


@pytest.mark.parametrize("widths", [(1, 6, 1), (3, 4, 5, 2)])
def test_the_kernel_of_an_ntk_mlp_takes_the_fast_path_and_is_right(widths):
    model = ntk_mlp(*widths, scale=3.0, seed=0).double()
    x = torch.randn(4, widths[0], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert plan(model, x, trainable(model)).covered == set(trainable(model))
    rows = []
    for f in model(x).flatten():
        gradients = torch.autograd.grad(f, list(model.parameters()), retain_graph=True)
        rows.append(torch.cat([g.flatten() for g in gradients]))
    c = widths[-1]
    naive = (torch.stack(rows) @ torch.stack(rows).T).reshape(4, c, 4, c).transpose(1, 2)
    torch.testing.assert_close(gradient_kernel(model, x, reduce="full"), naive)


def test_layers_are_named_in_order():
    assert [name for name, _ in ntk_mlp(1, 2, 2, 1).named_children()] == [
        "scale1", "fc1", "act1", "scale2", "fc2", "act2", "scale3", "fc3",
    ]  # fmt: skip
    assert [name for name, _ in vit(seed=0).named_children()] == [
        "patches",
        "places",
        "block1",
        "block2",
        "norm",
        "mean",
        "fc",
    ]
    assert [name for name, _ in mlp(1, 2, 2, 1).named_children()] == [
        "fc1",
        "act1",
        "fc2",
        "act2",
        "fc3",
    ]
    assert [name for name, _ in mnist_cnn().named_children()] == [
        "conv1",
        "act1",
        "pool1",
        "conv2",
        "act2",
        "pool2",
        "conv3",
        "act3",
        "pool3",
        "flatten",
        "fc1",
        "act4",
        "dropout1",
        "fc2",
    ]
    assert [name for name, _ in cifar_cnn().named_children()][-8:] == [
        "flatten",
        "fc1",
        "act4",
        "dropout1",
        "fc2",
        "act5",
        "dropout2",
        "fc3",
    ]


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("relu", torch.relu),
        ("tanh", torch.tanh),
        ("gelu", nn.functional.gelu),
        ("softplus", nn.functional.softplus),
        ("silu", nn.functional.silu),
    ],
)
def test_activation_names(name, function):
    x = torch.linspace(-3, 3, 13)
    for model in (mlp(1, 2, 1, activation=name), mnist_cnn(name), cifar_cnn(name)):
        torch.testing.assert_close(model.act1(x), function(x))
    torch.testing.assert_close(vit(activation=name).block1.activation(x), function(x))


def test_every_activation_is_tested():
    assert set(activations) == {"relu", "tanh", "gelu", "softplus", "silu"}


def test_pool_names():
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    blocks = x.reshape(2, 2, 2, 2).transpose(1, 2).reshape(2, 2, 4)
    assert torch.equal(mnist_cnn(pool="max").pool2(x)[0, 0], blocks.amax(-1))
    assert torch.equal(cifar_cnn(pool="average").pool2(x)[0, 0], blocks.mean(-1))


def test_dropout_is_set_and_zero_leaves_it_out():
    layers = [m for m in cifar_cnn(dropout=0.4).modules() if isinstance(m, nn.Dropout)]
    assert [layer.p for layer in layers] == [0.4, 0.4]
    bare = mnist_cnn(dropout=0, seed=0)
    assert not any(isinstance(m, nn.Dropout) for m in bare.modules())
    x = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(bare(x), mnist_cnn(seed=0).eval()(x))


@builder
def test_seed_fixes_the_start_and_the_global_state_stays(build):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = build(seed=3)
    torch.rand(7)
    again, other = build(seed=3), build(seed=4)
    assert same(first, again)
    assert not same(first, other)
    torch.set_rng_state(before)
    build(seed=3)
    assert torch.equal(torch.get_rng_state(), before)


@builder
def test_without_a_seed_torch_decides(build):
    torch.manual_seed(3)
    first, second = build(), build()
    torch.manual_seed(3)
    assert same(first, build())
    assert not same(first, second)
    assert same(first, build(seed=3))


@builder
def test_a_default_device_does_not_change_the_start(build):
    expected = build(seed=3)
    with torch.device("meta"):
        assert same(build(seed=3), expected)


@builder
def test_refused_arguments_leave_the_global_state_alone(build):
    before = torch.get_rng_state()
    with pytest.raises(TypeError, match="seed"):
        build(seed=0.5)
    assert torch.equal(torch.get_rng_state(), before)


REFUSED = [
    (lambda: mlp(), ValueError, ["widths", "at least two", "mlp(2, 64, 1)"]),
    (lambda: mlp(3), ValueError, ["widths", "(3,)"]),
    (lambda: mlp(3, 0, 1), ValueError, ["widths", "at least 1", "came 0"]),
    (lambda: mlp([3, 4, 1], 1), TypeError, ["widths", "[3, 4, 1]", "mlp(2, 64, 1)"]),
    (lambda: mlp(2, 8.0, 1), TypeError, ["widths", "8.0"]),
    (lambda: mlp(2, True, 1), TypeError, ["widths", "True"]),
    (lambda: mlp(2, 1, bias=1), TypeError, ["bias", "True or False"]),
    (lambda: mlp(2, 1, activation="relu6"), ValueError, ["activation", "tanh", "'relu6'"]),
    (lambda: mlp(2, 1, activation=nn.ReLU), ValueError, ["activation", "nn.Module"]),
    (lambda: mlp(2, 1, seed=True), TypeError, ["seed", "True", "seed=0"]),
    (lambda: mlp(2, 1, seed=-1), ValueError, ["seed", "-1", "seed=0"]),
    (lambda: ntk_mlp(3), ValueError, ["widths", "at least two", "ntk_mlp(1, 256, 1)"]),
    (lambda: ntk_mlp(1, 0, 1), ValueError, ["widths", "at least 1", "came 0"]),
    (lambda: ntk_mlp(1, 8, 1, bias="no"), TypeError, ["bias", "'no'"]),
    (lambda: ntk_mlp(1, 8, 1, activation="erf"), ValueError, ["activation", "'erf'"]),
    (lambda: ntk_mlp(1, 8, 1, scale=0), ValueError, ["scale", "positive", "scale=1.0"]),
    (lambda: ntk_mlp(1, 8, 1, scale=float("inf")), TypeError, ["scale", "finite", "inf"]),
    (lambda: ntk_mlp(1, 8, 1, scale=True), TypeError, ["scale", "True"]),
    (lambda: ntk_mlp(1, 8, 1, seed=0.5), TypeError, ["seed", "0.5"]),
    (lambda: mnist_cnn(pool="mean"), ValueError, ["pool", "max, average", "'mean'"]),
    (lambda: mnist_cnn(dropout=1.0), ValueError, ["dropout", "1.0", "dropout=0.3"]),
    (lambda: mnist_cnn(dropout=float("nan")), ValueError, ["dropout", "nan"]),
    (lambda: cifar_cnn(dropout=None), TypeError, ["dropout", "None"]),
    (lambda: cifar_cnn(classes=0), ValueError, ["classes", "at least 1", "classes=10"]),
    (lambda: cifar_cnn(classes=2.5), TypeError, ["classes", "2.5"]),
    (lambda: vit(patch=5), ValueError, ["size", "multiple of patch=5", "came 28", "size=25"]),
    (lambda: vit(width=30), ValueError, ["width", "multiple of heads=4", "width=28"]),
    (lambda: vit(blocks=0), ValueError, ["blocks", "at least 1"]),
    (lambda: vit(heads=2.0), TypeError, ["heads", "2.0"]),
    (lambda: vit(activation="relu6"), ValueError, ["activation", "'relu6'"]),
    (lambda: gpt(0, 6), ValueError, ["words", "at least 1"]),
    (lambda: gpt(9, 6.0), TypeError, ["length", "6.0"]),
    (lambda: gpt(9, 6, width=10), ValueError, ["width", "multiple of heads=4", "width=8"]),
    (lambda: gpt(9, 6, seed=-1), ValueError, ["seed", "-1"]),
    (lambda: gpt(9, 2, seed=0)(torch.zeros(1, 3).long()), ValueError, ["at most 2", "came 3"]),
]


@pytest.mark.parametrize(("call", "error", "words"), REFUSED)
def test_refused(call, error, words):
    with pytest.raises(error) as caught:
        call()
    for word in words:
        assert word in str(caught.value)
