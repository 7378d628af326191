"""Build the book: browser assets, notebooks, HTML. Nothing stale or failed is ever published.

The HTML is always built from a clean copy of the sources (``_build/stage``) with warnings as
errors, and moved to ``_build/html`` only when everything went well. Only the execution of the
notebooks is cached; ``execute.py`` says by which key.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import yaml
from execute import NotebookChanged, execute_all, executed_copy
from filelock import FileLock
from vendor import AssetsUnavailable, ensure_assets

ROOT = Path(__file__).resolve().parents[1]


class BuildFailed(RuntimeError):
    """The book could not be built; the text says why."""


def toc_pages(root: Path) -> list[str]:
    """All entries of _toc.yml, in order, as paths without suffix."""
    toc = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf8"))
    pages: list[str] = []

    def walk(node: object) -> None:
        if isinstance(node, dict):
            pages.extend(node[name] for name in ("root", "file") if name in node)
            for child in node.values():
                walk(child)
        elif isinstance(node, list):
            for child in node:
                walk(child)

    walk(toc)
    return pages


def notebook_pages(root: Path) -> list[str]:
    """The entries of _toc.yml that are notebooks."""
    return [page for page in toc_pages(root) if (root / f"{page}.ipynb").exists()]


def say(text: str) -> None:
    print(text, flush=True)


def fetch_assets(root: Path) -> bool:
    """Fetch the browser assets; on failure say so loudly and go on."""
    start = time.perf_counter()
    try:
        changed = ensure_assets(root)
    except AssetsUnavailable as error:
        bar = "!" * 78
        say(f"{bar}\n!! The browser assets cannot be had: {error}")
        say("!! The book is built all the same, but its mathematics will be drawn by MathJax from")
        say(f"!! its online address: a reader needs a network connection.\n{bar}")
        return False
    state = "fetched" if changed else "up to date"
    say(f"browser assets {state} ({time.perf_counter() - start:.1f} s)")
    return True


def execute_notebooks(root: Path, cache: Path, jobs: int) -> None:
    """Execute what changed, showing progress; raise BuildFailed with every traceback."""
    pages, failed = notebook_pages(root), []
    say(f"notebooks: {len(pages)}, in {jobs} processes")
    for done, outcome in enumerate(execute_all(root, pages, cache, jobs), start=1):
        state = "unchanged" if outcome.cached else f"{outcome.seconds:.1f} s"
        if outcome.error:
            failed.append(outcome)
            state = f"FAILED after {state}"
        say(f"  [{done}/{len(pages)}] {outcome.page}: {state}")
    if failed:
        reports = "\n".join(f"{'=' * 78}\n{o.page}.ipynb\n{o.error}" for o in failed)
        raise BuildFailed(f"{reports}\n{'=' * 78}\n{len(failed)} notebook(s) failed")


def stage_config(root: Path, local_assets: bool) -> dict:
    """_config.yml with execution off, and MathJax's online address if there is no local one."""
    config = yaml.safe_load((root / "_config.yml").read_text(encoding="utf8"))
    config.setdefault("execute", {})["execute_notebooks"] = "off"
    if not local_assets:
        config.get("sphinx", {}).get("config", {}).pop("mathjax_path", None)
    return config


def stage_sources(root: Path, stage: Path, cache: Path, local_assets: bool) -> None:
    """A clean copy of the sources in which the notebooks carry their outputs."""
    shutil.rmtree(stage, ignore_errors=True)
    stage.mkdir(parents=True)
    junk = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", "_build")
    shutil.copytree(root / "book", stage / "book", ignore=junk)
    for path in (root / "pkbook").rglob("*.py"):  # chapters may include code from its source
        into = stage / path.relative_to(root)
        into.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, into)
    shutil.copy2(root / "_toc.yml", stage)
    config = yaml.safe_dump(stage_config(root, local_assets), allow_unicode=True)
    (stage / "_config.yml").write_text(config, encoding="utf8")
    pages = {page: executed_copy(root, page, cache) for page in notebook_pages(root)}
    fill_results(root, stage, pages)
    for page, notebook in pages.items():
        nbformat.write(notebook, stage / f"{page}.ipynb")


def fill_results(root: Path, stage: Path, pages: dict[str, nbformat.NotebookNode]) -> None:
    """Generate the results page from what the executed chapters found."""
    if not (stage / "book" / "results.md").exists():
        return
    import results_page  # needs the package; books without results do not

    try:
        results_page.write(stage, pages, root / "results")
    except results_page.ResultsMissing as error:
        raise BuildFailed(f"the results page cannot be made: {error}") from error


def build_html(root: Path, stage: Path) -> Path:
    """Run Jupyter Book on the stage with warnings as errors; check that no page is missing."""
    say(f"pages: {len(toc_pages(root))}, built afresh")
    jupyter_book = "from jupyter_book.cli.main import main; main()"  # it has no __main__
    command = [sys.executable, "-c", jupyter_book, "build", str(stage)]
    log = stage.parent / "sphinx.log"  # its closing lines name the stage, not the page to open
    with log.open("w", encoding="utf8") as out:  # warnings still go to the terminal
        done = subprocess.run([*command, "-W", "-n", "--keep-going"], cwd=stage, stdout=out)
    if done.returncode:
        say(log.read_text(encoding="utf8")[-3000:])
        raise BuildFailed(f"jupyter-book found errors or warnings (exit {done.returncode})")
    html = stage / "_build" / "html"
    missing = [page for page in toc_pages(root) if not (html / f"{page}.html").exists()]
    if missing:
        raise BuildFailed(f"pages of _toc.yml that were not built: {', '.join(missing)}")
    return html


def build(root: Path, jobs: int = 2) -> Path:
    """Build the whole book and return the folder of the site. Raises BuildFailed."""
    output = root / "_build"
    output.mkdir(exist_ok=True)
    (output / ".gitignore").write_text("*\n")
    with FileLock(output / "build.lock"):
        # First of all the old site goes: after a failure there must be nothing to mistake for
        # a good build.
        shutil.rmtree(output / "html", ignore_errors=True)
        assets = fetch_assets(root)
        execute_notebooks(root, output / "executed", jobs)
        stage_sources(root, output / "stage", output / "executed", assets)
        build_html(root, output / "stage").replace(output / "html")
        shutil.rmtree(output / "stage")
    return output / "html"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=ROOT, help="folder with _config.yml")
    parser.add_argument("--jobs", type=int, default=2, help="notebooks executed at once")
    options = parser.parse_args()
    start, root = time.perf_counter(), options.root.resolve()
    try:
        html = build(root, options.jobs)
    except (BuildFailed, NotebookChanged) as error:
        print(f"\n{error}\nThe book was NOT built.", file=sys.stderr)
        return 1
    pages, seconds = toc_pages(root), time.perf_counter() - start
    say(f"\n{len(pages)} pages in {seconds:.0f} s. Open\n  {(html / pages[0]).as_uri()}.html")
    return 0


if __name__ == "__main__":
    sys.exit(main())
