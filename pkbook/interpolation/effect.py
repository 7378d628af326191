"""What :func:`pkbook.influence` finds: how a prediction hangs on each sample's weight."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from pkbook.basics.words import counted
from pkbook.interpolation.by_sample import BySample
from pkbook.interpolation.packing import (
    influence_fields,
    influence_tensors,
    read_file,
    write_file,
)

KIND = "influence"


@dataclass(frozen=True)
class Influence(BySample):
    """Derivatives by the samples' weights: ``m`` queries, ``C`` outputs, ``N`` samples."""

    final: Tensor
    r""":math:`f(x,\theta_K)`, ``[m, C]``."""
    effects: Tensor
    r""":math:`\partial f(x,\theta_K)/\partial w_i` at :math:`w=1`, ``[N, m, C]``, in float64."""
    by_step: list[tuple[Tensor, Tensor]]
    """For each step its batch ``[B]`` and the derivative by its weights there ``[B, m, C]``."""
    by_parameter: dict[str, Tensor] = field(default_factory=dict)
    """With ``by_parameter=True``: the parts through each parameter's gradient, ``[N, m, C]``."""

    word = "effect"

    @property
    def per_sample(self) -> Tensor:
        """``effects``."""
        return self.effects

    def without(self, samples: Sequence[int] | Tensor) -> Tensor:
        r"""The forecast of the prediction without some samples, to first order, ``[m, C]``.

        :math:`f(x,\theta_K)-\sum_{i\in S}\partial f/\partial w_i`.  What really happens is told by
        :meth:`pkbook.Trajectory.without`.
        """
        chosen = torch.as_tensor(samples, device=self.effects.device)
        if chosen.dtype == torch.bool or chosen.is_floating_point() or chosen.ndim != 1:
            raise ValueError(
                f"samples must be sample numbers, got {chosen.dtype} of shape "
                f"{tuple(chosen.shape)}; write mask.nonzero()[:, 0]"
            )
        if len(chosen) and not 0 <= int(chosen.min()) <= int(chosen.max()) < len(self.effects):
            raise ValueError(
                f"samples must lie in 0..{len(self.effects) - 1}, got {int(chosen.min())} to "
                f"{int(chosen.max())}"
            )
        return self.final.double() - self.effects[chosen].sum(0)

    def save(self, path: str | Path) -> None:
        """Write everything to one file, as :meth:`Interpolation.save` does."""
        write_file(path, influence_tensors(self), KIND)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """What :meth:`save` has written; errors as of :meth:`Interpolation.load`."""
        return cls(**influence_fields(read_file(path, KIND)))

    def query(self, i: int) -> Self:
        """Query ``i`` alone (views)."""
        at = slice(i, i + 1)
        return type(self)(
            self.final[at],
            self.effects[:, at],
            [(numbers, values[:, at]) for numbers, values in self.by_step],
            {name: t[:, at] for name, t in self.by_parameter.items()},
        )

    def __repr__(self) -> str:
        n, m, c = self.effects.shape
        return (
            f"Influence of {counted(n, 'sample')} on {counted(m, 'query', 'queries')}, "
            f"{counted(c, 'output')}{'' if m == 1 else ' each'}, over "
            f"{counted(len(self.by_step), 'step')}\n  largest effect on query 0: "
            f"{self.effects[:, 0].abs().max().item():.3g}"
        )
