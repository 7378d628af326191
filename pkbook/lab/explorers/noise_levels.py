"""Turn a query's noise level and the embedding's frequency; see which levels taught it."""

from functools import cache

import torch
from matplotlib.figure import Figure
from torch import Tensor

from pkbook.generative import locality, sinusoidal
from pkbook.lab.experiments import noise_levels as experiment
from pkbook.lab.explorers.base import Explorer
from pkbook.lab.explorers.controls import Control
from pkbook.lab.plots import MINUS, NEUTRAL, PLUS, figure, style

CONFIG = experiment.Config.quick()
LEVELS = (8, 28, 48, 68, 88)
START = 48


@cache
def _relative(frequency: float) -> tuple[Tensor, Tensor, Tensor]:
    """Share over usual share ``[T, T]``; near share and its usual value ``[T]``; means of seeds."""
    studies = experiment.everything(CONFIG).of("sinusoidal", frequency=frequency)
    shares = torch.stack([s.shares["noisy"] for s in studies]).mean(0)
    return shares / shares.nanmean(0), *locality(shares, CONFIG.levels // 10)


def parts(level: int, frequency: float) -> tuple[Tensor, Tensor]:
    """Likeness of the embeddings, and share over usual share, by training level, ``[T]`` each."""
    rows = sinusoidal(CONFIG.levels, CONFIG.width, frequency=frequency)
    alike = torch.nn.functional.cosine_similarity(rows[level - 1], rows)
    return alike, _relative(frequency)[0][level - 1]


@style()
def draw(level: int, frequency: float) -> Figure:
    """Above, how alike the embeddings are to the query's; below, which levels taught it."""
    alike, relative = parts(level, frequency)
    fig, (top, bottom) = figure(2, 1, width=4.5, height=5.2, sharex=True)
    place = torch.arange(1, CONFIG.levels + 1)
    for ax, values, colour in ((top, alike, MINUS), (bottom, relative, PLUS)):
        width = CONFIG.levels // 10
        ax.axvspan(level - width, level + width, color=NEUTRAL, alpha=0.18, linewidth=0)
        ax.axvline(level, color="black", linestyle=":")
        ax.plot(place, values, color=colour)
    bottom.axhline(1, color="black", linewidth=0.8)
    top.set(ylim=(-1.1, 1.1), ylabel="embeddings: cosine", xlim=(1, CONFIG.levels))
    bottom.set(ylim=(0, 5), ylabel="share over usual share")
    bottom.set_xlabel(r"training level $\tau'$")
    return fig


def words(level: int, frequency: float) -> str:
    """What is to be seen, with the share."""
    _, near, usual = _relative(frequency)
    here, common = near[level - 1].item(), usual[level - 1].item()
    return (
        f"Query at level {level}, frequency {frequency:g}: levels within "
        f"{CONFIG.levels // 10} of it have {here:.1%} of the contribution, "
        f"{here / common:.2f} times their usual share."
    )


def noise_levels() -> Explorer:
    r"""Level of the query and frequency of the embedding: which training levels taught it.

    Corollary 4.1 of arXiv 2603.13872 on the models of ``pkbook.experiments.noise_levels``,
    mean of their seeds.  Fifteen frames; the experiment's models are trained at the first call,
    in some seconds.
    """
    return Explorer(
        {
            "level": Control("noise level of the query", LEVELS, initial=START),
            "frequency": Control("embedding frequency", CONFIG.frequencies, initial=1.0),
        },
        draw=draw,
        alt=words,
    )
