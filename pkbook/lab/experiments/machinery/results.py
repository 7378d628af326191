"""What an experiment found, beside what was claimed and which number would confirm it.

A `Claim` is one row of the results table: the paper's words in short, and criteria fixed before
anything was run. A `Finding` holds the numbers, for the paper's setting first and then for other
settings. The verdict follows from the two; nobody types it.
"""

import html
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import SupportsFloat

from pkbook.basics.checks import require_choice
from pkbook.basics.files import write_whole
from pkbook.diffusion_limit.weak import Slope
from pkbook.lab.claims import short

MIME = "application/vnd.pkbook.finding+json"
PRESETS = ("quick", "full")
SPREADS = {"seeds": "lowest to highest of {count} seeds", "interval": "95 % interval"}


@dataclass(frozen=True)
class Criterion:
    """A number's name and the bounds its mean must keep; without bounds it is only reported."""

    name: str
    least: float | None = None
    most: float | None = None

    @property
    def threshold(self) -> str:
        """In words.

        >>> Criterion("slope", 0.9, 1.1).threshold
        '0.9 to 1.1'
        """
        if self.least is not None and self.most is not None:
            same = self.least == self.most
            return f"exactly {self.least:g}" if same else f"{self.least:g} to {self.most:g}"
        if self.least is not None:
            return f"at least {self.least:g}"
        return "reported" if self.most is None else f"at most {self.most:g}"

    def holds(self, mean: float) -> bool:
        """Whether a mean keeps the bounds; a NaN does not."""
        above = self.least is None or mean >= self.least
        return above and (self.most is None or mean <= self.most)


@dataclass(frozen=True)
class Claim:
    """One row of the results table."""

    id: str
    title: str
    paper: str
    """Where the paper claims it."""
    says: str
    """What it claims."""
    chapter: str
    """The page of the book that measures it."""
    criteria: tuple[Criterion, ...]
    module: str | None = None
    """In `pkbook.experiments`, where the command line can run it alone."""


@dataclass(frozen=True)
class Measured:
    """A number with its spread."""

    mean: float
    low: float
    high: float
    count: int
    """Of seeds or replicas."""
    spread: str = "seeds"
    """``"seeds"``: low and high are the extremes over seeds; ``"interval"``: a 95 % interval."""

    def __post_init__(self) -> None:
        require_choice(self.spread, "spread", tuple(SPREADS))

    def __str__(self) -> str:
        if self.low == self.high:
            return short(self.mean)
        return f"{short(self.mean)} ({short(self.low)} to {short(self.high)})"

    @property
    def meaning(self) -> str:
        """What the spread is, in words."""
        return SPREADS[self.spread].format(count=self.count)


def over_seeds(values: Iterable[SupportsFloat]) -> Measured:
    """Mean and extremes of one value a seed; TypeError or ValueError if there is none.

    >>> print(over_seeds([0.5, 0.75, 1.0]))
    0.750 (0.500 to 1)
    """
    found = [float(v) for v in values]
    if not found:
        raise ValueError("values must hold at least one number, one a seed")
    return Measured(sum(found) / len(found), min(found), max(found), len(found))


def with_interval(value: float, low: float, high: float, count: int) -> Measured:
    """A fitted number with its 95 % interval, from `count` replicas or seeds."""
    if not low <= value <= high:
        raise ValueError(f"value must lie in its interval, got {value:g} for {low:g} to {high:g}")
    return Measured(float(value), float(low), float(high), count, "interval")


def fitted(slope: Slope, replicas: int = 8) -> Measured:
    """An order from `WeakError.slope` or `fit_slope`, with its interval."""
    return with_interval(slope.value, slope.low, slope.high, replicas)


Numbers = Mapping[str, Measured]


