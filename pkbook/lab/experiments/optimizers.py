r"""E9 and E10: ring and disk under four optimizers (arXiv 2603.13872, Appendix D, Figures 9, 10).

The task of E1 (`neighbours`) with the squared loss, under which E1 holds, trained by SGD, momentum
(SGDM), RMSprop and Adam. E9 counts neighbours of the same label under the normalised kernel, after
equally many epochs and at equal training loss. E10 follows single entries of that kernel: between
a point and itself, a point of its class, two points of the other class.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from pkbook.function_space.diagnostics import homogeneity
from pkbook.kernels import normalised_kernel
from pkbook.lab.experiments import neighbours
from pkbook.lab.experiments.machinery.claims import by_seed
from pkbook.lab.experiments.machinery.results import Numbers, over_seeds
from pkbook.lab.experiments.machinery.settings import (
    Settings,
    choices,
    increasing,
    positive,
    require_at_most,
    several,
    whole,
)
from pkbook.lab.experiments.machinery.side_by_side import outputs, rows_of
from pkbook.lab.experiments.machinery.training import remembered
from pkbook.lab.experiments.parts.curve_shapes import first_below, largest_rise
from pkbook.lab.trained import Trained, trained
from pkbook.problems import data, losses, models
from pkbook.runs.recording import batches

OPTIMIZERS: dict[str, Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.4),  # as in E1
    "SGDM": lambda p: torch.optim.SGD(p, lr=0.04, momentum=0.9),  # 0.4 in the averaging form
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=1e-3),
    "Adam": lambda p: torch.optim.Adam(p, lr=1e-3),
}
ALIKE, APART = 0.8, 0.3  # the paper's Figure 10: same class above, other class below
WIDTH, BINS = 0.2, 9  # of the distances in the plane, 0 to 1.8


@dataclass(frozen=True)
class Config(Settings):
    """Settings. `quick()` takes seconds on a CPU; `full()` is five times longer, with ten seeds."""

    optimizers: tuple[str, ...] = choices(tuple(OPTIMIZERS), tuple(OPTIMIZERS))
    widths: tuple[int, ...] = (64, 64, 64)
    samples: int = whole(600)
    neighbours: int = whole(100)
    batch: int = whole(30)
    epochs: tuple[int, ...] = increasing((0, 1, 2, 5, 10, 20, 50, 100, 200), start=0)
    loss: float = positive(0.005)
    """Where optimizers are compared at equal training loss: a hundredth of the loss of f = 0."""
    seeds: tuple[int, ...] = several((0, 1, 2))

    FULL: ClassVar = {
        "epochs": (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000),
        "seeds": tuple(range(10)),
    }

    def check_together(self) -> None:
        require_at_most(self.neighbours, "neighbours", self.samples - 1, "the other samples")
        require_at_most(self.batch, "batch", self.samples, "the samples")


def what_is_trained(config: Config) -> Trained:
    """One line that names the training, with the first optimizer's settings, for a page."""
    net = models.mlp(2, *config.widths, 1)
    others = ", ".join(
        f"{name} at {OPTIMIZERS[name](net.parameters()).defaults['lr']:g}"
        for name in config.optimizers[1:]
    )
    return trained(
        net,
        OPTIMIZERS[config.optimizers[0]](net.parameters()),
        losses.squared,
        data=f"{config.samples} points of ring and disk",
        epochs=config.epochs[-1],
        batch=config.batch,
        seeds=config.seeds,
        also=f"and {others}" if others else "",
    )


