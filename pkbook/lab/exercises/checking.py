"""``pk.check``: is this the answer to that exercise?

What is asked, its tolerance and its hints stand in ``answers/<chapter>.json``; the answers stand
nowhere, only their seals (`sealing`). ``python -m pkbook.lab.exercises`` makes an entry.
"""

import functools
import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import torch

from pkbook.lab.exercises.sealing import opens

MISTAKES = (  # what a wrong number often is, told without the right one; for exact answers only
    (lambda v: -v, "The size is right; look at the sign again."),
    (lambda v: 2 * v, "A factor of two is missing."),
    (lambda v: v / 2, "There is a factor of two too many."),
    (lambda v: 1 / v if v else float("nan"), "It is upside down: take the inverse."),
)


@dataclass(frozen=True)
class Exercise:
    """One entry of the registry: what is asked, the answer's shape and seals, and the hints."""

    name: str
    asks: str
    shape: tuple[int, ...]
    step: float
    seals: tuple[str, ...]
    hint: str
    exact: bool
    """Whether a wrong sign or factor is told; a measured number may have one by chance."""
    mistakes: tuple[tuple[str, str], ...] = ()
    """``(seal, words)`` of wrong answers that many give; for answers of one number."""


@dataclass(frozen=True)
class Verdict:
    """What `check` says: true as a condition where the answer is right; shown as a sentence."""

    exercise: str
    right: bool
    says: str

    def __bool__(self) -> bool:
        return self.right

    def __str__(self) -> str:
        return f"{'✓' if self.right else '✗'} {self.exercise}: {self.says}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return (
            '<p class="pk-check" style="border-inline-start: 4px solid '
            f'{"#2e8b57" if self.right else "#c0392b"}; padding-inline-start: 0.6em">'
            f"{html.escape(str(self))}</p>"
        )


def check(exercise: str, answer: Any) -> Verdict:
    """Say whether ``answer`` is right for an exercise, such as ``"domingos.2"``.

    ``answer`` is a number, or an array, tensor or list of numbers in the order that the exercise
    asks for; each entry must lie within the exercise's tolerance. None says that there is no answer
    yet. A wrong answer gets a hint, and the answer itself is never told. As the last line of a
    cell the verdict is shown; as a condition it is true where the answer is right.

    Raises ValueError for an exercise without a check, naming those that have one, and TypeError for
    an answer that is no number and no array of numbers.

    >>> check("domingos.2", None)
    ✗ domingos.2: no answer yet. Asked for: the order of the remainder, one number.
    >>> bool(check("domingos.2", 7))
    False
    """
    if not isinstance(exercise, str):
        raise TypeError(
            f'exercise must be text such as "domingos.2", got {type(exercise).__name__}; write '
            'pk.check("domingos.2", answer)'
        )
    asked = _find(exercise)
    if answer is None or answer is Ellipsis:
        return Verdict(exercise, False, f"no answer yet. Asked for: {asked.asks}.")
    values = _numbers(answer)
    if tuple(values.shape) != asked.shape:
        return Verdict(exercise, False, _of_shape(asked, tuple(values.shape)))
    entries = values.reshape(-1).tolist()
    fits = [_fits(asked, place, value) for place, value in enumerate(entries)]
    if all(fits):
        return Verdict(exercise, True, "right.")
    return Verdict(exercise, False, " ".join(_what_is_seen(asked, entries, fits)))


def known(chapter: str = "") -> list[str]:
    """The exercises that have a check, of one chapter or of all.

    >>> "domingos.2" in known("domingos")
    True
    """
    return [name for name in registry() if not chapter or name.partition(".")[0] == chapter]


@functools.cache
def registry() -> Mapping[str, Exercise]:
    """All exercises with a check, by name: chapter, dot, number of the exercise in it."""
    found = {}
    folder = resources.files("pkbook.lab.exercises") / "answers"
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
        chapter = file.name.removesuffix(".json")
        for number, told in json.loads(file.read_text(encoding="utf8")).items():
            name = f"{chapter}.{number}"
            lists = {key: tuple(told[key]) for key in ("shape", "seals")}
            mistakes = tuple((kept, says) for kept, says in told.get("mistakes", []))
            found[name] = Exercise(**{**told, **lists, "name": name, "mistakes": mistakes})
    return found


def _find(exercise: str) -> Exercise:
    if exercise in registry():
        return registry()[exercise]
    chapter = exercise.partition(".")[0]
    names = known(chapter) or known()
    which = "of " + chapter if known(chapter) else "there"
    raise ValueError(f"exercise {exercise!r} has no check; those {which} are: {', '.join(names)}")


def _numbers(answer: Any) -> torch.Tensor:
    """The answer in float64, with its shape."""
    try:
        if isinstance(answer, Sequence) and not isinstance(answer, str):
            answer = [float(v) if getattr(v, "ndim", 1) == 0 else v for v in answer]
        found = torch.as_tensor(answer)
        if found.is_complex():
            raise TypeError("complex numbers")
        return found.detach().cpu().double()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"answer must be a number or an array of numbers, got {type(answer).__name__}; "
            "write a number, a list or a tensor"
        ) from error


def _of_shape(asked: Exercise, came: tuple[int, ...]) -> str:
    def words(shape: tuple[int, ...]) -> str:
        return f"numbers of shape {list(shape)}" if shape else "one number"

    return f"not yet. Expected {words(asked.shape)}, got {words(came)}. Asked for: {asked.asks}."


def _fits(asked: Exercise, place: int, value: float) -> bool:
    return opens(asked.name, place, value, asked.step, asked.seals[place])


def _what_is_seen(asked: Exercise, entries: list[float], fits: list[bool]) -> list[str]:
    """The sentences below a wrong answer: how near it is, a known mistake, the exercise's hint."""
    told = ["not yet."]
    if len(fits) > 1 and any(fits):
        told.append(f"{sum(fits)} of {len(fits)} entries are right.")
    if len(entries) == 1:
        said = [
            says
            for kept, says in asked.mistakes
            if opens(asked.name, 0, entries[0], asked.step, kept)
        ]
        if said:
            return [*told, said[0]]
    if asked.exact and not any(fits):
        for change, words in MISTAKES:
            if all(_fits(asked, place, change(v)) for place, v in enumerate(entries)):
                return [*told, words]
    return [*told, f"Hint: {asked.hint}"]
