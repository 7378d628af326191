r"""E1: whom a network takes for neighbours (arXiv 2603.13872, Section 5.1, Figure 1).

A circle or a ring of label +1 surrounds a disk of label -1. For every point we look at its 100
nearest others, once in the plane and once under the normalised kernel, and count how many share its
label. The count is taken at several epochs of SGD, for losses that differ in one respect only:
whether they name a value that the output should reach.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import ClassVar

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional

from pkbook.basics.parameters import sum_of
from pkbook.function_space.diagnostics import homogeneity, nearest
from pkbook.kernels import normalised_kernel
from pkbook.lab import plots
from pkbook.lab.experiments.machinery.claims import by_seed
from pkbook.lab.experiments.machinery.results import Numbers
from pkbook.lab.experiments.machinery.settings import (
    Settings,
    choice,
    increasing,
    positive,
    require_at_most,
    several,
    whole,
)
from pkbook.lab.experiments.machinery.side_by_side import outputs, rows_of
from pkbook.lab.experiments.machinery.training import fit
from pkbook.lab.trained import Trained, trained
from pkbook.problems import data, losses, models
from pkbook.runs.recording import batches

SOFT = 0.9  # probability that the soft logistic loss asks for; its optimum is f = y log(9)
EXTENT = (-1.1, 1.1, -1.1, 1.1)
GRID = 110


def squared_hinge(outputs: Tensor, targets: Tensor) -> Tensor:
    r"""The squared loss without its upper side, [n]: $\tfrac12\max(0,\,1-yf)^2$ for $y=\pm1$.

    >>> squared_hinge(torch.tensor([[0.0], [3.0]]), torch.tensor([[1.0], [1.0]]))
    tensor([0.5000, 0.0000])
    """
    return 0.5 * (1 - targets * outputs).clamp_min(0)[:, 0].square()


def soft_logistic(outputs: Tensor, targets: Tensor) -> Tensor:
    r"""The logistic loss with soft labels, [n]: $p\log(1+e^{-yf})+(1-p)\log(1+e^{yf})$, $p=0.9$.

    Also called label smoothing. It is least at the finite output $f=y\log\frac{p}{1-p}$.

    >>> f = torch.tensor([[2.1972]], requires_grad=True)
    >>> soft_logistic(f, torch.ones(1, 1)).backward()
    >>> bool(f.grad.abs() < 1e-4)
    True
    """
    margin = (targets * outputs)[:, 0]
    return SOFT * functional.softplus(-margin) + (1 - SOFT) * functional.softplus(margin)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "squared": losses.squared,
    "soft logistic": soft_logistic,
    "squared hinge": squared_hinge,
    "logistic": losses.logistic,
}
POINTS = {"ring": (0.85, 0.95), "circle": (0.9, 0.9)}  # radii around the disk; the paper's circle
TWO_SIDED = ("squared", "soft logistic")  # these name a finite value for the output


@dataclass(frozen=True)
class Config(Settings):
    """Settings. `quick()` takes seconds on a CPU; `full()` is ten times longer, with ten seeds."""

    loss: str = choice("squared", tuple(LOSSES))
    activation: str = "relu"
    widths: tuple[int, ...] = (64, 64, 64)
    points: str = choice("ring", tuple(POINTS))
    samples: int = whole(600)
    neighbours: int = whole(100)
    rate: float = positive(0.4)
    batch: int = whole(30)
    epochs: tuple[int, ...] = increasing((0, 2, 5, 10, 20, 50), low=0)
    seeds: tuple[int, ...] = several((0, 1, 2))

    FULL: ClassVar = {"epochs": (0, 10, 50, 100, 200, 500, 1000), "seeds": tuple(range(10))}

    def check_together(self) -> None:
        require_at_most(self.neighbours, "neighbours", self.samples - 1, "the other samples")
        require_at_most(self.batch, "batch", self.samples, "the samples")

    def network(self, seed: int) -> nn.Sequential:
        """The network of a seed, before training."""
        return models.mlp(2, *self.widths, 1, activation=self.activation, seed=seed)

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """SGD, as it trains a network here."""
        return torch.optim.SGD(model.parameters(), lr=self.rate)

    def trained(self) -> Trained:
        """What is trained, in words."""
        model = self.network(self.seeds[0])
        points = f"{self.samples} points of a disk and a {self.points} around it"
        how = {"epochs": self.epochs[-1], "batch": self.batch, "seeds": self.seeds}
        return trained(model, self.optimizer(model), f"{self.loss} loss", data=points, **how)


@dataclass(frozen=True)
class Result:
    """What was measured, for S seeds and E epochs, and the pictures of the first seed."""

    config: Config
    euclidean: Tensor  # [S] share of same-label points among the nearest in the plane
    share: Tensor  # [S, E] the same under the normalised kernel
    accuracy: Tensor  # [S, E] on the training points
    push: Tensor  # [S, E] mean size of the loss sensitivity: what is left to pull on the network
    x: Tensor  # [n, 2] points of the first seed
    y: Tensor  # [n, 1] their labels
    kernels: Tensor  # [E, n, n] normalised kernels of the first seed
    outputs: Tensor  # [E, GRID, GRID] outputs over EXTENT of the first seed


def train(
    config: Config, model: nn.Module, x: Tensor, y: Tensor, seed: int, **how
) -> Iterator[int]:
    """Train `model` in place by SGD; stop at each epoch of `config.epochs` and yield it."""
    optimizer = config.optimizer(model)
    loss, epochs = LOSSES[config.loss], config.epochs
    return fit(model, loss, optimizer, (x, y), epochs=epochs, batch=config.batch, seed=seed, **how)


def run(
    config: Config,
    *,
    device: torch.device | str = "cpu",
    folder: Path | None = None,
    progress: bool = False,
) -> Result:
    """Train once for each seed, and count neighbours of the same label as training goes on.

    Without a folder all seeds train side by side.
    """
    if folder is None:
        return together([config], device=device)[0]
    looks = [_Looks(config, seed, device) for seed in config.seeds]
    for seed, look in zip(config.seeds, looks, strict=True):
        keep = folder / f"seed{seed}"
        for _ in train(config, look.net, look.x, look.y, seed, keep=keep, progress=progress):
            look()
    return _result(config, looks)


def together(configs: Sequence[Config], *, device: torch.device | str = "cpu") -> list[Result]:
    """What `run` returns for each of several settings, from one training.

    They may differ in loss and points. ValueError where they differ in anything else.
    """
    first = configs[0]
    for config in configs:
        if replace(config, loss=first.loss, points=first.points) != first:
            raise ValueError(
                f"configs must differ in loss and points only, got {config} beside {first}"
            )
    looks = [_Looks(config, seed, device) for config in configs for seed in config.seeds]
    rows = rows_of([look.net for look in looks])
    optimizer = torch.optim.SGD([rows], lr=first.rate)
    x, y = (torch.stack([getattr(look, key) for look in looks]) for key in "xy")
    steps = first.samples // first.batch
    count = {"size": first.batch, "steps": steps * first.epochs[-1]}
    draws = zip(*(batches(first.samples, **count, seed=s) for s in first.seeds), strict=True)
    place, done = torch.arange(len(looks)).unsqueeze(1), 0
    for epoch in first.epochs:
        for chosen in islice(draws, steps * (epoch - done)):
            batch = place, torch.stack(chosen).repeat(len(configs), 1)
            f = outputs(looks[0].net, rows, x[batch])
            parts = zip(configs, f.chunk(len(configs)), y[batch].chunk(len(configs)), strict=True)
            loss = sum_of(
                LOSSES[c.loss](a.flatten(0, 1), b.flatten(0, 1)).sum() for c, a, b in parts
            )
            optimizer.zero_grad()
            (loss / first.batch).backward()
            optimizer.step()
        done = epoch
        for look in looks:
            look()
    each = len(first.seeds)
    return [_result(c, looks[i * each : (i + 1) * each]) for i, c in enumerate(configs)]


class _Looks:
    """One seed's points and network, and what is measured of it, epoch after epoch."""

    def __init__(self, config: Config, seed: int, device: torch.device | str) -> None:
        drawn_by, radii = torch.Generator().manual_seed(seed), POINTS[config.points]
        points = data.ring_and_disk(config.samples, ring_radii=radii, generator=drawn_by)
        self.config, self.pictured = config, seed == config.seeds[0]
        self.x, self.y = (t.to(device) for t in points)
        self.net = config.network(seed).to(device)
        near = homogeneity(-torch.cdist(self.x, self.x), self.y, config.neighbours)
        self.euclidean = near.mean()
        self.rows, self.kernels, self.outputs = [], [], []

    def __call__(self) -> None:
        kernel = normalised_kernel(self.net, self.x)
        share = homogeneity(kernel, self.y, self.config.neighbours).mean()
        told = accuracy_and_push(self.config, self.net, self.x, self.y)
        self.rows.append(torch.stack([share, *(t.cpu() for t in told)]))
        if self.pictured:
            self.kernels.append(kernel.cpu())
            self.outputs.append(_over_the_plane(self.net).cpu())


