"""Build the book: browser assets, notebooks, HTML. Nothing stale is ever published.

The HTML is always built from a clean copy of the sources (``_build/stage``) with warnings as
errors. Only the execution of the notebooks is cached; ``execute.py`` says by which key.

A notebook that raises is an error: its page is built without outputs, says which cell failed, and
the exit status is 1. A claim that did not hold on this machine is none: its page says so, and so
do the results page and the last lines of the build. With ``--strict`` neither is built.
"""

from __future__ import annotations

import argparse
import copy
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import nbformat
import status_page
import yaml
from claims_made import all_claims, hide_data
from execute import STALL, NotebookChanged, Outcome, execute_all, executed_copy
from filelock import FileLock
from finish_site import finish
from kit.book import read_book
from launch import repository, with_buttons
from page_facts import Facts
from shared_scripts import share_scripts
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


def execute_notebooks(root: Path, cache: Path, jobs: int, stall: float) -> dict[str, Outcome]:
    """Execute what changed, showing progress; give what failed, each told as it fails."""
    pages, failed = notebook_pages(root), {}
    say(f"notebooks: {len(pages)}, in {jobs} processes")
    done, start, spent = 0, time.perf_counter(), []
    for told in execute_all(root, pages, cache, jobs, stall):
        if isinstance(told, dict):
            left = len(pages) - done
            say(f"    {_running(told)}{_estimate(spent, left, jobs, time.perf_counter() - start)}")
            continue
        done += 1
        state = "unchanged" if told.cached else f"{told.seconds:.1f} s"
        if not told.cached:
            spent.append(told.seconds)
        if told.error:
            failed[told.page] = told
            state = f"FAILED after {state}\n{_report(told)}"
        say(f"  [{done}/{len(pages)}] {told.page}: {state}")
    return failed


def _report(outcome: Outcome) -> str:
    bar = "=" * 78
    return f"{bar}\n{outcome.page}.ipynb\n{outcome.error}\n{bar}"


def _running(now: dict[str, dict]) -> str:
    """Where the running notebooks stand, in one line."""
    found = [
        f"{Path(page).name} (cell {note['cell']} of {note['of']}, "
        f"{time.time() - note['since']:.0f} s in it)"
        for page, note in now.items()
    ]
    return f"running: {', '.join(found)}" if found else "starting"


def _estimate(spent: list[float], left: int, jobs: int, elapsed: float) -> str:
    """How many are left and about how long they will take, once one is done."""
    text = f"; {left} left, {elapsed:.0f} s so far"
    if not spent:
        return text
    return f"{text}, about {sum(spent) / len(spent) * left / jobs / 60:.0f} min to go"


def stage_config(root: Path, local_assets: bool) -> dict:
    """_config.yml with execution off, and MathJax's online address if there is no local one."""
    config = yaml.safe_load((root / "_config.yml").read_text(encoding="utf8"))
    config.setdefault("execute", {})["execute_notebooks"] = "off"
    if config.get("repository", {}).get("url"):  # edit and issue links, where there is a project
        config["html"] |= {"use_edit_page_button": True, "use_issues_button": True}
    else:
        config.pop("repository", None)
    if not local_assets:
        config.get("sphinx", {}).get("config", {}).pop("mathjax_path", None)
    return config


def stage_sources(
    root: Path, stage: Path, pages: dict[str, nbformat.NotebookNode], local_assets: bool
) -> None:
    """A clean copy of the sources, with ``pages``, {page: notebook}, in place of the notebooks."""
    shutil.rmtree(stage, ignore_errors=True)
    stage.mkdir(parents=True)
    junk = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", "_build")
    shutil.copytree(root / "book", stage / "book", ignore=junk)
    for path in (root / "pkbook").rglob("*.py"):  # chapters may include code from its source
        into = stage / path.relative_to(root)
        into.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, into)
    for name in ("_toc.yml", "CHANGELOG.md"):
        if (root / name).exists():
            shutil.copy2(root / name, stage)
    (stage / "tools").mkdir()  # where _config.yml looks for the labels of the bibliography
    shutil.copy2(ROOT / "tools" / "author_year_labels.py", stage / "tools")
    config = yaml.safe_dump(stage_config(root, local_assets), allow_unicode=True)
    (stage / "_config.yml").write_text(config, encoding="utf8")
    for page, notebook in launchable(root, pages).items():
        nbformat.write(notebook, stage / f"{page}.ipynb")


def launchable(
    root: Path, pages: dict[str, nbformat.NotebookNode]
) -> dict[str, nbformat.NotebookNode]:
    """The pages; chapters with launch buttons where ``_config.yml`` names a repository."""
    where = repository(yaml.safe_load((root / "_config.yml").read_text(encoding="utf8")))
    if where is None:
        return pages
    files = {f"book/{page.name}": page.file for page in read_book(root).chapters()}
    return {
        page: with_buttons(copy.deepcopy(notebook), where, files[page])
        if page in files
        else notebook
        for page, notebook in pages.items()
    }


def read_pages(root: Path, cache: Path, failed: dict[str, Outcome]) -> tuple[dict, dict]:
    """``(executed, unexecuted)``: notebooks with outputs, and with a notice in their place."""
    executed, unexecuted = {}, {}
    for page in notebook_pages(root):
        if page in failed:
            source = nbformat.read(root / f"{page}.ipynb", as_version=4)
            unexecuted[page] = with_notice(source, failed[page])
        else:
            executed[page] = executed_copy(root, page, cache)
    return executed, unexecuted


