r"""GANs with both densities in closed form: the formula's two sides, and a discriminator's error.

Corollary 4.2 and eq. (29) of arXiv 2603.13872, for a rising function of one latent and for an
affine map of the plane, with mixtures of Gaussians as data.  Everything is float64.
"""

from dataclasses import dataclass, field
from functools import cache

import torch
from torch import Tensor, nn

from pkbook.basics.checks import require_choice, require_whole
from pkbook.generative import (
    AdversarialRun,
    AffineGenerator,
    GaussianMixture,
    Learned,
    MonotoneGenerator,
    Optimal,
    train_generator,
)
from pkbook.generative.adversarial import LOSSES
from pkbook.lab.trained import Trained, trained
from pkbook.problems.models import mlp

CASES = ("line", "plane")
RATE = 0.1  # of the generator, plain SGD
LATENTS, BATCH = 128, 32


def data(case: str) -> GaussianMixture:
    """Two modes of unequal weight on the line, or three in the plane."""
    require_choice(case, "case", CASES)
    if case == "line":
        means, weights = [[-1.5], [1.5]], [0.35, 0.65]
        scale = 0.6
    else:
        means, weights = [[-1.5, 0.0], [1.5, 0.8], [1.5, -0.8]], [0.4, 0.3, 0.3]
        scale = 0.7
    f64 = torch.float64
    return GaussianMixture(torch.tensor(means, dtype=f64), scale, torch.tensor(weights, dtype=f64))


def generator(case: str, seed: int) -> nn.Module:
    """Whose density is known: a rising function of one latent, or an affine map of the plane."""
    require_choice(case, "case", CASES)
    if case == "line":
        return MonotoneGenerator(8, seed=seed).double()
    return AffineGenerator(2, scale=0.5).double()


def latents(case: str, n: int, seed: int) -> Tensor:
    """``[n, 1]`` or ``[n, 2]``, standard normal."""
    require_choice(case, "case", CASES)
    draw = torch.Generator().manual_seed(1000 + seed)
    return torch.randn(n, 1 + CASES.index(case), generator=draw, dtype=torch.float64)


def train(
    case: str,
    seed: int,
    *,
    loss: str = "minimax",
    steps: int = 60,
    rate: float = RATE,
    adversary=None,
) -> AdversarialRun:
    """A generator trained by SGD, against the optimal discriminator unless another is given.

    ``ValueError`` for an unknown case or loss.
    """
    made = generator(case, seed)
    if adversary is None:
        adversary = Optimal(data(case), loss)
    optimizer = torch.optim.SGD(made.parameters(), rate)
    z = latents(case, LATENTS, seed)
    return train_generator(made, adversary, z, optimizer, steps=steps, batch=BATCH, seed=seed)


def named(case: str, steps: int) -> Trained:
    """The line that names what `train` trains, with its usual loss and rate."""
    model = generator(case, 0)
    how = {"data": f"{LATENTS} latents", "steps": steps, "batch": BATCH, "seeds": 0}
    loss = "minimax loss against the best discriminator"
    return trained(model, torch.optim.SGD(model.parameters(), RATE), loss, **how)


def queries(case: str, n: int = 9) -> Tensor:
    """Latents that were not trained on: equal steps on the line, or a circle in the plane."""
    require_choice(case, "case", CASES)
    require_whole(n, "n", least=2)
    if case == "line":
        return torch.linspace(-2, 2, n, dtype=torch.float64)[:, None]
    angle = 2 * torch.pi * torch.arange(n, dtype=torch.float64) / n
    return torch.stack([angle.cos(), angle.sin()], 1)


@cache
def gaps(seed: int, steps: int = 60) -> dict[tuple[str, str], float]:
    """Largest relative gap of the formula over the queries, ``{(case, loss): gap}``."""
    found = {}
    for case in CASES:
        for loss in LOSSES:
            told = train(case, seed, loss=loss, steps=steps).run.interpolate(queries(case))
            found[case, loss] = told.completeness.max().item()
    return found


@dataclass
class Compared:
    """A learned discriminator that is measured against the optimal one in every step.

    The generator sees the learned one alone.
    """

    learned: Learned
    ideal: Optimal
    parts: tuple[str, ...] = field(default=("feedback",), init=False)
    cosine: list[float] = field(default_factory=list, init=False)
    """Between the two feedbacks, taken over all generated points of the step at once."""
    length: list[float] = field(default_factory=list, init=False)
    """Of the learned feedback, relative to the ideal one."""

    def __post_init__(self) -> None:
        if self.learned.loss != self.ideal.loss:
            raise ValueError(
                f"learned and ideal must have the same loss, got {self.learned.loss!r} and "
                f"{self.ideal.loss!r}"
            )

    def __call__(self, generator: nn.Module, z: Tensor, x: Tensor, step: int) -> Tensor:
        """``[1, n, d]``, the learned feedback."""
        wanted = self.ideal(generator, z, x, step).sum(0)
        answer = self.learned(generator, z, x, step)
        sizes = answer.norm().item(), wanted.norm().item()
        self.cosine.append((answer[0] * wanted).sum().item() / (sizes[0] * sizes[1]))
        self.length.append(sizes[0] / sizes[1])
        return answer


def against_ideal(
    case: str, seed: int, *, inner: int, loss: str = "minimax", steps: int = 120
) -> Compared:
    """Train against a learned discriminator that makes ``inner`` steps to the generator's one."""
    truth = data(case)
    width = len(truth.means[0])
    network = mlp(width, 32, 32, 1, activation="tanh", seed=200 + seed).double()
    draw = torch.Generator().manual_seed(3000 + seed)
    learned = Learned(
        network,
        torch.optim.Adam(network.parameters(), 0.01),
        lambda n: truth.sample(n, generator=draw),
        loss,
        inner,
    )
    compared = Compared(learned, Optimal(truth, loss))
    train(case, seed, steps=steps, adversary=compared)
    return compared
