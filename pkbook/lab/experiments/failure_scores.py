r"""Does the kernel know when the network fails?  Beyond arXiv 2603.13872, Section 5.3.

A score says how suspicious an input looks to a trained network.  Two of them ask the kernel: how
near the nearest training digits are under :math:`\hat K`, and which share of the tangent feature
lies outside the span of theirs.  They are compared with the usual ones, and with nearness under
two simpler similarities, by the area under the ROC curve.
"""

from dataclasses import dataclass

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional

from pkbook.function_space import diagnostics
from pkbook.kernels import feature_norms
from pkbook.kernels.gram import gram
from pkbook.lab import plots
from pkbook.lab.experiments import printed_digits
from pkbook.lab.experiments.parts.shifted_inputs import noisy, turned
from pkbook.lab.experiments.printed_digits import Result as Trained
from pkbook.problems import data

NEAREST = 5  # training digits that count as the nearest
ANGLE, NOISE = 45.0, 0.4  # of turned and noisy digits
PER_CLASS = 10  # held-out digits of each class
TOLERANCE = 1e-2  # of the span; float32 resolves no finer one well
FRESH = 1_000_000  # added to a seed, it is that of the noise
SCORES = (
    "nearest, kernel",
    "outside the span",
    "max softmax",
    "energy",
    "Mahalanobis",
    "nearest, last layer",
    "nearest, pixels",
)
STEP_SCORES = ("nearest, kernel", "outside the span")
"""Those of the `SCORES` that are asked again in the geometry of Adam's last step."""
SHIFTED = ("printed digits", "turned digits", "noisy digits", "letters")
FAILING = ("printed digits", "turned digits", "noisy digits", "all digits")


@dataclass(frozen=True)
class Scores:
    """Of S seeds; M are the `SCORES`."""

    unlike: Tensor  # [S, M, 4] area for telling each of SHIFTED from held-out digits
    failure: Tensor  # [S, M, 4] area for telling wrong from right answers in each of FAILING
    wrong: Tensor  # [S, 4] share of wrong answers in each of FAILING
    held_out: Tensor  # [S] share of wrong answers on held-out digits
    step_unlike: Tensor  # [S, 2, 4] as unlike: STEP_SCORES in the geometry of Adam's last step
    step_failure: Tensor  # [S, 2, 4] as failure


def queries(seed: int, faces: int = 10, letters: str = "ABCDEFGHIJ") -> dict[str, data.Samples]:
    """Held-out digits, and the sets of `SHIFTED`; letters have no digit, y is -1."""
    generator = torch.Generator().manual_seed(seed + FRESH)
    x, y = data.mnist("test", per_class=PER_CLASS, generator=generator)
    way = 1 - 2 * (torch.arange(len(x)) % 2)  # one turned left, the next one right
    both = torch.where(way[:, None, None, None] > 0, turned(x, ANGLE), turned(x, -ANGLE))
    glyphs = data.printed_glyphs(letters, faces=data.printed_faces[:faces]).x
    return {
        "held-out digits": data.Samples(x, y),
        "printed digits": data.printed_glyphs(faces=data.printed_faces[:faces]),
        "turned digits": data.Samples(both, y),
        "noisy digits": data.Samples(noisy(x, NOISE, generator), y),
        "letters": data.Samples(glyphs, torch.full((len(glyphs),), -1)),
    }


def run(trained: Trained) -> Scores:
    """Score the queries with every network of an E6 result, and by the steps that trained it."""
    found = [_one_seed(trained, place, seed) for place, seed in enumerate(trained.config.seeds)]
    return Scores(*(torch.stack(column) for column in zip(*found, strict=True)))


