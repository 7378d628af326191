r"""C22 to C25: how good is an account?  Forecasts against trainings that really happened.

One recorded training gives two accounts: contributions (arXiv 2603.13872, Theorem 2.2) and
influence.  Beside them stand accounts of others.  Each is a score of every training digit for the
log-odds of some test digits' labels.  The judge is training again, without some of the digits: the
linear datamodeling score asks whether the scores that are left forecast the answers, a removal
whether the digits that a score names first were needed.  Last, 5 per cent of the labels are wrong,
and it is asked which number finds them.
"""

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from pkbook.evaluation import answers, linear_datamodeling_score, mislabelled
from pkbook.interpolation.influence import influence
from pkbook.interpolation.interpolate import interpolate
from pkbook.interpolation.self_influence import self_influence
from pkbook.lab.experiments.machinery.claims import by_seed
from pkbook.lab.experiments.machinery.results import Numbers
from pkbook.lab.experiments.machinery.settings import (
    Settings,
    choice,
    choices,
    number,
    several,
    whole,
)
from pkbook.lab.experiments.parts.judged_trainings import for_all_seeds, left_out_rows
from pkbook.lab.experiments.parts.other_accounts import OTHERS
from pkbook.lab.experiments.parts.small_digits import OPTIMIZERS, Training, accuracy, digits
from pkbook.lab.experiments.parts.study import Study
from pkbook.lab.trained import Trained, trained
from pkbook.problems import losses
from pkbook.runs.retraining import retrained

LITTLE, HALF = 0.05, 0.5  # shares left out that C22 and C23 speak of
OURS = "contributions", "influence"
PRESENT = tuple(name for name in OTHERS if name != "EK-FAC influence")
"""Accounts that need nothing but this package."""


@dataclass(frozen=True)
class Config(Settings):
    """Settings. `quick()` takes about a minute on a CPU; `full()` more than an hour."""

    samples: int = whole(300, least=100, multiple=10)
    queries: int = whole(10, multiple=10)
    optimizers: tuple[str, ...] = choices(tuple(OPTIMIZERS), tuple(OPTIMIZERS))
    others: tuple[str, ...] = choices(PRESENT, tuple(OTHERS))
    """Whose accounts stand beside ours; EK-FAC needs kronfluence."""
    activation: str = choice("relu", ("relu", "gelu", "tanh"))
    epochs: int = whole(8)
    batch: int = whole(30)
    left_out: tuple[float, ...] = several((0.05, 0.5))
    """Shares of the digits that trainings are made without."""
    trainings: int = whole(20, least=8)
    """For each share."""
    removed: int = whole(10)
    """Digits that a score names first, left out together."""
    removal_queries: int = whole(2)
    repeats: int = whole(3)
    """Removals of as many of the same class at random."""
    wrong: float = number(0.05, "between 0 and 0.5", lambda v: 0 < v < 0.5)
    """Share of the labels that are wrong in the last part."""
    seeds: tuple[int, ...] = several((0,))

    QUICK: ClassVar = {"optimizers": ("momentum", "AdamW")}
    FULL: ClassVar = {
        "samples": 1000,
        "queries": 20,
        "others": tuple(OTHERS),
        "batch": 50,
        "left_out": (0.01, 0.05, 0.2, 0.5),
        "trainings": 40,
        "removed": 30,
        "removal_queries": 5,
        "repeats": 5,
        "seeds": (0, 1, 2),
    }

    def training(self, optimizer: str, seed: int) -> Training:
        """One of the trainings."""
        return Training(optimizer, self.activation, self.epochs, self.batch, seed)

    def trained(self, optimizer: str) -> Trained:
        """The line that names what is trained by one of the optimizers."""
        training = self.training(optimizer, self.seeds[0])
        how = {"epochs": self.epochs, "batch": self.batch, "seeds": self.seeds}
        data = f"{self.samples} MNIST digits of 14 × 14 pixels"
        return trained(*training.build(), losses.cross_entropy, data=data, **how)

    def check_together(self) -> None:
        if missing := {LITTLE, HALF} - set(self.left_out):
            raise ValueError(
                f"left_out must hold {LITTLE} and {HALF}, got {self.left_out}; add {missing}"
            )
        if missing := {"Gauss-Newton influence", "pixels"} - set(self.others):
            raise ValueError(f"others must hold {missing}, got {self.others}")

    @property
    def accounts(self) -> tuple[str, ...]:
        """Ours and others'."""
        return *OURS, *self.others

    @property
    def epoch(self) -> int:
        """Steps in an epoch."""
        return self.samples // self.batch


