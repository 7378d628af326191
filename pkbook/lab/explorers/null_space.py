"""Turn network, training time and tolerance, and see which part of a residual counts as null."""

from functools import cache, partial

from matplotlib.figure import Figure
from torch import Tensor

from pkbook.lab.experiments import null_space as experiment
from pkbook.lab.explorers.base import Explorer
from pkbook.lab.explorers.controls import Control
from pkbook.lab.plots import MINUS, NEUTRAL, PLUS, figure, style

TIMES = (0, 5, 50, 500)
TOLERANCES = (1e-2, 1e-4, 1e-6)
TICKS = [10.0**-k for k in range(0, 17, 4)]
ROUNDING = 1e-16  # relative eigenvalues and energies below it are drawn at it


@cache
def _result() -> experiment.Result:
    return experiment.run(experiment.Config(times=TIMES, seeds=(0,)))


def parts(
    network: str, time: float, tolerance: float, result: experiment.Result | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Residual, its null part ``[n]``, relative eigenvalues and energies by mode ``[n]``.

    The run is that of the first seed of ``result``, else of seed 0 of
    ``pkbook.experiments.null_space``.
    """
    found = result or _result()
    seed = found.config.seeds[0]
    modes = found.modes(network, seed, time)
    residual = found.residual[found.place(network, seed, time)]
    null = residual - modes.project(residual, tolerance)
    return residual, null, modes.values / modes.values[0], modes.energy(residual)


@style()
def draw(
    network: str, time: float, tolerance: float, result: experiment.Result | None = None
) -> Figure:
    """The residual and its null part over the inputs; below, its energy mode by mode."""
    residual, null, values, energy = parts(network, time, tolerance, result)
    x = (result or _result()).measure.nodes[:, 0]
    fig, (top, bottom) = figure(2, 1, width=4.5, height=5.6)
    fig.set_layout_engine("none")  # fixed places are drawn in half the time
    top.set_position((0.19, 0.63, 0.77, 0.3))
    bottom.set_position((0.19, 0.1, 0.77, 0.34))
    top.axhline(0, color=NEUTRAL, linewidth=0.7)
    top.plot(x, residual, color="black", label="residual")
    top.plot(x, null, "--", color=PLUS, label="its null part")
    top.set(xlabel="input $x$", ylim=(-2.6, 2.6))
    top.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    learnable = values > tolerance
    for mine, marker, colour, name in (
        (learnable, "s", MINUS, "learnable"),
        (~learnable, "o", PLUS, "null"),
    ):
        places, heights = (v[mine].clamp_min(ROUNDING) for v in (values, energy))
        bottom.plot(places, heights, marker, color=colour, label=name)
    bottom.axvline(tolerance, color="black", linestyle=":")
    bottom.set(xscale="log", yscale="log", xlim=(3, ROUNDING / 4), ylim=(ROUNDING / 4, 3))
    bottom.set(xlabel=r"eigenvalue $\lambda_j/\lambda_1$; far right: zero")
    bottom.set_ylabel("energy of the residual")
    bottom.set(xticks=TICKS, yticks=TICKS)
    bottom.minorticks_off()
    bottom.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    return fig


def words(
    network: str, time: float, tolerance: float, result: experiment.Result | None = None
) -> str:
    """What is to be seen, with the share."""
    residual, _, values, energy = parts(network, time, tolerance, result)
    learnable = values > tolerance
    share = (energy[~learnable].sum() / energy.sum()).item()
    return (
        f"Network of {network} at time {time:g}: the residual's energy is "
        f"{residual.square().mean().item():.2g}. At tolerance {tolerance:g}, "
        f"{int(learnable.sum())} modes are learnable, and {share:.1%} of the energy lies outside "
        "them."
    )


def null_space(result: experiment.Result | None = None) -> Explorer:
    """Network, training time and tolerance: the residual, its null part, its energy by mode.

    The network of :math:`x^2` keeps its null part whatever the sliders say; for the network of
    :math:`x` it depends on both.  Eighteen frames of one run for each network, drawn in some
    seconds.  A ``result`` of ``pkbook.experiments.null_space`` that was looked at after 5, 50
    and 500 is drawn in place of a run of its own.
    """
    return Explorer(
        {
            "network": Control("network of", experiment.NETWORKS),
            "time": Control("training time", TIMES[1:], initial=TIMES[-1]),
            "tolerance": Control("tolerance", TOLERANCES, initial=1e-4),
        },
        draw=partial(draw, result=result),
        alt=partial(words, result=result),
    )
