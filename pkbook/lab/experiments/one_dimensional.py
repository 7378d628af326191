r"""E2: near in the input, far for the network (arXiv 2603.13872, Section 5.1, Figure 2a-d).

The same two-layer tanh network learns a sine and a square wave on the same inputs with Adam. Pairs
of inputs at one and the same distance are then compared under the normalised kernel: pairs with
a jump of the square wave between them, and pairs on one plateau.  All of it is done with one jump,
at 0, and with several, as the paper's figure has them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from tqdm.auto import tqdm

from pkbook.basics.checks import require_whole
from pkbook.kernels import normalised_kernel
from pkbook.lab import plots
from pkbook.lab.experiments.machinery.claims import by_seed
from pkbook.lab.experiments.machinery.results import Numbers
from pkbook.lab.experiments.machinery.settings import Settings, choices, positive, several, whole
from pkbook.lab.experiments.machinery.side_by_side import outputs, rows_of
from pkbook.lab.experiments.machinery.training import remembered
from pkbook.lab.trained import Trained, trained
from pkbook.problems import data, losses, models

TARGETS = {"sine": data.sine, "square wave": data.square_wave}


@dataclass(frozen=True)
class Config(Settings):
    """Settings. `quick()` takes seconds on a CPU; `full()` is wider, longer, with ten seeds."""

    targets: tuple[str, ...] = choices(("sine", "square wave"), tuple(TARGETS))
    width: int = whole(64)
    samples: int = whole(100, least=8, multiple=2)
    """Inputs on (-pi, pi), evenly spaced."""
    jumps: int = 1
    """Of the square wave, an odd number; with one it jumps at 0."""
    more_jumps: int = 3
    """Everything is done a second time with as many; 0 for not at all."""
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

    def check_together(self) -> None:
        for name in ("jumps", "more_jumps"):
            jumps = getattr(self, name)
            even = require_whole(jumps, name, least=0) % 2 == 0
            if even and (name == "jumps" or jumps):
                raise ValueError(f"{name} must be odd, so that a jump lies at 0, got {jumps}")
            if self.samples < 4 * (jumps + 1) or self.samples % (jumps + 1):
                raise ValueError(
                    f"samples must be a multiple of the {jumps + 1} plateaus, at least 4 on each, "
                    f"got {self.samples}"
                )

    @property
    def plateaus(self) -> int:
        """Of the square wave."""
        return self.jumps + 1

    def target(self, name: str) -> data.Samples:
        """The samples of one of the targets."""
        if name == "sine":
            return data.sine(self.samples)
        return data.square_wave(self.samples, frequency=self.plateaus / 2)

    def named(self, target: str) -> str:
        """A target with its number of jumps, as the sine has none."""
        return target if target == "sine" else f"{target} {self.jumps}"

    def network(self, seed: int) -> nn.Sequential:
        """The network of a seed, before training."""
        return models.mlp(1, self.width, 1, activation="tanh", seed=seed)

    def optimizer(self, *parameters: nn.Parameter) -> torch.optim.Optimizer:
        """Adam, as it trains a network here."""
        return torch.optim.Adam(parameters, lr=self.rate)

    def trained(self) -> Trained:
        """What is trained, in words."""
        model = self.network(self.seeds[0])
        points = f"{self.samples} evenly spaced points of each target"
        how = {"steps": self.steps, "seeds": self.seeds, "data": points}
        return trained(model, self.optimizer(*model.parameters()), losses.squared, **how)


@dataclass(frozen=True)
class Result:
    """What was measured, for F targets and S seeds; profiles run over H distances."""

    config: Config
    distance: Tensor  # [H]
    across: Tensor  # [F, S, H] mean kernel of the pairs with a jump between, after training
    inside: Tensor  # [F, S, H] mean kernel of the pairs on one plateau, after training
    across_start: Tensor  # [S, H] the same two before training, when no target is known
    inside_start: Tensor  # [S, H]
    loss: Tensor  # [F, S] after training
    x: Tensor  # [n, 1] inputs, in order
    y: Tensor  # [F, n, 1] targets
    fits: Tensor  # [F, n, 1] outputs of the first seed
    kernels: Tensor  # [F, n, n] normalised kernels of the first seed
    more: "Result | None" = None
    """The same with more jumps."""

    def at(self, distance: float) -> int:
        """The place of the profile's distance that is nearest to this one."""
        return int((self.distance - distance).abs().argmin())


