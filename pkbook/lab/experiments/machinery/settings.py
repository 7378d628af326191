"""Settings of an experiment: each field says beside its default what it may be.

>>> @dataclass(frozen=True)
... class Config(Settings):
...     width: int = whole(64)
...     rate: float = positive(0.1)
...     FULL: ClassVar = {"width": 512}
>>> Config.full(rate=0.5)
Config(width=512, rate=0.5)
>>> Config(rate=-1)
Traceback (most recent call last):
...
ValueError: rate must be a positive number, got -1; write rate=0.1
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Self

from pkbook.basics.checks import is_finite_number, require_choice, require_whole

Check = Callable[[Any, str], object]
"""Called with a field's value and name; raises what is wrong with it."""
COUNTS = {1: "one", 2: "two", 3: "three"}


@dataclass(frozen=True)
class Checked:
    """A dataclass that checks each of its fields when it is made, then how they go together."""

    def __post_init__(self) -> None:
        for one in fields(self):
            check: Check | None = one.metadata.get("check")
            if check is not None:
                check(getattr(self, one.name), one.name)
        self.check_together()

    def check_together(self) -> None:
        """``ValueError`` for fields that do not go together; nothing unless overridden."""


@dataclass(frozen=True)
class Settings(Checked):
    """Settings with two presets: the defaults, but for what ``QUICK`` and ``FULL`` say."""

    QUICK: ClassVar[Mapping[str, Any]] = {}
    FULL: ClassVar[Mapping[str, Any]] = {}

    @classmethod
    def quick(cls, **changes: Any) -> Self:
        """For a CPU."""
        return cls(**{**cls.QUICK, **changes})

    @classmethod
    def full(cls, **changes: Any) -> Self:
        """At the paper's scale, or larger."""
        return cls(**{**cls.FULL, **changes})


def _field(default: Any, check: Check) -> Any:
    return field(default=default, metadata={"check": check})


def _refuse(name: str, words: str, value: object, default: object) -> ValueError:
    return ValueError(f"{name} must be {words}, got {value!r}; write {name}={default!r}")


def whole(default: int, least: int = 1, most: int | None = None, *, multiple: int = 1) -> Any:
    """A whole number within bounds; with ``multiple``, one that it divides."""

    def check(value: Any, name: str) -> None:
        require_whole(value, name, least)
        require_at_most(value, name, most)
        if value % multiple:
            raise _refuse(name, f"a multiple of {multiple}", value, default)

    return _field(default, check)


def choice(default: str, choices: Sequence[str]) -> Any:
    """One of a few words."""
    return _field(default, lambda value, name: require_choice(value, name, tuple(choices)))


def number(default: float, words: str, holds: Callable[[float], bool]) -> Any:
    """A finite number for which ``holds``; ``words`` say in English when it does."""

    def check(value: Any, name: str) -> None:
        if not is_finite_number(value) or not holds(value):
            raise _refuse(name, words, value, default)

    return _field(default, check)


def positive(default: float) -> Any:
    """A finite number above zero."""
    return number(default, "a positive number", lambda v: v > 0)


def several(default: tuple, each: Check | None = None, *, least: int = 1) -> Any:
    """A tuple of at least so many; every member passes ``each``."""

    def check(values: Any, name: str) -> None:
        if len(values) < least:
            words = f"hold at least {COUNTS[least]}"
            raise ValueError(f"{name} must {words}, got {values!r}; write {name}={default!r}")
        if each is not None:
            for value in values:
                each(value, name)

    return _field(default, check)


def choices(default: tuple[str, ...], allowed: Sequence[str]) -> Any:
    """Some of a few words, at least one."""
    return several(default, lambda value, name: require_choice(value, name, tuple(allowed)))


def numbers(
    default: tuple[float, ...],
    words: str = "positive numbers",
    holds: Callable[[Any], bool] = lambda v: v > 0,
    *,
    least: int = 1,
) -> Any:
    """Finite numbers, ``holds`` for each."""

    def each(value: Any, name: str) -> None:
        if not is_finite_number(value) or not holds(value):
            raise ValueError(f"{name} must hold {words}, got {value!r}; write {name}={default!r}")

    return several(default, each, least=least)


def increasing(
    default: tuple[float, ...],
    *,
    least: int = 1,
    start: float | None = None,
    low: float | None = None,
    most: float | None = None,
) -> Any:
    """Numbers that increase: the first is ``start``, or ``low`` or more; none is above ``most``."""
    words = f"at least {COUNTS[least]} increasing numbers" if least > 1 else "increasing numbers"
    words += "" if start is None else f" that begin with {start}"
    words += "" if low is None else f" from {low} on"
    words += "" if most is None else f" up to {most}"

    def check(values: Any, name: str) -> None:
        fits = len(values) >= least and list(values) == sorted(set(values))
        fits = fits and (start is None or values[0] == start)
        fits = fits and (low is None or values[0] >= low)
        if not fits or (most is not None and values[-1] > most):
            raise _refuse(name, words, values, default)

    return _field(default, check)


def require_at_most(value: Any, name: str, most: float | None, why: str = "") -> None:
    """Refuse what is larger than ``most``, which may follow from another field."""
    if most is not None and value > most:
        raise ValueError(f"{name} must be at most {most}{why and f', {why}'}, got {value}")
