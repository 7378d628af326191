"""A recorded run that every method divides: what it holds, and how it goes to another process.

This module needs torch only: it is imported by the peers' Python as well.
"""

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, nn


class Unsuitable(Exception):
    """The method does not treat this case."""


@dataclass(frozen=True)
class Case:
    """A run as it was made, and what is asked about it."""

    model: nn.Sequential
    """At the start of the run; its outputs are log-probabilities."""
    kind: str
    """A class of ``torch.optim``, with its ``options``."""
    options: dict
    x: Tensor
    y: Tensor
    queries: Tensor
    outputs: Tensor
    """One for each query, ``[m]``."""
    batches: list[Tensor]
    states: list[dict[str, Tensor]]
    """State dicts before each step, and the last."""
    every: int
    """Steps from one checkpoint to the next, for a method that takes few of them."""

    def save(self, path: str) -> None:
        torch.save({field.name: getattr(self, field.name) for field in fields(self)}, path)

    @staticmethod
    def load(path: str) -> "Case":
        return Case(**torch.load(path, weights_only=False))

    def small(self) -> "Case":
        """Two steps, three samples, three queries: after it, nothing is left to be loaded."""
        three = torch.arange(3)
        return replace(
            self, x=self.x[:3], y=self.y[:3], queries=self.queries[:3], outputs=self.outputs[:3],
            batches=[three, three], states=self.states[:3],
        )  # fmt: skip

    @property
    def rate(self) -> float:
        return self.options["lr"]

    def nothing(self) -> Tensor:
        return torch.zeros(len(self.x), len(self.queries), dtype=torch.float64)

    def picked(self, values: Tensor) -> Tensor:
        """From ``[..., m, C]`` the output asked of each query, ``[..., m]``."""
        index = self.outputs[:, None].expand(*values.shape[:-1], 1)
        return values.gather(-1, index)[..., 0]
