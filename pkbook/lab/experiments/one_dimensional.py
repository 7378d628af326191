r"""E2: near in the input, far for the network (arXiv 2603.13872, Section 5.1, Figure 2a-d).

The same two-layer tanh network learns a sine and a square wave on the same inputs with Adam. Pairs
of inputs at one and the same distance are then compared under the normalised kernel: pairs with
the jump of the square wave between them, and pairs on one side of it.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from tqdm.auto import tqdm

from pkbook.kernels import normalised_kernel
from pkbook.lab import plots
from pkbook.lab.experiments.machinery.claims import by_seed
from pkbook.lab.experiments.machinery.results import Numbers
from pkbook.lab.experiments.machinery.settings import Settings, choices, positive, several, whole
from pkbook.lab.experiments.machinery.training import fit, remembered
from pkbook.problems import data, losses, models

TARGETS = {"sine": data.sine, "square wave": data.square_wave}


@dataclass(frozen=True)
class Config(Settings):
    """Settings. `quick()` takes seconds on a CPU; `full()` is wider, longer, with ten seeds."""

    targets: tuple[str, ...] = choices(("sine", "square wave"), tuple(TARGETS))
    width: int = whole(64)
    samples: int = whole(100, least=8, multiple=2)
    """Inputs on (-pi, pi), so that the square wave jumps once, at 0."""
    rate: float = positive(0.01)
    steps: int = whole(1400)
    seeds: tuple[int, ...] = several((0, 1, 2))

    FULL: ClassVar = {
        "width": 256,
        "samples": 200,
        "rate": 1e-3,
        "steps": 20_000,
        "seeds": tuple(range(10)),
    }


@dataclass(frozen=True)
class Result:
    """What was measured, for F targets and S seeds; profiles run over H distances."""

    config: Config
    distance: Tensor  # [H]
    across: Tensor  # [F, S, H] mean kernel of the pairs with 0 between them, after training
    inside: Tensor  # [F, S, H] mean kernel of the pairs on one side of 0, after training
    across_start: Tensor  # [S, H] the same two before training, when no target is known
    inside_start: Tensor  # [S, H]
    loss: Tensor  # [F, S] after training
    x: Tensor  # [n, 1] inputs, in order
    y: Tensor  # [F, n, 1] targets
    fits: Tensor  # [F, n, 1] outputs of the first seed
    kernels: Tensor  # [F, n, n] normalised kernels of the first seed

    def at(self, distance: float) -> int:
        """The place of the profile's distance that is nearest to this one."""
        return int((self.distance - distance).abs().argmin())


