r"""Beyond E8: the rank gap of a convolutional network, and its graded version, on unseen digits.

The paper's network for MNIST is trained on five digits.  Held-out images of these five and images
of the other five, equally many, are then asked for what no training image excites: as a rank gap
(Definition 5.1 of arXiv 2603.13872), and as the share of their tangent features outside the span
of the training features (:func:`pkbook.diagnostics.outside_span`).
"""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional

from pkbook.function_space.diagnostics import outside_span
from pkbook.function_space.kernel_matrix import as_gram
from pkbook.kernels import gradient_kernel
from pkbook.lab import plots
from pkbook.lab.experiments.machinery.settings import Settings, positive, several, whole
from pkbook.lab.experiments.machinery.training import fit, remembered
from pkbook.lab.trained import Trained, trained
from pkbook.problems import data, losses, models
from pkbook.runs import step_weight

GROUPS = ("seen", "unseen")
MOMENTS = ("before", "after")
STEP = 1e-2  # tolerance of the share in the step's geometry, which is had in single precision


@dataclass(frozen=True)
class Config(Settings):
    """Settings. `quick()` takes three seconds a seed on a CPU; `full()` has five times the data."""

    seen: tuple[int, ...] = (0, 1, 2, 3, 4)
    per_class: int = whole(16)
    """Training images of each seen digit."""
    held_out: int = whole(8)
    """Images of each digit, seen or not, that training does not use."""
    epochs: int = whole(40)
    batch: int = whole(20)
    rate: float = positive(1e-3)
    tolerances: tuple[float, ...] = several((1e-6, 1e-3, 1e-2, 1e-1))
    """Of the singular values, relative to the largest; the first is the one that counts."""
    seeds: tuple[int, ...] = several((0, 1))

    FULL: ClassVar = {"per_class": 100, "held_out": 40, "seeds": tuple(range(5))}

    def check_together(self) -> None:
        if len(self.seen) != 5 or len(set(self.seen) & set(range(10))) != 5:
            raise ValueError(
                f"seen must hold five different digits, so that as many are unseen, got "
                f"{self.seen}; write (0, 1, 2, 3, 4)"
            )

    def trained(self) -> Trained:
        """One line that names what is trained."""
        net = models.mnist_cnn(classes=len(self.seen), seed=0)
        return trained(
            net,
            torch.optim.Adam(net.parameters(), lr=self.rate),
            losses.cross_entropy,
            data=f"{len(self.seen) * self.per_class} images of {len(self.seen)} digits of MNIST",
            epochs=self.epochs,
            batch=self.batch,
            seeds=self.seeds,
        )

    @property
    def unseen(self) -> tuple[int, ...]:
        """The other digits."""
        return tuple(d for d in range(10) if d not in self.seen)


@dataclass(frozen=True)
class Result:
    """S seeds, two moments M (before and after training), two groups G (seen, unseen), m images
    each, T tolerances, N training images, C outputs."""

    config: Config
    share: Tensor  # [S, M, T, G, m] of the tangent feature outside the span
    step_share: Tensor  # [S, G, m] the same after training in the geometry of Adam's last step
    pixels: Tensor  # [S, G, m] the share of the image itself, in the span of the training images
    doubt: Tensor  # [S, M, G, m] one minus the largest probability
    accuracy: Tensor  # [S] on held-out seen digits, after training
    training: Tensor  # [S, M, NC] singular values of the empirical tangent matrix, decreasing
    mixture: Tensor  # [S, M, G, (N + m)C] of the mixture with one group

    def ranks(self, tolerance: float) -> tuple[Tensor, Tensor]:
        """Ranks of the empirical ``[S, M]`` and of both mixtures ``[S, M, G]``.

        Relative to the largest singular value of the mixture of both, so that one bound holds for
        all of a network's.
        """
        bound = tolerance * self.mixture[..., 0].max(-1, keepdim=True).values
        return (self.training > bound).sum(-1), (self.mixture > bound[..., None]).sum(-1)

    def gap(self, tolerance: float) -> Tensor:
        """Rank gaps of both groups ``[S, M, G]``."""
        training, mixture = self.ranks(tolerance)
        return mixture - training[..., None]


def auroc(values: Tensor) -> Tensor:
    """How often an unseen image has the larger value, of seen and unseen ``[..., G, m]``.

    The area under the ROC curve, ``[...]``: a half is chance, and a tie counts half.
    """
    seen, unseen = values.unbind(-2)
    order = (unseen.unsqueeze(-1) - seen.unsqueeze(-2)).sign()
    return (1 + order.double().mean((-2, -1))) / 2


def run(
    config: Config,
    *,
    device: torch.device | str = "cpu",
    folder: Path | None = None,
    progress: bool = False,
) -> Result:
    """Draw images, train, and look before and after, for every seed."""
    found = []
    for seed in config.seeds:
        path = None if folder is None else folder / f"seed{seed}"
        found.append(remembered(path, lambda s=seed: _study(config, s, device, progress)))
    return Result(config, **{name: torch.stack([f[name] for f in found]) for name in found[0]})


