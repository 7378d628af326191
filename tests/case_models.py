"""The layers of the shared cases that ``nn.Sequential`` cannot say: each shows one trap."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint


class Each(nn.Module):
    """A model made of a function of its named parts: ``Each(lambda m, x: m.a(x), a=...)``."""

    def __init__(self, run, **parts):
        super().__init__()
        self.run = run
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.run(self, x)


def parameter(*shape):
    return nn.Parameter(torch.randn(shape))


def tied_linear():
    model = nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 2))
    model[2].weight = model[0].weight
    return model


def tied_embedding():
    """A small language model: the table of the tokens is the matrix of the output."""
    model = Each(
        lambda m, x: m.head(torch.tanh(m.mix(m.table(x))).mean(1)),
        table=nn.Embedding(6, 4),
        mix=nn.Linear(4, 4),
        head=nn.Linear(4, 6),
    )
    model.head.weight = model.table.weight
    return model


def called_twice():
    return Each(
        lambda m, x: m.a(torch.tanh(m.a(x))).sin() @ torch.ones(5, 1).to(x), a=nn.Linear(5, 5)
    )


def at_two_places():
    layer, norm = nn.Linear(5, 5), nn.BatchNorm1d(5)
    return nn.Sequential(layer, norm, nn.Tanh(), layer, norm, nn.Linear(5, 2))


def cell():
    """A recurrent network written out: one matrix met at every time."""

    def run(m, x):
        h = torch.zeros(len(x), 3, dtype=x.dtype)
        for xt in x.unbind(1):
            h = torch.tanh(m.into(xt) + m.again(h))
        return m.out(h)

    return Each(run, into=nn.Linear(2, 3), again=nn.Linear(3, 3, bias=False), out=nn.Linear(3, 2))


def pyramid():
    """One convolution at two sizes."""

    def run(m, x):
        y = m.conv(torch.tanh(m.conv(x)))
        small = m.conv(F.avg_pool2d(x, 2))
        return torch.stack([y.square().mean((1, 2, 3)), small.sin().sum((1, 2, 3))], 1)

    return Each(run, conv=nn.Conv2d(2, 2, 3, padding=1))


def conv(layer, places=None):
    """A convolution of any kind, an activation and a read-out of two numbers."""

    def run(m, x):
        y = torch.tanh(m.conv(x)).flatten(2)
        return m.out(torch.cat([y.mean(2), y.square().mean(2)], 1))

    return Each(run, conv=layer, out=nn.Linear(2 * layer.out_channels, 2))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = (nn.Conv2d(3, 3, 3, padding=1, bias=False) for _ in "ab")
        self.na, self.nb = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x):
        return F.relu(x + self.nb(self.b(F.relu(self.na(self.a(x))))))


def residual_cnn():
    return nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), Block(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(3, 3),
    )  # fmt: skip


def inplace():
    return nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(27, 5),
        nn.ReLU(inplace=True), nn.Linear(5, 2),
    )  # fmt: skip


def inplace_residual():
    def run(m, x):
        y = m.a(x)
        y += x
        y.sin_()
        z = m.b(y)
        z += y
        return m.out(z.mul_(0.5))

    return Each(run, a=nn.Linear(5, 5), b=nn.Linear(5, 5), out=nn.Linear(5, 2))


def encoder(*, batch_first=True, masked=False, padded=False):
    """Two encoder layers over ``[n, 4, 6]``, read out at the first position."""
    layer = nn.TransformerEncoderLayer(6, 2, 8, dropout=0.1, batch_first=batch_first)
    body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def run(m, x):
        mask = torch.full((4, 4), float("-inf"), dtype=x.dtype).triu(1) if masked else None
        hidden = None
        if padded:  # positions that start with a large number count as absent, the first never
            hidden = torch.zeros(x.shape[:2], dtype=x.dtype)
            hidden[:, 1:] = hidden[:, 1:].masked_fill(x[:, 1:, 0] > 0.5, float("-inf"))
        if not batch_first:
            x = x.permute(1, 0, 2)
        y = m.body(x, mask=mask, src_key_padding_mask=hidden)
        return m.out(y[:, 0] if batch_first else y[0])

    return Each(run, body=body, out=nn.Linear(6, 2))


def self_attention():
    def run(m, x):
        y, _ = m.attention(x, x, x, need_weights=False)
        return y.flatten(1)[:, :3]

    return Each(run, attention=nn.MultiheadAttention(6, 2, batch_first=True))


def cross_attention():
    def run(m, x):
        y, _ = m.attention(x[:, :2], x[:, 1:], x[:, 1:])
        return m.out(y.mean(1))

    return Each(run, attention=nn.MultiheadAttention(6, 3, batch_first=True), out=nn.Linear(6, 2))


def recurrent(kind):
    return Each(
        lambda m, x: m.out(m.body(x)[0][:, -1]),
        body=kind(2, 3, batch_first=True),
        out=nn.Linear(3, 2),
    )


def unused():
    return Each(lambda m, x: m.a(x), a=nn.Linear(5, 2), never=nn.Linear(3, 3), lone=parameter(2))


def scaled():
    return Each(lambda m, x: m.a(m.scale * x) + m.shift, a=nn.Linear(5, 2), scale=parameter(5),
                shift=parameter())  # fmt: skip


def product():
    return Each(lambda m, x: m.a(torch.tanh(torch.matmul(x, m.w))), a=nn.Linear(4, 2),
                w=parameter(5, 4))  # fmt: skip


def met_in_two_ways():
    """A layer's own matrix, and the same matrix by hand."""
    return Each(lambda m, x: m.a(torch.tanh(m.a(x) + x @ m.a.weight)), a=nn.Linear(5, 5))


