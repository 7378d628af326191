r"""E5: digits that a network never saw, in its tangent space (arXiv 2603.13872, Figure 4).

A network learns some of the ten digits.  On held-out pictures of all ten we ask whether the
nearest under the normalised kernel show the same digit: for the seen digits and for the unseen
ones, before and after training.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional
from tqdm.auto import tqdm

from pkbook.basics.checks import require_whole
from pkbook.function_space import diagnostics
from pkbook.kernels import normalised_kernel
from pkbook.lab import plots
from pkbook.lab.experiments.machinery.claims import by_seed
from pkbook.lab.experiments.machinery.results import Numbers
from pkbook.lab.experiments.machinery.settings import (
    Settings,
    positive,
    require_at_most,
    several,
    whole,
)
from pkbook.lab.experiments.machinery.training import channels_last, fit
from pkbook.lab.experiments.parts.nearest_rows import nearest_rows
from pkbook.lab.trained import Trained, trained
from pkbook.problems import data, losses, models
from pkbook.runs import step_weight

GROUPS = ("seen", "unseen")
MOST_ON_MAP = 400  # points; more are hard to read


def _split(seen: str, name: str) -> None:
    if not set(seen) < set("0123456789") or not 2 <= len(set(seen)) == len(seen) <= 8:
        raise ValueError(
            f"{name} must hold 2 to 8 of the ten digits, each once, got {seen!r}; "
            f'write {name}=("01234",)'
        )


@dataclass(frozen=True)
class Config(Settings):
    """Settings. `quick()` takes a quarter of a minute on a CPU; `full()` has 600 digits a class."""

    splits: tuple[str, ...] = several(("01234", "56789"), _split)
    """The seen digits; the first is the paper's, the last its reverse."""
    per_class: int = whole(100)
    held_out: int = whole(20)
    """Pictures of each digit that are looked at; none was trained on."""
    outputs: int | None = None
    """Of the network; None for one a seen digit."""
    neighbours: int = whole(10)
    rate: float = positive(1e-3)
    batch: int = whole(32)
    epochs: int = whole(6)
    seeds: tuple[int, ...] = several((0, 1))

    FULL: ClassVar = {
        "splits": ("01234", "012345", "56789"),
        "per_class": 600,
        "held_out": 30,
        "epochs": 20,
        "seeds": tuple(range(5)),
    }

    def check_together(self) -> None:
        if self.outputs is not None:
            require_whole(self.outputs, "outputs", least=10)
        most = 2 * self.held_out
        why = f"fewer than the {most} pictures of two digits"
        require_at_most(self.neighbours, "neighbours", most - 1, why)

    def trained(self) -> Trained:
        """One line that names what is trained on the first split."""
        split = self.splits[0]
        model = models.mnist_cnn(classes=self.outputs or len(split), seed=0)
        return trained(
            model,
            torch.optim.Adam(model.parameters(), lr=self.rate),
            losses.cross_entropy,
            data=f"{len(split) * self.per_class} digits of MNIST, of {len(split)} kinds",
            epochs=self.epochs,
            batch=self.batch,
            seeds=self.seeds,
        )


@dataclass(frozen=True)
class Result:
    """Of D splits and S seeds, for GROUPS; pictures are of the first split and seed."""

    config: Config
    purity: Tensor  # [D, S, 2 (before, after), 2] same digit among the nearest of all ten digits
    within: Tensor  # [D, S, 2, 2] the same among the nearest of the own group
    silhouette: Tensor  # [D, S, 2, 2] of each group by itself
    pixels: Tensor  # [D, S, 2] purity under the cosine of the pictures, of all ten digits
    accuracy: Tensor  # [D, S] on held-out pictures of the seen digits
    step_purity: Tensor  # [S, 2] as purity, of the first split, in the geometry of Adam's last step
    x: Tensor  # [n, 1, 28, 28]
    y: Tensor  # [n]
    kernels: Tensor  # [2, n, n] normalised, before and after


def held_out(config: Config, seed: int) -> data.Samples:
    """Pictures of all ten digits that no network was trained on, ordered by class."""
    generator = torch.Generator().manual_seed(seed)
    return data.mnist("test", per_class=config.held_out, generator=generator)


def seen(split: str, y: Tensor) -> Tensor:
    """Which of the digits were trained on, ``[n]``."""
    return torch.isin(y, torch.tensor([int(c) for c in split], device=y.device))


def train(
    config: Config, split: str, seed: int, device: torch.device | str = "cpu", **how
) -> Iterator[nn.Sequential]:
    """The network before and after it was trained on the digits of a split."""
    for model, _ in _with_optimizer(config, split, seed, device, **how):
        yield model


