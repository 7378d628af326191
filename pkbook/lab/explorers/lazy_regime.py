"""Turn width and output scale, and see a network leave the prediction of its first kernel."""

from functools import cache

from matplotlib.figure import Figure
from torch import Tensor

from pkbook.lab.experiments.figures.lazy_training import fit_panel, modes_panel
from pkbook.lab.experiments.lazy_training import Config, measure, rms
from pkbook.lab.explorers.base import Explorer
from pkbook.lab.explorers.controls import Control
from pkbook.lab.plots import figure, style

WIDTHS = (4, 16, 64, 512)
SCALES = (0.25, 1.0, 4.0)
SETTINGS = Config(seeds=(1,))
MODES = 4


def study(width: int, scale: float, config: Config = SETTINGS) -> dict[str, Tensor]:
    """One training run: the fields of T8's result, for the first seed alone."""
    found = measure(config, width, "both", scale, "cpu")
    return {name: values[0] for name, values in found.items()}


@style()
def draw(found: dict[str, Tensor], config: Config = SETTINGS) -> Figure:
    """The fit beside the lazy prediction; below, what is left of the first modes over time."""
    fig, (fit, modes) = figure(2, 1, width=4.5, height=6.2)
    fit_panel(fit, config, found["trained"], found["lazy"])
    fit.set(ylabel="change $f_T-f_0$", ylim=(-1.7, 1.9))
    fit.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, columnspacing=0.8)
    modes_panel(modes, config.times, found["rates"][:MODES], found["residual"][:, :MODES])
    modes.set(ylabel="share of the mode left", xlabel="time $t$")
    modes.legend(loc="lower left", fontsize=9)
    return fig


def words(found: dict[str, Tensor]) -> str:
    """What is to be seen, in numbers."""
    gap = rms(found["trained"] - found["lazy"]).item()
    start, end = found["residual"][[0, -1]].square().sum(1)
    return (
        f"The kernel drifted by {found['drift'].item():.1%} and the parameters moved by "
        f"{found['moved'].item():.3f} each. Network and lazy prediction differ by {gap:.3f} on "
        f"average. Of the squared residual, {(end / start).item():.0%} is left."
    )


def lazy_regime() -> Explorer:
    """Width and output scale of a two-layer network: its fit, its modes, its lazy prediction.

    Four widths times three scales, each frame one training run of 320 steps; about five seconds to
    draw them all, which the static page needs.
    """
    found = cache(study)
    return Explorer(
        {
            "width": Control("width", WIDTHS, initial=64),
            "scale": Control("output scale", SCALES, initial=1.0),
        },
        draw=lambda width, scale: draw(found(width, scale)),
        alt=lambda width, scale: words(found(width, scale)),
    )
