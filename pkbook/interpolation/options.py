"""What may be asked of :func:`pkbook.interpolate`: names, defaults and checks, in one place."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from pkbook.basics.checks import is_finite_number, require_choice, require_whole
from pkbook.interpolation.walk import Rules

Rule = Literal["gauss", "riemann"]
RULES = get_args(Rule)


@dataclass(frozen=True)
class Options:
    """How predictions are taken apart; each field is explained at :func:`pkbook.interpolate`.

    ``ValueError`` or ``TypeError`` for a value that it cannot have.
    """

    rule: Rule = "gauss"
    nodes: int = 3
    tolerance: float | None = 1e-3
    most_pieces: int = 64
    by_parameter: bool = False
    entries: Sequence[str] = ()
    statistics: bool = False
    by_token: bool = False

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


DEFAULT = Options()