@dataclass(frozen=True)
class Result:
    """What was measured for O optimizers, S seeds, E epochs, H bins of distance in the plane."""

    config: Config
    share: Tensor  # [O, S, E] of same-label points among the nearest under the normalised kernel
    loss: Tensor  # [O, S, E] on all training points
    accuracy: Tensor  # [O, S, E]
    level_epoch: Tensor  # [O, S] first epoch at whose end the loss is at most config.loss, or NaN
    level_share: Tensor  # [O, S] the share at that epoch
    between: Tensor  # [O, S, E, 4, 4] normalised kernel between the four anchors
    same: Tensor  # [O, S, E, H] mean kernel of pairs of one class, by distance in the plane
    cross: Tensor  # [O, S, E, H] the same for pairs of two classes
    alike: Tensor  # [O, S, E, H] share of the pairs of one class above ALIKE
    apart: Tensor  # [O, S, E, H] share of the pairs of two classes below APART
    x: Tensor  # [n, 2] points of the first seed
    y: Tensor  # [n, 1]
    kernels: Tensor  # [O, n, n] normalised kernels of the first seed at the end
    outputs: Tensor  # [O, GRID, GRID] outputs over EXTENT of the first seed at the end

    @property
    def distance(self) -> Tensor:
        """Middles of the bins, ``[H]``."""
        return (torch.arange(BINS) + 0.5) * WIDTH

    def at(self, epoch: int) -> int:
        """The place of an epoch along E."""
        return self.config.epochs.index(epoch)


def train(
    config: Config, nets: Sequence[Sequence[nn.Sequential]], x: Tensor, y: Tensor
) -> Iterator[int]:
    """Train `nets[o][s]`, by optimizer and seed, on `x[s], y[s]`; yield the number of every epoch.

    They follow in place and train side by side: the parameters of one optimizer's networks are the
    rows of a matrix. These optimizers work entry by entry, so a step on it is a step on each row.
    """
    matrices = [rows_of(of) for of in nets]
    optimizers = [
        OPTIMIZERS[name]([matrix]) for name, matrix in zip(config.optimizers, matrices, strict=True)
    ]
    steps, last = x.shape[1] // config.batch, config.epochs[-1]
    count = {"size": config.batch, "steps": steps * last}
    draws = zip(*(batches(x.shape[1], **count, seed=s) for s in config.seeds), strict=True)
    seed = torch.arange(len(config.seeds)).unsqueeze(1)
    for epoch in range(last + 1):
        yield epoch
        for chosen in islice(draws, steps):
            batch = seed, torch.stack(chosen)
            f = outputs(nets[0][0], torch.cat([*matrices]), x[batch].repeat(len(nets), 1, 1))
            loss = losses.squared(f.flatten(0, 1), y[batch].repeat(len(nets), 1, 1).flatten(0, 1))
            (loss.sum() / config.batch).backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()


def bins_of_pairs(x: Tensor, y: Tensor) -> Tensor:
    """For each pair of points, ``[n * n]``, its bin of distance, twice, plus one for one class.

    A point with itself is in the last bin, which nobody reads.
    """
    bins = (torch.cdist(x, x) / WIDTH).long().clamp_max(BINS)
    return (2 * bins.fill_diagonal_(BINS) + (y == y.T)).flatten()


def by_distance(kernel: Tensor, x: Tensor, y: Tensor, place: Tensor | None = None) -> Tensor:
    """Means over pairs at about one distance in the plane, ``[4, H]``.

    Rows: the kernel in pairs of one class, in pairs of two classes, the share of the former above
    `ALIKE`, of the latter below `APART`. NaN where a bin holds no pair. ``place`` is
    `bins_of_pairs`, for who asks of the same points often.
    """
    place = bins_of_pairs(x, y) if place is None else place
    count = torch.bincount(place, minlength=2 * BINS + 2)

    def mean(values: Tensor) -> tuple[Tensor, Tensor]:
        sums = torch.bincount(place, values.flatten().double(), minlength=2 * BINS + 2)
        means = (sums / count).float()
        cross, same = means.reshape(-1, 2)[:BINS].unbind(1)
        return cross, same

    (cross, same), (_, above), (below, _) = map(mean, (kernel, kernel > ALIKE, kernel < APART))
    return torch.stack([same, cross, above, below])


