"""What an experiment found, beside what was claimed and which number would confirm it.

A `Claim` is one row of the results table: the paper's words in short, and criteria fixed before
anything was run. A `Finding` holds the numbers, for the paper's setting first and then for other
settings. The verdict follows from the two; nobody types it. A number holds if its whole range does:
"reproduced" never stands beside a number outside its bound.
"""

import html
import json
import math
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
HOLDS, MEAN, FAILS, REPORTED = "holds", "in the mean only", "does not hold", "reported"
MARKS = {HOLDS: "✓ holds", MEAN: "✗ in the mean only", FAILS: "✗ does not hold", REPORTED: "–"}
REPRODUCED, CONDITION, AVERAGE, NOT = VERDICTS = (
    "reproduced",
    "reproduced under a condition",
    "reproduced on average",
    "not reproduced",
)
SPREADS = {"seeds": "lowest to highest of {count} seeds", "interval": "95 % interval"}


@dataclass(frozen=True)
class Criterion:
    """A number's name and the bounds that it must keep; without bounds it is only reported."""

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
        return REPORTED if self.most is None else f"at most {self.most:g}"

    def holds(self, mean: float) -> bool:
        """Whether a mean keeps the bounds; a NaN does not."""
        above = self.least is None or mean >= self.least
        return above and (self.most is None or mean <= self.most)

    def judge(self, number: "Measured") -> str:
        """`HOLDS` if the number and both ends of its range keep the bounds, `MEAN` if only the
        number does, else `FAILS`; `REPORTED` without bounds.

        >>> Criterion("share", 0.9).judge(Measured(0.95, 0.8, 1.0, 3))
        'in the mean only'
        """
        if self.threshold == REPORTED:
            return REPORTED
        if not self.holds(number.mean):
            return FAILS
        return HOLDS if self.holds(number.low) and self.holds(number.high) else MEAN


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
        if self.low == self.high or math.isnan(self.mean):
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
    """A fitted number with its 95 % interval, from `count` replicas or seeds; NaN for none."""
    if not low <= value <= high and not math.isnan(value):
        raise ValueError(f"value must lie in its interval, got {value:g} for {low:g} to {high:g}")
    return Measured(float(value), float(low), float(high), count, "interval")


