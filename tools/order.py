"""The notebooks in the order in which several processes are done with them soonest.

The longest go first, so that no process is left alone with one at the end. Their seconds, one
thread each, stand in ``notebook_seconds.json``, which ``make claims`` writes; only their order
counts. Uses the standard library alone: the commands run before anything is installed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path

SECONDS = Path(__file__).with_name("notebook_seconds.json")


def longest_first(pages: Iterable[str]) -> list[str]:
    """Pages, such as ``book/adam``, by falling seconds; those without any go first."""
    known = json.loads(SECONDS.read_text(encoding="utf8"))
    return sorted(pages, key=lambda page: -known.get(page, math.inf))
