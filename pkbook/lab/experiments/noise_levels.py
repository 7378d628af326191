r"""Does a noise prediction owe most to training at nearby noise levels?  (Corollary 4.1)

A small diffusion model of eight spots in the plane is trained by SGD and recorded.  The change of
its noise prediction at :math:`(x,\tau)` is taken apart into training rows (sample, level
:math:`\tau'`).  Measured is the share that levels with :math:`|\tau-\tau'|\le T/10` have in the sum
of absolute contributions, over the *usual* share of the same levels, whoever asks: with the
sinusoidal embedding of the level, with one in disorder, with none, and at several frequencies.
Source: arXiv 2603.13872, Corollary 4.1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar

import torch
from matplotlib.figure import Figure
from torch import Tensor

from pkbook import generative as gen
from pkbook.basics.checks import require_choice
from pkbook.interpolation.trajectory import Trajectory, batches
from pkbook.lab.experiments.machinery.claims import claim
from pkbook.lab.experiments.machinery.results import Measured, Numbers, over_seeds
from pkbook.lab.experiments.machinery.settings import Settings, numbers, positive, several, whole
from pkbook.lab.experiments.parts import predictors_together
from pkbook.lab.plots import NEUTRAL, PALETTE, figure, style
from pkbook.lab.trained import Trained, trained
from pkbook.problems import losses

EMBEDDINGS = ("sinusoidal", "rough", "none")
QUERIES = ("noisy", "same")
"""Queries of a level: fresh points noised to it, or the same few points at every level."""
NAMES = {"sinusoidal": "sinusoidal", "rough": "in disorder", "none": "none"}


@dataclass(frozen=True)
class Config(Settings):
    """What is trained and who is asked.  ValueError or TypeError for sizes that cannot be."""

    levels: int = whole(100, least=10)  # T
    coarse: int = whole(20, least=10)  # T of the second setting
    samples: int = whole(20)
    width: int = whole(16)  # of the embedding
    hidden: tuple[int, ...] = (64, 64)
    rate: float = positive(0.3)
    batch: int = whole(64)
    steps: int = whole(150)
    asked: int = whole(20)  # how many levels are asked, evenly spaced
    per_level: int = whole(2)  # queries of each kind at each of them
    frequencies: tuple[float, ...] = numbers((0.003, 1.0, 30.0))
    seeds: tuple[int, ...] = several((0, 1, 2))

    FULL: ClassVar = {
        "samples": 60,
        "steps": 1000,
        "per_level": 4,
        "frequencies": (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0),
        "seeds": tuple(range(5)),
    }

    def check_together(self) -> None:
        for name in ("levels", "coarse"):
            if getattr(self, name) % self.asked:
                raise ValueError(
                    f"{name} must be a multiple of asked ({self.asked}), got {getattr(self, name)}"
                )
        if 1.0 not in self.frequencies:
            raise ValueError(f"frequencies must hold 1.0, the usual one, got {self.frequencies}")

    def trained(self) -> Trained:
        """The line that names what is trained."""
        model, optimizer = self.build(gen.sinusoidal(self.levels, self.width), 0)
        how = {"steps": self.steps, "batch": self.batch, "seeds": self.seeds}
        rows = f"{self.samples} points of eight spots, once at each of {self.levels} noise levels"
        return trained(model, optimizer, losses.squared, data=rows, **how)

    def build(
        self, embedding: Tensor, seed: int
    ) -> tuple[gen.NoisePredictor, torch.optim.Optimizer]:
        """The noise predictor, untrained, and the optimizer that trains it."""
        model = gen.NoisePredictor(2, embedding, hidden=self.hidden, seed=seed)
        return model, torch.optim.SGD(model.parameters(), lr=self.rate)


@dataclass(frozen=True)
class Study:
    """One trained model, taken apart."""

    levels: int
    shares: dict[str, Tensor]
    """By kind of query: share of each training level (column) in what each level (row) owes to
    training, ``[T, T]``; NaN in rows that were not asked."""
    gap: float
    """Largest relative gap of the formula."""
    loss: float
    """Mean squared error of the trained model over its rows and outputs."""

    def usual(self, query: str = "noisy") -> Tensor:
        """Share of each training level, averaged over the queries, ``[T]``."""
        return self.shares[query].nanmean(0)

    def near(self, query: str = "noisy") -> float:
        """Share of the levels within T/10, averaged over query levels."""
        return gen.locality(self.shares[query], self.levels // 10)[0].nanmean().item()

    def ratio(self, query: str = "noisy", *, own: bool = True) -> float:
        """That share over the usual share of the same levels, averaged over query levels.

        ``own=False`` leaves the query's own level out of both.
        """
        near, usual = gen.locality(self.shares[query], self.levels // 10)
        if not own:
            near = near - self.shares[query].diagonal()
            usual = usual - self.usual(query)
        return (near / usual).nanmean().item()

    def profile(self, furthest: int, query: str = "noisy") -> Tensor:
        r"""Share over usual share at :math:`\tau'-\tau=-d,\dots,d`, ``[2 furthest + 1]``."""
        relative = self.shares[query] / self.usual(query)
        rows = [relative.diagonal(d).nanmean() for d in range(-furthest, furthest + 1)]
        return torch.stack(rows)


Case = tuple[int, str, float, int]
"""Levels, embedding, frequency, seed."""


@dataclass(frozen=True)
class Result:
    """Every study by its case."""

    config: Config
    studies: dict[Case, Study]

    def of(
        self, embedding: str, *, levels: int | None = None, frequency: float = 1.0
    ) -> list[Study]:
        """The studies of one setting, one a seed; ValueError for what was not run."""
        levels = self.config.levels if levels is None else levels
        cases = [(levels, embedding, frequency, seed) for seed in self.config.seeds]
        if cases[0] not in self.studies:
            raise ValueError(
                f"nothing was run with levels={levels}, embedding={embedding!r}, "
                f"frequency={frequency}"
            )
        return [self.studies[case] for case in cases]


def seeded(seed: int) -> torch.Generator:
    """A generator of its own."""
    return torch.Generator().manual_seed(seed)


def schedule(levels: int) -> gen.NoiseSchedule:
    """The usual one; gentler where few levels would make a step larger than 1/2."""
    return gen.linear_schedule(levels, last=min(20.0, levels / 2))


def points(n: int, generator: torch.Generator) -> Tensor:
    """Eight spots on a circle, of size one in each coordinate, ``[n, 2]``."""
    return gen.ring_of_gaussians(8, scale=0.1).sample(n, generator=generator) * 2**0.5


def embedded(config: Config, levels: int, embedding: str, frequency: float, seed: int) -> Tensor:
    """An embedding by its name, ``[T, width]``."""
    require_choice(embedding, "embedding", EMBEDDINGS)
    if embedding == "sinusoidal":
        return gen.sinusoidal(levels, config.width, frequency=frequency)
    if embedding == "rough":
        return gen.rough(levels, config.width, generator=seeded(3000 + seed))
    return gen.no_embedding(levels, config.width)


def noised_points(config: Config, levels: int, seed: int) -> gen.NoisedData:
    """Every sample at every level."""
    x = points(config.samples, seeded(seed))
    return gen.noised(x, schedule(levels), generator=seeded(1000 + seed))


def train(config: Config, embedding: Tensor, seed: int) -> tuple[Trajectory, gen.NoisedData]:
    """SGD on every sample at every level, recorded; ``embedding [T, E]`` gives the levels."""
    data = noised_points(config, len(embedding), seed)
    model, optimizer = config.build(embedding, seed)
    run = Trajectory(model, losses.squared, optimizer, data.pair, every=15)
    for batch in batches(len(data.z), size=config.batch, steps=config.steps, seed=seed):
        run.step(batch)
    return run, data


def queries(config: Config, levels: int, seed: int) -> tuple[dict[str, Tensor], Tensor]:
    """Queries of both kinds ``[m, 3]``, and their levels ``[m]``."""
    apart = levels // config.asked
    level = torch.arange((apart + 1) // 2, levels + 1, apart).repeat_interleave(config.per_level)
    noise = schedule(levels)
    clean = points(len(level), seeded(4000 + seed))
    drawn = torch.randn(clean.shape, generator=seeded(5000 + seed))
    fixed = torch.randn(config.per_level, 2, generator=seeded(6000 + seed))
    places = {"noisy": noise.noisy(clean, drawn, level), "same": fixed.repeat(config.asked, 1)}
    return {kind: gen.with_level(x, level, noise) for kind, x in places.items()}, level


def studies(
    config: Config,
    levels: int,
    cases: Sequence[tuple[str, float, int]],
    *,
    scales: Sequence[float] | None = None,
) -> list[Study]:
    """Models of so many levels, trained and taken apart side by side.

    ``cases`` are (embedding, frequency, seed); ``scales`` multiply the embeddings, if given.
    """
    scales = [1.0] * len(cases) if scales is None else scales
    tables = [s * embedded(config, levels, *case) for s, case in zip(scales, cases, strict=True)]
    seeds = [seed for *_, seed in cases]
    data = [noised_points(config, levels, seed) for seed in seeds]
    places = [queries(config, levels, seed) for seed in seeds]
    asked = [torch.cat(list(z.values())) for z, _ in places]
    models = [config.build(t, seed)[0] for t, seed in zip(tables, seeds, strict=True)]
    rule = {"size": config.batch, "steps": config.steps}
    rows = levels * config.samples
    chosen = [torch.stack(list(batches(rows, seed=seed, **rule))) for seed in seeds]
    told = predictors_together.train(
        [model.net for model in models],
        (
            torch.stack([m.inputs(d.z) for m, d in zip(models, data, strict=True)]),
            torch.stack([d.noise for d in data]),
        ),
        torch.stack(chosen),
        torch.stack([m.inputs(z) for m, z in zip(models, asked, strict=True)]),
        rate=config.rate,
    )
    found = []
    for place, (d, (z, level)) in enumerate(zip(data, places, strict=True)):
        sizes = told.contributions[place].norm(dim=2)
        strength = sizes.new_zeros(levels, sizes.shape[1]).index_add_(0, d.level - 1, sizes)
        parts = zip(z, strength.chunk(len(z), 1), strict=True)
        shares = {kind: gen.level_map(part, level, levels) for kind, part in parts}
        found.append(Study(levels, shares, told.gap[place].item(), told.loss[place].item()))
    return found


@cache
def everything(config: Config) -> Result:
    """All cases, the models of one number of levels side by side; once for each config."""
    usual = [(embedding, 1.0) for embedding in EMBEDDINGS]
    others = [("sinusoidal", f) for f in config.frequencies if f != 1.0]
    found = {}
    for levels, pairs in ((config.coarse, usual), (config.levels, usual + others)):
        cases = [(*pair, seed) for pair in pairs for seed in config.seeds]
        several = studies(config, levels, cases)
        found |= {(levels, *case): s for case, s in zip(cases, several, strict=True)}
    return Result(config, found)


def run(
    config: Config,
    *,
    device: torch.device | str = "cpu",
    folder: Path | None = None,
    progress: bool = False,
) -> Result:
    """All cases.  On the CPU, in seconds; nothing is kept in a folder."""
    return everything(config)


def ratios(result: Result, embedding: str, *, query: str = "noisy", **where) -> Measured:
    """Near levels' share over their usual share, over the seeds."""
    return over_seeds(s.ratio(query) for s in result.of(embedding, **where))