def train(config: Config, model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Full-batch Adam on the squared loss; returns the loss at the end."""
    optimizer = config.optimizer(*model.parameters())
    for _ in range(config.steps):
        optimizer.zero_grad()
        losses.squared(model(x), y).mean().backward()
        optimizer.step()
    with torch.no_grad():
        return losses.squared(model(x), y).mean().item()


def studies(
    config: Config,
    seeds: Sequence[int],
    x: Tensor,
    y: Tensor,
    progress: bool = False,
) -> dict[str, Tensor]:
    """Networks side by side, the m-th from `seeds[m]` on `y[m]`: loss, fit, kernel at the end."""
    nets = [config.network(seed).to(x.device) for seed in seeds]
    rows, inputs = rows_of(nets), x.expand(len(nets), *x.shape)
    optimizer = config.optimizer(rows)
    for _ in tqdm(range(config.steps), disable=not progress, desc="steps"):
        loss = losses.squared(outputs(nets[0], rows, inputs).flatten(0, 1), y.flatten(0, 1))
        optimizer.zero_grad()
        (loss.sum() / len(x)).backward()
        optimizer.step()
    fits = outputs(nets[0], rows.detach(), inputs)
    loss = 0.5 * (fits - y).square().mean((1, 2))
    kernels = torch.stack([normalised_kernel(net, x) for net in nets])
    return {"loss": loss.cpu(), "fit": fits.cpu(), "kernel": kernels.cpu()}


def run(
    config: Config,
    *,
    device: torch.device | str = "cpu",
    folder: Path | None = None,
    progress: bool = False,
) -> Result:
    """Train on each target from each seed, and compare pairs of inputs at equal distance."""
    again = replace(config, jumps=config.more_jumps, more_jumps=0) if config.more_jumps else None
    settings = [config] if again is None else [config, again]
    x, targets = data.sine(config.samples).x, {}
    for setting in settings:  # the sine is trained once
        targets |= {setting.named(name): setting.target(name).y for name in config.targets}
    seeds = [seed for seed in config.seeds for _ in targets]
    y = torch.stack(list(targets.values())).repeat(len(config.seeds), 1, 1)
    path = None if folder is None else folder / "-".join(map(str, (*targets, *config.seeds)))
    make = partial(studies, config, seeds, x.to(device), y.to(device), progress)
    found = {
        key: dict(zip(targets, values.unflatten(0, (-1, len(targets))).unbind(1), strict=True))
        for key, values in remembered(path, make).items()
    }  # by target, [S, ...]
    told = [_result(setting, x, targets, found) for setting in settings]
    return told[0] if again is None else replace(told[0], more=told[1])


def _result(config: Config, x: Tensor, targets: dict, found: dict) -> Result:
    names = [config.named(name) for name in config.targets]
    loss, fits, kernels = (
        torch.stack([found[key][name] for name in names]) for key in ("loss", "fit", "kernel")
    )
    after = torch.stack(
        [torch.stack([profile(kernel, config.plateaus) for kernel in of]) for of in kernels]
    )
    start = torch.stack(
        [
            profile(normalised_kernel(config.network(seed), x), config.plateaus)
            for seed in config.seeds
        ]
    )
    distance = (x[1] - x[0]) * torch.arange(1, after.shape[-1] + 1)
    y = torch.stack([targets[name] for name in names])
    return Result(
        config, distance, after[:, :, 0], after[:, :, 1], start[:, 0], start[:, 1], loss,
        x, y, fits[:, 0], kernels[:, 0],
    )  # fmt: skip


FAR = 0.6  # distance between the two inputs of a pair at which E2's number is taken


def findings(result: Result) -> dict[str, dict[str, Numbers]]:
    """E2's numbers, one a seed: kernel on one plateau minus across a jump, at distance `FAR`."""
    told = {}
    for found in (result, result.more):
        if found is None:
            continue
        gaps = (found.inside - found.across)[..., found.at(FAR)]
        gap = dict(zip(found.config.targets, gaps, strict=True))
        jumps = found.config.jumps
        name = f"tanh, Adam, {jumps} jump{'s' if jumps > 1 else ''}"
        told[name] = by_seed("E2", (gap["square wave"], gap["sine"]))
    return {"E2": told}


def figures(result: Result) -> dict[str, Figure]:
    """What the command line writes."""
    drawn = {"fits": draw(result), "profile": draw_profile(result)}
    if result.more is not None:
        drawn |= {"fits_more_jumps": draw(result.more), "profile_more_jumps":
                  draw_profile(result.more)}  # fmt: skip
    return drawn


def profile(kernel: Tensor, plateaus: int = 2) -> Tensor:
    """Mean kernel by distance, [2, H]: of pairs with a jump between, and of pairs on one plateau.

    The inputs are evenly spaced, so the h-th diagonal holds the pairs h apart. Equal parts of them
    are the plateaus; H is half of one.
    """
    n = len(kernel)
    side = torch.arange(n) * plateaus // n
    rows = []
    for h in range(1, n // (2 * plateaus) + 1):
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
    """Kernel against distance, with a jump's place between the two inputs and without."""
    names = ("before training", *(f"after: {name}" for name in result.config.targets))
    across = (result.across_start, *result.across)
    inside = (result.inside_start, *result.inside)
    one = result.config.jumps == 1
    fig, axes = plots.figure(1, len(names), width=7.5, height=3.2, sharey=True, squeeze=False)
    for ax, name, far, near in zip(axes[0], names, across, inside, strict=True):
        for values, line, colour, label in (
            (near, "-", plots.PALETTE[0], "on one side of 0" if one else "on one plateau"),
            (far, "--", plots.PALETTE[1], "on both sides of 0" if one else "with a jump between"),
        ):
            plots.band(ax, result.distance, values, colour, line, label=label)
        ax.set(title=name, xlabel="distance $|x-x'|$")
    axes[0, 0].set_ylabel(r"mean $\hat K_{x,x'}$")
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return fig