def _with_optimizer(
    config: Config, split: str, seed: int, device: torch.device | str, **how
) -> Iterator[tuple[nn.Sequential, torch.optim.Adam]]:
    generator = torch.Generator().manual_seed(seed)
    classes = [int(c) for c in split]
    x, y = data.mnist("train", per_class=config.per_class, classes=classes, generator=generator)
    if config.outputs is None:
        y = torch.searchsorted(torch.tensor(sorted(classes)), y)  # outputs in the digits' order
    model = models.mnist_cnn(classes=config.outputs or len(split), seed=seed)
    model = channels_last(model).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.rate)
    settings = {"epochs": (0, config.epochs), "batch": config.batch, "seed": seed}
    samples = x.to(device), y.to(device)
    for _ in fit(model, losses.cross_entropy, optimizer, samples, **settings, **how):
        yield model, optimizer


def run(
    config: Config,
    *,
    device: torch.device | str = "cpu",
    folder: Path | None = None,
    progress: bool = False,
) -> Result:
    """Train one network for each split and seed, and look at all ten digits with it."""
    rows, kept, weighted = [], [], []
    runs = [(split, seed) for split in config.splits for seed in config.seeds]
    for split, seed in tqdm(runs, disable=not progress, desc="networks"):
        x, y = held_out(config, seed)
        keep = None if folder is None else folder / f"{split}-seed{seed}"
        looks = [
            (model, normalised_kernel(model, x.to(device)).cpu(), optimizer)
            for model, optimizer in _with_optimizer(config, split, seed, device, keep=keep)
        ]
        model, _, optimizer = looks[-1]
        if split == config.splits[0]:
            weight = step_weight(model, optimizer)
            cosines = normalised_kernel(model, x.to(device), weight=weight).cpu()
            weighted.append(measure(config, cosines, split, y)[0])
        kept = kept or [kernel for _, kernel, _ in looks]
        found = torch.stack([measure(config, kernel, split, y) for _, kernel, _ in looks])
        right = _accuracy(config, model, split, x, y)
        flat = functional.normalize(x.flatten(1), dim=1)
        pixels = measure(config, flat @ flat.T, split, y)[0]
        rows.append((*found.unbind(1), pixels, right))
    shape = len(config.splits), len(config.seeds)
    columns = (torch.stack(column).unflatten(0, shape) for column in zip(*rows, strict=True))
    purity, within, silhouette, pixels, accuracy = columns
    x, y = held_out(config, config.seeds[0])
    kernels = torch.stack(kept)
    step_purity = torch.stack(weighted)
    return Result(config, purity, within, silhouette, pixels, accuracy, step_purity, x, y, kernels)


def measure(config: Config, kernel: Tensor, split: str, y: Tensor) -> Tensor:
    """Purity among all, purity in the own group, silhouette; each for GROUPS, ``[3, 2]``."""
    count, known, columns = config.neighbours, seen(split, y), []
    everywhere = diagnostics.homogeneity(kernel, y, count)
    for group in (known, ~known):
        own = kernel[group][:, group]
        within = diagnostics.homogeneity(own, y[group], count).mean()
        apart = diagnostics.silhouette(own, y[group]).mean()
        columns.append(torch.stack([everywhere[group].mean(), within, apart.float()]))
    return torch.stack(columns, 1)


def _accuracy(config: Config, model, split: str, x: Tensor, y: Tensor) -> Tensor:
    known, device = seen(split, y), next(model.parameters()).device
    with torch.no_grad():
        answers = model(x[known].to(device)).argmax(1).cpu()
    if config.outputs is None:
        answers = torch.tensor(sorted(int(c) for c in split))[answers]
    return (answers == y[known]).float().mean()


def named(split: str) -> str:
    """In words.

    >>> named("01234")
    '0 to 4 seen, 5 to 9 unseen'
    """
    rest = "".join(c for c in "0123456789" if c not in split)
    told = (f"{s[0]} to {s[-1]}" if s in "0123456789" else ", ".join(s) for s in (split, rest))
    return "{} seen, {} unseen".format(*told)


def findings(result: Result) -> dict[str, dict[str, Numbers]]:
    r"""E5's numbers for each split, with neighbours of the own group only, and by Adam's steps.

    The last setting asks :math:`K^{P^{-1}}` of the last step.  Before the first step there is
    none, and the plain kernel stands.
    """
    config = result.config
    settings = {
        f"{named(split)}": _numbers(result.purity[d]) for d, split in enumerate(config.splits)
    }
    settings[f"{named(config.splits[0])}, each half by itself"] = _numbers(result.within[0])
    weighted = torch.stack([result.purity[0, :, 0], result.step_purity], 1)
    settings[f"{named(config.splits[0])}, in the geometry of Adam's last step"] = _numbers(weighted)
    return {"E5": settings}