def _result(config: Config, looks: Sequence[_Looks]) -> Result:
    rows = torch.stack([torch.stack(look.rows) for look in looks])
    share, accuracy, push = rows.unbind(2)
    one = looks[0]
    drawn = {"x": one.x.cpu(), "y": one.y.cpu(), "kernels": torch.stack(one.kernels)}
    drawn["outputs"] = torch.stack(one.outputs)
    euclidean = torch.stack([look.euclidean for look in looks])
    return Result(config, euclidean, share, accuracy, push, **drawn)


def findings(result: Result) -> dict[str, dict[str, Numbers]]:
    """E1's numbers, one a seed."""
    values = result.euclidean, result.share[:, 0], result.share[:, -1]
    config = result.config
    setting = f"{config.points}, {config.loss} loss, {config.activation}"
    return {"E1": {setting: by_seed("E1", values)}}


def figures(result: Result) -> dict[str, Figure]:
    """What the command line writes."""
    return {"neighbours": draw(result), "losses": draw_losses([result])}


def accuracy_and_push(config: Config, model: nn.Module, x: Tensor, y: Tensor) -> tuple:
    r"""Share of points on the right side, and the mean of $|\ell'_i|$ over them."""
    outputs = model(x).detach().requires_grad_()
    (sensitivity,) = torch.autograd.grad(LOSSES[config.loss](outputs, y).sum(), outputs)
    return (outputs * y > 0).float().mean(), sensitivity.abs().mean()


