"""The commands of the book, on every system: ``python3 tools/run.py book``.

The Makefile calls this file; where there is no make, call it yourself. Settings come from the
environment, as make passes them: VENV, JOBS, STALL, STRICT, PORT.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from environment import ROOT, NoEnvironment, ensure, ensure_integrations, python_of
from order import longest_first

STALL = "3600"
CACHES = (".pytest_cache", ".ruff_cache", ".import_linter_cache")


def setting(name: str, default: str) -> str:
    return os.environ.get(name) or default


def venv() -> Path:
    """The environment's folder, absolute but not resolved: links may lead to it."""
    return (ROOT / setting("VENV", ".venv")).absolute()


def run(*arguments: str, **environment: str) -> int:
    """Run the environment's Python with arguments; give its exit status."""
    command = [str(python_of(venv())), *arguments]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}).returncode


def book() -> int:
    """build the book and print the page to open (STRICT=1: a missed claim fails it)"""
    strict = {"1": ["--strict"]}.get(setting("STRICT", ""), [])
    jobs, stall = setting("JOBS", "2"), setting("STALL", STALL)
    return run("tools/build_book.py", "--jobs", jobs, "--stall", stall, *strict)


def test() -> int:
    """package tests, notebooks, and the site in a real browser"""
    ensure_integrations(ROOT, venv())
    jobs = int(setting("JOBS", "2"))
    if run("tools/vendor.py"):
        print("!! going on without browser assets", flush=True)
    threads = str(max(1, (os.cpu_count() or 1) // jobs))
    env = {"OMP_NUM_THREADS": setting("OMP_NUM_THREADS", threads), "PKBOOK_CLAIMS": "strict"}
    pytest = ["-m", "pytest", "-n", str(jobs), "--dist", "loadfile", "-rfEs"]
    pytest.append("--durations=20")  # what to make shorter next
    # The notebooks first: the site is then built from what they showed, and runs none again.
    notebooks = ["-p", "keep_outputs", "--nbval-lax", "--nbval-cell-timeout"]
    pages = [f"book/{path.stem}" for path in (ROOT / "book").glob("*.ipynb")]
    notebooks += [setting("STALL", STALL), "--no-loadscope-reorder"]
    notebooks += [f"{page}.ipynb" for page in longest_first(pages)]
    tools = os.pathsep.join(filter(None, [str(ROOT / "tools"), os.environ.get("PYTHONPATH")]))
    ipython = ROOT / "_build" / "ipython"  # so that no profile of the user's takes part
    ipython.mkdir(parents=True, exist_ok=True)
    ran = run(*pytest, *notebooks, **env, PYTHONPATH=tools, IPYTHONDIR=str(ipython))
    return run(*pytest, "tests", "pkbook", **env) or ran


def check() -> int:
    """style, import rules, types and notebooks, without running them"""
    return run("tools/check.py")


def claims() -> int:
    """measure every claim under other roundings and seeds (hours; goes on where it stopped)"""
    return run("tools/measure_claims.py", "--jobs", setting("JOBS", "2"))


def lab() -> int:
    """open the chapters in JupyterLab, in the folder notebooks (your changes are kept)"""
    return run("tools/open_lab.py")


def edit() -> int:
    """open the sources of the chapters in JupyterLab, for authors"""
    return run("tools/open_lab.py", "--sources")


def class_() -> int:
    """make the class kit: student and instructor notebooks, slides (EXECUTED=1: with outputs)"""
    return run("tools/class_kit.py", *{"1": ["--executed"]}.get(setting("EXECUTED", ""), []))


def serve() -> int:
    """build the book and serve it on http://localhost:8000 (PORT=...)"""
    port = setting("PORT", "8000")
    html = ["--bind", "127.0.0.1", "--directory", "_build/html"]
    return book() or run("-m", "http.server", *html, port)


def release() -> int:
    """wheel, notebooks, site and PDF of a built book, with checksums, in _build/release"""
    return run("tools/release.py")


def environment() -> int:
    """make the environment and stop"""
    return 0


def clean() -> int:
    """remove everything that was built, except the environment"""
    for name in ("_build", "node_modules", "book/_static/vendor", *CACHES):
        shutil.rmtree(ROOT / name, ignore_errors=True)
    for folder in ("pkbook", "tests", "tools", "book"):
        for junk in (ROOT / folder).rglob("__pycache__"):
            shutil.rmtree(junk, ignore_errors=True)
    return 0


MADE = (book, test, check, lab, edit, class_, serve, claims, release, environment, clean)
COMMANDS: dict[str, Callable[[], int]] = {made.__name__.rstrip("_"): made for made in MADE}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(f"  {name:<12} {made.__doc__}" for name, made in COMMANDS.items()),
    )
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND")
    asked = parser.parse_args().command
    try:
        if asked != "clean":
            ensure(ROOT, venv())
        return COMMANDS[asked]()
    except NoEnvironment as error:
        print(f"\n{error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