def _numbers(purity: Tensor) -> Numbers:
    before, after = purity.unbind(1)
    values = after[:, 0] - before[:, 0], after[:, 0] - after[:, 1], after[:, 1] - before[:, 1]
    return by_seed("E5", values)


# ---- pictures -------------------------------------------------------------------------------


def figures(result: Result) -> dict[str, Figure]:
    """What the command line writes."""
    return {"maps": draw(result), "purity": draw_purity(result), "neighbours": draw_near(result)}


def flat_map(kernel: Tensor, seed: int = 0) -> Tensor:
    """The plane that UMAP makes of the distances between unit tangent features, ``[n, 2]``.

    It keeps neighbours together and nothing else: distances and sizes on it mean little (McInnes,
    Healy and Melville 2018).  ValueError for more than MOST_ON_MAP points.
    """
    if len(kernel) > MOST_ON_MAP:
        raise ValueError(
            f"kernel: expected at most {MOST_ON_MAP} points, came {len(kernel)}; "
            "take fewer of each class"
        )
    threads = torch.get_num_threads()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Tensorflow not installed", ImportWarning)
        warnings.filterwarnings("ignore", "using precomputed metric")
        from umap import UMAP  # slow to import, and only this picture needs it

        made = UMAP(metric="precomputed", random_state=seed, n_jobs=1)
        places = made.fit_transform(diagnostics.distance(kernel).numpy())
    torch.set_num_threads(threads)  # UMAP's libraries set torch's threads anew
    return torch.from_numpy(places)


def draw(result: Result) -> Figure:
    """Figure 4: seen digits before, seen digits after, unseen digits after training."""
    split, y = result.config.splits[0], result.y
    before, after = result.kernels
    known = seen(split, y)
    fig, axes = plots.figure(1, 3, width=7.5, height=3.2)
    own = before[known][:, known]
    _map(axes[0], flat_map(own), y[known], torch.ones(len(own), dtype=torch.bool))
    places = flat_map(after)
    _map(axes[1], places, y, known)
    _map(axes[2], places, y, ~known)
    for ax, title in zip(axes, ("before: seen", "after: seen", "after: unseen"), strict=True):
        ax.set_title(title)
    return fig


@plots.style()
def _map(ax: Axes, places: Tensor, y: Tensor, marked: Tensor) -> None:
    """Marked points as their digits, the others as grey dots."""
    if not marked.all():
        rest = ax.scatter(*places[~marked].T, s=7, color=plots.NEUTRAL, alpha=0.5, linewidth=0)
        plots.rasterise(rest)
    colours = (*plots.PALETTE[:4], "black")
    for place, digit in enumerate(y[marked].unique().tolist()):
        mine, colour = places[marked & (y == digit)], colours[place % 5]
        ax.scatter(*mine.T, s=48, marker=f"${digit}$", color=colour, linewidth=0)
    ax.set(xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set(visible=True, color=plots.NEUTRAL)


def draw_purity(result: Result) -> Figure:
    """Purity before and after training, for seen and unseen digits, one panel a split."""
    splits = result.config.splits
    fig, axes = plots.figure(1, len(splits), width=7.5, height=3.7, sharey=True, squeeze=False)
    looks = ((plots.MINUS, "-", "o"), (plots.PLUS, "--", "s"))
    for ax, split, values in zip(axes[0], splits, result.purity, strict=True):
        for place, (colour, line, marker) in enumerate(looks):
            style = {"color": colour, "linestyle": line, "marker": marker}
            for one in values[..., place]:
                ax.plot((0, 1), one, linewidth=1, alpha=0.5, **style)
            ax.plot((0, 1), values[..., place].mean(0), linewidth=2.4, label=GROUPS[place], **style)
        ax.set_xticks((0, 1), ("before", "after"))
        ax.set(xlim=(-0.2, 1.2), title=named(split).replace(", ", ",\n"))
    axes[0, 0].set(ylabel="same digit among the nearest", ylim=(0.3, 1.02))
    with plots.style():
        fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return fig


def draw_near(result: Result, count: int = 6) -> Figure:
    """One picture of every unseen digit and its nearest ones, after training."""
    split, y = result.config.splits[0], result.y
    unseen = y[~seen(split, y)].unique().tolist()
    near = diagnostics.nearest(result.kernels[1], count)
    rows = []
    for digit in unseen:
        anchor = int((y == digit).nonzero()[0])
        found = near[anchor]
        rows.append((result.x[anchor], result.x[found], y[found] == digit))
    return nearest_rows(rows)
