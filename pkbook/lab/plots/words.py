"""Words of a text, each with the number that belongs to it, as HTML for light and dark pages."""

import html
from collections.abc import Sequence

from pkbook.basics.colours import MINUS, PLUS

STRONGEST = 0.4  # opacity behind the word with the largest number: the page's ink stays readable
NAMED = 0.15  # share of the largest from which on the number is written beside its word


def marked_words(words: Sequence[str], values: Sequence[float], *, most: float) -> str:
    """Words in a row; behind each its number as a colour, strong where it is large.

    Positive numbers are orange with a solid line below, negative ones blue with a dotted line.
    Numbers of at least 0.15 ``most`` are written out, so that nothing hangs on colour.  The ink is
    the page's own.

    Args:
        words: the words, ``T`` of them.
        values: one number for each.
        most: the size that has the strongest colour; one for all rows that are compared.

    Returns:
        HTML, for ``IPython.display.HTML``.

    Raises:
        ValueError: not one value for each word, or ``most`` that is not positive.

    >>> marked_words(["hm"], [0.0], most=1.0)
    '<span>hm</span>'
    """
    if len(words) != len(values):
        raise ValueError(
            f"values must give one number for each of {len(words)} words, got {len(values)}"
        )
    if not most > 0:
        raise ValueError(f"most must be a positive number, got {most}; write most=1.0")
    pairs = zip(words, values, strict=True)
    return " ".join(_marked(word, float(value) / most, float(value)) for word, value in pairs)


def _marked(word: str, share: float, value: float) -> str:
    text = html.escape(word)
    if abs(share) < 0.02:
        return f"<span>{text}</span>"
    colour, line = (PLUS, "solid") if share > 0 else (MINUS, "dotted")
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    opacity = STRONGEST * min(abs(share), 1.0)
    named = f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")
    number = f"<sub>\N{THIN SPACE}{named}</sub>" if abs(share) >= NAMED else ""
    return (
        f'<span style="background: rgba({red}, {green}, {blue}, {opacity:.2f}); '
        f'border-bottom: 2px {line} {colour}; padding: 0 2px; white-space: nowrap">'
        f"{text}{number}</span>"
    )
