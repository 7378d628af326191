r"""The memory picture: which training digits push a test digit's prediction up or down, and when.

A ReLU network with max pooling and dropout reads MNIST digits.  Three test digits are taken apart
with the exact form of Theorem 2.2, eq. (4) of arXiv 2603.13872: the surest one, the most undecided
one, and the worst mistake.  What is explained is the *margin*, the winning logit minus that of a
rival, because the decision hangs on it alone.  The rival is the runner-up, or the true class of a
digit that was misread.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR

from pkbook.interpolation import Interpolation
from pkbook.interpolation.trajectory import Trajectory, batches
from pkbook.lab.experiments.machinery.settings import Settings
from pkbook.lab.plots import digit_row, figure, style
from pkbook.lab.trained import Trained, trained
from pkbook.problems import data, losses, models

KINDS = ("sure", "torn", "wrong")


@dataclass(frozen=True)
class Config(Settings):
    """Data, training and quadrature: 600 digits; `full()` has 6,000, and four passes."""

    per_class: int = 60
    rate: float = 0.15  # falls to 0 like a cosine
    size: int = 30
    steps: int = 90
    nodes: int = 4  # more than a smooth network asks for; see the chapter
    pool: int = 50  # test digits of each class among which the three are chosen

    FULL: ClassVar = {
        "per_class": 600,
        "rate": 0.1,
        "size": 50,
        "steps": 480,
        "nodes": 64,
        "pool": 200,
    }

    def trained(self) -> Trained:
        """What is trained, in words."""
        net, descent = _network(self)
        how = {"steps": self.steps, "batch": self.size, "seeds": 0}
        data = f"{10 * self.per_class} digits of MNIST"
        pace = "the rate falls to zero like a cosine"
        return trained(net, descent, losses.cross_entropy, data=data, also=pace, **how)


@dataclass(frozen=True)
class Result:
    """Three test digits (``Q = 3``) and all that was added up for them."""

    recorded: Trajectory
    x: Tensor
    """Training digits as images in [0, 1], ``[N, 1, 28, 28]``."""
    y: Tensor
    queries: Tensor
    """Test digits as images, ``[Q, 1, 28, 28]``."""
    inputs: Tensor
    """The same as the network sees them."""
    truth: Tensor
    winner: Tensor
    rival: Tensor
    told: Interpolation
    """Rows: winning logits of the Q digits, then their rivals' logits."""
    accuracy: float

    @cached_property
    def logit(self) -> Tensor:
        """Contributions to the winning logit, ``[N, Q]``."""
        return self.told.contributions[:, : len(self.winner), 0]

    @cached_property
    def margin(self) -> Tensor:
        """Contributions to the winning logit minus the rival's, ``[N, Q]``."""
        return _difference(self.told.contributions[..., 0])

    def closing(self, query: int) -> dict[str, float]:
        """The sum: margin before, what all digits did, the remainder, margin after."""
        parts = {"before": self.told.initial, "after": self.told.final}
        ends = {name: _difference(f[:, 0].double())[query].item() for name, f in parts.items()}
        digits = self.margin[:, query].sum().item()
        rest = _difference(self.told.remainder[:, 0])[query].item()
        return {"before": ends["before"], "digits": digits, "rest": rest, "after": ends["after"]}

    def by_class(self, query: int) -> Tensor:
        """Contributions to the margin, summed over the digits of each class, ``[10]``."""
        return torch.zeros(10, dtype=torch.float64).index_add_(0, self.y, self.margin[:, query])

    def by_time(self, query: int) -> Tensor:
        """Contributions to the margin by step and class, ``[K, 10]``."""
        rows = []
        for batch, values in self.told.by_step:
            row = torch.zeros(10, dtype=torch.float64)
            rows.append(row.index_add_(0, self.y[batch], _difference(values[..., 0])[:, query]))
        return torch.stack(rows)

    def pixel_distance(self, query: int) -> Tensor:
        """Euclidean distance of the images, ``[N]``."""
        return (self.x - self.queries[query]).flatten(1).norm(dim=1)


def _difference(values: Tensor) -> Tensor:
    """Winner minus rival along the last axis, ``[..., 2 Q] -> [..., Q]``."""
    winner, rival = values.tensor_split(2, dim=-1)
    return winner - rival


def choose(logits: Tensor, truth: Tensor) -> Tensor:
    """Places ``[3]``: the surest right digit, the narrowest right one, the surest wrong one."""
    top = logits.topk(2).values
    margin, right = top[:, 0] - top[:, 1], logits.argmax(1) == truth
    if right.all() or not right.any():
        raise ValueError("logits: expected some right and some wrong; train longer or less long")
    never = torch.full_like(margin, torch.inf)
    return torch.stack(
        [
            torch.where(right, margin, -never).argmax(),
            torch.where(right, margin, never).argmin(),
            torch.where(right, -never, margin).argmax(),
        ]
    )


def _network(config: Config) -> tuple[torch.nn.Module, torch.optim.SGD]:
    net = models.mnist_cnn(seed=0)
    return net, torch.optim.SGD(net.parameters(), lr=config.rate)


def train(config: Config, x: Tensor, y: Tensor) -> Trajectory:
    """SGD on batches, with dropout and a cosine schedule."""
    net, optimizer = _network(config)
    pace = CosineAnnealingLR(optimizer, config.steps)
    recorded = Trajectory(net, losses.cross_entropy, optimizer, (x, y), every=12)
    for batch in batches(len(x), size=config.size, steps=config.steps):
        recorded.step(batch)
        pace.step()
    return recorded


def run(config: Config) -> Result:
    """Train, choose three test digits, take winner and rival apart."""
    x, y = data.mnist("train", per_class=config.per_class)
    pool, truth = data.mnist("test", per_class=config.pool)
    shift, scale = x.mean(), x.std()  # training starts sooner from centred inputs
    recorded = train(config, (x - shift) / scale, y)
    logits = recorded.model_at(len(recorded))((pool - shift) / scale).detach()
    accuracy = (logits.argmax(1) == truth).double().mean().item()
    chosen = choose(logits, truth)
    winner, second = logits[chosen].topk(2).indices.T
    rival = torch.where(winner == truth[chosen], second, truth[chosen])
    inputs = (pool[chosen] - shift) / scale
    told = recorded.interpolate(
        torch.cat([inputs, inputs]),
        outputs=torch.cat([winner, rival]),
        nodes=config.nodes,
        tolerance=None,
    )
    known = (pool[chosen], inputs, truth[chosen], winner, rival)
    return Result(recorded, x, y, *known, told, accuracy)


@style()
def draw(result: Result, each: int = 4) -> Figure:
    """For each test digit the training digits that pushed its margin up most, and down most."""
    count = len(result.winner)
    fig, axes = figure(2 * count, each + 1, width=4.5, height=2.1 * count, squeeze=False)
    for query in range(count):
        order = result.margin[:, query].argsort()
        up, down = order.flip(0)[:each], order[:each]
        for axs, chosen in ((axes[2 * query], up), (axes[2 * query + 1], down)):
            digit_row(axs[1:], result.x[chosen], result.margin[chosen, query])
        first, below = axes[2 * query, 0], axes[2 * query + 1, 0]
        digit_row([first], result.queries[query : query + 1])
        first.set_title(f"a {result.truth[query]}", fontsize=10, pad=4)
        read = f"read as {result.winner[query]},\nnot {result.rival[query]}"
        below.text(0.5, 1.0, read, ha="center", va="top", fontsize=9.5, transform=below.transAxes)
        below.set_axis_off()
    return fig
