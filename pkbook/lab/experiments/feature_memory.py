r"""C4: does a test point's alignment with the training samples govern how well it is answered?

The paper (arXiv 2603.13872, Abstract) says that generalisation is governed by the alignment between
test points and the learned feature memory.  Here the memory is the tangent features of the training
images, and the alignment of a test image is the mean of its largest normalised kernels with them:

.. math:: A(x)=\frac1m\sum_{i\in\text{the }m\text{ largest}}\hat K_{x,x_i}.

It needs no label of the test image.  It is compared with whether the image is answered rightly, and
with its loss; a control is the same number from pixels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional
from tqdm.auto import tqdm

from pkbook.kernels import normalised_kernel
from pkbook.lab import plots
from pkbook.lab.experiments.alignment import ARCHITECTURES, CLASSES, NETWORKS
from pkbook.lab.experiments.machinery.claims import claim
from pkbook.lab.experiments.machinery.results import Measured, Numbers, with_interval
from pkbook.lab.experiments.machinery.settings import (
    Settings,
    choice,
    choices,
    positive,
    require_at_most,
    several,
    whole,
)
from pkbook.lab.experiments.machinery.training import fit, remembered
from pkbook.lab.trained import Trained, trained
from pkbook.problems import data, losses

SCORES = ("kernel", "pixels", "margin", "confidence")
DRAWS = 1000  # of the bootstrap


@dataclass(frozen=True)
class Config(Settings):
    """Settings. `quick()` takes seconds on a CPU; `full()` has larger networks and ten seeds."""

    networks: str = choice("small", tuple(NETWORKS))
    architectures: tuple[str, ...] = choices(("CNN", "MLP", "transformer"), ARCHITECTURES)
    per_class: int = whole(20)
    """Training images of each class."""
    held_out: int = whole(20)
    """Test images of each class."""
    nearest: int = whole(10)
    """Training images that the alignment is a mean over."""
    rate: float = positive(3e-3)
    batch: int = whole(50)
    epochs: int = whole(20)
    seeds: tuple[int, ...] = several((40, 41))

    FULL: ClassVar = {
        "networks": "large",
        "per_class": 200,
        "held_out": 100,
        "rate": 1e-3,
        "epochs": 40,
        "seeds": tuple(range(40, 50)),
    }

    def check_together(self) -> None:
        require_at_most(self.nearest, "nearest", self.per_class, "the images of a class")
        require_at_most(self.batch, "batch", CLASSES * self.per_class, "the training images")

    def trained(self, architecture: str) -> Trained:
        """One line that names what is trained."""
        model = NETWORKS[self.networks][architecture](0)
        return trained(
            model,
            torch.optim.Adam(model.parameters(), lr=self.rate),
            losses.cross_entropy,
            data=f"{architecture}, {CLASSES * self.per_class} images of MNIST",
            epochs=self.epochs,
            batch=self.batch,
            seeds=self.seeds,
        )


@dataclass(frozen=True)
class Memory:
    """Of S seeds and n test images, for one architecture."""

    scores: Tensor  # [S, SCORES, n]; larger is nearer to the memory, or surer
    right: Tensor  # [S, n] bool
    loss: Tensor  # [S, n]

    def of(self, score: str) -> Tensor:
        """One score, ``[S, n]``."""
        return self.scores[:, SCORES.index(score)]


@dataclass(frozen=True)
class Result:
    """``{architecture: Memory}``."""

    config: Config
    memories: dict[str, Memory]


def nearest_mean(similarity: Tensor, count: int) -> Tensor:
    """Mean of the `count` largest entries of each row, ``[m, n]`` to ``[m]``.

    >>> nearest_mean(torch.tensor([[0.0, 1.0, 0.5]]), 2)
    tensor([0.7500])
    """
    return similarity.topk(count, 1).values.mean(1)


def margin(similarity: Tensor, y: Tensor, answers: Tensor, count: int) -> Tensor:
    """Nearness to training images of the class that is answered, less that to the best other.

    ``similarity [m, n]``, classes ``y [n]`` of the training images, ``answers [m]``; ``[m]``.
    """
    by_class = torch.stack(
        [nearest_mean(similarity[:, y == c], count) for c in range(CLASSES)], dim=1
    )
    own = by_class.gather(1, answers[:, None])[:, 0]
    others = by_class.scatter(1, answers[:, None], -torch.inf)
    return own - others.amax(1)


def auroc(score: Tensor, right: Tensor, weights: Tensor) -> Tensor:
    """How often a right answer has a larger score than a wrong one; ties count half.

    ``score [n]``, ``right [n]``, ``weights [D, n]``: how often each image counts in each of D
    draws.  ``[D]``, NaN where a draw holds no right or no wrong answer.

    >>> auroc(torch.tensor([3.0, 2.0, 1.0]), torch.tensor([True, True, False]), torch.ones(1, 3))
    tensor([1.])
    """
    gap = score[right][:, None] - score[~right]
    wins = (gap > 0).to(weights) + (gap == 0).to(weights) / 2
    ups, downs = weights[:, right], weights[:, ~right]
    return ((ups @ wins) * downs).sum(1) / ups.sum(1) / downs.sum(1)


def rank_correlation(a: Tensor, b: Tensor, weights: Tensor) -> Tensor:
    """Spearman's, of series ``[n]`` whose ranks are weighted in D draws ``[D, n]``; ``[D]``."""
    from scipy.stats import rankdata  # takes a second to import

    ranks = torch.stack([torch.from_numpy(rankdata(v.numpy())) for v in (a, b)]).to(weights)
    share = weights / weights.sum(1, keepdim=True)
    apart = ranks - (share @ ranks.T).unsqueeze(2)  # [D, 2, n]
    moments = (apart * share.unsqueeze(1)) @ apart.transpose(1, 2)
    return moments[:, 0, 1] / (moments[:, 0, 0] * moments[:, 1, 1]).sqrt()


