"""Checks that many experiments make of their settings."""

from collections.abc import Sequence

from pkbook.basics.checks import is_finite_number


def require_seeds(seeds: Sequence[int]) -> None:
    """Refuse an experiment without a seed.

    >>> require_seeds(())
    Traceback (most recent call last):
    ...
    ValueError: seeds: expected at least one, came none; write (0, 1, 2)
    """
    if not seeds:
        raise ValueError("seeds: expected at least one, came none; write (0, 1, 2)")


def require_rate(rate: object, example: str) -> None:
    """Refuse a learning rate that is no positive number; `example` is one to write instead."""
    if not is_finite_number(rate) or rate <= 0:
        raise ValueError(f"rate: expected a positive number, came {rate!r}; write {example}")
