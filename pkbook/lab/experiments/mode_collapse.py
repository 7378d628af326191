r"""T10: do the updates of a collapsing GAN move all latents together? (Cor. 4.2, Rem. 4.1)

Generators of eight Gaussians on a ring are trained against a learned discriminator and recorded.
For every step, the exact formula says how far that step's batch moved each query latent; the
*coherence* of these moves is compared with how many of the modes the generator makes, and with the
coherence of the feedback itself, before the kernel carried it.  The formula's two sides are checked
where both densities are known (`known_densities`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from pkbook.basics.checks import require_choice, require_whole
from pkbook.generative import GaussianMixture, coherence, ring_of_gaussians
from pkbook.interpolation.trajectory import batches
from pkbook.lab.experiments.machinery.claims import by_seed, claim
from pkbook.lab.experiments.machinery.results import Measured, Numbers, over_seeds
from pkbook.lab.experiments.machinery.settings import (
    Settings,
    choices,
    positive,
    require_at_most,
    several,
    whole,
)
from pkbook.lab.experiments.machinery.training import remembered
from pkbook.lab.experiments.parts import gans_together as together
from pkbook.lab.experiments.parts.coming_back import coming_back
from pkbook.lab.experiments.parts.gans_together import Together
from pkbook.lab.experiments.parts.known_densities import gaps
from pkbook.lab.trained import Trained, trained
from pkbook.problems.models import mlp


@dataclass(frozen=True)
class Setting:
    """What is varied: rates of Adam, first beta of the generator's Adam, its hidden width."""

    generator: float = 0.01
    discriminator: float = 0.001
    momentum: float = 0.5
    width: int = 32


COLLAPSING = Setting()
SETTINGS = {
    "healthy": Setting(0.002, 0.002),
    "collapsing": COLLAPSING,
    "slower generator": replace(COLLAPSING, generator=0.002),
    "faster discriminator": replace(COLLAPSING, discriminator=0.01),
    "more momentum": replace(COLLAPSING, momentum=0.9),
    "wider generator": replace(COLLAPSING, width=64),
}
MAIN = ("healthy", "collapsing")
QUICK = tuple(name for name in SETTINGS if name != "wider generator")  # it changes little
NEAR = 3.0  # scales from its centre within which a point belongs to a mode
COHERENCES = ("carried", "moved", "feedback")
SIDE = 16  # runs trained at once
LEAST = 0.02  # share of the points that a mode must hold to count as covered


@dataclass(frozen=True)
class Config(Settings):
    """Settings. ``seeds`` are run for `MAIN`, the first ``few`` of them for the others."""

    seeds: tuple[int, ...] = several(tuple(range(5)))
    few: int = whole(2)
    steps: int = whole(200)
    every: int = whole(10)
    """Steps between two counts of modes, and what curves are averaged over."""
    batch: int = whole(64)
    latents: int = whole(512)
    queries: int = whole(16)
    points: int = whole(500)
    scale: float = positive(0.15)
    nodes: int = whole(2)
    """Of the quadrature of each step."""
    known_steps: int = 10
    settings: tuple[str, ...] = choices(QUICK, tuple(SETTINGS))

    FULL: ClassVar = {
        "seeds": tuple(range(12)),
        "few": 6,
        "steps": 1200,
        "queries": 64,
        "nodes": 3,
        "known_steps": 60,
        "settings": tuple(SETTINGS),
    }

    def check_together(self) -> None:
        if self.steps % (4 * self.every):
            raise ValueError(
                f"steps must be a multiple of four times every ({4 * self.every}), got {self.steps}"
            )
        require_at_most(self.queries, "queries", self.batch, "the batch")
        if not set(MAIN) <= set(self.settings):
            raise ValueError(f"settings must hold {MAIN}, got {self.settings}")

    def trained(self) -> Trained:
        """The line that names what is trained: the collapsing runs, which the others vary."""
        how = {"steps": self.steps, "batch": self.batch, "seeds": self.seeds}
        rate = f"discriminator 2–64–64–1 by Adam, learning rate {COLLAPSING.discriminator:g}"
        data = f"{self.latents} latents, eight Gaussians on a ring"
        model, optimizer = build(COLLAPSING, self.seeds[0])
        return trained(model, optimizer, "non-saturating loss", data=data, also=rate, **how)

    def seeds_of(self, name: str) -> tuple[int, ...]:
        """The seeds of a setting."""
        return self.seeds if name in MAIN else self.seeds[: self.few]


