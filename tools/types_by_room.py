"""Type errors of the package, room by room, held to a budget that only falls.

    python tools/types_by_room.py           # fails where a room has more than its budget
    python tools/types_by_room.py --lower   # writes today's numbers where they are smaller

basedpyright counts, with the settings in pyproject.toml; the budget is ``types_budget.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUDGET = Path(__file__).with_name("types_budget.json")
SHOWN = 20  # errors of a room over its budget; the rest would hide the others


def errors_found(root: Path) -> list[dict]:
    """basedpyright's errors, as it reports them in JSON; RuntimeError if it did not work."""
    threads = str(max(1, min(4, os.cpu_count() or 1)))
    command = [sys.executable, "-m", "basedpyright", "--outputjson", "--threads", threads]
    done = subprocess.run(
        [*command, "--pythonpath", sys.executable],
        cwd=root,
        capture_output=True,
        encoding="utf8",
    )
    try:
        report = json.loads(done.stdout)
    except ValueError:
        raise RuntimeError(f"basedpyright gave no report:\n{done.stdout}{done.stderr}") from None
    if not report["summary"]["filesAnalyzed"]:
        raise RuntimeError(f"basedpyright found no file to check in {root}")
    return [found for found in report["generalDiagnostics"] if found["severity"] == "error"]


def room_of(file: str, package: Path) -> str:
    """The room of a file; ``.`` for the package's own, such as ``__init__.py``."""
    inside = Path(file).resolve().relative_to(package.resolve())
    return inside.parts[0] if len(inside.parts) > 1 else "."


def compared(found: Counter[str], budget: dict[str, int]) -> tuple[list[str], list[str]]:
    """What is above the budget, and what is below it, a line for each room."""
    rooms = sorted(found.keys() | budget.keys())
    pairs = [(room, found[room], budget.get(room, 0)) for room in rooms]
    above = [f"{room}: {n} type errors, budget {most}" for room, n, most in pairs if n > most]
    below = [f"{room}: {n} type errors, budget {most}" for room, n, most in pairs if n < most]
    return above, below


def lowered(found: Counter[str], budget: dict[str, int]) -> dict[str, int]:
    """The budget with today's numbers where they are smaller; rooms without errors leave it."""
    smaller = {room: min(most, found[room]) for room, most in budget.items()}
    return {room: most for room, most in sorted(smaller.items()) if most}


def line_of(error: dict, root: Path) -> str:
    """``pkbook/room/file.py:12: what is wrong`` of one error, its first line."""
    file = Path(error["file"]).resolve().relative_to(root.resolve()).as_posix()
    row = error["range"]["start"]["line"] + 1
    return f"  {file}:{row}: {error['message'].splitlines()[0]} ({error.get('rule', '')})"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lower", action="store_true", help="write the smaller numbers down")
    asked = parser.parse_args(arguments)
    budget = json.loads(BUDGET.read_text(encoding="utf8"))
    errors = errors_found(ROOT)
    rooms = [room_of(error["file"], ROOT / "pkbook") for error in errors]
    found = Counter(rooms)
    above, below = compared(found, budget)
    for told in above:
        print(told)
        here = [e for e, room in zip(errors, rooms, strict=True) if room == told.partition(":")[0]]
        print("\n".join(line_of(error, ROOT) for error in here[:SHOWN]))
    if asked.lower:
        text = json.dumps(lowered(found, budget), indent=1) + "\n"
        BUDGET.write_text(text, encoding="utf8")
    elif below:
        print("\n".join(below))
        print("fewer than budgeted: python tools/types_by_room.py --lower")
    print(f"{found.total()} type errors, budget {sum(budget.values())}")
    return 1 if above else 0


if __name__ == "__main__":
    sys.exit(main())
