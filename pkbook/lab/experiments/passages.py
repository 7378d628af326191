r"""C26: how good is an account of a language model?  Passages left out, and the next word asked.

As in C22, but for the small GPT of `language`: each account gives every passage a score for the
log-odds of the next word after some prompts, and trainings without some passages judge it.  Half of
the prompts stand at the beginning of a passage that was read, the others run from one passage into
the next, which the network never saw together.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

from pkbook.evaluation import answers, linear_datamodeling_score
from pkbook.interpolation.trajectory import Trajectory
from pkbook.kernels.features import tangent_features
from pkbook.lab import plots
from pkbook.lab.experiments import language
from pkbook.lab.experiments.machinery.claims import by_seed
from pkbook.lab.experiments.machinery.results import Numbers
from pkbook.lab.experiments.machinery.settings import Settings, several, whole
from pkbook.lab.experiments.parts.judged_trainings import for_all_seeds, left_out_rows
from pkbook.lab.trained import Trained, trained
from pkbook.problems import data
from pkbook.runs.retraining import retrained

LITTLE = 0.05  # the share left out that C26 speaks of
FIRST = 66  # where the passages of `language` begin
PROJECTED = 64  # TRAK's dimensions, at most


@dataclass(frozen=True)
class Config(Settings):
    """Settings. `quick()` takes half a minute on a CPU; `full()` about half an hour."""

    passages: int = whole(32, least=20)
    width: int = whole(32, multiple=4)
    steps: int = whole(96)
    size: int = whole(8)
    rates: tuple[float, ...] = several((0.001, 0.01))
    """Learning rates, rising to that of the chapter on language."""
    queries: int = whole(4, multiple=2)
    prompt: int = whole(6)
    """Tokens of a prompt."""
    left_out: tuple[float, ...] = several((0.05,))
    """Shares of the passages that trainings are made without."""
    trainings: int = whole(12, least=8)
    """For each share."""
    seeds: tuple[int, ...] = several((0,))

    FULL: ClassVar = {
        "passages": 96,
        "width": 64,
        "steps": 192,
        "size": 16,
        "rates": (0.001, 0.003, 0.01),
        "queries": 12,
        "left_out": (0.02, 0.05, 0.2),
        "trainings": 30,
        "seeds": (0, 1, 2),
    }

    def reading(self, rate: float, seed: int) -> language.Config:
        """The model and its training."""
        return language.Config(
            first=FIRST, last=FIRST + self.passages, width=self.width, rate=rate,
            steps=self.steps, size=self.size, seed=seed,
        )  # fmt: skip

    def trained(self) -> Trained:
        """The line that names what is trained."""
        reading = self.reading(self.rates[0], self.seeds[0])
        passages = reading.passages()
        told = f"rates {', '.join(f'{rate:g}' for rate in self.rates)}, each rises and falls"
        return trained(
            *language.build(reading, passages), "cross-entropy of the next token",
            data=f"{self.passages} passages of {reading.length} tokens", steps=self.steps,
            batch=self.size, seeds=self.seeds, also=told,
        )  # fmt: skip

    def check_together(self) -> None:
        if len(self.rates) < 2 or list(self.rates) != sorted(set(self.rates)):
            raise ValueError(f"rates must be two or more that rise, got {self.rates}")
        if LITTLE not in self.left_out:
            raise ValueError(f"left_out must hold {LITTLE}, got {self.left_out}; add it")


@dataclass(frozen=True)
class Result:
    """Of S seeds, N passages, m prompts, R trainings for L shares."""

    config: Config
    weights: Tensor  # [L, R, N], 1 for a passage that was read
    numbers: dict[float, dict[str, Tensor]]
    """For each rate, with the seeds in front: "scores, *account*" ``[S, N, m]``, "answers"
    ``[S, L, R, m]``, "seconds, *account*" and "seconds, training" ``[S]``."""

    def judged(self, rate: float, account: str, share: int) -> list[float]:
        """The linear datamodeling score of each seed's account."""
        numbers = self.numbers[rate]
        scores, given = numbers[f"scores, {account}"], numbers["answers"][:, share]
        pairs = zip(scores, given, strict=True)
        rows = self.weights[share]
        return [linear_datamodeling_score(a, rows, b, bootstrap=100).value for a, b in pairs]