def images(config: Config, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Training, held-out seen and held-out unseen images in one tensor, and the first two's labels.

    Labels are places in ``config.seen``.
    """
    generator = torch.Generator().manual_seed(seed)
    parts = [
        data.mnist(split, per_class=count, classes=digits, generator=generator)
        for split, count, digits in (
            ("train", config.per_class, config.seen),
            ("test", config.held_out, config.seen),
            ("test", config.held_out, config.unseen),
        )
    ]
    places = torch.arange(len(config.seen))
    y, held = (places.repeat_interleave(n) for n in (config.per_class, config.held_out))
    return torch.cat([x for x, _ in parts]), y, held


def _study(config: Config, seed: int, device, progress: bool) -> dict[str, Tensor]:
    x, y, held = images(config, seed)
    n, m = len(y), len(held)
    x, y = x.to(device), y.to(device)
    net = models.mnist_cnn(classes=len(config.seen), seed=seed).to(device)
    adam = torch.optim.Adam(net.parameters(), lr=config.rate)
    steps = fit(
        net,
        functional.cross_entropy,
        adam,
        (x[:n], y),
        epochs=(0, config.epochs),
        batch=config.batch,
        seed=seed,
        progress=progress,
    )
    looks = [_look(config, net, x, n, m) for _ in steps]
    found = {name: torch.stack([look[name] for look in looks]) for name in looks[0]}
    with torch.no_grad():
        right = (net(x[n : n + m]).argmax(1).cpu() == held).double().mean()
    flat = x.flatten(1).double()
    pixels = _shares(flat @ flat.T, n, config.tolerances[0]).reshape(2, m)
    step = outside_span(net, x[:n], x[n:], weight=step_weight(net, adam), tolerance=STEP)
    found["step_share"] = step.reshape(2, m).cpu()
    return found | {"accuracy": right.cpu(), "pixels": pixels.cpu()}


def _look(config: Config, net: nn.Module, x: Tensor, n: int, m: int) -> dict[str, Tensor]:
    """What is measured at one moment, in double precision."""
    net, x = copy.deepcopy(net).double(), x.double()
    kernel = gradient_kernel(net, x, reduce="full")
    share = torch.stack([_shares(kernel, n, t).reshape(2, m) for t in config.tolerances])
    with torch.no_grad():
        sure = net(x[n:]).softmax(1).max(1).values
    rows = torch.arange(len(x), device=x.device)
    groups = [torch.cat([rows[:n], rows[n + g * m : n + (g + 1) * m]]) for g in range(2)]
    found = {
        "share": share,
        "doubt": (1 - sure).reshape(2, m),
        "training": _roots(kernel[:n, :n]),
        "mixture": torch.stack([_roots(kernel[rows][:, rows]) for rows in groups]),
    }
    return {name: value.cpu() for name, value in found.items()}


def _shares(kernel: Tensor, n: int, tolerance: float) -> Tensor:
    own = kernel.diagonal(dim1=0, dim2=1)[..., n:]  # [m], or [C, C, m]
    diag = own if own.ndim == 1 else own.diagonal(dim1=0, dim2=1).sum(-1)
    return outside_span(kernel[:n, :n], kernel[n:, :n], diag, tolerance=tolerance)


def _roots(kernel: Tensor) -> Tensor:
    """Singular values of the tangent matrix behind a kernel."""
    return torch.linalg.eigvalsh(as_gram(kernel)).flip(0).clamp_min(0).sqrt()


# ---- pictures -------------------------------------------------------------------------------


@plots.style()
def draw(result: Result) -> Figure:
    """Shares outside the span, of all seeds, before and after training."""
    fig, axes = plots.figure(2, 1, height=5.4, sharex=True, sharey=True)
    generator = np.random.default_rng(0)  # only spreads the dots sideways
    for e, (ax, moment) in enumerate(zip(axes, MOMENTS, strict=True)):
        for g, marker in enumerate("os"):
            values = result.share[:, e, 0, g].flatten().numpy()
            aside = generator.uniform(-0.3, 0.3, len(values))
            ax.plot(g + aside, 100 * values, marker, color=plots.PALETTE[g], alpha=0.5, ms=3)
            ax.plot([g - 0.35, g + 0.35], [100 * np.median(values)] * 2, color="black", lw=2.5)
        ax.set(title=f"{moment} training", xticks=(0, 1), xlim=(-0.6, 1.6))
        ax.set_ylabel("percent outside")
        ax.set_xticklabels([f"{group} digits" for group in GROUPS])
    axes[0].set_ylim(0, None)  # shared: set before the last panel is full, it would cut dots off
    return fig


@plots.style()
def draw_gap(result: Result) -> Figure:
    """Rank gap of both groups after training against the tolerance, mean and range over seeds."""
    fig, ax = plots.figure(height=3.8)
    tolerances = torch.logspace(-6, -0.3, 58, dtype=torch.float64)
    gaps = torch.stack([result.gap(t)[:, -1] for t in tolerances.tolist()], -1).double()
    for g, line in enumerate(("-", "--")):
        name = f"{GROUPS[g]} digits"
        plots.band(ax, tolerances, gaps[:, g], plots.PALETTE[g], line, label=name)
    ax.set(xscale="log", xlabel="tolerance, relative to the largest", ylabel="rank gap")
    ax.legend()
    return fig


@plots.style()
def draw_auroc(result: Result) -> Figure:
    """How well three quantities tell unseen from seen, one dot a seed."""
    fig, ax = plots.figure(height=2.9)
    ax.axvline(0.5, color=plots.NEUTRAL, linestyle=":")
    plots.dots(ax, rates(result))
    ax.set(xlabel="unseen told from seen (AUROC)", xlim=(0.3, 1.02))
    return fig


def rates(result: Result) -> dict[str, Tensor]:
    """AUROC of every quantity, ``{name: [S]}``."""
    return {
        "share, after training": auroc(result.share[:, 1, 0]),
        "share, by Adam's step": auroc(result.step_share),
        "share, before": auroc(result.share[:, 0, 0]),
        "share of the pixels": auroc(result.pixels),
        "doubt of the softmax": auroc(result.doubt[:, 1]),
    }
