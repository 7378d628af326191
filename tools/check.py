"""What can be checked without running the package: style, imports, notebooks, types.

    python tools/check.py

Every check runs, also after one that failed; what a failing one says is printed. The types take
most of the time, so they come last.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTHON = sys.executable
CHECKS: dict[str, list[str]] = {
    "style": [PYTHON, "-m", "ruff", "check", "."],
    "layout": [PYTHON, "-m", "ruff", "format", "--check", "."],
    "imports": ["lint-imports", "--no-cache", "--no-logo"],
    "notebooks": [PYTHON, "tools/lint_notebooks.py", "book"],
    "types": [PYTHON, "tools/types_by_room.py"],
}
SAID = {"types"}  # what these say is worth reading also when they hold


def program(name: str) -> str:
    """A command of the environment that this Python belongs to, else one on PATH."""
    return shutil.which(name, path=str(Path(PYTHON).parent)) or shutil.which(name) or name


def held(name: str, command: list[str], root: Path = ROOT) -> bool:
    """Run one check and tell how it went, with its own words where it failed."""
    print(f"{name:<10}", end="", flush=True)
    start = time.monotonic()
    try:
        done = subprocess.run(
            [program(command[0]), *command[1:]],
            cwd=root,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf8",
            errors="replace",
        )
        status, words = done.returncode, done.stdout.strip()
    except OSError as error:
        status, words = 1, f"{command[0]} cannot be run: {error}; make environment installs it"
    print(f"{'FAILED' if status else 'ok':<7}{time.monotonic() - start:5.1f} s", flush=True)
    if words and (status or name in SAID):
        print(words, flush=True)
    return status == 0


def main() -> int:
    missed = [name for name, command in CHECKS.items() if not held(name, command)]
    print(f"failed: {', '.join(missed)}" if missed else "all checks hold")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
