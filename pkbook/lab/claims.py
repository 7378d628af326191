"""Claims: what was measured on a trained network, beside the bound that it should keep.

An identity holds on every machine, and a chapter asserts it. A number that came out of training
also depends on how a processor rounds, so it is *claimed*: a claim that misses its bound is shown
where it stands and stops nothing, unless the environment variable ``PKBOOK_CLAIMS`` is ``strict``,
as it is in the tests.
"""

import functools
import html
import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib import resources
from typing import Any

import torch

from pkbook.basics.checks import require_choice

MIME = "application/vnd.pkbook.claim+json"
VARIABLE = "PKBOOK_CLAIMS"
MODES = ("report", "strict")
JUDGED_BY = ("each", "mean", "interval")
KEPT = 50  # values of one claim that its record holds


class ClaimNotHeld(AssertionError):
    """A claim missed its bound under ``PKBOOK_CLAIMS=strict``; the text gives both."""


def short(number: float) -> str:
    """Three figures, without exponents where they can be avoided.

    >>> [short(x) for x in (0.99951, 12.0, 3.2e-9, 0.0)]
    ['1.000', '12', '3.2e-09', '0']
    """
    if not math.isfinite(number) or (number == int(number) and abs(number) < 1e6):
        return f"{number:g}"
    if abs(number) < 1e-3 or abs(number) >= 1e4:
        return f"{number:.2g}"
    return f"{number:.3f}" if abs(number) < 10 else f"{number:.1f}"


@dataclass(frozen=True)
class Bounds:
    """What a number must keep: ``above`` and ``below`` are strict, ``least`` and ``most`` not."""

    above: float | None = None
    below: float | None = None
    least: float | None = None
    most: float | None = None

    def distance(self, number: float) -> float:
        """How far inside the bounds a number lies; negative outside, NaN for a NaN.

        >>> Bounds(above=1, below=2).distance(1.75)
        0.25
        """
        lower = [number - b for b in (self.above, self.least) if b is not None]
        upper = [b - number for b in (self.below, self.most) if b is not None]
        return math.nan if math.isnan(number) else min(lower + upper)

    def hold(self, number: float) -> bool:
        """Whether a number keeps them; a NaN does not."""
        return (
            not math.isnan(number)
            and (self.above is None or number > self.above)
            and (self.below is None or number < self.below)
            and (self.least is None or number >= self.least)
            and (self.most is None or number <= self.most)
        )

    def __str__(self) -> str:
        words = {"above": "above", "below": "below", "least": "at least", "most": "at most"}
        bounds = {words[name]: bound for name, bound in asdict(self).items() if bound is not None}
        return " and ".join(f"{word} {short(bound)}" for word, bound in bounds.items())


@dataclass(frozen=True)
class Record:
    """One claim as it was made: its words, its numbers, its bounds, and whether they were kept."""

    says: str
    values: list[float]
    """One a seed or case; a fitted number with the ends of its interval behind it."""
    count: int
    by: str
    held: bool
    distance: float | None
    """From the judged number, the worst where each is judged, to its nearest bound; None for a
    claim that is only true or false."""
    bounds: dict[str, float | None] = field(default_factory=dict)

    @property
    def number(self) -> str:
        """The number in words, its spread in brackets."""
        if self.distance is None:
            met = sum(self.values)
            return f"{met:g} of {self.count}" if self.count > 1 else ("yes" if met else "no")
        if len(self.values) == 1:
            return short(self.values[0])
        if self.by == "interval" or (self.count == 1 and len(self.values) == 3):
            middle, low, high = self.values[:3]
        else:
            finite = [v for v in self.values if not math.isnan(v)] or [math.nan]
            low, high = min(finite), max(finite)
            middle = sum(self.values) / len(self.values)
        return f"{short(middle)} ({short(low)} to {short(high)})"

    def __str__(self) -> str:
        bounds = str(Bounds(**self.bounds)) if self.distance is not None else ""
        return f"{self.says}: {self.number}" + (f", bound: {bounds}" if bounds else "")

    def to_json(self) -> dict:
        """Plain data, read back by ``Record(**told)``; what is not finite becomes None."""
        told = asdict(self)
        told["values"] = [v if math.isfinite(v) else None for v in self.values]
        if self.distance is not None and not math.isfinite(self.distance):
            told["distance"] = -1e300  # missed by more than can be said
        return told

    def _repr_mimebundle_(self, **_) -> dict:
        return {MIME: self.to_json(), "text/html": as_html(self), "text/plain": as_text(self)}


def from_json(told: Mapping) -> Record:
    """A record from its JSON."""
    values = [math.nan if v is None else v for v in told["values"]]
    return Record(**{**told, "values": values})


