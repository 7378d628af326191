"""Find a browser, start it, and serve a folder: plumbing of the site tests."""

from __future__ import annotations

import contextlib
import functools
import http.server
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def required(reason: str) -> NoReturn:
    """Skip loudly, or fail where PKBOOK_REQUIRE_BROWSER=1 says that nothing may be skipped."""
    if os.environ.get("PKBOOK_REQUIRE_BROWSER") == "1":
        pytest.fail(reason)
    pytest.skip(f"SITE NOT TESTED: {reason}")


def browser_path() -> str:
    """The browser's executable; without one the test skips, or fails where one is required."""
    named = os.environ.get("PKBOOK_BROWSER")
    found = named or next(filter(None, map(shutil.which, NAMES)), None)
    if found and shutil.which(found):
        return found
    required(f"no browser: PKBOOK_BROWSER is {named!r}; looked on PATH for {', '.join(NAMES)}")


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        """Say nothing: pytest's output is for the tests."""


class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """A browser may hang up before a file is through; that is no fault of the site."""


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Serve the folder on a free local port; yields the address."""
    handler = functools.partial(QuietHandler, directory=str(folder))
    with Server(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