def _over_the_plane(model: nn.Module) -> Tensor:
    left, right, bottom, top = EXTENT
    device = next(model.parameters()).device
    share = (torch.arange(GRID, device=device) + 0.5) / GRID
    rows, columns = torch.meshgrid(
        bottom + share * (top - bottom), left + share * (right - left), indexing="ij"
    )
    with torch.no_grad():
        return model(torch.stack([columns.flatten(), rows.flatten()], 1)).reshape(GRID, GRID)


# ---- pictures -------------------------------------------------------------------------------

SPOTS = (
    ("disk edge", -1, (0.58, 0.0)),
    ("ring right", 1, (0.86, 0.0)),
    ("ring left", 1, (-0.61, -0.61)),
    ("disk centre", -1, (0.0, 0.0)),
)


def anchors(x: Tensor, y: Tensor) -> dict[str, int]:
    """Four points to look from: their names, and the places of the samples nearest to SPOTS."""
    places = {}
    for name, label, spot in SPOTS:
        distance = (x - torch.tensor(spot)).norm(dim=1)
        places[name] = int(distance.masked_fill(y.flatten() != label, torch.inf).argmin())
    return places


def draw(result: Result) -> Figure:
    """The paper's Figure 1: four anchors and their nearest, in the plane and for the network."""
    x, y, count = result.x, result.y, result.config.neighbours
    rows = {
        "in the plane": -torch.cdist(x, x),
        "network, before training": result.kernels[0],
        "network, after training": result.kernels[-1],
    }
    fig, axes = plots.figure(3, 4, width=7.5, height=6.6)
    for ax, name in zip(axes[0], anchors(x, y), strict=True):
        ax.set_title(name)
    for row, (title, similarity) in zip(axes, rows.items(), strict=True):
        row[0].set_ylabel(title, fontsize=10)
        for ax, anchor in zip(row, anchors(x, y).values(), strict=True):
            near = nearest(similarity, count)[anchor]
            same = int((y[near] == y[anchor]).sum())
            panel(ax, x, y, anchor, near)
            ax.set_xlabel(f"{same} of {count} alike", fontsize=10)
    return fig