def rank_interval(value: float, n: int) -> Measured:
    r"""Spearman's correlation of n pairs with its 95 % interval (Bonett and Wright 2000):

    .. math:: \tanh\Big(\operatorname{artanh}r\pm1.96\sqrt{\tfrac{1+r^2/2}{n-3}}\Big).

    ValueError for fewer than four pairs.

    >>> print(rank_interval(0.5, 9))
    0.500 (-0.291 to 0.885)
    """
    if n < 4:
        raise ValueError(f"n must be at least 4 for an interval, got {n}")
    if math.isnan(value):
        return Measured(value, value, value, n, "interval")
    middle = math.atanh(max(-0.999999, min(0.999999, value)))
    half = 1.96 * math.sqrt((1 + value**2 / 2) / (n - 3))
    low, high = math.tanh(middle - half), math.tanh(middle + half)
    return with_interval(value, min(low, value), max(high, value), n)


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

    def judged(self, setting: str) -> dict[str, str]:
        """For each criterion what `Criterion.judge` says of a setting's number."""
        numbers = self.settings[setting]
        return {c.name: c.judge(numbers[c.name]) for c in self.claim.criteria}

    def grade(self, setting: str) -> str:
        """`HOLDS`, `MEAN` or `FAILS`: the worst of a setting's numbers."""
        found = self.judged(setting).values()
        return next((word for word in (FAILS, MEAN) if word in found), HOLDS)

    def _graded(self, word: str) -> list[str]:
        return [setting for setting in self.settings if self.grade(setting) == word]

    @property
    def verdict(self) -> str:
        """One of `VERDICTS`: every number holds in every setting; all of them in some settings,
        which are the condition; in none, but in one of them in the mean; or none of these."""
        if not self._graded(FAILS) and not self._graded(MEAN):
            return REPRODUCED
        if self._graded(HOLDS):
            return CONDITION
        return AVERAGE if self._graded(MEAN) else NOT

    @property
    def reason(self) -> str:
        """The condition, and what was seen instead; empty where all numbers hold."""
        if self.verdict == REPRODUCED:
            return ""
        parts = []
        if holding := self._graded(HOLDS):
            parts.append(f"holds for: {'; '.join(holding)}")
        if mean := self._graded(MEAN):
            parts.append(f"{'In' if parts else 'in'} the mean only for: {'; '.join(mean)}")
        first = next(iter(self.settings))
        if self.grade(first) == HOLDS:
            missed = "; ".join(self._graded(FAILS))
            return ". ".join(parts + ([f"Not for: {missed}"] if missed else []))
        word = "With" if parts else "with"
        return ". ".join([*parts, f"{word} {first}: {self._seen(first)}"])

    @property
    def deciding(self) -> str:
        """The sentence that names what decides the verdict."""
        if self.verdict == REPRODUCED:
            return "Every number that has a bound keeps it."
        return _sentence(self.reason)

    def _seen(self, setting: str) -> str:
        """The numbers of a setting that miss their bounds, beside them."""
        numbers, found = self.settings[setting], []
        for c in self.claim.criteria:
            mark = c.judge(numbers[c.name])
            if mark == FAILS:
                found.append(f"{c.name} {numbers[c.name]} instead of {c.threshold}")
            elif mark == MEAN:
                found.append(f"{c.name} {numbers[c.name]}, {c.threshold} in the mean only")
        return ", ".join(found)

    def to_json(self) -> dict:
        """Plain data, read back by `from_json`."""
        settings = {
            setting: {name: _plain(asdict(number)) for name, number in numbers.items()}
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


def _plain(number: Mapping) -> dict:
    """JSON has no NaN; null stands for it."""
    return {k: None if v != v else v for k, v in number.items()}


def _numbers(told: Mapping) -> dict:
    return {k: math.nan if v is None else v for k, v in told.items()}


def from_json(told: Mapping, claim: Claim) -> Finding:
    """A finding from its JSON; ValueError if it answers another claim or other criteria."""
    if told["id"] != claim.id:
        raise ValueError(f"expected a finding of {claim.id}, came one of {told['id']}")
    settings = {
        setting: {name: Measured(**_numbers(number)) for name, number in numbers.items()}
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
            lines.append(f"    {line(c, numbers[c.name])}")
    return "\n".join(lines)


def line(criterion: Criterion, number: Measured) -> str:
    """A number with its name, its bound and whether it holds."""
    mark = criterion.judge(number)
    said = "" if mark == REPORTED else f"; {MARKS[mark]}"
    return f"{criterion.name}: {number}; {criterion.threshold}{said}"


def as_html(finding: Finding) -> str:
    """For pages: the verdict with the row that decides it, and a small table a setting."""
    claim, e = finding.claim, html.escape
    parts = [
        f'<div class="pk-finding"><p><b>{e(claim.id)}, {e(claim.title)}</b> '
        f"({e(claim.paper)}): <b>{e(finding.verdict)}</b>. {e(finding.deciding)}</p>"
    ]
    for setting, numbers in finding.settings.items():
        spreads = sorted({n.meaning for n in numbers.values() if n.low != n.high})
        note = f" In brackets: {'; '.join(spreads)}." if spreads else ""
        rows = "".join(_row(c, numbers[c.name]) for c in claim.criteria)
        parts.append(f"<p>With {e(setting)}.{note}</p><table><thead>{HEAD}</thead>")
        parts.append(f"<tbody>{rows}</tbody></table>")
    return "".join(parts) + "</div>"


HEAD = "<tr><th>number</th><th>measured</th><th>bound</th><th>holds?</th></tr>"


def _row(criterion: Criterion, number: Measured) -> str:
    bound = criterion.threshold
    said = "none, reported" if bound == REPORTED else bound
    mark = MARKS[criterion.judge(number)]
    cells = (html.escape(criterion.name), f"<b>{number}</b>", said, mark)
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + ("" if text.endswith(".") else ".")