@dataclass(frozen=True)
class Result:
    """``{setting: [seeds, ...]}`` each; K steps, E = K / every blocks."""

    config: Config
    carried: dict[str, Tensor]
    """Coherence of what each step's batch did to the queries, then and later, ``[S, K]``."""
    moved: dict[str, Tensor]
    """Coherence of how the queries moved in each step, whichever batch did it, ``[S, K]``."""
    feedback: dict[str, Tensor]
    """Coherence of the discriminator's feedback on as many points of the batch, ``[S, K]``."""
    modes: dict[str, Tensor]
    """Modes covered after each block, ``[S, E]``."""
    places: dict[str, Tensor]
    """Generated points after each block, ``[S, E, points, 2]``."""
    gap: dict[str, Tensor]
    """Largest relative gap of the interpolation, ``[S]``."""
    returned: dict[str, Tensor]
    """Share of the points that leave a mode for another one and come back, ``[S]``."""
    known: Tensor
    """Largest relative gap with known densities, ``[seeds]``."""

    def late(self, values: Tensor) -> Tensor:
        """Mean over the last three quarters of ``values [S, K or E]``, ``[S]``: the first is
        the way from the start to the ring, on which everything moves together."""
        return values[:, values.shape[1] // 4 :].double().mean(1)

    def blocks(self, values: Tensor) -> Tensor:
        """Means over blocks of steps, ``[S, E]``."""
        return values.unflatten(1, (-1, self.config.every)).mean(2)

    def ratio(self, name: str, what: str = "carried") -> Measured:
        """Coherence of a setting over that of healthy runs of the same seeds."""
        values = self._of(what)
        top, bottom = self.late(values[name]), self.late(values["healthy"])
        return over_seeds(top / bottom[: len(top)])

    def rank_correlation(self, what: str = "carried") -> tuple[float, float]:
        """Spearman's, of late coherence and late number of modes over all runs; its p-value."""
        from scipy.stats import spearmanr  # takes a second to import

        values = self._of(what)
        pairs = [(self.late(values[s]), self.late(self.modes[s])) for s in values]
        coherent, modes = (torch.cat(part) for part in zip(*pairs, strict=True))
        found = spearmanr(coherent.numpy(), modes.numpy())
        return float(found.statistic), float(found.pvalue)

    def lagged(self, name: str, most: int = 4, what: str = "carried") -> Tensor:
        r"""Correlation of coherence in block b with modes in block b + lag, ``[S, 2 most + 1]``.

        Lags run from -most to most; where coherence leads, the strongest one is positive.
        """
        blocks, modes = self.blocks(self._of(what)[name]), self.modes[name].double()
        return torch.stack([lagged(c, m, most) for c, m in zip(blocks, modes, strict=True)])

    def _of(self, what: str) -> dict[str, Tensor]:
        require_choice(what, "what", COHERENCES)
        return getattr(self, what)


def lagged(first: Tensor, second: Tensor, most: int) -> Tensor:
    """Pearson's correlation of ``first[b]`` with ``second[b + lag]``, ``[2 most + 1]``; NaN where
    one of them stands still."""
    n = len(first)
    require_whole(most, "most", least=0)
    if n < most + 3:
        raise ValueError(f"most: expected at most {n - 3} for {n} blocks, came {most}")
    found = []
    for lag in range(-most, most + 1):
        pair = first[max(0, -lag) : n - max(0, lag)], second[max(0, lag) : n + min(0, lag)]
        found.append(torch.corrcoef(torch.stack(pair).double())[0, 1])
    return torch.stack(found)


def covered(data: GaussianMixture, x: Tensor) -> int:
    """How many modes hold at least 2 % of the points ``x [n, d]``, within three scales."""
    mode = data.mode(x)
    near = (x - data.means[mode]).norm(dim=1) < NEAR * data.scale
    counts = torch.bincount(mode[near], minlength=len(data.means))
    return int((counts >= LEAST * len(x)).sum())


def build(
    setting: Setting, seed: int, device: torch.device | str = "cpu"
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """The generator, untrained and in float64, and its optimizer."""
    net = mlp(2, setting.width, setting.width, 2, activation="tanh", seed=seed)
    net = net.double().to(device)
    betas = (setting.momentum, 0.999)
    return net, torch.optim.Adam(net.parameters(), setting.generator, betas=betas)


def train(
    settings: Sequence[Setting],
    config: Config,
    seeds: Sequence[int],
    device: torch.device | str = "cpu",
) -> tuple[GaussianMixture, Together]:
    """The ring, and one run in float64 for each pair of a setting and a seed, side by side.

    ``ValueError`` for settings of several widths.
    """
    if len({setting.width for setting in settings}) != 1:
        raise ValueError("settings must have one width to be trained side by side")
    ring = ring_of_gaussians(8, scale=config.scale)
    ring = GaussianMixture(ring.means.double().to(device), config.scale)
    draws = [torch.Generator().manual_seed(seed) for seed in seeds]
    z = [torch.randn(config.latents, 2, generator=g, dtype=torch.float64) for g in draws]
    rule = {"size": config.batch, "steps": config.steps}
    chosen = [torch.stack(list(batches(config.latents, seed=seed, **rule))) for seed in seeds]
    made = together.train(
        [build(setting, seed, device)[0] for setting, seed in zip(settings, seeds, strict=True)],
        [mlp(2, 64, 64, 1, seed=100 + seed).double().to(device) for seed in seeds],
        torch.stack(z).to(device),
        torch.stack(chosen).to(device),
        lambda n: torch.stack([ring.sample(n, generator=g) for g in draws]).to(device),
        rates=([s.generator for s in settings], [s.discriminator for s in settings]),
        betas=[s.momentum for s in settings],
    )
    return ring, made


def asked(config: Config, seeds: Sequence[int]) -> Tensor:
    """The latents of each run's queries and points, ``[R, points, 2]``, no training latents."""
    draws = [torch.Generator().manual_seed(10_000 + seed) for seed in seeds]
    return torch.stack(
        [torch.randn(config.points, 2, generator=g, dtype=torch.float64) for g in draws]
    )


def measure(
    settings: Sequence[Setting],
    config: Config,
    seeds: Sequence[int],
    device: torch.device | str = "cpu",
) -> dict[str, Tensor]:
    """Every number of R runs, by field of `Result`, the runs in front."""
    ring, made = train(settings, config, seeds, device)
    z = asked(config, seeds).to(device)
    queries = z[:, : config.queries]
    moves, way = made.carried(queries, config.nodes), made.places(queries)
    change = way[:, -1] - way[:, 0]
    gap = (change - moves.sum(1)).norm(dim=2) / change.norm(dim=2)
    looks = made.places(z, config.every)[:, 1:]
    found = {
        "carried": coherence(moves),
        "moved": coherence(way.diff(dim=1)),
        "feedback": coherence(made.feedback[:, :, : config.queries]),
        "modes": torch.tensor([[covered(ring, x) for x in run] for run in looks]),
        "places": looks,
        "gap": gap.amax(1),
        "returned": torch.tensor([coming_back(run, ring) for run in looks]),
    }
    return {name: value.cpu() for name, value in found.items()}


def run(
    config: Config,
    *,
    device: torch.device | str = "cpu",
    folder: Path | None = None,
    progress: bool = False,
) -> Result:
    """Train and take apart every setting with every seed; then the known densities.

    Generators of one width are trained side by side, `SIDE` of them at once.
    """
    jobs = [(name, seed) for name in config.settings for seed in config.seeds_of(name)]
    widths = sorted({SETTINGS[name].width for name in config.settings})
    alike = [[job for job in jobs if SETTINGS[job[0]].width == w] for w in widths]
    groups = [g[first : first + SIDE] for g in alike for first in range(0, len(g), SIDE)]
    rows: dict[str, list[dict[str, Tensor]]] = {name: [] for name in config.settings}
    for number, group in enumerate(tqdm(groups, disable=not progress, desc="groups of runs")):
        path = None if folder is None else folder / f"runs-{number}"
        settings, seeds = [SETTINGS[name] for name, _ in group], [seed for _, seed in group]
        found = remembered(path, partial(measure, settings, config, seeds, device))
        for place, (name, _) in enumerate(group):
            rows[name].append({what: values[place] for what, values in found.items()})
    fields = {
        what: {name: torch.stack([row[what] for row in found]) for name, found in rows.items()}
        for what in ("carried", "moved", "feedback", "modes", "places", "gap", "returned")
    }
    known = [max(gaps(seed, config.known_steps).values()) for seed in config.seeds[: config.few]]
    return Result(config, **fields, known=torch.tensor(known))


def findings(result: Result) -> dict[str, dict[str, Numbers]]:
    """T10: moves booked to the batch that caused them, and to the step in which they happened;
    both again for a generator with more momentum. C7: whether the kernel amplifies."""
    gap, ratio = (c.name for c in claim("T10").criteria)
    known = over_seeds(result.known)
    texts = {
        "carried": "moves booked to the batch that caused them",
        "moved": "moves booked to the step in which they happen",
    }
    names = [name for name in ("collapsing", "more momentum") if name in result.carried]
    rows = {
        text if name == "collapsing" else f"{text}, {name}": result.ratio(name, what)
        for name in names
        for what, text in texts.items()
    }
    told: dict[str, Numbers] = {text: {gap: known, ratio: found} for text, found in rows.items()}
    return {"T10": told, "C7": {texts["carried"]: _amplified(result)}}


def _amplified(result: Result) -> Numbers:
    """C7's numbers: moves over feedback, and whether coherence comes before the loss of modes."""
    over = {
        name: result.late(result.carried[name]) / result.late(result.feedback[name])
        for name in MAIN
    }
    blocks = result.modes["collapsing"].shape[1]
    course = result.lagged("collapsing", min(4, blocks - 3))
    middle = course.shape[1] // 2
    lean = course[:, middle + 1 :].mean(1) - course[:, :middle].mean(1)
    return by_seed("C7", [over["collapsing"], lean, over["healthy"]])