@dataclass(frozen=True)
class Result:
    """Of S seeds, N digits, m queries, q of them asked for removals, R trainings for L shares."""

    config: Config
    weights: Tensor  # [L, R, N], 1 for a digit that was trained on
    numbers: dict[str, dict[str, Tensor]]
    """For each optimizer, with the seeds in front: "scores, *account*" ``[S, N, m]``; "answers",
    log-odds ``[S, L, R, m]``; "lost, *account*" by a removal ``[S, q]``, and "lost, at random"
    ``[S, q, repeats]``; "found, *number*", AUROC and average precision ``[S, 2]``; "seconds,
    *account*" and "seconds, training" ``[S]``; "accuracy" ``[S]`` on 500 test digits."""

    def named(self, optimizer: str, kind: str) -> dict[str, Tensor]:
        """All numbers of a kind, by name: ``named("SGD", "lost")["TRAK"]``."""
        start = f"{kind}, "
        every = self.numbers[optimizer].items()
        return {key.removeprefix(start): v for key, v in every if key.startswith(start)}

    def judged(self, optimizer: str, account: str, share: int, shift: int = 0) -> list[float]:
        """The linear datamodeling score of each seed's account, judged by trainings of the same.

        With ``shift``, by those of the seed so many places on.
        """
        scores = self.numbers[optimizer][f"scores, {account}"]
        answers = self.numbers[optimizer]["answers"].roll(-shift, 0)[:, share]
        rows = self.weights[share]
        pairs = zip(scores, answers, strict=True)
        return [linear_datamodeling_score(a, rows, b, bootstrap=100).value for a, b in pairs]


def account(study: Study, name: str) -> Tensor:
    """Scores ``[N, m]`` of one account."""
    if name == "contributions":
        told = interpolate(study.run, study.queries, of=study.asked, nodes=2, tolerance=None)
        return told.contributions[..., 0]
    if name == "influence":
        return influence(study.run, study.queries, of=study.asked).effects[..., 0]
    return OTHERS[name](study)


def removals(config: Config, study: Study, scores: dict[str, Tensor]) -> dict[str, Tensor]:
    """Log-odds lost without the digits that a score names first, ``[q]``, or random ones."""
    draw, out = torch.Generator().manual_seed(study.seed), []
    asked = range(config.removal_queries)
    for j in asked:
        for found in scores.values():
            out.append((j, found[:, j].argsort(descending=True)[: config.removed]))
        same = (study.y == study.labels[j]).nonzero()[:, 0]
        for _ in range(config.repeats):
            chosen = torch.randperm(len(same), generator=draw)[: config.removed]
            out.append((j, same[chosen]))
    rows = torch.ones(len(out) + 1, config.samples, dtype=torch.float64)
    for row, (_, numbers) in zip(rows, out, strict=False):
        row[numbers] = 0.0
    given = trained_again(study, rows)
    column = torch.tensor([j for j, _ in out])
    lost = given[-1][column] - given[:-1].gather(1, column[:, None])[:, 0]
    lost = lost.reshape(len(asked), -1)  # [q, accounts + repeats]
    told = {name: lost[:, k] for k, name in enumerate(scores)}
    return told | {"at random": lost[:, len(scores) :]}


def trained_again(study: Study, rows: Tensor) -> Tensor:
    """Log-odds of the queries after trainings with other weights, ``[R, m]``."""
    models = retrained(study.run, rows.to(study.x.device), divisor="rest")
    return answers(models, study.queries, study.asked)[..., 0].double().cpu()