@dataclass(frozen=True)
class Study:
    """One training, the passages it read, and the prompts that are asked about."""

    run: Trajectory
    passages: data.Passages
    asked: language.Asked
    reading: language.Config

    def losses_of(self, model: nn.Module) -> Tensor:
        """Gradients of the passages' losses, ``[N, P]``."""
        batch = (self.passages.x, self.passages.y)
        return tangent_features(model, batch, of=passage_loss)[:, 0]

    def odds(self, model: nn.Module) -> Tensor:
        """Gradients of the log-odds, ``[m, P]``."""
        return tangent_features(model, self.asked, of=log_odds)[:, 0]


def passage_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The mean cross-entropy of each passage's words, ``[n]``."""
    x, y = batch
    return F.cross_entropy(model(x).mT, y, reduction="none").mean(1)


def log_odds(model: nn.Module, asked: language.Asked) -> Tensor:
    r""":math:`\log\frac p{1-p}` of each prompt's word, ``[m]``."""
    log_p = language.log_probability(model, asked)
    return log_p - torch.log(-torch.expm1(log_p))


def prompts(passages: data.Passages, count: int, length: int) -> language.Asked:
    """Prompts of ``length`` tokens and the word after each: at a passage's beginning, and across.

    The first half begin where a passage does, the second half in the middle of one, so far back
    that they end in the next.
    """
    n, size = passages.x.shape
    stream = torch.cat([passages.x.flatten(), passages.y[-1, -1:]])
    places = torch.linspace(0, n - 2, count // 2).round().long() * size
    starts = torch.cat([places, places + size - length // 2])
    rows = stream[starts[:, None] + torch.arange(length)]
    last = torch.full((count,), length - 1)
    return F.pad(rows, (0, size - length)), last, stream[starts + length]


def contributions(study: Study) -> Tensor:
    """What each passage did, Theorem 2.2 in its exact form."""
    told = study.run.interpolate(study.asked, of=log_odds, nodes=2, tolerance=None)
    return told.contributions[..., 0]


def influence(study: Study) -> Tensor:
    """The derivative of the answer by each passage's weight."""
    return study.run.influence(study.asked, of=log_odds).effects[..., 0]


def tracin(study: Study) -> Tensor:
    r""":math:`-\sum_k\eta_k\langle\nabla\ell_i,\nabla g\rangle` at the ends of all epochs."""
    reading, total = study.reading, torch.zeros(len(study.passages.x), len(study.asked[0]))
    epoch = len(study.passages.x) // reading.size
    for k in range(epoch, len(study.run), epoch):
        model = study.run.model_at(k)
        rate = reading.rate * language.pace(reading, k)
        total -= rate * study.losses_of(model) @ study.odds(model).T
    return total


def at_the_end(study: Study) -> Tensor:
    r""":math:`-\langle\nabla\ell_i,\nabla g\rangle` at the end."""
    model = study.run.model_at(len(study.run))
    return -study.losses_of(model) @ study.odds(model).T


def trak(study: Study) -> Tensor:
    r""":math:`-\nabla g^T(\Phi^T\Phi)^{-1}\nabla\ell_i`, random projections of loss gradients.

    Source: Park et al. 2023, with one model and the loss as output, as for language models.
    """
    model = study.run.model_at(len(study.run))
    own, asked = study.losses_of(model), study.odds(model)
    draw = torch.Generator().manual_seed(study.reading.seed)
    through = torch.randn(own.shape[1], min(PROJECTED, len(own) // 2), generator=draw)
    own, asked = (own @ through).double(), (asked @ through).double()
    return -own @ torch.linalg.solve(own.T @ own, asked.T)


def shared_words(study: Study) -> Tensor:
    """A similarity: how many of the prompt's words, and of the word asked for, a passage has."""
    rows, last, words = study.asked
    here = torch.cat([rows[:, : int(last[0]) + 1], words[:, None]], 1)
    found = (study.passages.x[:, None, :, None] == here[None, :, None]).any(2)
    return found.sum(2).double()


def by_chance(study: Study) -> Tensor:
    """Random numbers."""
    draw = torch.Generator().manual_seed(study.reading.seed)
    return torch.randn(len(study.passages.x), len(study.asked[0]), generator=draw)


ACCOUNTS: dict[str, Callable[[Study], Tensor]] = {
    "contributions": contributions,
    "influence": influence,
    "TracIn": tracin,
    "gradients at the end": at_the_end,
    "TRAK": trak,
    "shared words": shared_words,
    "random": by_chance,
}


def weights(config: Config) -> Tensor:
    """Which passages each training is made with, the same for all seeds: ``[L, R, N]``."""
    return left_out_rows(config.passages, config.trainings, config.left_out)


def one_run(
    config: Config, rate: float, seed: int, device: torch.device | str
) -> dict[str, Tensor]:
    """All accounts of one training, and what the trainings without some passages say."""
    reading = config.reading(rate, seed)
    passages, begun = reading.passages(), time.process_time()
    run = language.train(reading, passages, device)
    out = {"seconds, training": torch.tensor(time.process_time() - begun)}
    rows, last, words = prompts(passages, config.queries, config.prompt)
    asked = rows.to(device), last.to(device), words.to(device)
    study = Study(run, passages, asked, reading)
    for name, account in ACCOUNTS.items():
        begun = time.process_time()
        out[f"scores, {name}"] = account(study).detach().double().cpu()
        out[f"seconds, {name}"] = torch.tensor(time.process_time() - begun)
    again = (retrained(run, kept, divisor="rest") for kept in weights(config))
    given = [answers(models, asked, log_odds)[..., 0].double().cpu() for models in again]
    return out | {"answers": torch.stack(given)}


def run(
    config: Config,
    *,
    device: torch.device | str = "cpu",
    folder: Path | None = None,
    progress: bool = False,
) -> Result:
    """Train, take apart, and train again; finished trainings are kept in ``folder``."""
    pairs = [(rate, seed) for rate in config.rates for seed in config.seeds]
    every = for_all_seeds(
        pairs,
        lambda rate, seed: one_run(config, rate, seed, device),
        repr(replace(config, seeds=(0,))),
        folder,
        progress,
    )
    return Result(config, weights(config), every)


def findings(result: Result) -> dict[str, dict[str, Numbers]]:
    """C26."""
    place = result.config.left_out.index(LITTLE)
    small, large = result.config.rates[0], result.config.rates[-1]
    needed, pushed, fast, shared = (
        torch.tensor(result.judged(rate, name, place))
        for rate, name in (
            (small, "influence"),
            (small, "contributions"),
            (large, "influence"),
            (small, "shared words"),
        )
    )
    numbers = [needed - pushed, needed - fast, needed, pushed, fast, shared]
    setting = f"{result.config.passages} passages, AdamW"
    return {"C26": {setting: by_seed("C26", numbers)}}


def table(result: Result) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Rate, account, number: a value for each seed; what the chapter shows of the full run."""
    told: dict = {}
    for rate in result.config.rates:
        told[f"{rate:g}"] = {
            name: {
                f"{share:g} left out": result.judged(rate, name, place)
                for place, share in enumerate(result.config.left_out)
            }
            | {"seconds": result.numbers[rate][f"seconds, {name}"].tolist()}
            for name in ACCOUNTS
        }
        told[f"{rate:g}"]["training"] = {
            "seconds": result.numbers[rate]["seconds, training"].tolist()
        }
    return told


def long_run() -> dict[str, dict[str, dict[str, list[float]]]]:
    """The `table` of the full preset, as it was made for the book."""
    return json.loads(Path(__file__).with_name("passages.full.json").read_text(encoding="utf8"))


@plots.style()
def draw_scores(result: Result) -> Figure:
    """The scores of all accounts, a dot for each seed: both rates, little left out."""
    config = result.config
    place = config.left_out.index(LITTLE)
    fig, axes = plots.figure(len(config.rates), 1, height=2.4 * len(config.rates), sharex=True)
    for ax, rate in zip(axes, config.rates, strict=True):
        found = {name: result.judged(rate, name, place) for name in ACCOUNTS}
        plots.dots(ax, found, colour=plots.PLUS)
        ax.axvline(0, color=plots.NEUTRAL, linewidth=0.8)
        ax.set_title(f"learning rate {rate:g}")
    axes[-1].set_xlabel("linear datamodeling score")
    return fig


def figures(result: Result) -> dict[str, Figure]:
    """All of them, by name."""
    return {"passages_scores": draw_scores(result)}
