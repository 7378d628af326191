r"""Turn optimizer, learning rate and nodes, and see what the exact formula still misses.

A step moves the prediction by :math:`\langle\bar\varphi_k(x),\Delta_k\rangle`, the average of
:math:`\langle\nabla f(x,\theta_k+\tau\Delta_k),\Delta_k\rangle` over :math:`\tau\in[0,1]`.  Above
this rate of change within one step, and what a rule with few nodes takes it for; below how much of
the whole change of the prediction each rule leaves out.
"""

from dataclasses import dataclass, field
from functools import cache

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from pkbook.basics.checks import require_choice
from pkbook.interpolation.trajectory import Trajectory, batches
from pkbook.lab.explorers.base import Explorer
from pkbook.lab.explorers.controls import Control
from pkbook.lab.plots import MINUS, NEUTRAL, PLUS, figure, style
from pkbook.problems import data, losses, models

SAMPLES, BATCH, STEPS, QUERY, BETA = 8, 2, 20, 0.9, 0.9
FLOOR = 1e-16  # below it a gap is rounding

OPTIMIZERS = {
    "SGD": lambda p, lr: torch.optim.SGD(p, lr=lr),
    "RMSprop": lambda p, lr: torch.optim.RMSprop(p, lr=lr, alpha=BETA),
    "Adam": lambda p, lr: torch.optim.Adam(p, lr=lr, betas=(BETA, 0.99)),
}
RULES = {0: "left end", 1: "1 node", 2: "2 nodes", 3: "3 nodes"}
CONTROLS = {
    "optimizer": Control("optimizer", tuple(OPTIMIZERS), initial="Adam"),
    "rate": Control("learning rate", (0.03, 0.3), initial=0.3),
    "nodes": Control("nodes of a step", (0, 1, 3), formatter=RULES.__getitem__),
}


@dataclass(frozen=True)
class Study:
    """One recorded run, and one of its steps looked at closely."""

    optimizer: str
    rate: float
    change: float
    """Of the prediction, over the whole run."""
    gaps: dict[int, float]
    """By number of nodes (0 is the left end): the relative gap of the whole account."""
    step: int
    """The step at which the left end misses most."""
    tau: Tensor
    """Places within that step, ``[n]``."""
    speed: Tensor
    r""":math:`\langle\nabla f(x,\theta_k+\tau\Delta_k),\Delta_k\rangle`, ``[n]``."""
    seen: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """By number of nodes: places and speeds that the rule looks at."""


def gauss_places(nodes: int) -> Tensor:
    """Where a rule looks: Gauss-Legendre nodes on [0, 1]; 0 for no node but the left end."""
    if nodes == 0:
        return torch.zeros(1, dtype=torch.float64)
    return torch.as_tensor((np.polynomial.legendre.leggauss(nodes)[0] + 1) / 2)


def gauss_weights(nodes: int) -> Tensor:
    """The weights of those places; they add up to one."""
    if nodes == 0:
        return torch.ones(1, dtype=torch.float64)
    return torch.as_tensor(np.polynomial.legendre.leggauss(nodes)[1] / 2)


def study(optimizer: str, rate: float, *, steps: int = STEPS) -> Study:
    """Train a small tanh network on a sine; add up its prediction at 0.9 by four rules.

    The samples' shares of a step add up to the step, so the sum over steps has their sum's gap.
    Raises ValueError for an optimizer other than "SGD", "RMSprop", "Adam".
    """
    require_choice(optimizer, "optimizer", tuple(OPTIMIZERS))
    x, y = data.sine(SAMPLES, interval=(-1.0, 1.0), frequency=2.0, dtype=torch.float64)
    net = models.mlp(1, 8, 1, activation="tanh", seed=0).double()
    run = Trajectory(net, losses.squared, OPTIMIZERS[optimizer](net.parameters(), rate), (x, y))
    for batch in batches(SAMPLES, size=BATCH, steps=steps, seed=0):
        run.step(batch)
    query = torch.tensor([[QUERY]], dtype=torch.float64)
    points = [run.parameters(k) for k in range(steps + 1)]
    path = {n: torch.stack([p[n].detach() for p in points]) for n in points[0]}
    outputs = vmap(lambda at: functional_call(net, at, query).squeeze())(path).detach()
    places = [gauss_places(n) for n in RULES]
    looked = speeds(net, path, query, torch.cat(places)).split([len(t) for t in places], 1)
    told = {  # by number of nodes: what the rule takes each step for, [K]
        n: speed @ gauss_weights(n) for n, speed in zip(RULES, looked, strict=True)
    }
    change = outputs[-1] - outputs[0]
    worst = int((outputs.diff() - told[0]).abs().argmax())
    tau = torch.linspace(0, 1, 33, dtype=torch.float64)
    one = {n: p[worst : worst + 2] for n, p in path.items()}
    seen = {n: (t, speed[worst]) for n, t, speed in zip(RULES, places, looked, strict=True)}
    return Study(
        optimizer,
        rate,
        change.item(),
        {n: abs((change - steps_taken.sum()) / change).item() for n, steps_taken in told.items()},
        worst,
        tau,
        speeds(net, one, query, tau)[0],
        seen,
    )


