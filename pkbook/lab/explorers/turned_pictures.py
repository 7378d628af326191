r"""Turn a picture, and see what a reader of handwriting makes of it.

Above the nearest training digits under :math:`\hat K`, below the mean :math:`\hat K` with each
class of training digits, and the network's own confidence.  The explorer shows an E6 result that
is there already, so it trains nothing.
"""

from dataclasses import dataclass

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from pkbook.kernels import normalised_kernel
from pkbook.lab.experiments import printed_digits
from pkbook.lab.experiments.parts.shifted_inputs import turned
from pkbook.lab.experiments.printed_digits import Result
from pkbook.lab.explorers.base import Explorer
from pkbook.lab.explorers.controls import Control
from pkbook.lab.plots import MINUS, NEUTRAL, PLUS, figure, style
from pkbook.problems import data

ANGLES = (0, 20, 45, 90, 180)
PICTURES = ("handwritten 2", "handwritten 3", "printed 2", "printed 6", "letter B", "letter I")
NEAREST = 5


@dataclass(frozen=True)
class Study:
    """All pictures at all angles, seen by the network of the first seed."""

    x: Tensor
    """``[pictures, angles, 28, 28]``"""
    kernel: Tensor
    """With the shown training digits, ``[pictures, angles, n]``."""
    chance: Tensor
    """The network's softmax, ``[pictures, angles, 10]``."""
    training: data.Samples
    """The shown training digits."""

    def classes(self, picture: int, angle: int) -> Tensor:
        """Mean kernel with each class of training digits, ``[10]``."""
        row = self.kernel[picture, angle]
        return torch.stack([row[self.training.y == c].mean() for c in range(10)])


def picture(name: str) -> Tensor:
    """One of `PICTURES`, ``[1, 28, 28]``: held out, or in the first printed face."""
    kind, character = name.split()
    if kind == "handwritten":
        return data.mnist("test", per_class=1, classes=(int(character),)).x[0]
    return data.printed_glyphs(character, faces=data.printed_faces[:1]).x[0]


def study(result: Result) -> Study:
    """Ask the network about all of them at once."""
    config, model = result.config, result.network()
    training = printed_digits.shown(config, printed_digits.digits(config, config.seeds[0]))
    x = torch.stack([turned(picture(name)[None], angle) for name in PICTURES for angle in ANGLES])
    x = x[:, 0]
    n, shape = len(training.y), (len(PICTURES), len(ANGLES))
    kernel = normalised_kernel(model, torch.cat([training.x, x]))[n:, :n]
    with torch.no_grad():
        chance = model(x).softmax(1)
    pictures, kernel, chance = (part.unflatten(0, shape) for part in (x[:, 0], kernel, chance))
    return Study(pictures, kernel, chance, training)


@style()
def draw(found: Study, name: str, angle: int) -> Figure:
    """The picture and its nearest training digits; below, kernel and confidence by class."""
    at = PICTURES.index(name), ANGLES.index(angle)
    fig, axes = figure(3, 1, width=4.5, height=5.4, height_ratios=(1.1, 1, 1))
    near = found.kernel[at].topk(NEAREST).indices
    gap = torch.full((28, 6), torch.nan)
    images = [found.x[at], gap, *(found.training.x[i, 0] for i in near)]
    axes[0].imshow(torch.cat(images, 1).numpy(), cmap="gray", vmin=0, vmax=1)
    axes[0].set(xticks=(13, 34 + 14 * NEAREST), yticks=())
    axes[0].set_xticklabels(("shown", "nearest training digits"))
    axes[0].tick_params(length=0)
    for spine in axes[0].spines.values():
        spine.set_visible(False)
    _bars(axes[1], found.classes(*at), r"mean $\hat K$")
    _bars(axes[2], found.chance[at], "confidence")
    axes[2].set_xlabel("digit")
    return fig


def _bars(ax: Axes, values: Tensor, label: str) -> None:
    """One bar a digit; the highest is hatched, too."""
    most = int(values.argmax())
    for digit, value in enumerate(values.tolist()):
        top = digit == most
        ax.bar(digit, value, 0.7, color=PLUS if top else MINUS, hatch="///" if top else None)
    ax.axhline(0, color=NEUTRAL, linewidth=0.9)
    ax.set(ylabel=label, ylim=(0, 1.02), yticks=(0, 0.5, 1))
    ax.set_xticks(range(10), [str(digit) for digit in range(10)])


def words(found: Study, name: str, angle: int) -> str:
    """What is to be seen, in numbers."""
    at = PICTURES.index(name), ANGLES.index(angle)
    chance, near = found.chance[at], found.kernel[at].topk(NEAREST)
    labels = ", ".join(str(int(y)) for y in found.training.y[near.indices])
    return (
        f"The {name} turned by {angle} degrees. The network reads {int(chance.argmax())}, with "
        f"{chance.max():.0%} confidence. The nearest training digits are {labels}, at a mean "
        f"kernel of {near.values.mean():.2f}."
    ).replace(" turned by 0 degrees", " upright")


def turned_pictures(result: Result) -> Explorer:
    """A picture and an angle: nearest training digits, kernel by class, and confidence.

    Takes what `pkbook.experiments.printed_digits.run` returned.
    """
    found = study(result)
    return Explorer(
        {
            "name": Control("picture", PICTURES),
            "angle": Control("turned by", ANGLES, formatter="{}°".format),
        },
        draw=lambda name, angle: draw(found, name, angle),
        alt=lambda name, angle: words(found, name, angle),
    )
