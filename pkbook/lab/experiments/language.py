r"""Which words a language model learned its next word from.

A small GPT is trained by AdamW to say which word comes next.  Prompts are then taken apart with the
exact form of Theorem 2.2, eq. (4) of arXiv 2603.13872: what each token of each passage did to the
log-probability of a word after a prompt.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR

from pkbook.interpolation import Interpolation
from pkbook.interpolation.trajectory import Trajectory, batches
from pkbook.lab.experiments.machinery.settings import Settings, positive, whole
from pkbook.problems import data, models

Asked = tuple[Tensor, Tensor, Tensor]
"""Prompts ``[m, T]``, filled up with zeros; the place of each one's last token ``[m]``; the word
that is asked about ``[m]``."""


@dataclass(frozen=True)
class Config(Settings):
    """Text, model and training: half a chapter; `full()` reads the whole book."""

    chapters: tuple[int, ...] = (7,)
    first: int = 66  # of the passages read
    last: int | None = 162
    length: int = whole(12)
    width: int = whole(64, multiple=4)
    blocks: int = whole(1)
    rate: float = positive(0.01)  # rises over the first steps, then falls to 0 along a line
    decay: float = positive(0.1)
    warm: int = whole(10)
    size: int = whole(16)
    steps: int = whole(192)
    nodes: int = whole(2)
    seed: int = whole(0, 0)

    FULL: ClassVar = {
        "chapters": tuple(range(1, 13)),
        "first": 0,
        "last": None,
        "length": 32,
        "width": 128,
        "blocks": 4,
        "rate": 0.003,
        "warm": 50,
        "size": 32,
        "steps": 1000,
    }

    def passages(self) -> data.Passages:
        """What is read."""
        whole_text = data.alice(self.length, chapters=self.chapters)
        return whole_text.part(self.first, len(whole_text.x) if self.last is None else self.last)


@dataclass(frozen=True)
class Result:
    """What was read, the recorded training, and what its tokens did to ``m`` predictions."""

    passages: data.Passages
    recorded: Trajectory
    asked: Asked
    told: Interpolation


def next_word(f: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of the next token, the mean over all tokens of a batch."""
    return F.cross_entropy(f.flatten(0, 1), y.flatten())


def pace(config: Config, step: int) -> float:
    """Share of the learning rate at a step: up in ``warm`` steps, then down to zero."""
    return min((step + 1) / config.warm, 1 - step / config.steps)


def build(
    config: Config, passages: data.Passages, device: torch.device | str = "cpu"
) -> tuple[nn.Module, torch.optim.AdamW]:
    """The network and its optimizer."""
    net = models.gpt(
        len(passages.words),
        config.length,
        width=config.width,
        blocks=config.blocks,
        seed=config.seed,
    ).to(device)
    return net, torch.optim.AdamW(net.parameters(), lr=config.rate, weight_decay=config.decay)


def train(
    config: Config, passages: data.Passages, device: torch.device | str = "cpu"
) -> Trajectory:
    """AdamW with clipped gradients, recorded."""
    x, y = passages.x.to(device), passages.y.to(device)
    net, adamw = build(config, passages, device)
    schedule = LambdaLR(adamw, lambda step: pace(config, step))
    recorded = Trajectory(net, next_word, adamw, (x, y), scheduler=schedule, clip_norm=1.0)
    for batch in batches(len(x), size=config.size, steps=config.steps, seed=config.seed):
        recorded.step(batch)
    return recorded


def ask(
    passages: data.Passages, prompts: list[tuple[str, str]], device: torch.device | str = "cpu"
) -> Asked:
    """Prompts with the word that is asked about, ``[("said the", "hatter")]``.

    Filled up with zeros on the right, where a token has no influence on those before it.
    ``ValueError`` for words that the passages do not have or a prompt longer than they are.
    """
    length = passages.x.shape[1]
    rows = [passages.encode(prompt) for prompt, _ in prompts]
    for (prompt, _), row in zip(prompts, rows, strict=True):
        if not 1 <= len(row) <= length:
            raise ValueError(
                f"prompts must have 1 to {length} tokens each, got {len(row)} in {prompt!r}"
            )
    filled = torch.stack([F.pad(row, (0, length - len(row))) for row in rows])
    last = torch.tensor([len(row) - 1 for row in rows])
    words = torch.stack([passages.encode(word)[0] for _, word in prompts])
    return filled.to(device), last.to(device), words.to(device)


def log_probability(model: nn.Module, asked: Asked) -> Tensor:
    """The logarithm of the probability of each prompt's word, ``[m]``."""
    prompts, last, words = asked
    rows = torch.arange(len(prompts), device=prompts.device)
    return model(prompts)[rows, last].log_softmax(-1)[rows, words]


def run(
    config: Config,
    prompts: list[tuple[str, str]] | None = None,
    device: torch.device | str = "cpu",
    progress: bool = False,
) -> Result:
    """Read the text, train, and take the prompts apart, token by token."""
    passages = config.passages()
    asked = ask(passages, prompts or PROMPTS, device)
    recorded = train(config, passages, device)
    told = recorded.interpolate(
        asked,
        of=log_probability,
        nodes=config.nodes,
        by_token=True,
        by_parameter=True,
        progress=progress,
    )
    return Result(passages, recorded, asked, told)


PROMPTS = [('" twinkle, twinkle, little', "bat"), ("said the", "hatter")]
"""A word that the text says once after this prompt, and one that it says many times."""
