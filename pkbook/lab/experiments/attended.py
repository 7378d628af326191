r"""Does a kernel inherit attention?  Sequences in which one token decides (Section 6, beyond it).

Sequences of letters, one of them marked; the class is the marked letter.  A single attention
layer learns the task.  We change one letter and ask for the normalised kernel between the
sequence and its copy.  Controls: a network of the same size that averages, and a task in which
every letter counts (which of two letters is more frequent), where there is nothing to select.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional

from pkbook.basics.checks import require_choice
from pkbook.basics.randomness import seeded
from pkbook.kernels.features import tangent_features
from pkbook.lab import plots
from pkbook.lab.experiments.alignment import spearman
from pkbook.lab.experiments.machinery.claims import by_seed
from pkbook.lab.experiments.machinery.results import Numbers
from pkbook.lab.experiments.machinery.settings import Settings, choice, positive, several, whole
from pkbook.lab.experiments.machinery.training import fit
from pkbook.lab.trained import Trained, trained
from pkbook.problems import losses

TASKS = ("marked", "frequent")
TITLES = {"marked": "the marked letter", "frequent": "the more frequent letter"}
POOLS = ("attention", "average")
CHANGES = ("marked letter", "another letter", "all other letters", "everything")
FRESH = 1_000_000  # added to a seed, it is that of the sequences that are looked at


class Reader(nn.Module):
    r"""One attention layer with a trainable query, or the mean in its place.

    .. math::

        f(x)=W_o\,\sigma\Big(\sum_p a_p\,W_v z_p\Big),\qquad
        a=\mathrm{softmax}_p\big(\langle q,W_k z_p\rangle\big),\qquad z_p=Ex_p .

    Input ``[n, places, letters + 1]``: the letter at each place as one-hot, and whether it is
    marked.  Output ``[n, letters]``.  With ``pool="average"`` all :math:`a_p` are equal.
    """

    def __init__(self, letters: int, width: int, pool: str = "attention") -> None:
        super().__init__()
        self.pool = require_choice(pool, "pool", POOLS)
        self.embed = nn.Linear(letters + 1, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        if pool == "attention":
            self.key = nn.Linear(width, width, bias=False)
            self.query = nn.Parameter(torch.randn(width) / width**0.5)
        self.out = nn.Linear(width, letters)

    def weights(self, x: Tensor) -> Tensor:
        """The attention :math:`a_p`, ``[n, places]``."""
        if self.pool == "average":
            return torch.full_like(x[..., 0], 1 / x.shape[1])
        return (self.key(self.embed(x)) @ self.query).softmax(1)

    def forward(self, x: Tensor) -> Tensor:
        read = (self.weights(x)[..., None] * self.value(self.embed(x))).sum(1)
        return self.out(functional.relu(read))


@dataclass(frozen=True)
class Config(Settings):
    """Settings; `quick()` takes some seconds on a CPU, `full()` has longer sequences."""

    task: str = choice("marked", TASKS)
    pool: str = choice("attention", POOLS)
    letters: int = whole(5, least=3)
    places: int = whole(8, least=2)
    width: int = whole(24)
    samples: int = whole(1000)
    shown: int = whole(60)
    """Sequences that the kernel is taken for."""
    rate: float = positive(3e-3)
    batch: int = whole(50)
    epochs: tuple[int, ...] = (0, 15)
    seeds: tuple[int, ...] = several((0, 1))

    FULL: ClassVar = {"places": 16, "width": 64, "samples": 4000, "seeds": tuple(range(10))}

    def trained(self) -> Trained:
        """The line that names what is trained."""
        model = network(self, self.seeds[0])
        how = {"epochs": self.epochs[-1], "batch": self.batch, "seeds": self.seeds}
        optimizer = torch.optim.Adam(model.parameters(), lr=self.rate)
        texts = f"{self.samples} sequences of {self.places} letters, task: {TITLES[self.task]}"
        how["also"] = "one attention layer" if self.pool == "attention" else "no attention"
        return trained(model, optimizer, losses.cross_entropy, data=texts, **how)


@dataclass(frozen=True)
class Result:
    """Of S seeds, E looks, n sequences and p places."""

    config: Config
    accuracy: Tensor  # [S, E] on the sequences that are looked at
    attention: Tensor  # [S, E, n, p]
    single: Tensor  # [S, E, n, p] normalised kernel with a copy that differs at one place
    changed: Tensor  # [S, E, 4, n] with a copy that differs as `CHANGES` say
    marked: Tensor  # [S, n] the marked place


def written(letters: Tensor, marked: Tensor, count: int) -> Tensor:
    """One-hot letters ``[n, p]`` and a last entry that marks one place of each ``[n]``."""
    mark = functional.one_hot(marked, letters.shape[1])[..., None]
    return torch.cat([functional.one_hot(letters, count), mark], 2).float()


def sequences(config: Config, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Letters ``[n, p]``, marked places ``[n]`` and classes ``[n]``."""
    letters = torch.randint(config.letters, (n, config.places), generator=generator)
    marked = torch.randint(config.places, (n,), generator=generator)
    if config.task == "marked":
        return letters, marked, letters[torch.arange(n), marked]
    counts = functional.one_hot(letters, config.letters).sum(1)
    return letters, marked, (counts[:, 1] > counts[:, 0]).long()


