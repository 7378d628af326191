r"""Turn an optimizer's settings, and see its runs, their diffusion and what the theorem says.

On the left the prediction at one query: single runs, the mean of many, the mean of the diffusion
that approximates them, and :math:`f(x,\theta_0)-\frac1N\sum_i\mathbb E\int(\dots)\,dt`.  On the
right what this optimizer adds: contributions by sample (SGD), a memory (momentum), a step size for
every parameter (RMSprop), both (Adam).  Theorems 3.4 to 3.7 of arXiv 2603.13872.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from pkbook import diffusion_limit as dl
from pkbook.basics.checks import require_choice
from pkbook.lab.explorers.base import Explorer
from pkbook.lab.explorers.controls import Control
from pkbook.lab.plots import MINUS, NEUTRAL, PALETTE, PLUS, figure, style
from pkbook.problems import data, losses, models

SAMPLES, QUERY, TIME = 8, 1.5, 2.0
PATHS, SHOWN = 80, 16
FINEST = {False: 0.1, True: 0.05}  # time step of a diffusion, without squares and with: at most
SUBSTEPS = 20  # and at most so many in a step
NONE = torch.empty(0)
PLACES = (0.09, 0.15, 0.41, 0.64), (0.575, 0.15, 0.41, 0.64)  # of the axes
WINDOW = (-1.4, 1.8)  # of predictions; targets lie in [-1, 1]

NOISE = Control("batch size", (2, SAMPLES))  # the full batch has none
SQUARES = Control("squares β₂", (0.8, 0.99))
EPSILON = Control("ε", (0.1, 1.0))
CONTROLS: dict[str, dict[str, Control]] = {
    "sgd": {
        "rate": Control("learning rate", (0.1, 0.2, 0.5, 1.0), initial=0.1),
        "batch": Control("batch size", (1, 2, 4, SAMPLES), initial=2),
    },
    "momentum": {
        "rate": Control("learning rate", (0.1, 0.2, 0.5), initial=0.1),
        "batch": NOISE,
        "beta": Control("momentum β", (0.0, 0.6, 0.9), initial=0.6),
    },
    "rmsprop": {
        "rate": Control("learning rate", (0.1, 0.2)),
        "beta_2": SQUARES,
        "epsilon": EPSILON,
    },
    "adam": {
        "rate": Control("learning rate", (0.1, 0.4)),
        "beta_1": Control("momentum β₁", (0.6, 0.9)),
        "beta_2": SQUARES,
        "epsilon": EPSILON,
    },
}
FIXED = {"rmsprop": {"batch": 2}, "adam": {"batch": 2}}  # what has no slider there
MEANS = {
    "runs": (PALETTE[0], "-", 2.6),
    "diffusion": (PALETTE[1], "--", 2.0),
    "theorem": (PALETTE[2], ":", 2.6),
}


@dataclass(frozen=True)
class Study:
    """One setting of one optimizer: many runs, the diffusion, the theorem."""

    kind: str
    values: dict[str, Any]
    """By slider: ``batch`` is a whole number, the others are any."""
    times: Tensor
    """``[K + 1]``."""
    fan: Tensor
    """Predictions of a few single runs, ``[K + 1, S]``; NaN once a run has left every bound."""
    means: dict[str, Tensor] = field(default_factory=dict)
    """Means of runs, diffusion and theorem, ``[K + 1]``; what diverged is missing."""
    spread: float = math.nan
    """Standard deviation of single runs at the end."""
    error: float = math.nan
    """Standard error of the theorem's mean at the end."""
    x: Tensor = NONE
    contributions: Tensor = NONE
    """By training sample, ``[N]``; of SGD alone, empty for the others."""
    scales: Tensor = NONE
    """What multiplies each parameter's gradient or momentum in the first run, ``[K, P]``; empty
    where there are no squares."""

    @property
    def end(self) -> float:
        """The last time."""
        return self.times[-1].item()

    @property
    def diverged(self) -> str:
        """What left every bound; empty where nothing did."""
        return ", ".join(name for name in MEANS if name not in self.means)