@dataclass(frozen=True)
class Finding:
    """The numbers of one claim: ``{setting: {criterion: Measured}}``, the paper's setting first."""

    claim: Claim
    settings: Mapping[str, Numbers]
    preset: str = "quick"
    seconds: float | None = None
    made_by: str = ""
    """The command, where a command made it."""

    def __post_init__(self) -> None:
        require_choice(self.preset, "preset", PRESETS)
        if not self.settings:
            raise ValueError(f"{self.claim.id}: settings must hold at least the paper's own")
        names = [c.name for c in self.claim.criteria]
        for setting, numbers in self.settings.items():
            if list(numbers) != names:
                raise ValueError(
                    f"{self.claim.id}, {setting!r}: expected the numbers {names}, "
                    f"came {list(numbers)}"
                )
            for name, number in numbers.items():
                if not isinstance(number, Measured):
                    raise TypeError(
                        f"{self.claim.id}, {name!r}: expected a Measured, came "
                        f"{type(number).__name__}; write results.over_seeds([...])"
                    )

    def failing(self, setting: str) -> list[Criterion]:
        """The criteria that a setting's numbers do not meet."""
        numbers = self.settings[setting]
        return [c for c in self.claim.criteria if not c.holds(numbers[c.name].mean)]

    @property
    def verdict(self) -> str:
        """``"reproduced"``, ``"reproduced under a condition"`` or ``"not reproduced"``.

        The first only where every number of every setting keeps its bound, so that it never
        stands beside one that does not.
        """
        met = [not self.failing(setting) for setting in self.settings]
        if all(met):
            return "reproduced"
        return "reproduced under a condition" if any(met) else "not reproduced"

    @property
    def reason(self) -> str:
        """The condition, what was seen instead, and which ranges reach beyond their bounds.

        Empty where the claim holds as it stands, in every single seed.
        """
        settings = list(self.settings)
        holding = [s for s in settings if not self.failing(s)]
        missed = [s for s in settings if s not in holding]
        if not holding:  # what was seen in the paper's own setting
            return f"with {settings[0]}: {self._seen(settings[0], self.failing(settings[0]))}"
        told = [f"holds for: {'; '.join(holding)}"] if missed else []
        told += [f"With {s}: {self._seen(s, self.failing(s))}" for s in missed]
        beyond = {s: [c for c in self.claim.criteria if self._reaches(s, c)] for s in holding}
        told += [f"Beyond its bound in part, with {s}: {self._seen(s, found)}"
                 for s, found in beyond.items() if found]  # fmt: skip
        return ". ".join(told)

    def _seen(self, setting: str, criteria: list[Criterion]) -> str:
        numbers = self.settings[setting]
        return ", ".join(f"{c.name} {numbers[c.name]} instead of {c.threshold}" for c in criteria)

    def _reaches(self, setting: str, criterion: Criterion) -> bool:
        """Whether the range of a number, whose mean keeps the bounds, leaves them."""
        number = self.settings[setting][criterion.name]
        return not (criterion.holds(number.low) and criterion.holds(number.high))

    def to_json(self) -> dict:
        """Plain data, read back by `from_json`."""
        settings = {
            setting: {name: asdict(number) for name, number in numbers.items()}
            for setting, numbers in self.settings.items()
        }
        return {
            "id": self.claim.id,
            "preset": self.preset,
            "seconds": self.seconds,
            "made_by": self.made_by,
            "verdict": self.verdict,
            "settings": settings,
        }

    def save(self, path: Path) -> None:
        """Write the JSON; no half one is ever read."""
        write_whole(path, f"{json.dumps(self.to_json(), indent=1)}\n".encode())

    def _repr_mimebundle_(self, **_) -> dict:
        return {MIME: self.to_json(), "text/html": as_html(self), "text/plain": as_text(self)}


def from_json(told: Mapping, claim: Claim) -> Finding:
    """A finding from its JSON; ValueError if it answers another claim or other criteria."""
    if told["id"] != claim.id:
        raise ValueError(f"expected a finding of {claim.id}, came one of {told['id']}")
    settings = {
        setting: {name: Measured(**number) for name, number in numbers.items()}
        for setting, numbers in told["settings"].items()
    }
    return Finding(claim, settings, told["preset"], told["seconds"], told.get("made_by", ""))


def as_text(finding: Finding) -> str:
    """For terminals."""
    claim = finding.claim
    lines = [f"{claim.id} {claim.title} [{claim.paper}]: {finding.verdict}"]
    if finding.reason:
        lines.append(f"  {finding.reason}")
    for setting, numbers in finding.settings.items():
        lines.append(f"  {setting}")
        for c in claim.criteria:
            lines.append(f"    {c.name}: {numbers[c.name]}; {c.threshold}")
    return "\n".join(lines)


def as_html(finding: Finding) -> str:
    """For pages: a list rather than a table, so that it fits a phone."""
    claim, e = finding.claim, html.escape
    parts = [
        f'<div class="pk-finding"><p><b>{e(claim.id)}, {e(claim.title)}</b> '
        f"({e(claim.paper)}): <b>{e(finding.verdict)}</b>"
        + (f". {e(_sentence(finding.reason))}" if finding.reason else ".")
        + "</p>"
    ]
    for setting, numbers in finding.settings.items():
        items = "".join(
            f"<li>{e(c.name)}: <b>{e(str(numbers[c.name]))}</b>; {e(c.threshold)}</li>"
            for c in claim.criteria
        )
        spreads = sorted({n.meaning for n in numbers.values() if n.low != n.high})
        note = f" In brackets: {'; '.join(spreads)}." if spreads else ""
        parts.append(f"<p>With {e(setting)}.{e(note)}</p><ul>{items}</ul>")
    return "".join(parts) + "</div>"


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + ("" if text.endswith(".") else ".")