def measure(config: Config, architecture: str, seed: int, device: torch.device | str) -> dict:
    """One network: the tensors of a `Memory`, without the seeds' dimension."""
    generator = torch.Generator().manual_seed(seed)
    held = data.mnist("test", per_class=config.held_out, generator=generator)
    train = data.mnist("train", per_class=config.per_class, generator=generator)
    x, y, asked, truth = (t.to(device) for t in (*train, *held))
    model = NETWORKS[config.networks][architecture](seed).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.rate)
    near, kernel = partial(nearest_mean, count=config.nearest), torch.empty(0)
    how = {"epochs": (config.epochs,), "batch": config.batch, "seed": seed}
    for _ in fit(model, losses.cross_entropy, optimizer, (x, y), **how):
        kernel = normalised_kernel(model, asked, x)
    with torch.no_grad():
        outputs = model(asked)
    flat, also = (functional.normalize(t.flatten(1), dim=1) for t in (asked, x))
    answers = outputs.argmax(1)
    scores = (
        near(kernel),
        near(flat @ also.T),
        margin(kernel, y, answers, config.nearest),
        outputs.softmax(1).amax(1),
    )
    loss = functional.cross_entropy(outputs, truth, reduction="none")
    found = {"scores": torch.stack(scores), "right": answers == truth, "loss": loss}
    return {name: value.detach().cpu() for name, value in found.items()}


def run(
    config: Config,
    *,
    device: torch.device | str = "cpu",
    folder: Path | None = None,
    progress: bool = False,
) -> Result:
    """Train every architecture from every seed; score the test images."""
    plan = [(name, seed) for name in config.architectures for seed in config.seeds]
    rows: dict[str, list[dict]] = {name: [] for name in config.architectures}
    for name, seed in tqdm(plan, disable=not progress, desc="runs"):
        path = None if folder is None else folder / f"{name}-{seed}"
        rows[name].append(remembered(path, partial(measure, config, name, seed, device)))
    stacked = {
        name: Memory(**{k: torch.stack([row[k] for row in found]) for k in found[0]})
        for name, found in rows.items()
    }
    return Result(config, stacked)