@cache
def _task() -> dl.Task:
    x, y = data.sine(SAMPLES, interval=(-3.0, 3.0), dtype=torch.float64)
    net = models.mlp(1, 8, 1, activation="tanh", seed=3).double()
    return dl.Task(net, losses.squared, (x, y))


def _limit(kind: str, values: dict[str, Any]) -> dl.Limit:
    task, rate, batch = _task(), values["rate"], values["batch"]
    if kind == "sgd":
        return dl.SGD(task, rate, batch)
    if kind == "momentum":
        return dl.Momentum(task, rate, batch, beta=values["beta"])
    if kind == "rmsprop":
        return dl.RMSprop(task, rate, batch, beta=values["beta_2"], eps=values["epsilon"])
    betas = values["beta_1"], values["beta_2"]
    return dl.Adam(task, rate, batch, betas=betas, eps=values["epsilon"])


def study(kind: str, *, time: float = TIME, paths: int = PATHS, seed: int = 0, **values) -> Study:
    """Run one optimizer and its diffusion for ``time``, that is ``time / rate`` steps.

    ``values`` are those of the sliders: ``rate``, ``batch``, and what else the optimizer has.
    Raises ValueError for an unknown kind, and as :func:`pkbook.diffusion_limit.discrete`.  A run
    that diverges is no error here: the study says so.
    """
    require_choice(kind, "kind", tuple(CONTROLS))
    limit, query = _limit(kind, values), torch.tensor([[QUERY]], dtype=torch.float64)
    steps = max(1, round(time / values["rate"]))
    paths = 1 if limit.factor == 0 else paths  # without noise all are the same
    times = torch.arange(steps + 1, dtype=torch.float64) * values["rate"]
    finest = FINEST[limit.squares]
    means, told = {}, {}

    runs = _as_far_as_they_go(limit, query, steps, paths, seed)
    fan = torch.full((steps + 1, min(SHOWN, paths)), math.nan, dtype=torch.float64)
    fan[: len(runs)] = runs[:, :SHOWN]
    if len(runs) == len(fan):
        means["runs"], told["spread"] = runs.mean(1), runs[-1].std(correction=0).item()
    try:
        ours = dl.diffusion(
            limit,
            query,
            steps=steps,
            paths=paths,
            generator=_seeded(seed),
            by_sample=kind == "sgd",
            dt=values["rate"] / min(SUBSTEPS, max(2, math.ceil(values["rate"] / finest))),
        )
        means["diffusion"], means["theorem"] = ours.mean[:, 0], ours.predicted.mean(1)[:, 0]
        told["error"] = ours.predicted[-1].std(correction=0).item() / math.sqrt(paths)
        if ours.by_sample is not None:
            told |= {"x": limit.task.data[0][:, 0], "contributions": -ours.by_sample[:, 0]}
    except dl.DivergenceError:
        pass
    if limit.squares and len(means) == 3:
        told["scales"] = _scales(limit, steps, _seeded(seed))
    return Study(kind, values, times, fan, means, **told)


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _as_far_as_they_go(limit: dl.Limit, query: Tensor, steps: int, paths: int, seed: int) -> Tensor:
    """Predictions of the runs ``[k + 1, R]``; fewer steps, down to none, where they diverge."""
    while steps:
        try:
            runs = dl.discrete(limit, query, steps=steps, paths=paths, generator=_seeded(seed))
            return runs.outputs[..., 0]
        except dl.DivergenceError:
            steps //= 2
    return limit.task.outputs(limit.task.theta.expand(paths, -1), query).T


def _scales(limit: dl.Limit, steps: int, generator: torch.Generator) -> Tensor:
    """The weight of the theorem's kernel after each step of one run, ``[K, P]``."""
    state, rows, samples = limit.start(1), [], limit.task.samples
    for k in range(steps):
        batch = torch.randperm(samples, generator=generator)[None, : limit.batch_size]
        gradient = limit.task.batch_gradients(state["theta"], batch)
        state = limit.update(state, gradient, k)
        scale = limit.scale(state, state, (k + 1) * limit.lr)
        rows.append(torch.as_tensor(scale).expand_as(gradient)[0])
    return torch.stack(rows)