def train(config: Config, model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Full-batch Adam on the squared loss; returns the loss at the end."""
    optimizer = torch.optim.Adam(model.parameters(), lr=config.rate)
    next(fit(model, losses.squared, optimizer, (x, y), epochs=(config.steps,), batch=None, seed=0))
    with torch.no_grad():
        return losses.squared(model(x), y).mean().item()


def study(config: Config, y: Tensor, x: Tensor, seed: int) -> dict[str, Tensor]:
    """One network on one target: its loss, profile, outputs and kernel after training."""
    model = models.mlp(1, config.width, 1, activation="tanh", seed=seed).to(x.device)
    loss = torch.tensor(train(config, model, x, y))
    kernel = normalised_kernel(model, x)
    parts = {"profile": profile(kernel), "fit": model(x).detach(), "kernel": kernel}
    return {"loss": loss} | {name: part.cpu() for name, part in parts.items()}


def run(
    config: Config,
    *,
    device: torch.device | str = "cpu",
    folder: Path | None = None,
    progress: bool = False,
) -> Result:
    """Train on each target from each seed, and compare pairs of inputs at equal distance."""
    x, _ = data.sine(config.samples)
    targets = torch.stack([TARGETS[name](config.samples).y for name in config.targets])
    found, starts = [], []
    for seed in tqdm(config.seeds, disable=not progress, desc="seeds"):
        fresh = models.mlp(1, config.width, 1, activation="tanh", seed=seed)
        starts.append(profile(normalised_kernel(fresh, x)))
        for name, y in zip(config.targets, targets, strict=True):
            path = None if folder is None else folder / f"{name}-{seed}"
            make = partial(study, config, y.to(device), x.to(device), seed)
            found.append(remembered(path, make))
    count = len(targets)
    after = torch.stack([f["profile"] for f in found]).unflatten(0, (-1, count)).transpose(0, 1)
    loss = torch.stack([f["loss"] for f in found]).reshape(-1, count).T
    distance = (x[1] - x[0]) * torch.arange(1, after.shape[-1] + 1)
    fits, kernels = (torch.stack([f[k] for f in found[:count]]) for k in ("fit", "kernel"))
    across, inside = after.unbind(2)
    across_start, inside_start = torch.stack(starts).unbind(1)
    sides = across, inside, across_start, inside_start
    return Result(config, distance, *sides, loss, x, targets, fits, kernels)


FAR = 0.6  # distance between the two inputs of a pair at which E2's number is taken


def findings(result: Result) -> dict[str, dict[str, Numbers]]:
    """E2's numbers, one a seed: kernel on one side of 0 minus across 0, at distance `FAR`."""
    h = result.at(FAR)
    gap = dict(zip(result.config.targets, (result.inside - result.across)[..., h], strict=True))
    return {"E2": {"tanh, Adam": by_seed("E2", (gap["square wave"], gap["sine"]))}}


def figures(result: Result) -> dict[str, Figure]:
    """What the command line writes."""
    return {"fits": draw(result), "profile": draw_profile(result)}


def profile(kernel: Tensor) -> Tensor:
    """Mean kernel by distance, [2, H]: of pairs across the middle, and of pairs on one side of it.

    The inputs are evenly spaced, so the h-th diagonal holds the pairs h apart. H is a quarter of
    the inputs, half of one side.
    """
    n = len(kernel)
    side = torch.arange(n) < n // 2
    rows = []
    for h in range(1, n // 4 + 1):
        values, crosses = kernel.diagonal(h), side[: n - h] != side[h:]
        rows.append([values[crosses].mean(), values[~crosses].mean()])
    return torch.tensor(rows).T


def draw(result: Result) -> Figure:
    """The paper's Figure 2a-d: fits above, normalised kernels of the same networks below."""
    x, ticks = result.x[:, 0], (-3, 0, 3)
    fig, axes = plots.figure(2, len(result.config.targets), height=6.6, squeeze=False)
    for column, name in enumerate(result.config.targets):
        top, bottom = axes[:, column]
        top.plot(x, result.y[column], ".", color=plots.NEUTRAL, markersize=4, label="target")
        top.plot(x, result.fits[column], color=plots.PALETTE[0], label="network")
        top.set(title=name, xlabel="$x$", xticks=ticks, ylim=(-1.5, 1.9))
        top.legend(loc="upper left", ncols=2)
        plots.kernel_matrix(bottom, result.kernels[column])
        places = [int((x - tick).abs().argmin()) for tick in ticks]
        bottom.set_xticks(places, ticks)
        bottom.set_yticks(places, ticks)
        bottom.set(xlabel="$x'$", ylabel="$x$", title=r"$\hat K_{x,x'}$ after training")
    return fig


def draw_profile(result: Result) -> Figure:
    """Kernel against distance, with the jump's place between the two inputs and without."""
    names = ("before training", *(f"after: {name}" for name in result.config.targets))
    across = (result.across_start, *result.across)
    inside = (result.inside_start, *result.inside)
    fig, axes = plots.figure(1, len(names), width=7.5, height=3.2, sharey=True, squeeze=False)
    for ax, name, far, near in zip(axes[0], names, across, inside, strict=True):
        for values, line, colour, label in (
            (near, "-", plots.PALETTE[0], "on one side of 0"),
            (far, "--", plots.PALETTE[1], "on both sides of 0"),
        ):
            plots.band(ax, result.distance, values, colour, line, label=label)
        ax.set(title=name, xlabel="distance $|x-x'|$")
    axes[0, 0].set_ylabel(r"mean $\hat K_{x,x'}$")
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return fig