def speeds(net: nn.Module, path: dict[str, Tensor], query: Tensor, tau: Tensor) -> Tensor:
    """How fast the prediction changes at places ``tau [n]`` of each step of a path, ``[K, n]``.

    The path holds K + 1 values of every parameter.
    """
    here = {n: p[:-1] for n, p in path.items()}
    move = {n: p.diff(dim=0) for n, p in path.items()}

    def speed(start: dict[str, Tensor], step: dict[str, Tensor], place: Tensor) -> Tensor:
        def output(t: Tensor) -> Tensor:
            at = {n: start[n] + t * step[n] for n in start}
            return functional_call(net, at, query).squeeze()

        return grad(output)(place)

    places = vmap(speed, (None, None, 0))
    return vmap(places, (0, 0, None))(here, move, tau).detach()


# ---- pictures -------------------------------------------------------------------------------


@style()
def draw(found: Study, nodes: int) -> Figure:
    """Above one step and what the rule takes it for, below the gap of all rules."""
    fig, (above, below) = figure(2, 1, width=4.5, height=6.2)
    _one_step(above, found, nodes)
    _all_gaps(below, found, nodes)
    return fig


def _one_step(ax: Axes, found: Study, nodes: int) -> None:
    places, values = found.seen[nodes]
    taken = np.polyval(np.polyfit(places, values, len(places) - 1), found.tau)
    ax.axhline(0, color="black", linewidth=0.7)
    ax.fill_between(found.tau, found.speed, taken, color=PLUS, alpha=0.3, hatch="///", linewidth=0)
    ax.plot(found.tau, found.speed, color="black", label="rate of change")
    ax.plot(found.tau, taken, "--", color=MINUS, label="what the rule sees")
    ax.plot(places, values, "o", color=MINUS, markersize=7)
    ax.set(xlabel=f"place τ in step {found.step}", xticks=(0, 1), xlim=(-0.03, 1.03))
    ax.margins(y=0.25)
    ax.yaxis.set_major_locator(MaxNLocator(3))
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, fontsize=10)


def _all_gaps(ax: Axes, found: Study, nodes: int) -> None:
    heights = [max(gap, FLOOR) for gap in found.gaps.values()]
    for place, (n, height) in enumerate(zip(found.gaps, heights, strict=True)):
        colour, hatch = (PLUS, "///") if n == nodes else (NEUTRAL, None)
        ax.bar(place, height, 0.6, color=colour, hatch=hatch)
    ax.set(yscale="log", ylim=(FLOOR, 10))
    ax.minorticks_off()
    ax.set_yticks((1e-16, 1e-12, 1e-8, 1e-4, 1), ("10⁻¹⁶", "10⁻¹²", "10⁻⁸", "10⁻⁴", "1"))
    ax.set_xticks(range(len(RULES)), ["left end", "1", "2", "3"])
    ax.set(xlabel="nodes", title="share of the change left out, all steps")


# ---- words ----------------------------------------------------------------------------------


def words(found: Study, nodes: int) -> str:
    """What is to be seen, in numbers."""
    gap, end = found.gaps[nodes], found.gaps[0]
    left_out = f"leaves out {_share(gap)} of it" if gap > FLOOR else "leaves out only rounding"
    text = (
        f"{found.optimizer} at rate {found.rate:g}: in {STEPS} steps the prediction at {QUERY:g} "
        f"changes by {found.change:+.3f}. The rule with {RULES[nodes]} {left_out}"
    ).replace("rule with left end", "left end of each step")
    return f"{text}." if nodes == 0 else f"{text}; the left end leaves out {_share(end)}."


def _share(gap: float) -> str:
    return f"{100 * gap:.3g}%" if gap > 5e-4 else f"{gap:.1e}"


def step_average() -> Explorer:
    """Optimizer, learning rate and nodes of the exact formula: one step, and the gap of all.

    Three optimizers, two rates and four rules: 24 frames of six recorded runs of 20 steps, about
    four seconds to draw them all, which the static page needs.
    """
    found = cache(study)
    return Explorer(
        CONTROLS,
        draw=lambda optimizer, rate, nodes: draw(found(optimizer, rate), nodes),
        alt=lambda optimizer, rate, nodes: words(found(optimizer, rate), nodes),
    )
