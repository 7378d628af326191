"""What :func:`pkbook.interpolate` finds: a change of a prediction, sample by sample."""

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from pkbook.basics.checks import require_tensor, require_whole

DOUBTS = ("rounding", "scales", "precision")


@dataclass(frozen=True)
class Interpolation:
    """The change of a prediction sample by sample: ``m`` queries, ``C`` outputs, ``N`` samples."""

    initial: Tensor
    r""":math:`f(x,\theta_0)`, ``[m, C]``."""
    final: Tensor
    r""":math:`f(x,\theta_K)`, ``[m, C]``."""
    contributions: Tensor
    r""":math:`c_i(x)`, ``[N, m, C]``, in float64."""
    by_step: list[tuple[Tensor, Tensor]]
    """For each step its batch ``[B]`` and the contributions made there ``[B, m, C]``."""
    other: dict[str, Tensor]
    """Changes that belong to no sample, ``{name: [m, C]}``: *weight decay*, *initial momentum*,
    *running statistics* (BatchNorm; with ``statistics`` what is left of them, and *initial
    statistics*), *replay difference* (another machine's rounding)."""
    remainder: Tensor
    """What the quadrature rule left out, ``[m, C]``: the sum of the steps' own residuals where a
    tolerance was asked for, else the gap of the whole sum."""
    pieces: Tensor
    """Sub-intervals used at each step ``[K]`` by the query that needed most: more than one where
    the path had kinks."""
    by_parameter: dict[str, Tensor] = field(default_factory=dict)
    """With ``by_parameter=True``: the contributions by parameter tensor, ``{name: [N, m, C]}``."""
    entries: dict[str, Tensor] = field(default_factory=dict)
    """What moved through single entries of the parameters asked for, all samples together,
    ``{name: [m, C, *shape]}``."""
    tolerance: float | None = None
    """What was asked of ``completeness``."""
    doubt: str = "rounding"
    """What most likely keeps the sum from closing, where it does not: *precision* (halving the
    steps gained nothing), *scales* (an optimizer with per-entry scales), *rounding*."""

    @property
    def change(self) -> Tensor:
        r""":math:`f(x,\theta_K)-f(x,\theta_0)`, ``[m, C]``."""
        return self.final.double() - self.initial.double()

    @property
    def explained(self) -> Tensor:
        """Sum of all contributions and of the terms that belong to no sample, ``[m, C]``."""
        return self.contributions.sum(0) + sum(self.other.values())

    @property
    def completeness(self) -> Tensor:
        r"""The relative gap of the sum, one number per query ``[m]``:

        :math:`\|f_K-f_0-\sum_i c_i-\text{other}\|/\|f_K-f_0\|`, norms over the outputs.
        Zero is perfect.  For a query that did not change at all it is 0 if the gap is 0, else inf.
        """
        gap = (self.change - self.explained).norm(dim=1)
        size = self.change.norm(dim=1)
        return torch.where(gap == 0, 0.0, gap / size)

    @property
    def reached(self) -> Tensor:
        """Whether each query's sum closes to the tolerance asked for, bool ``[m]``."""
        return self.completeness <= (0.0 if self.tolerance is None else self.tolerance)

    def contributions_to(self, query: int) -> Tensor:
        """Every sample's contribution to the outputs of one query, ``[N, C]``."""
        self._require_place("query", query, self.contributions.shape[1])
        return self.contributions[:, query]

    def by_group(self, labels: Tensor) -> dict:
        """Contributions summed over the samples of each label ``[N]``: ``{label: [m, C]}``."""
        labels = require_tensor(labels, "labels")
        if labels.shape != self.contributions.shape[:1]:
            raise ValueError(
                f"labels must give one label per sample [{len(self.contributions)}], got shape "
                f"{tuple(labels.shape)}"
            )
        labels = labels.to(self.contributions.device)
        return {v.item(): self.contributions[labels == v].sum(0) for v in labels.unique()}

    @cached_property
    def by_time(self) -> Tensor:
        """Contribution of each step's batch, ``[K, m, C]``."""
        return torch.stack([values.sum(0) for _, values in self.by_step])

    def top(self, k: int, query: int = 0, output: int = 0) -> tuple[Tensor, Tensor]:
        """The ``k`` samples that moved an output of a query most, up or down, largest first.

        Returns their numbers ``[k]`` and their contributions ``[k]``.
        """
        n, m, c = self.contributions.shape
        require_whole(k, "k")
        self._require_place("query", query, m)
        self._require_place("output", output, c)
        values = self.contributions[:, query, output]
        order = values.abs().argsort(descending=True, stable=True)[: min(k, n)]
        return order, values[order]

    @staticmethod
    def _require_place(name: str, value: int, size: int) -> None:
        if not -size <= value < size:
            raise ValueError(f"{name} must lie in 0..{size - 1}, got {value}")
