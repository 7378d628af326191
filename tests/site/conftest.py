"""The built site, a browser, and what both need; shared by the site tests."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).resolve().parents[2]
# pytest's importlib mode leaves sys.path alone, so the plumbing beside these tests is named here.
sys.path[:0] = [str(Path(__file__).parent), str(ROOT / "tools")]

from browser import FLAGS, browser_path, required, serve  # noqa: E402
from playwright.sync_api import Browser, sync_playwright  # noqa: E402


@pytest.fixture(scope="session")
def chrome() -> Iterator[Browser]:
    """One browser for all tests."""
    path = browser_path()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def axe() -> Path:
    """axe-core's script, fetched with the other browser assets."""
    script = ROOT / "node_modules" / "axe-core" / "axe.min.js"
    if not script.exists():
        subprocess.run([sys.executable, ROOT / "tools" / "vendor.py"], check=False)
    if not script.exists():
        required("axe-core is missing; without a network the site cannot be tested")
    return script


@pytest.fixture(scope="session")
def site() -> Path:
    """The folder of the real book, built by the same command as `make book`.

    Once for all processes of a run: a build takes the old site away, which others may be reading.
    """
    output, run = ROOT / "_build", os.environ.get("PYTEST_XDIST_TESTRUNUID", "alone")
    output.mkdir(exist_ok=True)
    stamp = output / "site-tests.run"
    with FileLock(output / "site-tests.lock"):
        built = run != "alone" and stamp.exists() and stamp.read_text(encoding="utf8") == run
        if not built:
            command = [sys.executable, str(ROOT / "tools" / "build_book.py")]
            done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
            assert done.returncode == 0, f"the book was not built\n{done.stdout}\n{done.stderr}"
            stamp.write_text(run, encoding="utf8")
    return output / "html"


@pytest.fixture(scope="session")
def homes(site: Path, axe: Path) -> Iterator[dict[str, str]]:
    """The site's addresses: served, and opened from its folder."""
    with serve(site) as address:
        yield {"http": address, "file": site.as_uri()}