def _one_seed(trained: Trained, place: int, seed: int) -> tuple[Tensor, ...]:
    config = trained.config
    model, training = trained.network(place), printed_digits.digits(config, seed)
    sets = queries(seed, config.faces, config.letters)
    x = torch.cat([samples.x for samples in sets.values()])
    y = torch.cat([samples.y for samples in sets.values()])
    risk = risks(model, printed_digits.shown(config, training).x, training, x)
    with torch.no_grad():
        wrong = model(x).argmax(1) != y
    names = [name for name, samples in sets.items() for _ in range(len(samples.y))]
    of = {name: torch.tensor([other == name for other in names]) for name in sets}
    of["all digits"] = ~of["letters"]
    known = of["held-out digits"]

    def areas(risk: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        unlike = [[area(r, of[name], known) for name in SHIFTED] for r in risk.values()]
        failure = [[area(r, of[n] & wrong, of[n] & ~wrong) for n in FAILING] for r in risk.values()]
        return torch.tensor(unlike), torch.tensor(failure)

    again = areas(kernel_risks(*step_blocks(trained, place, sets)))
    shares = torch.stack([wrong[of[name]].double().mean() for name in FAILING])
    return (*areas(risk), shares, wrong[known].double().mean(), *again)


def area(risk: Tensor, bad: Tensor, good: Tensor) -> float:
    """Chance that a bad input gets a higher risk than a good one; NaN if there are none of one.

    >>> area(torch.tensor([3.0, 1.0, 2.0]), torch.tensor([1, 0, 0]).bool(),
    ...      torch.tensor([0, 1, 1]).bool())
    1.0
    """
    from sklearn.metrics import roc_auc_score  # takes seconds to import

    if not bad.any() or not good.any():
        return float("nan")
    chosen = bad | good
    return float(roc_auc_score(bad[chosen].numpy(), risk[chosen].numpy()))


def risks(model: nn.Sequential, shown: Tensor, training: data.Samples, x: Tensor) -> dict:
    """How suspicious each of the inputs looks by each of the `SCORES`, ``[m]``; higher is worse.

    The kernel and the other similarities see the same few training inputs, `shown`; the covariance
    of the Mahalanobis distance sees all of `training`.
    """
    n, both = len(shown), torch.cat([shown, x])
    with torch.no_grad():
        last, logits = model[:-1](both), model(x)
        features = model[:-1](training.x)
    found = (
        *kernel_risks(gram(model, shown), gram(model, x, shown), feature_norms(model, x)).values(),
        -logits.softmax(1).max(1).values,
        -logits.logsumexp(1),
        mahalanobis(features, training.y, last[n:]),
        -_nearest(_cosines(last[n:], last[:n])),
        -_nearest(_cosines(x.flatten(1), shown.flatten(1))),
    )
    return dict(zip(SCORES, found, strict=True))


def kernel_risks(train: Tensor, cross: Tensor, lengths: Tensor) -> dict[str, Tensor]:
    """The `STEP_SCORES` alone, ``[m]``, from the blocks of a kernel and its diagonal's roots."""
    cosines = cross / lengths[:, None] / train.diagonal().sqrt()
    share = diagnostics.outside_span(train, cross, lengths.square(), tolerance=TOLERANCE)
    return dict(zip(STEP_SCORES, (-_nearest(cosines), share), strict=True))


def step_blocks(trained: Trained, place: int, sets: dict[str, data.Samples]) -> tuple[Tensor, ...]:
    """The blocks of :math:`K^D` for all queries; E6 has those of print and letters already."""
    model, n = trained.network(place), 10 * trained.config.shown
    products, lengths = trained.step_kernels[place], trained.step_lengths[place]
    digits = printed_digits.digits(trained.config, trained.config.seeds[place])
    shown, weight = printed_digits.shown(trained.config, digits).x, trained.weights[place]
    end = n + len(sets["printed digits"].y)
    known = {"printed digits": slice(n, end), "letters": slice(end, None)}
    if trained.config.sizes[0] != printed_digits.BOX:  # E6 has print of another size
        known.pop("printed digits")
    fresh = torch.cat([some.x for name, some in sets.items() if name not in known])
    cross = gram(model, fresh, shown, weight=weight)
    more = feature_norms(model, fresh, weight=weight)
    columns, start = [], 0
    for name, some in sets.items():
        if name in known:
            columns.append((products[:, known[name]].T, lengths[known[name]]))
            continue
        stop = start + len(some.y)
        columns.append((cross[start:stop], more[start:stop]))
        start = stop
    train = products[:, :n]
    return (train + train.T) / 2, *(torch.cat(c) for c in zip(*columns, strict=True))


def _nearest(similarity: Tensor) -> Tensor:
    return similarity.topk(NEAREST, dim=1).values.mean(1)


def _cosines(one: Tensor, two: Tensor) -> Tensor:
    return functional.normalize(one, dim=1) @ functional.normalize(two, dim=1).T


def mahalanobis(features: Tensor, y: Tensor, asked: Tensor) -> Tensor:
    r"""Squared distance to the nearest class mean, ``[m]``, in units of the spread about it.

    :math:`\min_c(h-\mu_c)^\top\Sigma^{-1}(h-\mu_c)` with one covariance for all classes, shrunk
    after Ledoit and Wolf (2004); Lee et al. (2018).  `features` ``[n, d]``, `asked` ``[m, d]``.
    """
    from sklearn.covariance import LedoitWolf  # takes seconds to import

    means = torch.stack([features[y == c].mean(0) for c in y.unique()])
    rest = torch.cat([features[y == c] - mean for c, mean in zip(y.unique(), means, strict=True)])
    fitted = LedoitWolf(assume_centered=True).fit(rest.double().numpy())
    inverse = torch.from_numpy(fitted.precision_)
    apart = (asked[:, None] - means).double()
    return torch.einsum("mcd,de,mce->mc", apart, inverse, apart).min(1).values


# ---- pictures -------------------------------------------------------------------------------


def draw(scores: Scores, number: str) -> Figure:
    """Areas by score, one panel a set: mean over seeds as a dot, their range as a line.

    `number` is "unlike" or "failure".
    """
    values = getattr(scores, number)
    titles = {"unlike": SHIFTED, "failure": FAILING}[number]
    fig, axes = plots.figure(2, 2, width=7.5, height=5.8, sharex=True, sharey=True)
    for place, (ax, title) in enumerate(zip(axes.flat, titles, strict=True)):
        _panel(ax, values[:, :, place])
        ax.set_title(title)
    lowest = values[~values.isnan()].min().item()
    axes[0, 0].set_xlim(min(0.3, lowest - 0.02), 1.02)  # the panels share it
    for ax in axes[1]:
        ax.set_xlabel("area under the curve")
    return fig


@plots.style()
def _panel(ax: Axes, values: Tensor) -> None:
    ax.axvline(0.5, color=plots.NEUTRAL, linewidth=0.9, linestyle=":")
    for row, found in enumerate(values.T):
        kernel = row < 2
        colour, marker = (plots.PLUS, "o") if kernel else (plots.MINUS, "s")
        ax.plot([found.min(), found.max()], [row, row], color=colour, linewidth=2.4, alpha=0.5)
        ax.plot(found.mean(), row, marker, color=colour, markersize=6)
    ax.set_yticks(range(len(SCORES)), SCORES)
    ax.set(ylim=(len(SCORES) - 0.5, -0.5), xticks=(0.4, 0.6, 0.8, 1.0))
    ax.tick_params(axis="y", length=0)