def positional():
    return Each(lambda m, x: m.a(torch.sin(x + m.place)).mean(1), a=nn.Linear(3, 2),
                place=parameter(4, 3))  # fmt: skip


def positional_table():
    return Each(lambda m, x: m.a(torch.sin(x + m.place(torch.arange(4)))).mean(1),
                a=nn.Linear(3, 2), place=nn.Embedding(4, 3))  # fmt: skip


def constant_branch():
    """A layer that never sees the input, although the output needs it."""
    return Each(lambda m, x: m.a(x) * m.b(torch.ones(1, 3).to(x)), a=nn.Linear(5, 2),
                b=nn.Linear(3, 2))  # fmt: skip


def learned_query():
    """A layer whose input is a parameter."""
    return Each(lambda m, x: m.a(x) * m.b(m.query), a=nn.Linear(5, 2), b=nn.Linear(3, 2),
                query=parameter(1, 3))  # fmt: skip


def frozen(name):
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2))
    for key, p in model.named_parameters():
        p.requires_grad_(not key.startswith(name))
    return model


def merged_images(sample_first, kind=nn.Conv2d):
    """Frames ``[n, T, c, h, w]`` seen by a convolution as ``n T`` images, in either order."""

    def run(m, x):
        n, t = x.shape[:2]
        y = (x if sample_first else x.transpose(0, 1)).flatten(0, 1)
        y = torch.tanh(m.norm(m.conv(y))).mean((2, 3))
        y = y.unflatten(0, (n, t) if sample_first else (t, n))
        return m.out(y.sum(1 if sample_first else 0))

    return Each(run, conv=kind(2, 4, 2, padding=1), norm=nn.GroupNorm(2, 4),
                out=nn.Linear(4, 2))  # fmt: skip


def merged_rows():
    """``[T n, d]`` rows in a Linear and a LayerNorm, the time varying slowest."""

    def run(m, x):
        y = m.norm(m.a(x.transpose(0, 1).flatten(0, 1)))
        return torch.tanh(y).unflatten(0, (x.shape[1], -1)).mean(0)

    return Each(run, a=nn.Linear(3, 4), norm=nn.LayerNorm(4))


def sequence_first():
    return Each(lambda m, x: m.b(torch.tanh(m.norm(m.a(x.transpose(0, 1)))).sum(0)),
                a=nn.Linear(3, 4), norm=nn.RMSNorm(4), b=nn.Linear(4, 2))  # fmt: skip


def by_keyword():
    return Each(lambda m, x: F.linear(input=x, weight=m.w, bias=m.b).sin(), w=parameter(2, 5),
                b=parameter(2))  # fmt: skip


class Product(torch.autograd.Function):
    """A matrix product that no overriding of torch functions sees."""

    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return x @ w

    @staticmethod
    def backward(ctx, g):
        x, w = ctx.saved_tensors
        return g @ w.T, x.T @ g


def own_function():
    return Each(lambda m, x: torch.tanh(Product.apply(x, m.w)), w=parameter(5, 2))