def findings(result: Result) -> dict[str, dict[str, Numbers]]:
    """T9's numbers, one a seed."""
    names = [c.name for c in claim("T9").criteria]
    fine, coarse = result.config.levels, result.config.coarse
    settings = {
        f"{fine} levels": (fine, "noisy"),
        f"{fine} levels, the same inputs at every level": (fine, "same"),
        f"{coarse} levels": (coarse, "noisy"),
    }
    found = {}
    for setting, (levels, query) in settings.items():
        gaps = zip(*(result.of(e, levels=levels) for e in EMBEDDINGS), strict=True)
        values = [ratios(result, e, query=query, levels=levels) for e in EMBEDDINGS]
        values.append(over_seeds(max(s.gap for s in studies) for studies in gaps))
        found[setting] = dict(zip(names, values, strict=True))
    return {"T9": found}


def figures(result: Result) -> dict[str, Figure]:
    """What the command line writes."""
    return {
        "map": draw_map(result),
        "profile": draw_profile(result),
        "frequency": draw_frequencies(result),
    }


@style()
def draw_map(result: Result) -> Figure:
    """Contribution of each level to each level, with the embedding and without, mean of seeds."""
    fig, axes = figure(1, 2, width=7.2, height=3.9, sharey=True)
    shares = {}
    for embedding in ("sinusoidal", "none"):
        rows = torch.stack([s.shares["noisy"] for s in result.of(embedding)]).mean(0)
        asked = ~rows.isnan().all(1)
        rows = rows[asked].reshape(result.config.asked, result.config.asked, -1).sum(2)
        shares[embedding] = 100 * rows
    top = max(part.max() for part in shares.values())
    size = (0, result.config.levels)
    for ax, (embedding, part) in zip(axes, shares.items(), strict=True):
        ax.imshow(part.numpy(), origin="lower", extent=size * 2, vmin=0, vmax=top)
        ax.set(title=f"embedding: {NAMES[embedding]}", xlabel=r"training level $\tau'$")
    axes[0].set_ylabel(r"level of the query, $\tau$")
    fig.colorbar(axes[-1].images[0], ax=axes, label="share of the row, %", shrink=0.85)
    return fig


