"""What may be asked of :func:`pkbook.interpolate`: names, defaults and checks, in one place."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch

from pkbook.basics.checks import is_finite_number, require_choice, require_whole
from pkbook.basics.parameters import Tree
from pkbook.interpolation.rules import Rules

Rule = Literal["gauss", "riemann"]
RULES = get_args(Rule)


Parts = Mapping[str, Mapping[str, Any]]
"""Parts of the parameters by a name: of each parameter that is in it, an index."""


@dataclass(frozen=True)
class Options:
    """How predictions are taken apart; each field is explained at :func:`pkbook.interpolate`.

    ``ValueError`` or ``TypeError`` for a value that it cannot have.
    """

    rule: Rule = "gauss"
    nodes: int = 3
    tolerance: float | None = 1e-3
    most_pieces: int = 512
    by_parameter: bool = False
    entries: Sequence[str] = ()
    statistics: bool = False
    by_token: bool = False
    parts: Parts | None = None

    def __post_init__(self) -> None:
        require_choice(self.rule, "rule", RULES)
        require_whole(self.nodes, "nodes")
        require_whole(self.most_pieces, "most_pieces")
        bound = self.tolerance
        if bound is not None and (not is_finite_number(bound) or bound <= 0):
            raise ValueError(f"tolerance must be a positive number or None, got {bound!r}")

    @property
    def rules(self) -> Rules:
        """How the query's gradient is averaged; the left end knows no tolerance."""
        tolerance = None if self.rule == "riemann" else self.tolerance
        return Rules(self.rule, self.nodes, tolerance, self.most_pieces)

    def entries_among(self, trained: Sequence[str]) -> tuple[str, ...]:
        """The ``entries``; ``ValueError`` where one is no trained parameter of the run."""
        if isinstance(self.entries, str) or set(self.entries) - set(trained):
            raise ValueError(
                f"entries must be a list of trained parameters ({', '.join(trained)}), "
                f"got {self.entries!r}"
            )
        return tuple(self.entries)

    def masks(self, trained: Tree) -> dict[str, Tree]:
        """One at the entries of each part, zero elsewhere, by the part's name."""
        return {label: _masks(label, part, trained) for label, part in (self.parts or {}).items()}


def _masks(label: str, part: Mapping[str, Any], trained: Tree) -> Tree:
    found: Tree = {}
    for name, index in part.items() if isinstance(part, Mapping) else [("", None)]:
        if name not in trained:
            raise ValueError(
                "parts must give, by a name of yours, {parameter: index} of trained parameters "
                f"({', '.join(trained)}), got {part!r} for {label!r}"
            )
        found[name] = torch.zeros_like(trained[name])
        try:
            found[name][index] = 1.0
        except (IndexError, TypeError) as error:
            raise ValueError(
                f"parts must give an index of {name!r}, of shape {tuple(trained[name].shape)}, got "
                f"{index!r} for {label!r}"
            ) from error
    return found


DEFAULT = Options()