def suspects(config: Config, optimizer: str, seed: int, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """How well some numbers find wrong labels; each is large where a label is doubted."""
    draw = torch.Generator().manual_seed(1000 + seed)
    wrong = torch.randperm(len(y), generator=draw)[: round(config.wrong * len(y))]
    marked = torch.zeros(len(y), dtype=torch.bool)
    marked[wrong] = True
    other = torch.randint(1, 10, (len(wrong),), generator=draw)
    labels = y.clone()
    labels[wrong] = (labels[wrong] + other.to(y)) % 10
    recorded = config.training(optimizer, seed).on(x, labels)
    with torch.no_grad():
        stops = range(0, len(recorded) + 1, config.epoch)
        path = [losses.cross_entropy(recorded.model_at(k)(x), labels) for k in stops]
    own = self_influence(recorded, outputs=labels, chunk=len(y), nodes=1, tolerance=None)
    numbers = {
        "own contribution": own[:, 0],
        "loss at the end": path[-1],
        "mean loss on the way": torch.stack(path).mean(0),
        "random": torch.randn(len(y), generator=draw),
    }
    told = {name: mislabelled(v.cpu(), marked, bootstrap=100) for name, v in numbers.items()}
    return {
        name: torch.tensor([d.auroc.value, d.average_precision.value]) for name, d in told.items()
    }


def one_run(
    config: Config, optimizer: str, seed: int, device: torch.device | str
) -> dict[str, Tensor]:
    """Everything about one training, each number under a kind and a name: "seconds, TRAK"."""
    x, y = (t.to(device) for t in digits("train", config.samples))
    q, labels = (t.to(device) for t in digits("test", config.queries))
    begun = time.process_time()
    training = config.training(optimizer, seed)
    recorded = training.on(x, y)
    out = {"seconds, training": torch.tensor(time.process_time() - begun)}
    study = Study(recorded, x, y, q, labels, config.epoch, training.rate, seed)
    scores = {}
    for name in config.accounts:
        begun = time.process_time()
        scores[name] = account(study, name).detach().double().cpu()
        out[f"seconds, {name}"] = torch.tensor(time.process_time() - begun)
    again = [trained_again(study, rows) for rows in weights(config)]
    out |= {f"scores, {name}": found for name, found in scores.items()}
    out |= {f"lost, {name}": found for name, found in removals(config, study, scores).items()}
    out |= {f"found, {name}": v for name, v in suspects(config, optimizer, seed, x, y).items()}
    out |= {"answers": torch.stack(again), "accuracy": accuracy(study.end, device)}
    return {key: v.clone(memory_format=torch.contiguous_format) for key, v in out.items()}


def weights(config: Config) -> Tensor:
    """Which digits each training is made with, the same for all seeds: ``[L, R, N]``."""
    return left_out_rows(config.samples, config.trainings, config.left_out)


def run(
    config: Config,
    *,
    device: torch.device | str = "cpu",
    folder: Path | None = None,
    progress: bool = False,
) -> Result:
    """Train, take apart, and train again; finished trainings are kept in ``folder``."""
    pairs = [(name, seed) for seed in config.seeds for name in config.optimizers]
    every = for_all_seeds(
        pairs,
        lambda name, seed: one_run(config, name, seed, device),
        repr(replace(config, seeds=(0,))),
        folder,
        progress,
    )
    return Result(config, weights(config), every)


def findings(result: Result) -> dict[str, dict[str, Numbers]]:
    """C22 to C25, for each optimizer."""
    told: dict[str, dict[str, Numbers]] = {id: {} for id in ("C22", "C23", "C24", "C25")}
    for name in result.config.optimizers:
        setting = f"{result.config.samples} digits, {name}"
        little, half = (_judged(result, name, share) for share in (LITTLE, HALF))
        pushed, needed, curved = (half[account] for account in (*OURS, "Gauss-Newton influence"))
        few = little["influence"]
        others = little["contributions"], little["Gauss-Newton influence"]
        told["C22"][setting] = by_seed("C22", [few, few - others[0], few - others[1], others[0]])
        told["C23"][setting] = by_seed(
            "C23", [curved - pushed, needed - pushed, pushed, needed, curved]
        )
        lost = {key: v.mean(1) for key, v in result.named(name, "lost").items() if v.ndim == 2}
        chance = result.named(name, "lost")["at random"].mean((1, 2))
        pushed, needed = (lost[account] for account in OURS)
        told["C24"][setting] = by_seed(
            "C24", [needed - chance, pushed - chance, needed, pushed, lost["pixels"]]
        )
        told["C25"][setting] = by_seed("C25", _suspected(result, name))
    return told


def _judged(result: Result, optimizer: str, share: float) -> dict[str, Tensor]:
    """Of each account the scores ``[S]`` where that share was left out."""
    place = result.config.left_out.index(share)
    names = (*OURS, "Gauss-Newton influence")
    return {name: torch.tensor(result.judged(optimizer, name, place)) for name in names}


def _suspected(result: Result, optimizer: str) -> list[Tensor]:
    """C25's numbers, AUROC for each seed."""
    auroc = {name: v[:, 0] for name, v in result.named(optimizer, "found").items()}
    path, own = auroc["mean loss on the way"], auroc["own contribution"]
    return [path, path - own, own, auroc["loss at the end"]]


def table(result: Result) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Optimizer, account, number: a value for each seed; what the chapter shows of a full run."""
    told: dict = {}
    shares = list(enumerate(result.config.left_out))
    for name in result.config.optimizers:
        chance = result.named(name, "lost")["at random"].mean((1, 2))
        told[name] = {}
        for one in result.config.accounts:
            rows = {f"{share:g} left out": result.judged(name, one, k) for k, share in shares}
            if len(result.config.seeds) > 1:
                other = {f"{s:g} left out, another seed": result.judged(name, one, k, 1)
                         for k, s in shares}  # fmt: skip
                rows |= other
            rows["lost"] = result.numbers[name][f"lost, {one}"].mean(1).tolist()
            rows["seconds"] = result.numbers[name][f"seconds, {one}"].tolist()
            told[name][one] = rows
        told[name]["by chance"] = {"lost": chance.tolist()}
        numbers = result.numbers[name]
        told[name]["training"] = {
            "seconds": numbers["seconds, training"].tolist(),
            "accuracy": numbers["accuracy"].tolist(),
        }
        for one, found in result.named(name, "found").items():
            auroc, precision = found.T.tolist()
            told[name][f"wrong labels, {one}"] = {"auroc": auroc, "precision": precision}
    return told


def long_run() -> dict[str, dict[str, dict[str, list[float]]]]:
    """The `table` of the full preset, as it was made for the book."""
    return json.loads(Path(__file__).with_name("accounts.full.json").read_text(encoding="utf8"))