# ---- pictures -------------------------------------------------------------------------------


@style()
def draw(found: Study) -> Figure:
    """Left the prediction over time, right what this optimizer adds."""
    fig, (left, right) = figure(1, 2, width=7.5, height=3.9)
    fig.set_layout_engine("none")  # fixed places are drawn in half the time
    for ax, place in zip((left, right), PLACES, strict=True):
        ax.set_position(place)
    left.plot(*_joined(found.times, found.fan), color=NEUTRAL, linewidth=0.7, alpha=0.6)
    for name, values in found.means.items():
        colour, line, width = MEANS[name]
        left.plot(found.times, values, line, color=colour, linewidth=width, label=name)
    left.plot([], [], color=NEUTRAL, linewidth=0.7, label="single runs")
    left.set(xlabel="time $t$", ylabel=f"prediction at {QUERY:g}", ylim=WINDOW, yticks=(-1, 0, 1))
    left.set(xlim=(0, found.end), xticks=(0, found.end))
    handles, labels = left.get_legend_handles_labels()
    fig.legend(handles, labels, loc="upper center", ncols=4, columnspacing=1.2)
    if trouble := warning(found):
        left.set_title(trouble)
    if found.diverged and found.kind != "momentum":
        right.set_axis_off()
    else:
        PANELS[found.kind](right, found)
    return fig


def _joined(x: Tensor, lines: Tensor) -> tuple[Tensor, Tensor]:
    """Many lines ``[K, S]`` as one with gaps, which is smaller on the page."""
    gap = torch.full((1,), math.nan, dtype=torch.float64)
    each = torch.cat([x.double(), gap]).repeat(lines.shape[1])
    return each, torch.cat([lines, gap.expand(1, lines.shape[1])]).T.flatten()


def warning(found: Study) -> str:
    """What to say on the picture where the learning rate is too large; empty where it is not."""
    if found.diverged:
        return f"{found.diverged} diverged.\nLower the learning rate."
    beyond = ((found.fan < WINDOW[0]) | (found.fan > WINDOW[1])).any(0).double().mean()
    if beyond > 0.25:
        return f"{beyond:.0%} of single runs leave the picture.\nLower the learning rate."
    return ""


def _contributions(ax: Axes, found: Study) -> None:
    ax.axhline(0, color="black", linewidth=0.9)
    for x, value in zip(found.x.tolist(), found.contributions.tolist(), strict=True):
        up = value >= 0
        ax.bar(x, value, 0.5, color=PLUS if up else MINUS, hatch=None if up else "///")
    ax.axvline(QUERY, color="black", linewidth=0.9, linestyle=":")
    ax.set(xlabel="training input", title="mean contribution", ylim=(-1, 1))
    ax.set(xticks=(-3, 0, 3), yticks=(-1, 0, 1))


def _memory(ax: Axes, found: Study) -> None:
    rate, beta = found.values["rate"], found.values["beta"]
    age = [k * rate for k in range(len(found.times) - 1)]
    weight = [beta**k for k in range(len(age))]
    ax.bar(age, weight, rate, align="edge", color=PALETTE[0], alpha=0.55)
    fine = torch.linspace(0, found.end, 121)
    ax.plot(fine, torch.exp(-(1 - beta) / rate * fine), "--", color=PALETTE[1])
    ax.set(xlabel="age of a gradient", title="its weight", ylim=(0, 1.05), yticks=(0, 1))
    ax.set(xlim=(0, found.end), xticks=(0, found.end))


