"""What is installed only on request: a sentence in place of a bare ``ModuleNotFoundError``."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def needs(what: str, extra: str) -> Iterator[None]:
    """Imports made inside may miss what an extra brings; ``ImportError`` says so.

    >>> with needs("pkbook.plots", "lab"):
    ...     import no_such_package
    Traceback (most recent call last):
    ...
    ImportError: pkbook.plots needs no_such_package; write pip install 'pkbook[lab]'
    """
    try:
        yield
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in ("", "pkbook"):
            raise
        raise ImportError(
            f"{what} needs {missing}; write pip install 'pkbook[{extra}]'", name=missing
        ) from error


def needs_lab(what: str):
    """As :func:`needs`, for what the extra ``lab`` brings."""
    return needs(what, "lab")
