"""The warning about sums that do not close to the tolerance asked for."""

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from pkbook.interpolation.result import Interpolation

QUADRATURE = "see remainder; allow more pieces or nodes"
CAUSES = {
    "scales": (
        "not in the quadrature but in the gradients of the training steps: an optimizer with "
        "per-entry scales magnifies gradients that are nothing but rounding (a bias before a "
        "normalisation, say); leave such parameters out, or train in float64"
    ),
    "rounding": (
        "not in the quadrature but in the gradients of the training steps, which are rounded more "
        "than the sum allows; compute in float64"
    ),
    "precision": (
        "halving the steps gains nothing, so what remains is the rounding of the model's own "
        "passes: does it compute in bfloat16 or float16, under autocast, or switch between two "
        "implementations? Compute in float32 or float64, or ask for a larger tolerance"
    ),
}
SHOWN = 8
"""Numbers that the warning writes out."""


class Unreached:
    """Gathers what misses its tolerance, part by part, so that one warning names all of it.

    Each part comes with the numbers that its queries have for who asked: within a part they would
    begin at 0 again.
    """

    def __init__(self, what: str = "queries") -> None:
        self.what = what
        self.numbers: list[int] = []
        self.gaps: list[Tensor] = []
        self.tolerance = 0.0
        self.why = QUADRATURE

    def add(self, part: Interpolation, numbers: Sequence[int]) -> None:
        """Note the queries of a part that miss; ``numbers[i]`` is that of its query ``i``."""
        missed = ~part.reached
        if part.tolerance is None or not missed.any():
            return
        self.tolerance = part.tolerance
        self.numbers += [numbers[i] for i in missed.nonzero().flatten().tolist()]
        self.gaps.append(part.completeness[missed].cpu())
        gap = (part.change - part.explained).norm(dim=1)
        elsewhere = bool((part.remainder.norm(dim=1) < gap / 2)[missed].any())
        if elsewhere or part.doubt == "precision":
            self.why = CAUSES[part.doubt]

    def warn(self, stacklevel: int) -> None:
        """Name what was noted, if anything was; ``stacklevel`` 1 is the caller's own line."""
        if self.numbers:
            warnings.warn(
                f"the tolerance {self.tolerance:g} was not reached for {self.what} "
                f"{self.numbers[:SHOWN]} ({len(self.numbers)} in all): up to "
                f"{torch.cat(self.gaps).max():.2g} of the change remains "
                f"({self.why})",
                stacklevel=stacklevel + 1,
            )
