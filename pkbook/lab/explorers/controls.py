"""What an explorer is made of: its sliders and its frames."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from pkbook.lab.plots.tracing import Drawing

Value = TypeVar("Value")


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)


@dataclass(frozen=True)
class Control(Generic[Value]):
    """One slider: its `label`, the `values` it steps through, the `initial` one, their wording.

    Raises ValueError for an empty label, fewer than two values, values or wordings that repeat,
    or an `initial` that is none of them.

    >>> Control("learning rate", (0.01, 0.1, 1.0), initial=0.1).texts
    ('0.01', '0.1', '1')
    """

    label: str
    values: Sequence[Value]
    initial: Value | None = None  # the first value where none is given
    formatter: Callable[[Value], str] = _short
    texts: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        values = tuple(self.values)
        if not isinstance(self.label, str) or not self.label.strip():
            raise ValueError(f"label: expected words for the reader, got {self.label!r}")
        texts = tuple(self.formatter(value) for value in values)
        if len(values) < 2 or len(set(values)) < len(values) or len(set(texts)) < len(values):
            raise ValueError(
                f"values: expected at least two that differ, also in wording, got {values} "
                f"written {texts}"
            )
        initial = values[0] if self.initial is None else self.initial
        if initial not in values:
            raise ValueError(f"initial: expected one of {values}, got {initial!r}")
        for name, value in (("values", values), ("texts", texts), ("initial", initial)):
            object.__setattr__(self, name, value)


@dataclass(frozen=True)
class Frame:
    """One position of the sliders: values by control, drawing, and what is to be seen on it."""

    values: Mapping[str, object]
    drawing: Drawing
    alt: str
