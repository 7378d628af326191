"""Models that treat their batch, inputs or parameters in ways that an engine may misread."""

import torch
import torch.nn.functional as F
from torch import nn

D = torch.float64


def built(make):
    """A model in float64, always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return make().double()


class Two(nn.Module):
    """Two linear layers; how the batch goes through them is told by the class."""

    def __init__(self, inputs=4, outputs=1):
        super().__init__()
        self.a, self.b = nn.Linear(inputs, 6), nn.Linear(6, outputs)

    def forward(self, x):
        return self.b(torch.tanh(self.a(x)))


class Sorting(Two):
    """Sorts its batch by the first input, and undoes it at the end."""

    def forward(self, x):
        order = x[:, 0].argsort(descending=True)
        return super().forward(x[order])[order.argsort()]


class Doubled(Two):
    """Sends each sample through twice, the copies interleaved with the batch or behind it."""

    def __init__(self, interleaved):
        super().__init__()
        self.interleaved = interleaved

    def forward(self, x):
        if self.interleaved:
            return super().forward(x.repeat_interleave(2, 0)).unflatten(0, (-1, 2)).mean(1)
        return super().forward(torch.cat([x, -x])).unflatten(0, (2, -1)).mean(0)


class Statistics(Two):
    """Normalises by the batch in train mode: as a layer, as a function, or by hand."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.layer = kind, nn.BatchNorm1d(6, affine=False)
        self.register_buffer("mean", torch.zeros(6))
        self.register_buffer("var", torch.ones(6))

    def normalised(self, h):
        if self.kind == "layer":
            return self.layer(h)
        if self.kind == "function":
            return F.batch_norm(h, self.mean, self.var, training=self.training)
        mean, var = self.mean, self.var
        if self.training:
            mean, var = h.mean(0), h.var(0, unbiased=False)
            with torch.no_grad():
                self.mean.mul_(0.9).add_(0.1 * mean)
                self.var.mul_(0.9).add_(0.1 * h.var(0))
        return (h - mean) / torch.sqrt(var + 1e-5)

    def forward(self, x):
        return self.b(torch.tanh(self.normalised(self.a(x))))


class Mixup(Two):
    """Mixes each hidden row with its neighbour's in train mode."""

    def forward(self, x):
        h = torch.tanh(self.a(x))
        return self.b(0.8 * h + 0.2 * h.roll(1, 0) if self.training else h)


class Force(Two):
    """The gradient of an energy with respect to the input."""

    def forward(self, x):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            energy = super().forward(x).sum()
            return torch.autograd.grad(energy, x, create_graph=True)[0]


class InPlace(nn.Module):
    """Works in place on its input."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 1)

    def forward(self, x):
        return self.a(x.sub_(0.5).div_(2))


class Listed(nn.Module):
    """Finds its parameter in a python list."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.randn(4, 1, dtype=D))
        self.b = nn.Linear(1, 1)
        self.found = [self.w]

    def forward(self, x):
        return self.b(torch.tanh(x @ self.found[0]))


class Viewed(nn.Module):
    """Keeps a view of its parameter."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.randn(4, 1, dtype=D))
        self.c = nn.Parameter(torch.ones(1, dtype=D))
        self.view = self.w.view(4)

    def forward(self, x):
        return (x @ self.view)[:, None] * self.c


class Merging(Two):
    """Merges samples and positions into rows."""

    def __init__(self):
        super().__init__(3, 2)

    def forward(self, x):
        n, t, d = x.shape
        return super().forward(x.reshape(n * t, d)).reshape(n, t, 2).mean(1)


class Tokens(nn.Module):
    """Token numbers, zero for padding."""

    def __init__(self):
        super().__init__()
        self.table, self.a, self.b = nn.Embedding(9, 3), nn.Linear(3, 6), nn.Linear(6, 2)


class Unpadded(Tokens):
    """Takes the padding out before its layers."""

    def forward(self, x):
        mask = x != 0
        h = torch.tanh(self.a(self.table(x)[mask]))
        whole = h.new_zeros(*x.shape, 6)
        whole[mask] = h
        return self.b(whole.sum(1) / mask.sum(1, keepdim=True))


class Unique(Tokens):
    """Looks every token of the batch up once."""

    def forward(self, x):
        seen, place = torch.unique(x, return_inverse=True)
        return self.b(torch.tanh(self.a(self.table(seen)))[place].mean(1))


class Packed(Tokens):
    """A recurrent layer on a packed sequence."""

    def __init__(self):
        super().__init__()
        self.layer = nn.GRU(3, 6, batch_first=True)

    def forward(self, x):
        packed = nn.utils.rnn.pack_padded_sequence(
            self.table(x), (x != 0).sum(1), batch_first=True, enforce_sorted=False
        )
        return self.b(self.layer(packed)[1][0])


class Experts(nn.Module):
    """Each sample goes through the layer that a gate chooses for it."""

    def __init__(self):
        super().__init__()
        self.gate, self.out = nn.Linear(4, 2), nn.Linear(3, 1)
        self.experts = nn.ModuleList([nn.Linear(4, 3), nn.Linear(4, 3)])

    def forward(self, x):
        chosen, found = self.gate(x).argmax(1), x.new_zeros(len(x), 3)
        for k, expert in enumerate(self.experts):
            found[chosen == k] = torch.tanh(expert(x[chosen == k]))
        return self.out(found)


class SpreadBias(nn.Module):
    """A linear map whose bias is one number for all outputs."""

    def __init__(self, shape):
        super().__init__()
        self.w, self.b = nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(shape))

    def forward(self, x):
        return torch.tanh(F.linear(x, self.w, self.b))


class VectorWeight(nn.Module):
    """A linear map to one number."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.randn(4))

    def forward(self, x):
        return torch.tanh(F.linear(x, self.w))


class Centred(Two):
    """Takes the batch's mean from its inputs, in eval mode, too."""

    def forward(self, x):
        return super().forward(x - x.mean(0))


class Reversing(torch.autograd.Function):
    """Reverses the batch where no operation of torch is seen."""

    @staticmethod
    def forward(ctx, x):
        return x.flip(0)

    @staticmethod
    def backward(ctx, g):
        return g.flip(0)


class Reversed(Two):
    """Its first layer works on the reversed batch; only own functions know."""

    def forward(self, x):
        return self.b(torch.tanh(Reversing.apply(self.a(Reversing.apply(x)))))


class Encoder(nn.Module):
    """``nn.TransformerEncoder`` with a padding mask."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0, nn.functional.gelu, batch_first=True)
        self.table, self.b = nn.Embedding(9, 8, padding_idx=0), nn.Linear(8, 1)
        self.layers = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)

    def forward(self, x):
        return self.b(self.layers(self.table(x), src_key_padding_mask=x == 0).mean(1))


class HalfInside(Two):
    """Computes in bfloat16 inside."""

    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return super().forward(x).to(x)