def own_function_and_layer():
    return Each(lambda m, x: torch.tanh(m.a(x) + Product.apply(x, m.a.weight)), a=nn.Linear(5, 5))


class Cube(torch.autograd.Function):
    """An activation that ``vmap`` cannot follow."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, g):
        return 3 * ctx.saved_tensors[0] ** 2 * g


def own_activation():
    return Each(lambda m, x: m.b(Cube.apply(m.a(x))), a=nn.Linear(5, 3), b=nn.Linear(3, 2),
                never=parameter(2))  # fmt: skip


def recomputed():
    body = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 5))
    return Each(lambda m, x: m.out(checkpoint(m.body, x, use_reentrant=False)), body=body,
                out=nn.Linear(5, 2))  # fmt: skip


class RightLinear(nn.Module):
    """The linear layer of GPT-2: the matrix on the right, rows and positions in one dimension."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight, self.bias = parameter(inputs, outputs), parameter(outputs)

    def forward(self, x):
        flat = torch.addmm(self.bias, x.reshape(-1, x.shape[-1]), self.weight)
        return flat.unflatten(0, x.shape[:-1])


def right_linear():
    return nn.Sequential(
        RightLinear(3, 4), nn.Tanh(), RightLinear(4, 2), nn.Flatten(), nn.Linear(4, 2)
    )


def by_hand():
    """Products of sequences with a matrix, of which one is met twice and one is transposed."""

    def run(m, x):
        y = torch.tanh(x @ m.w)
        y = torch.tanh(torch.matmul(y, m.w) + y @ m.v.T)
        return (y * m.scale).sum(1)

    return Each(run, w=parameter(3, 3), v=parameter(3, 3), scale=parameter(4, 3))


def class_token():
    """A token before each sequence, positions, and one packed projection as in ViT."""

    def run(m, x):
        y = torch.cat([m.cls.expand(len(x), -1, -1), m.patch(x)], 1) + m.place[:, :5]
        q, k, v = m.packed(y).chunk(3, -1)
        y = y + torch.softmax(q @ k.transpose(1, 2), -1) @ v
        return m.out(m.norm(y)[:, 0])

    return Each(run, cls=parameter(1, 1, 4), place=parameter(1, 7, 4), patch=nn.Linear(3, 4),
                packed=nn.Linear(4, 12), norm=nn.LayerNorm(4), out=nn.Linear(4, 2))  # fmt: skip


def positions_of_numbers():
    """Positions from a table, as in GPT-2, and the table of the tokens as the output's matrix."""

    def run(m, x):
        place = m.place(torch.arange(x.shape[1]).unsqueeze(0))
        y = torch.tanh(m.body(m.table(x) + place))
        return F.linear(y[:, -1], m.table.weight)

    return Each(run, table=nn.Embedding(6, 4), place=nn.Embedding(5, 4), body=nn.Linear(4, 4))


def root_mean_square():
    """A normalisation written by hand, as in Llama, with a gate."""

    def run(m, x):
        y = m.scale * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6))
        y = F.silu(m.gate(y)) * m.up(y)
        return m.out(y).sum(1)

    return Each(run, scale=parameter(3), gate=nn.Linear(3, 5), up=nn.Linear(3, 5),
                out=nn.Linear(5, 2))  # fmt: skip


def experts():
    """A mixture whose experts are one array."""

    def run(m, x):
        each = torch.tanh(torch.einsum("nd,kde->nke", x, m.w) + m.b)
        return torch.einsum("nk,nke->ne", m.gate(x).softmax(1), each)

    return Each(run, w=parameter(3, 5, 2), b=parameter(3, 2), gate=nn.Linear(5, 3))


def made_of_the_input():
    """What seems to be made of a parameter alone, and is made of the input, too."""
    return Each(
        lambda m, x: torch.tanh(m.w.unsqueeze(0) * x.unsqueeze(1)).sum(2), w=parameter(2, 5)
    )


def deep_recurrent(kind, **options):
    """Two layers in both directions, read out at every time."""
    body = kind(2, 3, num_layers=2, bidirectional=True, **options)

    def run(m, x):
        x = x if options.get("batch_first") else x.transpose(0, 1)
        y, ends = m.body(x)
        last = ends[1] if isinstance(ends, tuple) else ends
        return m.out(y.sum(1 if options.get("batch_first") else 0)) + last.sum((0, 2))[:, None]

    return Each(run, body=body, out=nn.Linear(6, 2))