def _steps(ax: Axes, found: Study) -> None:
    some = slice(None, None, max(1, len(found.scales) // 20))  # enough for the eye
    lines = _joined(found.times[1:][some], found.scales[some])
    ax.plot(*lines, color=PALETTE[3], linewidth=0.9)
    cap = 1 / found.values["epsilon"]
    ax.axhline(cap, color="black", linestyle=":", linewidth=0.9)
    place = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
    ax.annotate(r"$1/\epsilon$", (1, cap), (0, 2), ha="right", va="bottom", **place)
    _logarithmic(ax, 0.05, 20)
    ax.set(xlabel="time $t$", title="step size, by parameter")
    ax.set(xlim=(0, found.end), xticks=(0, found.end))


def _weights(ax: Axes, found: Study) -> None:
    end, rate = found.end, (1 - found.values["beta_1"]) / found.values["rate"]
    s = torch.tensor([0.0, end], dtype=torch.float64)
    fading = torch.exp(-rate * (end - s))
    ax.plot(*_joined(s, fading[:, None] * found.scales[-1]), color=PALETTE[3], linewidth=0.9)
    _logarithmic(ax, 0.05, 20)
    ax.set(xlabel="time $s$ of a gradient", title="its weight at the end")
    ax.set(xlim=(0, end), xticks=(0, end))


def _logarithmic(ax: Axes, low: float, high: float) -> None:
    ax.set(yscale="log", ylim=(low, high), yticks=[y for y in (0.01, 0.1, 1, 10) if y > low])
    ax.minorticks_off()


PANELS: dict[str, Callable[[Axes, Study], None]] = {
    "sgd": _contributions,
    "momentum": _memory,
    "rmsprop": _steps,
    "adam": _weights,
}


# ---- words ----------------------------------------------------------------------------------


def words(found: Study) -> str:
    """What is to be seen, in numbers."""
    start, ends = found.fan[0, 0].item(), {k: v[-1].item() for k, v in found.means.items()}
    if found.diverged:
        said = warning(found).replace("\n", " ")
        return f"The prediction at {QUERY:g} starts at {start:.2f}. {said[0].upper()}{said[1:]}"
    text = (
        f"From {start:.2f}, the runs come to {ends['runs']:.2f} on average, single runs vary by "
        f"{found.spread:.2f}. The diffusion comes to {ends['diffusion']:.2f}, the theorem says "
        f"{ends['theorem']:.2f} (standard error {found.error:.2f}). {ADDS[found.kind](found)}"
    )
    trouble = warning(found).replace("\n", " ")
    return f"{text} {trouble}".strip()


def _who(found: Study) -> str:
    parts, most = found.contributions, int(found.contributions.abs().argmax())
    return (
        f"The sample at {found.x[most]:.1f} did most of it: {parts[most]:+.2f} of "
        f"{parts.sum():+.2f}."
    )


def _how_long(found: Study) -> str:
    rate, beta = found.values["rate"], found.values["beta"]
    if beta == 0:
        return "Without momentum a gradient counts in its own step only; the diffusion smears it."
    half = math.log(0.5) / math.log(beta)
    return f"A gradient loses half of its weight in {half:.1f} steps, a time of {half * rate:.2f}."


def _how_unequal(found: Study) -> str:
    low, high = found.scales[-1].min().item(), found.scales[-1].max().item()
    return f"At the end the step sizes of the parameters lie between {low:.2g} and {high:.2g}."


def _both(found: Study) -> str:
    half = math.log(0.5) / math.log(found.values["beta_1"])
    return f"{_how_unequal(found)} All forget alike: half in {half:.1f} steps."


ADDS: dict[str, Callable[[Study], str]] = {
    "sgd": _who,
    "momentum": _how_long,
    "rmsprop": _how_unequal,
    "adam": _both,
}


def optimizer_paths(kind: str) -> Explorer:
    """Sliders for one optimizer: "sgd", "momentum", "rmsprop" or "adam".

    Each frame is 80 runs of a tiny network and as many paths of its diffusion; 8 to 18 frames,
    some seconds to draw them all, which the static page needs.  Raises ValueError for another
    kind.
    """
    require_choice(kind, "kind", tuple(CONTROLS))
    found = cache(lambda **values: study(kind, **values, **FIXED.get(kind, {})))
    return Explorer(
        CONTROLS[kind],
        draw=lambda **values: draw(found(**values)),
        alt=lambda **values: words(found(**values)),
    )
