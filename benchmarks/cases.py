"""What is computed: a model, one or two sets of inputs, a reduction over the outputs."""

import json
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor, nn

import pkbook as pk


@dataclass(frozen=True)
class Case:
    """One benchmark case; small enough to travel to another process as text."""

    name: str
    network: str
    """"mlp", "mnist" or "cifar"."""
    n1: int
    n2: int | None = None
    """None: the second inputs are the first."""
    reduce: str = "trace"
    outputs: int = 10
    width: int = 100
    """Of the two hidden layers of the MLP."""

    @property
    def title(self) -> str:
        networks = {
            "mlp": f"MLP 2-{self.width}-{self.width}-{self.outputs} tanh",
            "mnist": f"MNIST CNN, {self.outputs} outputs",
            "cifar": f"CIFAR CNN, {self.outputs} outputs",
        }
        size = f"{self.n1} x {self.n2 or self.n1}{'' if self.n2 else ' symmetric'}"
        return f"{networks[self.network]}, {size}, {self.reduce}"

    def text(self) -> str:
        return json.dumps(asdict(self))


@dataclass
class Problem:
    """A case with its tensors."""

    case: Case
    model: nn.Sequential
    x1: Tensor
    x2: Tensor | None

    @property
    def other(self) -> Tensor:
        """The second inputs, whether or not they are the first."""
        return self.x1 if self.x2 is None else self.x2

    @property
    def chunk(self) -> int:
        """Rows at a time where a user must split: 100 images, 1000 points."""
        return 1000 if self.case.network == "mlp" else 100

    def canonical(self, full: Tensor) -> Tensor:
        """A full kernel ``[n1, n2, C, C]`` in the reduction of the case."""
        if self.case.reduce == "full":
            return full
        return full.diagonal(dim1=2, dim2=3).sum(2)


CASES = {
    case.name: case
    for case in (
        Case("A", "mlp", 1000, outputs=1),
        Case("B", "mnist", 100),
        Case("B-full", "mnist", 100, reduce="full"),
        Case("B-600", "mnist", 600, 100),
        Case("C", "cifar", 100),
    )
}
LARGE = Case("B-6000", "mnist", 6000, 100)


def shrink(case: Case, factor: float) -> Case:
    """The case with a share of its samples, at least three."""
    n1, n2 = (n and max(3, round(n * factor)) for n in (case.n1, case.n2))
    return replace(case, n1=n1, n2=n2)


def build(case: Case) -> Problem:
    """Model and inputs, the same in every process."""
    if case.network == "mlp":
        widths = (2, case.width, case.width, case.outputs)
        model, shape = pk.models.mlp(*widths, activation="tanh", seed=0), (2,)
    elif case.network == "mnist":
        model, shape = pk.models.mnist_cnn(classes=case.outputs, seed=0), (1, 28, 28)
    else:
        model, shape = pk.models.cifar_cnn(classes=case.outputs, seed=0), (3, 32, 32)
    # Random inputs: no two equal values meet in a pooling window, where frameworks may differ.
    generator = torch.Generator().manual_seed(1)
    x1 = torch.randn(case.n1, *shape, generator=generator)
    x2 = None if case.n2 is None else torch.randn(case.n2, *shape, generator=generator)
    return Problem(case, model.eval(), x1, x2)


def random_weight(model: nn.Module) -> dict[str, Tensor]:
    """A diagonal weight between 1/2 and 3/2 for every parameter."""
    generator = torch.Generator().manual_seed(2)
    return {name: torch.rand(p.shape, generator=generator) + 0.5
            for name, p in model.named_parameters()}  # fmt: skip


def relative_error(found: Tensor, wanted: Tensor) -> float:
    """Frobenius norm of the difference over that of the reference."""
    found, wanted = found.double(), wanted.double()
    return float((found - wanted).norm() / wanted.norm())