@style()
def draw_profile(result: Result) -> Figure:
    """Share over usual share against the distance of the levels, for the three embeddings."""
    fig, ax = figure(height=3.9)
    furthest = result.config.levels // 2
    ax.axvspan(-furthest / 5, furthest / 5, color=NEUTRAL, alpha=0.18, linewidth=0)
    ax.axhline(1, color="black", linewidth=0.8)
    distance = torch.arange(-furthest, furthest + 1)
    for embedding, line, colour in zip(EMBEDDINGS, ("-", "--", ":"), PALETTE, strict=False):
        rows = torch.stack([s.profile(furthest) for s in result.of(embedding)])
        label = NAMES[embedding]
        ax.plot(distance, rows.nanmean(0), line, color=colour, label=label)
    ax.set(xlabel=r"training level minus query level, $\tau'-\tau$", ylim=(0, None))
    ax.set_ylabel("share over usual share")
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3)
    return fig


@style()
def draw_frequencies(result: Result) -> Figure:
    """The ratio against the frequency of the embedding, every seed a dot."""
    fig, ax = figure(height=3.6)
    frequencies = sorted(result.config.frequencies)
    values = [ratios(result, "sinusoidal", frequency=f) for f in frequencies]
    for f in frequencies:
        for s in result.of("sinusoidal", frequency=f):
            ax.plot(f, s.ratio(), "o", color=PALETTE[0], alpha=0.6)
    ax.plot(frequencies, [v.mean for v in values], color=PALETTE[0])
    ax.axhline(1, color="black", linewidth=0.8)
    ax.set(xscale="log", xlabel="frequency of the embedding", ylim=(0.5, None))
    ax.set_ylabel("near share over usual share")
    return fig