def copies(config: Config, letters: Tensor, marked: Tensor, generator: torch.Generator) -> Tensor:
    """Copies ``[n, p + 2, p]``: other letter at one place each, at all unmarked, everywhere.

    A changed letter is never the old one; the mark stays where it is.
    """
    n, p = letters.shape
    step = torch.randint(1, config.letters, letters.shape, generator=generator)
    other = (letters + step) % config.letters
    one = torch.eye(p, dtype=torch.bool).expand(n, p, p)
    rest = ~functional.one_hot(marked, p).bool()
    masks = torch.cat([one, rest[:, None], torch.ones(n, 1, p, dtype=torch.bool)], 1)
    return torch.where(masks, other[:, None], letters[:, None])


def kernels(config: Config, model: nn.Module, letters, marked, altered) -> Tensor:
    """Normalised kernel of each sequence with its copies, ``[n, p + 2]``.

    Only these pairs, so the features are written out and multiplied in pairs.
    """
    both = torch.cat([letters[:, None], altered], 1)
    x = written(both.flatten(0, 1), marked.repeat_interleave(both.shape[1]), config.letters)
    features = tangent_features(model, x).flatten(1).unflatten(0, both.shape[:2])
    return functional.cosine_similarity(features[:, :1], features[:, 1:], dim=2)


def network(config: Config, seed: int) -> Reader:
    """A network before training."""
    cpu = torch.device("cpu")
    with seeded(seed, cpu), cpu:
        return Reader(config.letters, config.width, config.pool)


def follow(config: Config, seed: int) -> dict[str, Tensor]:
    """One training run: the tensors of a `Result`, without the seeds' dimension."""
    train, look = (torch.Generator().manual_seed(seed + more) for more in (0, FRESH))
    letters, marked, y = sequences(config, config.samples, train)
    samples = written(letters, marked, config.letters), y
    shown, place, truth = sequences(config, config.shown, look)
    altered = copies(config, shown, place, look)
    x, model = written(shown, place, config.letters), network(config, seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.rate)
    loss: Callable = losses.cross_entropy
    settings = {"epochs": config.epochs, "batch": config.batch, "seed": seed}
    found = {name: [] for name in ("accuracy", "attention", "single", "changed")}
    one = functional.one_hot(place, config.places).bool()
    for _ in fit(model, loss, optimizer, samples, **settings):
        k = kernels(config, model, shown, place, altered)
        single, (rest, everything) = k[:, :-2], k[:, -2:].T
        unmarked = single[~one].reshape(len(k), -1).mean(1)
        found["changed"].append(torch.stack([single[one], unmarked, rest, everything]))
        found["single"].append(single)
        with torch.no_grad():
            found["attention"].append(model.weights(x))
            found["accuracy"].append((model(x).argmax(1) == truth).double().mean())
    return {name: torch.stack(values) for name, values in found.items()} | {"marked": place}


def run(config: Config) -> Result:
    """Train with every seed and look at each of the epochs."""
    runs = [follow(config, seed) for seed in config.seeds]
    return Result(config, **{name: torch.stack([r[name] for r in runs]) for name in runs[0]})


def gap(result: Result, look: int = -1) -> Tensor:
    """Kernel with another letter changed less that with the marked one changed, ``[S]``."""
    means = result.changed[:, look].mean(-1)
    return means[:, 1] - means[:, 0]


def change(result: Result, look: int = -1) -> Tensor:
    r""":math:`1-\hat K` of a sequence and its copy with one other letter, ``[S, n, places]``."""
    return 1 - result.single[:, look]


def followed(result: Result, look: int = -1) -> Tensor:
    """Share of the sequences whose most attended letter moves the kernel most, ``[S]``."""
    same = result.attention[:, look].argmax(2) == change(result, look).argmax(2)
    return same.double().mean(1)


def findings(chosen: Result, average: Result, all_count: Result) -> dict[str, dict[str, Numbers]]:
    """C6's numbers, one a seed: attention on the marked letter, and its two controls.

    ``average`` cannot choose; ``all_count`` attends, in a task in which every letter counts.
    """
    pairs = zip(chosen.attention[:, -1], change(chosen), strict=True)
    ranks = [spearman(a.flatten(), c.flatten()) for a, c in pairs]
    controls = [gap(average), gap(all_count)]
    values = [followed(chosen), gap(chosen), gap(chosen, 0), *controls, ranks]
    return {"C6": {"one attention layer, the marked letter decides": by_seed("C6", values)}}


@plots.style()
def draw(results: Sequence[Result]) -> Figure:
    """For each result the kernel with copies, by what was changed; a dot for each seed."""
    fig, axes = plots.figure(
        len(results), 1, width=4.6, height=0.9 + 1.75 * len(results), sharex=True, squeeze=False
    )
    looks = {"before training": (0, "o", plots.NEUTRAL), "after": (-1, "D", plots.MINUS)}
    for ax, result in zip(axes[:, 0], results, strict=True):
        for k, (name, (look, mark, colour)) in enumerate(looks.items()):
            fill = "none" if look == 0 else "full"
            rows = torch.arange(len(CHANGES)) + 0.2 * k - 0.1
            for values in result.changed[:, look].mean(-1):
                ax.plot(values, rows, mark, color=colour, fillstyle=fill, label=name)
        config = result.config
        ax.set_title(f"{config.pool}, task: {TITLES[config.task]}")
        ax.set_yticks(range(len(CHANGES)), CHANGES)
        ax.set(xlim=(0, 1.03), ylim=(len(CHANGES) - 0.5, -0.5))
    axes[-1, 0].set_xlabel(r"$\hat K$ with the copy")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    few = dict(zip(labels, handles, strict=True))
    fig.legend(few.values(), few.keys(), loc="outside upper center", ncols=2)
    return fig