def follow(config: Config, device: torch.device | str, progress: bool = False) -> dict[str, Tensor]:
    """All optimizers and seeds: what is measured at each epoch, and where the loss is level.

    "scalars" (share, loss, accuracy) ``[O, S, E, 3]``, "between" (the kernel between the anchors)
    ``[O, S, E, 4, 4]``, "pairs" (profiles over distance) ``[O, S, E, 4, H]``, "level"
    ``[O, S, 2]``; of the first seed the points, and kernel and outputs at the end.
    """
    seeds = [torch.Generator().manual_seed(seed) for seed in config.seeds]
    points = [data.ring_and_disk(config.samples, generator=seed) for seed in seeds]
    x, y = (torch.stack(part).to(device) for part in zip(*points, strict=True))
    nets = [
        [models.mlp(2, *config.widths, 1, seed=seed).to(device) for seed in config.seeds]
        for _ in config.optimizers
    ]
    looks = [[_Look(config, *one) for one in zip(of, x, y, strict=True)] for of in nets]
    epochs = train(config, nets, x, y)
    for epoch in tqdm(epochs, disable=not progress, total=config.epochs[-1] + 1, desc="epochs"):
        for of in looks:
            for look in of:
                look(epoch)
    found = {
        key: torch.stack([torch.stack([look.found(key) for look in of]) for of in looks])
        for key in ("scalars", "between", "pairs", "level")
    }
    found["outputs"] = torch.stack([neighbours._over_the_plane(of[0]).cpu() for of in nets])
    found["kernels"] = torch.stack([of[0].kernel for of in looks])
    return found | {"x": x[0].cpu(), "y": y[0].cpu()}


class _Look:
    """One network's measurements, epoch after epoch."""

    def __init__(self, config: Config, net: nn.Module, x: Tensor, y: Tensor) -> None:
        self.config, self.net, self.x, self.y = config, net, x, y
        self.places = list(neighbours.anchors(x.cpu(), y.cpu()).values())
        self.bins = bins_of_pairs(x.cpu(), y.cpu())
        self.rows: dict[str, list[Tensor]] = {"scalars": [], "between": [], "pairs": []}
        self.level = torch.full((2,), torch.nan)

    def __call__(self, epoch: int) -> None:
        waits = bool(self.level.isnan().all())  # for the level
        if not waits and epoch not in self.config.epochs:
            return
        f = self.net(self.x).detach()
        loss = losses.squared(f, self.y).mean()
        reached = waits and bool(loss <= self.config.loss)
        if not reached and epoch not in self.config.epochs:
            return
        self.kernel = normalised_kernel(self.net, self.x).cpu()
        share = homogeneity(self.kernel, self.y, self.config.neighbours).mean()
        if reached:
            self.level = torch.stack([torch.tensor(float(epoch)), share])
        if epoch in self.config.epochs:
            right = (f * self.y > 0).float().mean()
            between = self.kernel[self.places][:, self.places]
            scalars = torch.stack([share, loss.cpu(), right.cpu()])
            pairs = by_distance(self.kernel, self.x.cpu(), self.y.cpu(), self.bins)
            for row, value in zip(self.rows.values(), (scalars, between, pairs), strict=True):
                row.append(value)

    def found(self, key: str) -> Tensor:
        """What was measured, with the epochs first; or epoch and share at the level."""
        return self.level if key == "level" else torch.stack(self.rows[key])


def run(
    config: Config,
    *,
    device: torch.device | str = "cpu",
    folder: Path | None = None,
    progress: bool = False,
) -> Result:
    """Train once for each optimizer and seed; every seed has its own points and start."""
    name = "-".join(map(str, (*config.optimizers, *config.seeds)))
    path = None if folder is None else folder / name
    found = remembered(path, partial(follow, config, device, progress))
    share, loss, accuracy = found["scalars"].unbind(3)
    level_epoch, level_share = found["level"].unbind(2)
    same, cross, alike, apart = found["pairs"].unbind(3)
    return Result(
        config,
        share,
        loss,
        accuracy,
        level_epoch,
        level_share,
        found["between"],
        same,
        cross,
        alike,
        apart,
        x=found["x"],
        y=found["y"],
        kernels=found["kernels"],
        outputs=found["outputs"],
    )


