"""The networks of ``modern.py``: small ones of the kinds that people use, written as they are."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pkbook as pk

CLASSES = 10


def _block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1), nn.GroupNorm(4, outputs), nn.SiLU()
    )


class UNet(nn.Module):
    """One way down and up, with a transposed convolution and a skip; a map of eight numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.down = _block(1, 16), nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.middle, self.up = _block(32, 32), nn.ConvTranspose2d(32, 16, 2, stride=2)
        self.last, self.out = _block(32, 16), nn.Conv2d(16, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.first(x)
        b = self.up(self.middle(F.silu(self.down(a))))
        return F.adaptive_avg_pool2d(self.out(self.last(torch.cat([a, b], 1))), (2, 4)).flatten(1)


class ViT(nn.Module):
    """A class token, added positions, two blocks of packed attention."""

    def __init__(self, width: int = 64, heads: int = 4) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 7, stride=7)
        self.cls = nn.Parameter(torch.randn(1, 1, width))
        self.places = nn.Parameter(torch.randn(1, 17, width))
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, F.gelu, batch_first=True)
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.out = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        y = self.patches(x).flatten(2).transpose(1, 2)
        y = torch.cat([self.cls.expand(len(y), -1, -1), y], 1) + self.places
        return self.out(self.body(y)[:, 0])


class Recurrent(nn.Module):
    """A bidirectional LSTM whose states are averaged by attention."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.body = nn.LSTM(16, width, batch_first=True, bidirectional=True)
        self.score, self.out = nn.Linear(2 * width, 1), nn.Linear(2 * width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.body(x)
        return self.out((self.score(torch.tanh(states)).softmax(1) * states).sum(1))


class Experts(nn.Module):
    """A soft mixture of eight experts in two arrays."""

    def __init__(self, inputs: int = 32, width: int = 64, experts: int = 8) -> None:
        super().__init__()
        self.gate = nn.Linear(inputs, experts)
        self.into = nn.Parameter(torch.randn(experts, inputs, width) / inputs**0.5)
        self.shift = nn.Parameter(torch.zeros(experts, width))
        self.back = nn.Parameter(torch.randn(experts, width, CLASSES) / width**0.5)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.gelu(torch.einsum("nd,kde->nke", x, self.into) + self.shift)
        each = torch.einsum("nke,keo->nko", hidden, self.back)
        return torch.einsum("nk,nko->no", self.gate(x).softmax(1), each)


class RMSNorm(nn.Module):
    """As Llama writes it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6))


class Llama(nn.Module):
    """One block with rotary positions and a gate; the tokens' table is the output's matrix."""

    def __init__(self, tokens: int = 256, width: int = 96, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.table = heads, nn.Embedding(tokens, width)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=False) for _ in "qkvo")
        self.first, self.second, self.last = RMSNorm(width), RMSNorm(width), RMSNorm(width)
        self.gate, self.up = (nn.Linear(width, 2 * width, bias=False) for _ in "gu")
        self.down = nn.Linear(2 * width, width, bias=False)

    def turned(self, x: Tensor) -> Tensor:
        """Rotary positions on ``[n, h, T, d]``."""
        half = x.shape[-1] // 2
        angle = torch.arange(x.shape[2])[:, None] / 100 ** (torch.arange(half) / half)
        a, b = x.chunk(2, -1)
        c, s = angle.cos(), angle.sin()
        return torch.cat([a * c - b * s, a * s + b * c], -1)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.table(tokens)
        y = self.first(x)
        q, k, v = (
            f(y).unflatten(2, (self.heads, -1)).transpose(1, 2) for f in (self.q, self.k, self.v)
        )
        weights = self.turned(q) @ self.turned(k).transpose(2, 3) / math.sqrt(q.shape[-1])
        weights = weights + torch.full(weights.shape[2:], float("-inf")).triu(1)
        x = x + self.o((weights.softmax(-1) @ v).transpose(1, 2).flatten(2))
        y = self.second(x)
        x = x + self.down(F.silu(self.gate(y)) * self.up(y))
        return F.linear(self.last(x[:, -1]), self.table.weight[:CLASSES])


class Conv1D(nn.Module):
    """GPT-2's linear layer, the matrix on the right."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs) / inputs**0.5)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        flat = torch.addmm(self.bias, x.view(-1, x.shape[-1]), self.weight)
        return flat.view(*x.shape[:-1], -1)


class GPT2(nn.Module):
    """Two blocks as in transformers' GPT-2: packed attention, positions from a table."""

    def __init__(
        self, tokens: int = 128, width: int = 64, heads: int = 4, length: int = 32
    ) -> None:
        super().__init__()
        self.heads = heads
        self.wte, self.wpe = nn.Embedding(tokens, width), nn.Embedding(32, width)
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "one": nn.LayerNorm(width), "two": nn.LayerNorm(width),
                    "attention": Conv1D(width, 3 * width), "project": Conv1D(width, width),
                    "up": Conv1D(width, 4 * width), "down": Conv1D(4 * width, width),
                }
            )
            for _ in range(2)
        )  # fmt: skip
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, CLASSES, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1]).unsqueeze(0))
        for b in self.blocks:
            q, k, v = b["attention"](b["one"](x)).chunk(3, -1)
            q, k, v = (t.unflatten(2, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + b["project"](y.transpose(1, 2).flatten(2))
            x = x + b["down"](F.gelu(b["up"](b["two"](x)), approximate="tanh"))
        return self.out(self.norm(x)[:, -1])


class Residual(nn.Module):
    """Two convolutions beside a connection, as in ResNet-18."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.a = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.b = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.na, self.nb = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
        self.beside = nn.Sequential()
        if stride > 1 or inputs != outputs:
            beside = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.beside = nn.Sequential(beside, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.nb(self.b(F.relu(self.na(self.a(x))))) + self.beside(x))


def resnet(width: int = 16) -> nn.Sequential:
    """ResNet-18's plan for 32 x 32 pixels, a quarter as wide."""
    stages = [(width, width, 1), (width, 2 * width, 2), (2 * width, 4 * width, 2),
              (4 * width, 8 * width, 2)]  # fmt: skip
    blocks = [b for i, o, s in stages for b in (Residual(i, o, s), Residual(o, o, 1))]
    stem = [nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8 * width, CLASSES)]
    return nn.Sequential(*stem, *blocks, *head)


def _tokens(size: int, length: int) -> Callable[[int], Tensor]:
    return lambda n: torch.randint(size, (n, length))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[int], Tensor]]] = {
    "unet": (UNet, lambda n: torch.randn(n, 1, 16, 16)),
    "vit": (ViT, lambda n: torch.randn(n, 1, 28, 28)),
    "lstm": (Recurrent, lambda n: torch.randn(n, 20, 16)),
    "experts": (Experts, lambda n: torch.randn(n, 32)),
    "llama": (Llama, _tokens(256, 24)),
    "gpt2": (GPT2, _tokens(128, 24)),
    "resnet": (resnet, lambda n: torch.randn(n, 3, 32, 32)),
    "mlp": (lambda: pk.models.mlp(64, 256, 256, CLASSES, seed=0), lambda n: torch.randn(n, 64)),
}
"""By name: how the network is made, and how n inputs are drawn."""
