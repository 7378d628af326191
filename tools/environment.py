"""Make the environment of the book: a virtual environment with everything pinned.

    python3 tools/environment.py [--integrations]

Run by any Python from 3.11 on, with its standard library alone. Does nothing when the environment
is as it should be; makes it anew when it is broken, belongs to a folder that was moved, or was
made by a Python that is gone. pip's lines go to a log beside it.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OLDEST = (3, 11)
DECIDES = ("requirements.txt", "constraints.txt", "pyproject.toml")
STAMP = ".installed"
# What `make test` needs beyond the book; see ensure_integrations.
INTEGRATIONS = ("requirements-integrations.txt", "constraints-integrations.txt")
INTEGRATIONS_STAMP = ".installed-integrations"


class NoEnvironment(RuntimeError):
    """The environment cannot be made; the text says why and what to do."""


def python_of(venv: Path) -> Path:
    """The environment's interpreter, where the system puts it."""
    windows = venv / "Scripts" / "python.exe"
    return windows if os.name == "nt" else venv / "bin" / "python"


def wanted_stamp(root: Path, venv: Path, decides: tuple[str, ...] = DECIDES) -> str:
    """What the stamp of a good environment says: its place, and a hash of what decides."""
    digest = hashlib.sha256()
    for name in decides:
        digest.update(name.encode() + (root / name).read_bytes())
    # Its scripts and the editable package name the folder, so a moved one does not work.
    return f"{venv}\n{root}\n{digest.hexdigest()}\n"


def works(python: Path) -> bool:
    """Whether the interpreter starts and has pip."""
    try:
        done = subprocess.run([python, "-m", "pip", "--version"], capture_output=True)
    except OSError:
        return False
    return done.returncode == 0


def create(venv: Path) -> None:
    """A fresh virtual environment; NoEnvironment if the system's Python cannot make one."""
    shutil.rmtree(venv, ignore_errors=True)
    done = subprocess.run([sys.executable, "-m", "venv", venv], capture_output=True, text=True)
    if done.returncode == 0 and works(python_of(venv)):
        return
    shutil.rmtree(venv, ignore_errors=True)  # half an environment is worse than none
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    raise NoEnvironment(
        f"{sys.executable} cannot make a virtual environment with pip.\n"
        f"On Debian and Ubuntu: apt install python{version}-venv (or python3-venv); on Fedora: dnf "
        f"install python3-pip.\nIts own words: {(done.stdout + done.stderr).strip()[-800:]}"
    )


def install(root: Path, venv: Path, integrations: bool = False) -> None:
    """pip install of the pinned requirements; its lines go to a log in the environment."""
    log = venv / ("install-integrations.log" if integrations else "install.log")
    command = [python_of(venv), "-m", "pip", "install", "--disable-pip-version-check"]
    command += ["--progress-bar", "off", "-c", "constraints.txt"]
    command += (
        ["-r", INTEGRATIONS[0], "-c", INTEGRATIONS[1]] if integrations else ["-r", DECIDES[0]]
    )
    start, packages = time.monotonic(), 0
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with (
        log.open("w", encoding="utf8") as out,
        subprocess.Popen(command, cwd=root, **streams) as running,
    ):
        for line in running.stdout:
            out.write(line)
            out.flush()
            packages += line.startswith("Collecting ")
            seconds = time.monotonic() - start
            progress(f"installing: {packages} packages found, {seconds:.0f} s", line)
    progress("", end=True)
    if running.returncode:
        tail = "".join(log.read_text(encoding="utf8").splitlines(keepends=True)[-15:])
        raise NoEnvironment(f"pip failed; the end of {log}:\n{tail}")
    print(f"installed in {time.monotonic() - start:.0f} s; pip's lines are in {log}", flush=True)


def progress(text: str, line: str = "", end: bool = False) -> None:
    """One line that is written over, on a terminal; elsewhere only pip's milestones."""
    if sys.stdout.isatty():
        print("\r\x1b[2K" if end else f"\r\x1b[2K{text}", end="", flush=True)
    elif line.startswith("Installing collected packages"):
        print(text, flush=True)


def ensure(root: Path, venv: Path) -> bool:
    """Make the environment as it should be; True if there was something to do."""
    if sys.version_info < OLDEST:
        came = ".".join(map(str, sys.version_info[:2]))
        raise NoEnvironment(
            f"Python 3.11 or newer is needed, {sys.executable} is {came}; "
            "try make PYTHON=python3.12"
        )
    stamp, wanted = venv / STAMP, wanted_stamp(root, venv)
    kept = stamp.read_text(encoding="utf8") if stamp.exists() else ""
    python = python_of(venv)
    if kept == wanted and python.exists():
        return False
    elsewhere = kept and kept.split("\n")[:2] != wanted.split("\n")[:2]
    if elsewhere or not works(python):
        if venv.exists():
            why = "belongs to another folder" if elsewhere else "does not work"
            print(f"{venv} {why}; it is made anew", flush=True)
        create(venv)
    stamp.unlink(missing_ok=True)
    install(root, venv)
    stamp.write_text(wanted, encoding="utf8")
    return True


def ensure_integrations(root: Path, venv: Path) -> bool:
    """Add the libraries of tests/integrations to a made environment; True if there was a need.

    A stamp of their own: `make book` neither waits for them nor fails where they cannot be had.
    """
    stamp = venv / INTEGRATIONS_STAMP
    wanted = wanted_stamp(root, venv, DECIDES + INTEGRATIONS)
    if stamp.exists() and stamp.read_text(encoding="utf8") == wanted:
        return False
    stamp.unlink(missing_ok=True)
    try:
        install(root, venv, integrations=True)
    except NoEnvironment as error:
        raise NoEnvironment(
            f"{error}\nThe tests need the libraries of {INTEGRATIONS[0]}; the book does not: "
            "`make book` works without them."
        ) from None
    stamp.write_text(wanted, encoding="utf8")
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=ROOT, help="folder with requirements.txt")
    parser.add_argument("--venv", type=Path, default=None, help="default .venv in it")
    parser.add_argument("--integrations", action="store_true", help="what `make test` needs too")
    asked = parser.parse_args()
    root = asked.root.resolve()
    venv = (asked.venv or root / ".venv").absolute()
    try:
        ensure(root, venv)
        if asked.integrations:
            ensure_integrations(root, venv)
    except NoEnvironment as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
