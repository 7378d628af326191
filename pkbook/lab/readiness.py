"""Whether a machine is ready for the book: versions, and a short training taken apart."""

import importlib.metadata
import time

import torch
from torch import Tensor

from pkbook.interpolation.trajectory import Trajectory, batches
from pkbook.problems import losses, models

PACKAGES = ("pkbook", "torch", "numpy", "scipy", "matplotlib", "scikit-learn", "ipywidgets")
PACKAGES += ("jupyterlab",)


def versions() -> dict[str, str]:
    """The installed version of each package that the chapters use; "missing" where it is not."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "missing"
    return found


def versions_table() -> str:
    """`versions` as a table in Markdown."""
    rows = [f"| {name} | {version} |" for name, version in versions().items()]
    return "\n".join(["| package | version |", "|:--|:--|", *rows])


def short_training(x: Tensor, y: Tensor, steps: int = 150) -> tuple[float, float, float]:
    """Train a small network on digits and take one answer apart; ``(seconds, gap, right)``.

    ``x`` ``[N, 1, 28, 28]`` and ``y`` ``[N]`` are pictures and labels. ``gap`` is the relative gap
    between the change of the first digit's score and the sum of its contributions
    (`Interpolation.completeness`), ``right`` the share of the digits that the network then knows.

    Raises ValueError for fewer digits than a batch of 32.
    """
    if len(x) < 32:
        raise ValueError(f"x must hold at least 32 digits, got {len(x)}")
    start = time.perf_counter()
    model = torch.nn.Sequential(
        torch.nn.Flatten(), models.mlp(784, 64, 10, activation="tanh", seed=0)
    )
    sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
    run = Trajectory(model, losses.cross_entropy, sgd, (x, y), every=50)
    for batch in batches(len(x), size=32, steps=steps, seed=0):
        run.step(batch)
    told = run.interpolate(x[:1], outputs=y[:1])
    with torch.no_grad():
        right = (model(x).argmax(1) == y).float().mean().item()
    return time.perf_counter() - start, told.completeness.max().item(), right
