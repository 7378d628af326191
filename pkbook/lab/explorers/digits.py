"""Draw a digit, and see which training digits made a network read it so."""

import base64
from dataclasses import dataclass
from functools import cache

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import avg_pool2d

from pkbook.interpolation.trajectory import Trajectory, batches
from pkbook.kernels.of import margin
from pkbook.lab.live import Live
from pkbook.lab.plots import MINUS, PLUS, figure, style
from pkbook.problems import data, losses, models

TRAIN, TEST, SHADES = 600, 200, 15
STEPS, BATCH, SHOWN, QUERY = 30, 50, 5, 39  # of the still picture


def digits(**settings: object) -> Live:
    """The digit memory; ``settings`` are initial values of its controls.

    ``digit`` (the test digit asked about, from 1), ``rival`` ("second", "is0" to "is9"), ``layer``
    ("both", "0", "1"), ``tenth`` ("all", 1 to 10), ``optimizer`` ("momentum", "sgd", "adam"),
    ``seed``.  The page trains its network itself, on 600 digits; 100 kB of pictures go along,
    which the site keeps in one file for all pages.

    Raises as :func:`pkbook.data.mnist` where the pictures are not at hand.
    """
    found = _study()
    return Live("digits", _words(found), lambda: _draw(found), settings, packed_digits())


@cache
def packed_digits() -> dict[str, str]:
    """600 training and 200 test digits of MNIST, small: 14 x 14 pixels of 16 shades.

    Each picture is the mean of 2 x 2 pixels of :func:`pkbook.data.mnist`, rounded to fifteenths;
    two pixels a byte, the first in the upper half, in base64.  Labels are one figure a digit.
    """
    packed = {}
    for split, count in (("train", TRAIN), ("test", TEST)):
        x, y = small_digits(split, count)
        shades = (SHADES * x).round().to(torch.uint8).flatten().numpy()
        pairs = (shades[0::2] << 4) | shades[1::2]
        packed[split] = base64.b64encode(pairs.tobytes()).decode()
        packed[f"{split}Labels"] = "".join(map(str, y.tolist()))
    return packed


def small_digits(split: str, count: int) -> tuple[Tensor, Tensor]:
    """The first digits of a split as the page has them: x [n, 196] in fifteenths, y [n]."""
    x, y = data.mnist(split)
    shades = (SHADES * avg_pool2d(x[:count].double(), 2)).round() / SHADES
    return shades.flatten(1), y[:count]


@dataclass(frozen=True)
class Study:
    """A digit, the lead of the class it is taken for over the next one, and what made that lead."""

    query: Tensor
    winner: int
    rival: int
    pushes: Tensor
    """``[N]``."""
    final: float
    x: Tensor


@cache
def _study() -> Study:
    (x, y), (queries, _) = small_digits("train", TRAIN), small_digits("test", TEST)
    x, query = x.float(), queries[QUERY : QUERY + 1].float()
    net = models.mlp(x.shape[1], 32, 10, activation="tanh", seed=0)
    sgd = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    run = Trajectory(net, losses.cross_entropy, sgd, (x, y), every=STEPS)
    for batch in batches(TRAIN, size=BATCH, steps=STEPS, seed=0):
        run.step(batch)
    with torch.no_grad():
        winner, rival = net(query)[0].topk(2).indices.tolist()
    told = run.interpolate(query, of=margin(winner, rival), nodes=2)
    pushes = told.contributions.flatten()
    return Study(query[0], winner, rival, pushes, told.final.item(), x)


@style()
def _draw(found: Study) -> Figure:
    fig, axes = figure(2, SHOWN + 1, width=6.5, height=3.0)
    order = found.pushes.argsort(descending=True)
    rows = (order[:SHOWN], PLUS, "for"), (order.flip(0)[:SHOWN], MINUS, "against")
    for line, (chosen, colour, name) in zip(axes, rows, strict=True):
        for ax in line:
            ax.set(xticks=[], yticks=[])
        line[0].set_visible(name == "for")
        line[0].imshow(found.query.view(14, 14).numpy(), cmap="gray_r")
        line[0].set_title(f"read as {found.winner}", fontsize=9)
        for ax, i in zip(line[1:], chosen.tolist(), strict=True):
            ax.imshow(found.x[i].view(14, 14).numpy(), cmap="gray_r")
            ax.set_title(f"{name} {found.pushes[i]:+.2f}", fontsize=9)
            ax.spines[:].set(visible=True, color=colour, linewidth=2)
    return fig


def _words(found: Study) -> str:
    up, down = found.pushes.clamp_min(0).sum(), found.pushes.clamp_max(0).sum()
    return (
        f"A handwritten digit that a network reads as a {found.winner}. Its lead over a "
        f"{found.rival} is {found.final:.2f}. Training digits pushed it by {up:+.2f} and "
        f"{down:+.2f}; the five strongest of either kind are shown."
    )