@plots.style()
def panel(ax: Axes, x: Tensor, y: Tensor, anchor: int, near: Tensor, size: float = 9) -> None:
    """One anchor (star) and its neighbours in the colour of their class; the others are grey."""
    faint = ax.scatter(*x.T, s=size / 4, color=plots.NEUTRAL, alpha=0.65, linewidth=0)
    plots.rasterise(faint)
    for label, marker in plots.CLASS_MARKERS.items():
        mine = near[y[near, 0] == label]
        ax.scatter(*x[mine].T, s=size, marker=marker, color=plots.CLASS_COLOURS[label], linewidth=0)
    ax.scatter(*x[anchor], s=14 * size, marker="*", color="black", linewidth=0, zorder=4)
    ax.scatter(*x[anchor], s=4 * size, marker="*", color="white", linewidth=0, zorder=5)
    ax.set(aspect="equal", xlim=EXTENT[:2], ylim=EXTENT[2:], xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set_visible(False)


def draw_regions(results: Sequence[Result], anchor: str = SPOTS[0][0]) -> Figure:
    """For each result the decision region after training, and below it one anchor's nearest."""
    fig, axes = plots.figure(2, len(results), width=2.6 * len(results), height=5.6)
    for (top, bottom), result in zip(axes.T, results, strict=True):
        x, y = result.x, result.y
        outputs = result.outputs[-1]
        plots.decision_region(top, (outputs / outputs.abs().median()).clamp(-1, 1), EXTENT)
        for label, marker in plots.CLASS_MARKERS.items():
            mine = x[y[:, 0] == label]
            dots = top.scatter(*mine.T, s=4, marker=marker, color=plots.CLASS_COLOURS[label])
            dots.set_linewidth(0)
            plots.rasterise(dots)
        title = f"{result.config.points}, {result.config.loss} loss"
        top.set(title=title, xticks=[], yticks=[])
        place = anchors(x, y)[anchor]
        near = nearest(result.kernels[-1], result.config.neighbours)[place]
        panel(bottom, x, y, place, near, size=16)
        same = int((y[near] == y[place]).sum())
        bottom.set_xlabel(f"{same} of {len(near)} neighbours alike")
    return fig


def draw_losses(results: Sequence[Result]) -> Figure:
    """Neighbours alike, and what is left to pull on the network, while training goes on."""
    fig, (left, right) = plots.figure(1, 2, height=3.9)
    markers = dict(zip(LOSSES, "osD^", strict=True))
    for colour, result in zip(plots.PALETTE, results, strict=False):
        name, epochs = result.config.loss, result.config.epochs
        line, side = ("-", "two-sided") if name in TWO_SIDED else ("--", "one-sided")
        look = colour, line, markers[name]
        for ax, values in ((left, result.share), (right, result.push)):
            plots.band(ax, epochs, values, *look, label=f"{name} ({side})")
    base = torch.stack([result.euclidean for result in results]).mean()
    left.axhline(base, color="black", linewidth=0.9, linestyle=":")
    left.text(results[0].config.epochs[-1], base - 0.012, "in the plane", ha="right", va="top")
    left.set(xlabel="epoch", title="neighbours with the same label", ylim=(0.5, 1.02))
    right.set(xlabel="epoch", title=r"mean push $|\ell'_i|$", yscale="log")
    handles, labels = left.get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=2)
    return fig