def with_notice(notebook: nbformat.NotebookNode, outcome: Outcome) -> nbformat.NotebookNode:
    """A notebook without outputs that says below its title which cell failed, and how."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    failing = notebook.cells[min(outcome.cell, len(notebook.cells) - 1)]
    code = failing.source if failing.cell_type == "code" else ""
    lines = [line for line in outcome.error.splitlines() if line.strip()]
    reason = lines[0 if "no cell ended" in lines[0] else -1]
    notice = "\n".join(
        [
            "::::{error}",
            "This page could not be executed on the machine that built this book, so that its "
            f"cells show no results. Cell {outcome.cell + 1} failed:",
            "",
            *("~~~~~~python", code, "~~~~~~", "", "~~~~~~text", reason, "~~~~~~"),
            "::::",
        ]
    )
    first = notebook.cells[0]
    if first.cell_type == "markdown" and first.source.startswith("# "):
        title, _, rest = first.source.partition("\n")
        first.source = f"{title}\n\n{notice}\n{rest}"
    else:
        notebook.cells.insert(0, nbformat.v4.new_markdown_cell(notice))
    return notebook


def fill_results(root: Path, stage: Path, executed: dict, unexecuted: dict) -> None:
    """Generate the results page from what the executed chapters found."""
    if not (stage / "book" / "results.md").exists():
        return
    import results_page  # needs the package; books without results do not

    try:
        results_page.write(stage, executed, root / "results", list(unexecuted))
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


def facts_of(root: Path, seconds: dict[str, float]) -> Facts:
    """What the pages are told of themselves."""
    config = yaml.safe_load((root / "_config.yml").read_text(encoding="utf8"))
    return Facts(seconds, config.get("html", {}).get("baseurl") or "", config["title"])


@dataclass(frozen=True)
class Built:
    """What a build made: the site, the notebooks that failed and the claims that were missed."""

    html: Path
    failed: dict[str, Outcome]
    missed: list[tuple[str, str]]
    claims: int


def build(root: Path, jobs: int = 2, stall: float = STALL, strict: bool = False) -> Built:
    """Build the whole book. Raises BuildFailed."""
    output = root / "_build"
    output.mkdir(exist_ok=True)
    (output / ".gitignore").write_text("*\n")
    with FileLock(output / "build.lock"):
        # First of all the old site goes: after a failure there must be nothing to mistake for
        # a good build.
        shutil.rmtree(output / "html", ignore_errors=True)
        assets = fetch_assets(root)
        failed = execute_notebooks(root, output / "executed", jobs, stall)
        executed, unexecuted = read_pages(root, output / "executed", failed)
        claims = all_claims(executed)
        missed = [(page, text) for page, held, text in claims if not held]
        if strict and (failed or missed):
            raise BuildFailed(_summary(failed, missed, len(claims)))
        stage = output / "stage"
        stage_sources(root, stage, executed | unexecuted, assets)
        fill_results(root, stage, executed, unexecuted)
        seconds = status_page.seconds_of(output / "executed", notebook_pages(root))
        status_page.write(stage, executed, seconds)
        hide_data(stage, executed)
        share_scripts(stage)
        html = build_html(root, stage)
        for told in finish(
            html, root / "node_modules" / "mathjax" / "es5", facts_of(root, seconds)
        ):
            say(f"!! {told}")
        html.replace(output / "html")
        shutil.rmtree(stage)
    return Built(output / "html", failed, missed, len(claims))


def _summary(failed: dict[str, Outcome], missed: list[tuple[str, str]], claims: int) -> str:
    """What went wrong, in a few lines; empty where nothing did."""
    lines = []
    if failed:
        lines.append(f"{len(failed)} notebook(s) failed: {', '.join(failed)} (reasons above)")
    if missed:
        lines.append(f"{len(missed)} of {claims} claims did not hold on this machine:")
        lines += [f"  {page}: {text}" for page, text in missed]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--root", type=Path, default=ROOT, help="folder with _config.yml")
    add("--jobs", type=int, default=2, help="notebooks executed at once")
    add("--stall", type=float, default=STALL, help="give a notebook up after so many seconds in "
        f"one cell; default {STALL:.0f}")  # fmt: skip
    add("--strict", action="store_true", help="no book where a notebook or a claim fails")
    options = parser.parse_args()
    start, root = time.perf_counter(), options.root.resolve()
    try:
        made = build(root, options.jobs, options.stall, options.strict)
    except (BuildFailed, NotebookChanged) as error:
        print(f"\n{error}\nThe book was NOT built.", file=sys.stderr)
        return 1
    pages, seconds = toc_pages(root), time.perf_counter() - start
    if told := _summary(made.failed, made.missed, made.claims):
        say(f"\n{told}")
    say(f"\n{len(pages)} pages in {seconds:.0f} s. Open\n  {(made.html / pages[0]).as_uri()}.html")
    if made.failed:
        print("The book is NOT whole: pages of failed notebooks show no results.", file=sys.stderr)
    return 1 if made.failed else 0


if __name__ == "__main__":
    sys.exit(main())
