"""Numbers in sentences."""


def counted(number: int, word: str, plural: str | None = None) -> str:
    """A number and its noun.

    >>> counted(1, "query", "queries"), counted(1200, "query", "queries"), counted(0, "step")
    ('1 query', '1,200 queries', '0 steps')
    """
    return f"{number:,} {word if number == 1 else plural or word + 's'}"
