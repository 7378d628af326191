"""A small language model: a transformer that reads from left to right."""

import math
from collections import OrderedDict

import torch
from torch import Tensor, nn

from pkbook.problems.models.building import check_count, initialised


def gpt(
    words: int,
    length: int,
    *,
    width: int = 48,
    heads: int = 4,
    blocks: int = 2,
    seed: int | None = None,
) -> nn.Sequential:
    r"""A small GPT: which word comes next, at every place of a text (Radford et al. 2019).

    Each token is looked up in a table of ``width`` numbers a word, and a trainable vector for its
    place is added.  Then come ``blocks`` of

    .. math::

        z \leftarrow z + \mathrm{attention}(\mathrm{norm}(z)), \qquad
        z \leftarrow z + \mathrm{mlp}(\mathrm{norm}(z)).

    A place attends to itself and to those before it (Vaswani et al. 2017).  The hidden layer of
    the mlp has 4 ``width`` units with GELU.  After a last norm the scores of the words are inner
    products with the same table that was read from (weight tying, Press and Wolf 2017), so that
    the table has one gradient from both ends.  There is no dropout, and every operation is smooth.

    The table and the places start small, with standard deviation 0.02: at first all words are
    nearly equally probable.  Layers: tokens, places, block1, ..., norm, head; ``head.weight`` is
    ``tokens.weight``.  With :math:`V` words, :math:`T` places and width :math:`d` the model has
    :math:`(V+T)d+b\,(12d^2+13d)+2d` parameters.
    Input int64 [n, t] with t up to ``length``, output [n, t, words].

    Args:
        words: size of the vocabulary, :math:`V`.
        length: most tokens that the model reads at once, :math:`T`.
        width: numbers in a token, a multiple of ``heads``, :math:`d`.
        heads: of the attention in each block.
        blocks: how many of them, :math:`b`.
        seed: as for ``mlp``.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: a number below 1, or a width that is no multiple of ``heads``; in the forward
            pass, more tokens than ``length``.

    >>> model = gpt(10, 6, width=8, heads=2, blocks=1, seed=0)
    >>> model(torch.zeros(3, 5, dtype=torch.int64)).shape
    torch.Size([3, 5, 10])
    """
    counts = {"words": words, "length": length, "width": width, "heads": heads, "blocks": blocks}
    for name, value in counts.items():
        check_count(name, value, "gpt(1000, 16, width=48, heads=4)")
    if width % heads:
        raise ValueError(
            f"width: expected a multiple of heads={heads}, came {width}; write "
            f"width={width - width % heads or heads}, or another heads"
        )
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    with initialised(seed):
        layers["tokens"] = table = nn.Embedding(words, width)
        nn.init.normal_(table.weight, std=0.02)
        layers["places"] = _Places(length, width)
        for i in range(1, blocks + 1):
            layers[f"block{i}"] = _Block(width, heads)
        layers["norm"] = nn.LayerNorm(width)
        layers["head"] = head = nn.Linear(width, words, bias=False)
        head.weight = table.weight
        return nn.Sequential(layers)


class _Places(nn.Module):
    """Adds to each token [n, t, width] the vector of its place."""

    def __init__(self, length: int, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(length, width)
        nn.init.normal_(self.table.weight, std=0.02)

    def forward(self, z: Tensor) -> Tensor:
        n, t, _ = z.shape
        if t > self.table.num_embeddings:
            raise ValueError(
                f"input: expected at most {self.table.num_embeddings} tokens, came {t}; "
                "write gpt(..., length=...) with more, or give fewer"
            )
        # One row of numbers a sample: every sample looks its places up itself, and so has a share.
        return z + self.table(torch.arange(t, device=z.device).expand(n, t))


class _Block(nn.Module):
    """Attention to what came before, then two linear layers; each adds to what it reads."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = _Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 4 * width)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, z: Tensor) -> Tensor:
        z = z + self.attention(self.norm1(z))
        return z + self.fc2(self.act(self.fc1(self.norm2(z))))


class _Attention(nn.Module):
    """Each place mixes the values of itself and of the places before it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.ask = nn.Linear(width, 3 * width)  # queries, keys and values
        self.mix = nn.Linear(width, width)

    def forward(self, z: Tensor) -> Tensor:
        # Written out, not by torch's fused kernel, whose sums on a GPU have no fixed order.
        n, t, width = z.shape
        parts = self.ask(z).reshape(n, t, 3, self.heads, width // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(2, 3) / math.sqrt(width // self.heads)
        later = torch.ones(t, t, dtype=torch.bool, device=z.device).triu(1)
        mixed = scores.masked_fill(later, -torch.inf).softmax(-1) @ v
        return self.mix(mixed.transpose(1, 2).reshape(n, t, width))
