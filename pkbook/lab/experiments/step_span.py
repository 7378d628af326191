r"""Beyond E8: does a training step stay in the span of the training features?

A step of SGD does: it is a mixture of the batch's tangent features.  RMSprop and Adam multiply
that mixture by a diagonal :math:`D_k`, and SGD with momentum and Adam hold gradients of earlier
steps, whose features were others.  A small network learns five digits with each of the four; at
some steps we split the step :math:`\Delta` in its projection on the span and the rest, and ask how
much of the first-order move :math:`\langle\varphi(x),\Delta\rangle` at digits that were never seen
goes through the rest: in the plain geometry, and in that of the step.
"""

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, Adam, Optimizer, RMSprop
from tqdm.auto import tqdm

from pkbook.basics.parameters import Tree
from pkbook.kernels.features import tangent_features
from pkbook.lab.experiments.machinery.settings import Settings, number, numbers, several, whole
from pkbook.lab.experiments.machinery.training import remembered
from pkbook.lab.trained import Trained, trained
from pkbook.problems import data, losses, models
from pkbook.runs import step_weight
from pkbook.runs.recording import batches

Makes = Callable[[Iterable[nn.Parameter]], Optimizer]
OPTIMIZERS: dict[str, Makes] = {
    "SGD": lambda p: SGD(p, lr=0.1),
    "SGD with momentum": lambda p: SGD(p, lr=0.01, momentum=0.9),
    "RMSprop": lambda p: RMSprop(p, lr=1e-3),
    "Adam": lambda p: Adam(p, lr=1e-3),
}
GEOMETRIES = ("plain", "of the step", "of the step, awake")
"""The last one without the parameters in which every training feature is zero."""
SEEN, UNSEEN = (0, 1, 2, 3, 4), (5, 6, 7, 8, 9)


@dataclass(frozen=True)
class Config(Settings):
    """Settings. `quick()` takes a few seconds on a CPU."""

    per_class: int = whole(20)
    """Training pictures of each seen digit, of 14 by 14 pixels."""
    held_out: int = whole(10)
    """Pictures of each digit that training never sees."""
    width: int = whole(16)
    """Of the hidden layer."""
    batch: int = whole(20)
    looks: tuple[int, ...] = numbers((100,), "steps from 1 on", lambda k: k >= 1)
    """Steps that are taken apart."""
    tolerance: float = number(1e-6, "a positive number below 1", lambda v: 0 < v < 1)
    """Of the singular values that span, relative to the largest."""
    seeds: tuple[int, ...] = several((0, 1))

    FULL: ClassVar = {"per_class": 60, "held_out": 30, "seeds": tuple(range(10))}

    def trained(self, name: str) -> Trained:
        """One line that names what an optimizer trains."""
        model = models.mlp(196, self.width, 5, activation="tanh", seed=0)
        return trained(
            model,
            OPTIMIZERS[name](model.parameters()),
            losses.cross_entropy,
            data=f"{len(SEEN) * self.per_class} small pictures of {len(SEEN)} digits",
            steps=max(self.looks) + 1,
            batch=self.batch,
            seeds=self.seeds,
        )


@dataclass(frozen=True)
class Result:
    """S seeds, O optimizers, L looks, and the three GEOMETRIES."""

    config: Config
    length: Tensor  # [S, O, L, 3] length of the step outside the span, over its whole length
    move: Tensor  # [S, O, L, 3] size of the first-order move of unseen digits that went through it
    share: Tensor  # [S, O, L, 3] squared share of the unseen digits' features outside the span


def run(config: Config, *, folder: Path | None = None, progress: bool = False) -> Result:
    """Train with each optimizer from one start, and take the steps asked for apart."""
    found = []
    for seed in tqdm(config.seeds, disable=not progress):
        path = None if folder is None else folder / f"seed{seed}"
        found.append(remembered(path, lambda s=seed: _study(config, s)))
    return Result(config, **{name: torch.stack([f[name] for f in found]) for name in found[0]})


def pictures(config: Config, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Training pictures and their labels, and pictures of the other digits; ``[n, 196]``."""
    generator = torch.Generator().manual_seed(seed)
    x, y = data.mnist("train", per_class=config.per_class, classes=SEEN, generator=generator)
    other = data.mnist("test", per_class=config.held_out, classes=UNSEEN, generator=generator).x
    x, other = (functional.avg_pool2d(z.double(), 2).flatten(1) for z in (x, other))
    return x, y, other


def steps(config: Config, name: str, seed: int) -> Iterator[tuple[nn.Module, Tree, Tree]]:
    """The network before each step of `config.looks`, the step, and its diagonal weight."""
    x, y, _ = pictures(config, seed)
    model = models.mlp(x.shape[1], config.width, 5, activation="tanh", seed=seed).double()
    optimizer = OPTIMIZERS[name](model.parameters())
    draws = batches(len(x), size=config.batch, steps=max(config.looks) + 1, seed=seed)
    for k, chosen in enumerate(draws):
        before = copy.deepcopy(model)
        optimizer.zero_grad()
        losses.cross_entropy(model(x[chosen]), y[chosen]).mean().backward()
        optimizer.step()
        if k in config.looks:
            pairs = zip(model.named_parameters(), before.parameters(), strict=True)
            step = {name: (p - old).detach() for (name, p), old in pairs}
            yield before, step, step_weight(model, optimizer)


def apart(model: nn.Module, step: Tree, weight: Tree, x: Tensor, other: Tensor, tolerance: float):
    """Length of a step outside the span, move through it, share outside; ``[3, 3]``."""
    train, asked = (tangent_features(model, z).detach().flatten(0, 1) for z in (x, other))
    flat, diagonal = (torch.cat([t[n].flatten() for n in step]) for t in (step, weight))
    awake = train.any(0)
    rows = []
    for d in (torch.ones_like(diagonal), diagonal, diagonal * awake):
        values, vectors = torch.linalg.eigh((train * d) @ train.T)
        kept = values > tolerance**2 * values[-1]
        basis = vectors[:, kept] / values[kept].sqrt()  # its columns span, at right angles
        inside, onto = basis.T @ (train @ flat), ((asked * d) @ train.T) @ basis
        moved = asked @ flat
        length = (flat.square() / d)[flat != 0].sum()  # of the step, as one of -Dg
        left = (length - inside.square().sum()).clamp_min(0)
        through = (moved - onto @ inside).norm() / moved.norm()
        share = 1 - onto.square().sum() / (asked.square() @ d).sum()
        rows.append(torch.stack([(left / length).sqrt(), through, share]))
    return torch.stack(rows, 1)


def _study(config: Config, seed: int) -> dict[str, Tensor]:
    x, _, other = pictures(config, seed)
    rows = [
        torch.stack(
            [apart(*look, x, other, config.tolerance) for look in steps(config, name, seed)]
        )
        for name in OPTIMIZERS
    ]
    length, move, share = torch.stack(rows).unbind(2)
    return {"length": length, "move": move, "share": share}