def by_fifths(memory: Memory) -> Tensor:
    """Share of right answers among the fifths of the test images by alignment, ``[S, 5]``, the
    farthest fifth first."""
    fifths = memory.of("kernel").argsort(1).chunk(5, 1)
    return torch.stack([memory.right.gather(1, at).double().mean(1) for at in fifths], 1)


@plots.style()
def draw(result: Result) -> Figure:
    """Right answers against alignment, by fifths, a line for each network."""
    fig, ax = plots.figure(height=3.6)
    marks = zip(result.memories.items(), plots.PALETTE, "sod", strict=False)
    for (name, memory), colour, mark in marks:
        shares = by_fifths(memory).mean(0)
        ax.plot(range(1, 6), shares, mark, linestyle="-", color=colour, label=name)
    ax.set_xticks(range(1, 6), ["farthest", "2", "3", "4", "nearest"])
    ax.set(xlabel="test images by fifths of their alignment", ylabel="answered rightly")
    ax.set_ylim(0, 1.02)
    ax.legend(loc="lower right")
    return fig


def figures(result: Result) -> dict[str, Figure]:
    """What the command line writes."""
    return {"fifths": draw(result)}


# ---- numbers with their intervals -----------------------------------------------------------

Statistic = Callable[[Memory, int, Tensor], Tensor]
"""Of one seed's images, weighted in D draws ``[D, n]``; ``[D]``."""


def area(score: str) -> Statistic:
    """The area under the ROC curve for telling right from wrong answers by a score."""
    return lambda memory, s, weights: auroc(memory.of(score)[s], memory.right[s], weights)


def gain(memory: Memory, s: int, weights: Tensor) -> Tensor:
    """That area for the kernel, less that for pixels."""
    return area("kernel")(memory, s, weights) - area("pixels")(memory, s, weights)


def with_loss(memory: Memory, s: int, weights: Tensor) -> Tensor:
    """Rank correlation of the alignment and the loss."""
    return rank_correlation(memory.of("kernel")[s], memory.loss[s], weights)


STATISTICS: tuple[Statistic, ...] = (
    area("kernel"),
    with_loss,
    gain,
    *(area(score) for score in SCORES[2:]),
)
"""In the order of C4's criteria."""


def bootstrapped(memory: Memory, statistic: Statistic) -> Measured:
    """Mean over seeds of a statistic, with a 95 % interval over drawn seeds and drawn images."""
    count, images = memory.right.shape
    draw, places = torch.Generator().manual_seed(0), torch.arange(DRAWS)
    one = torch.ones(1, images, dtype=torch.float64)
    value = sum(statistic(memory, s, one).item() for s in range(count)) / count
    total = torch.zeros(DRAWS, dtype=torch.float64)
    for _ in range(count):
        at = torch.randint(images, (DRAWS, images), generator=draw)
        weights = torch.zeros(DRAWS, images, dtype=torch.float64).scatter_add_(
            1, at, one.expand(DRAWS, -1)
        )
        found = torch.stack([statistic(memory, s, weights) for s in range(count)])
        total += found[torch.randint(count, (DRAWS,), generator=draw), places] / count
    low, high = total.nanquantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return with_interval(value, min(low, value), max(high, value), count)


def findings(result: Result) -> dict[str, dict[str, Numbers]]:
    """C4's numbers for each architecture, with intervals."""
    names = [criterion.name for criterion in claim("C4").criteria]
    told: dict[str, Numbers] = {
        architecture: {
            name: bootstrapped(memory, statistic)
            for name, statistic in zip(names, STATISTICS, strict=True)
        }
        for architecture, memory in result.memories.items()
    }
    return {"C4": told}