def findings(result: Result) -> dict[str, dict[str, Numbers]]:
    """E9's numbers by optimizer, E10's over all of them, Figure 10's by optimizer, one a seed."""
    ends = {
        name: over_seeds(share)
        for name, share in zip(result.config.optimizers, result.share[:, :, -1], strict=True)
    }
    return {
        "E9": {f"squared loss, {result.config.epochs[-1]} epochs": ends},
        "E10": {
            "the paper's points, over all anchors": _curve_ends(result, result.between[:, :, -1]),
            f"pairs within {NEAR:g} in the plane": _near_ends(result),
        },
        **_by_optimizer(result),
    }


NEAR = 0.4  # distance in the plane up to which E10's condition takes pairs of one class


def _curve_ends(result: Result, between: Tensor) -> Numbers:
    """Mean kernel over optimizers and pairs of the four anchors, one value a seed."""
    labels = torch.tensor([label for _, label, _ in neighbours.SPOTS])
    alike = labels[:, None] == labels
    other = ~torch.eye(4, dtype=torch.bool)
    values = (
        between.diagonal(dim1=-2, dim2=-1).mean((0, 2)),
        between[..., alike & other].mean((0, 2)),
        between[..., ~alike].mean((0, 2)),
    )
    return by_seed("E10", values)


def _near_ends(result: Result) -> Numbers:
    """The same over all pairs that are near in the plane."""
    near = result.distance <= NEAR
    itself = result.between[:, :, -1].diagonal(dim1=-2, dim2=-1).mean((0, 2))
    same, cross = (
        values[:, :, -1][..., near].nanmean((0, 2)) for values in (result.same, result.cross)
    )
    return by_seed("E10", (itself, same, cross))


HALF = 0.5  # where a curve of the other class counts as come down


def _by_optimizer(result: Result) -> dict[str, dict[str, Numbers]]:
    """What Appendix D says of single optimizers in Figure 10, from its point at the disk's edge.

    Empty where a run left one of the four out.
    """
    names = result.config.optimizers
    if set(names) != set(OPTIMIZERS):
        return {}
    places = torch.tensor([names.index(name) for name in OPTIMIZERS])  # SGD, SGDM, RMSprop, Adam
    told = {kind: values.movedim(-3, 0) for kind, values in curves(result, FIGURE_10).items()}
    same, other = told["same class"][places], told["other class"][places]  # [4, (2,) S, E]
    down = first_below(other.mean(1), result.config.epochs, HALF)
    rise = largest_rise(other).amax(1)
    rows = {
        "D1": (down[1] / down[[0, 2, 3]].amin(0),),
        "D2": tuple(other.amin((1, 3))),
        "D3": (rise[2] - rise[:2].amax(0), rise[3] - rise[:2].amax(0)),
        "D4": tuple(same[..., -1]),
    }
    where = f"from the {FIGURE_10}, {result.config.epochs[-1]} epochs"
    return {id: {where: by_seed(id, values)} for id, values in rows.items()}


FIGURE_10 = "disk edge"  # its point x0


def curves(result: Result, anchor: str) -> dict[str, Tensor]:
    """Kernel between an anchor and itself, the other of its class, the other class's two.

    Each ``[O, S, E]``; the two of the other class are kept apart ``[2, O, S, E]``.
    """
    names, labels = zip(*((name, label) for name, label, _ in neighbours.SPOTS), strict=True)
    here = names.index(anchor)
    row = result.between[..., here, :]
    same = next(j for j in range(4) if j != here and labels[j] == labels[here])
    other = [j for j in range(4) if labels[j] != labels[here]]
    return {
        "itself": row[..., here],
        "same class": row[..., same],
        "other class": torch.stack([row[..., j] for j in other]),
    }