def claim(
    says: str,
    value: object,
    *,
    above: float | None = None,
    below: float | None = None,
    least: float | None = None,
    most: float | None = None,
    by: str = "each",
) -> None:
    """Claim that a measured number keeps its bounds; show the claim, and go on where it does not.

    ``says`` names the claim, in words that no other claim of the book has. ``value`` is

    * a number, or a tensor, array or list of numbers, one a seed or case: each must keep the
      bounds, or with ``by="mean"`` their mean;
    * a fitted number with ``low`` and ``high`` and a ``value`` or ``mean``, such as a `Slope`:
      it must keep them, or with ``by="interval"`` both ends of its interval must;
    * a truth value, or one a case, without bounds: all must be true.

    ``above`` and ``below`` are strict, ``least`` and ``most`` are not. A NaN keeps no bound. Each
    claim appears in the notebook, with the range of our own runs where it missed; outside a
    notebook nothing is shown.

    Raises `ClaimNotHeld` where it missed and the environment has ``PKBOOK_CLAIMS=strict``,
    TypeError for a value that is no number, ValueError for one without entries, for numbers
    without bounds, or for truth values with them.

    >>> claim("the loss after training", [0.02, 0.03], below=0.1)
    """
    if not isinstance(says, str) or not says.strip():
        raise TypeError(f"says must be the claim in words, got {says!r}")
    require_choice(by, "by", JUDGED_BY)
    bounds = Bounds(above=above, below=below, least=least, most=most)
    made = _judged(says, value, bounds, by)
    _show(made)
    mode = os.environ.get(VARIABLE) or MODES[0]
    require_choice(mode, f"the environment variable {VARIABLE}", MODES)
    if mode == "strict" and not made.held:
        raise ClaimNotHeld(as_text(made))


def _judged(says: str, value: object, bounds: Bounds, by: str) -> Record:
    """The record of a claim."""
    given = any(bound is not None for bound in asdict(bounds).values())
    numbers, fitted, logical = _numbers(says, value)
    if logical and not given:
        truth = [float(v) for v in numbers]
        return Record(says, truth[:KEPT], len(truth), "each", all(truth), None)
    if logical or not given:
        raise ValueError(
            f"{says!r}: expected numbers with a bound or truth values without, came "
            f"{'truth values with' if logical else 'numbers without'} one; "
            "write above=, below=, least= or most= for numbers"
        )
    if fitted:
        judged = numbers[1:] if by == "interval" else numbers[:1]
    elif by == "interval":
        raise ValueError(f"{says!r}: by='interval' needs a value with low and high")
    else:
        judged = [sum(numbers) / len(numbers)] if by == "mean" else numbers
    distances = [bounds.distance(v) for v in judged]
    worst = math.nan if any(map(math.isnan, distances)) else min(distances)
    held = all(bounds.hold(v) for v in judged)
    count = 1 if fitted else len(numbers)
    return Record(says, _kept(numbers), count, by, held, worst, asdict(bounds))


def _kept(numbers: list[float]) -> list[float]:
    """The values that a record holds: all, or of many the extremes and the mean."""
    if len(numbers) <= KEPT:
        return numbers
    return [min(numbers), sum(numbers) / len(numbers), max(numbers)]


def _numbers(says: str, value: Any) -> tuple[list[float], bool, bool]:
    """``(numbers, fitted, logical)`` of a claim's value."""
    if hasattr(value, "low") and hasattr(value, "high"):
        middle = value.value if hasattr(value, "value") else value.mean
        return [float(middle), float(value.low), float(value.high)], True, False
    try:
        parts = [_flat(v) for v in value] if isinstance(value, list | tuple) else [_flat(value)]
        found = torch.cat(parts) if parts else torch.empty(0)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"{says!r}: expected a number, numbers or a fitted number, came {type(value).__name__}"
        ) from error
    if found.numel() == 0:
        raise ValueError(f"{says!r}: expected at least one number, came none")
    return found.double().reshape(-1).tolist(), False, found.dtype == torch.bool


def _flat(value: object) -> torch.Tensor:
    """One part of a value as a row; Python's numbers keep all their digits."""
    dtype = torch.float64 if isinstance(value, float) else None
    return torch.as_tensor(value, dtype=dtype).detach().cpu().reshape(-1)


@functools.cache
def our_runs() -> dict[str, dict[str, float]]:
    """What `make claims` measured: ``{says: {"low", "high", "runs", "margin"}}``."""
    return json.loads((resources.files("pkbook.lab") / "claims.json").read_text(encoding="utf8"))


def _in_our_runs(made: Record) -> str:
    known = our_runs().get(made.says)
    if known is None or known["low"] is None:
        return ""
    return f"; in our {known['runs']} runs {short(known['low'])} to {short(known['high'])}"


def as_text(made: Record) -> str:
    """One line for terminals."""
    return f"held: {made}" if made.held else f"did not hold here: {made}{_in_our_runs(made)}"


def as_html(made: Record) -> str:
    """One line for pages; a claim that was missed stands out, and not by its colour alone."""
    if made.held:
        return f'<p class="pk-claim">✓ {html.escape(str(made))}</p>'
    text = html.escape(f"{made}{_in_our_runs(made)}")
    return (
        '<p class="pk-claim pk-claim-missed" role="note" '
        'style="border-inline-start: 4px solid; padding-inline-start: 0.6em">'
        f"✗ <b>This did not hold here.</b> {text}.</p>"
    )


def _show(made: Record) -> None:
    """Show it in a notebook; elsewhere there is nothing to show it on."""
    from IPython import get_ipython
    from IPython.display import display

    if get_ipython() is not None:
        display(made)
