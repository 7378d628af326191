"""How the query's gradient is averaged over a step, as the options say."""

from dataclasses import dataclass

from torch import Tensor

from pkbook.interpolation.quadrature import Average, Segment, gauss, left_end, refined


@dataclass(frozen=True)
class Rules:
    """How the query's gradient is averaged over a step."""

    rule: str
    nodes: int
    tolerance: float | None
    most_pieces: int

    def average(self, segment: Segment, ends, allowed: Tensor | None) -> Average:
        if self.rule == "riemann":
            return left_end(segment, ends)
        if allowed is None:
            return gauss(segment, self.nodes, ends)
        return refined(segment, self.nodes, ends, allowed, self.most_pieces)
