"""Open the book's notebooks in JupyterLab, in the same state for everybody.

    python tools/open_lab.py [--sources] [--prepare] [-- MORE OPTIONS OF JUPYTERLAB]

The notebooks are the reader's edition of the class kit, in the folder ``notebooks``: chapters in
reading order, theorems and references readable, solutions folded away. What a reader changes there
is kept. ``--sources`` opens the folder ``book`` instead, for authors. ``--prepare`` writes
notebooks and settings and opens nothing: a server (Binder, Codespaces, JupyterHub) starts
JupyterLab itself.

Settings, kernels and the list of trusted notebooks are those of the book's environment and not the
reader's own, so that thirty laptops look alike; no news or updates are asked for over the network.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from class_kit import update_reader
from kit.book import START, read_book

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
SETTINGS: dict[str, dict[str, object]] = {
    "@jupyterlab/apputils-extension:notification": {
        "fetchNews": "false",
        "checkForUpdates": False,
        "doNotDisturbMode": False,
    },
    "@jupyterlab/apputils-extension:themes": {"adaptive-theme": True},
    "@jupyterlab/docmanager-extension:plugin": {
        "defaultViewers": {"markdown": "Markdown Preview"},
        "autosaveInterval": 60,
    },
    # All cells are laid out from the start, so that links to theorems land where they should.
    "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},
}


def settings_file(prefix: Path) -> Path:
    """Where the JupyterLab of an environment looks for the defaults of its settings."""
    return prefix / "share" / "jupyter" / "lab" / "settings" / "overrides.json"


def write_settings(prefix: Path) -> Path:
    """Put ``SETTINGS`` among the environment's defaults; others that stand there stay."""
    path = settings_file(prefix)
    path.parent.mkdir(parents=True, exist_ok=True)
    known = json.loads(path.read_text("utf8")) if path.exists() else {}
    merged = {**known, **SETTINGS}
    path.write_text(json.dumps(merged, indent=1, sort_keys=True) + "\n", encoding="utf8")
    return path


def lab_environment(prefix: Path) -> dict[str, str]:
    """JupyterLab's environment: this book's package, and nothing of the reader's own set-up."""
    own = prefix / "jupyter"
    path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path),
        "JUPYTER_PREFER_ENV_PATH": "1",
        "JUPYTER_CONFIG_DIR": str(own / "config"),
        "JUPYTER_DATA_DIR": str(own / "data"),
        "JUPYTERLAB_SETTINGS_DIR": str(own / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(own / "workspaces"),
        "IPYTHONDIR": str(own / "ipython"),
    }


def lab_command(folder: Path, first: str) -> list[str]:
    """JupyterLab in a folder, with a notebook open, asking nothing of the network."""
    return [
        *(sys.executable, "-m", "jupyter", "lab"),
        f"--ServerApp.root_dir={folder}",
        f"--LabApp.default_url=/lab/tree/{first}",
        "--LabApp.extension_manager=readonly",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        "--LabApp.news_url=None",
    ]


def prepare(prefix: Path, folder: Path = NOTEBOOKS) -> list[str]:
    """Write settings and notebooks; the notebooks that a reader has changed, which are kept."""
    write_settings(prefix)
    written, kept = update_reader(read_book(ROOT), folder)
    print(f"{len(written)} notebooks written to {folder}", flush=True)
    if kept:
        print(
            f"kept as you left them: {', '.join(kept)}\n(delete one to get it afresh)", flush=True
        )
    return kept


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sources", action="store_true", help="the notebooks as authors edit them")
    parser.add_argument("--prepare", action="store_true", help="write the notebooks, open nothing")
    parser.add_argument("more", nargs="*", help="further options of JupyterLab, after --")
    asked = parser.parse_args(arguments)
    prefix, folder, first = Path(sys.prefix), NOTEBOOKS, f"00-{START}.ipynb"
    if asked.sources:
        write_settings(prefix)
        folder, first = ROOT / "book", "index.ipynb"
    else:
        prepare(prefix)
    if asked.prepare:
        return 0
    command = [*lab_command(folder, first), *asked.more]
    return subprocess.run(command, env=lab_environment(prefix)).returncode


if __name__ == "__main__":
    sys.exit(main())
