"""Measure every claim of the book under other roundings and other seeds.

    make claims

Another machine rounds differently. Much of that can be had on one machine: other vector
instructions, other numbers of threads, another order of sums. Each notebook runs under each of
them, and with every seed moved. What the claims found goes to ``pkbook/lab/claims.json``, quoted
where a claim misses, and to ``results/claims.md``: values, bound, and the margin, the mean distance
to the bound in units of its standard deviation over the runs. A number that must be above a
positive bound, such as a ratio, varies by factors and is compared with it by logarithms. It takes
hours; stopped and called again, it goes on. A run belongs to the code it was made with; with
``--earlier`` the tables also take runs of earlier code, of claims that today's code still makes,
and say how many those are.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import statistics
import sys
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
import torch
from build_book import ROOT, notebook_pages, say
from claims_made import CLAIM, outputs_of
from execute import environment_digest, load_outputs, merge_outputs, notebook_key, run_notebook
from order import SECONDS

THIN = 2.0  # a margin below two spreads is no margin
OF_ONE = ("this ", "these ")  # so begins a claim about one network or its data, not about others
PATIENT = {"GOMP_SPINCOUNT": "0", "OMP_WAIT_POLICY": "PASSIVE"}  # more threads than cores
SETTINGS: dict[str, dict[str, str]] = {
    "as it is": {"OMP_NUM_THREADS": "1"},
    "no vector instructions": {
        "OMP_NUM_THREADS": "1",
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
    },
    "AVX2": {
        "OMP_NUM_THREADS": "1",
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
    },
    "another order of sums": {"OMP_NUM_THREADS": "1", "MKL_CBWR": "COMPATIBLE"},
    "two threads": {"OMP_NUM_THREADS": "2", **PATIENT},
    "four threads": {"OMP_NUM_THREADS": "4", **PATIENT},
    "two threads, no vector instructions": {
        "OMP_NUM_THREADS": "2",
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        **PATIENT,
    },
    "seeds moved once": {"OMP_NUM_THREADS": "1", "PKBOOK_MOVED_SEEDS": "1000"},
    "seeds moved twice": {"OMP_NUM_THREADS": "1", "PKBOOK_MOVED_SEEDS": "2000"},
}


def settings() -> dict[str, dict[str, str]]:
    """The settings that differ on this machine: one that it has anyway is not run twice."""
    capability = torch.backends.cpu.get_cpu_capability()
    return {name: more for name, more in SETTINGS.items() if name != capability}


@dataclass
class Seen:
    """What one claim found in all runs."""

    page: str
    says: str
    bounds: Mapping[str, float | None] = field(default_factory=dict)
    earlier: int = 0
    low: float = math.inf
    high: float = -math.inf
    distances: dict[str, float | None] = field(default_factory=dict)
    held: dict[str, bool] = field(default_factory=dict)

    def add(self, setting: str, told: Mapping) -> None:
        """One run's record."""
        self.held[setting] = told["held"]
        self.distances[setting] = told["distance"]
        self.bounds = told["bounds"]
        low, high = span(told)
        self.low, self.high = min(self.low, low), max(self.high, high)

    @property
    def margin(self) -> float | None:
        """Mean distance over its standard deviation; None for what is only true or false.

        A claim that speaks of "this" or "these" is about the book's own seeds: moved ones count
        among the values found, not in its margin.
        """
        own = self.says.startswith(OF_ONE)
        found = in_logarithms(
            [
                d
                for name, d in self.distances.items()
                if d is not None and not (own and _moved(name))
            ],
            {name: bound for name, bound in self.bounds.items() if bound is not None},
        )
        if len(found) < 2:
            return None
        middle, spread = statistics.mean(found), statistics.stdev(found)
        return math.copysign(math.inf, middle) if spread == 0 else middle / spread


def in_logarithms(distances: list[float], bounds: Mapping[str, float]) -> list[float]:
    """Distances of numbers above one positive bound, by logarithms; others as they are.

    What must be large varies by factors; what must be small varies about zero.

    >>> [round(d, 2) for d in in_logarithms([10.0, 990.0], {"above": 10.0})]
    [0.69, 4.61]
    """
    name, bound = next(iter(bounds.items()), ("", 0.0))
    numbers = [bound + distance for distance in distances]
    if len(bounds) != 1 or name not in ("above", "least") or min([bound, *numbers]) <= 0:
        return distances
    return [math.log(number / bound) for number in numbers]


def _moved(setting: str) -> bool:
    return "PKBOOK_MOVED_SEEDS" in SETTINGS.get(setting, {})


def words_of(bounds: Mapping) -> str:
    return ", ".join(f"{name} {bound:g}" for name, bound in bounds.items() if bound is not None)


def span(told: Mapping) -> tuple[float, float]:
    """The lowest and highest number of a record, of the kind that is judged."""
    values = [v for v in told["values"] if v is not None]
    if not values:
        return math.inf, -math.inf
    if told["by"] == "mean" and told["count"] == len(values):
        return (statistics.mean(values),) * 2
    fitted = told["count"] == 1 and len(values) == 3 and told["by"] != "interval"
    return (values[0],) * 2 if fitted else (min(values), max(values))


def slug(setting: str) -> str:
    return setting.replace(" ", "-").lower()


def profile(folder: Path) -> None:
    """An IPython profile that draws nothing, and moves the seeds where the environment says so."""
    startup = folder / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True, exist_ok=True)
    for name in ("moved_seeds.py", "no_pictures.py"):
        shutil.copy2(Path(__file__).with_name(name), startup / name)


def measure(root: Path, folder: Path, pages: list[str], asked: list[str], jobs: int) -> None:
    """Run what has not been run yet, of the asked settings."""
    environment, todo = environment_digest(root), []
    for setting in asked:
        variables = settings()[setting]
        for page in pages:
            store = folder / slug(setting) / f"{page}.json"
            key = notebook_key(nbformat.read(root / f"{page}.ipynb", 4), environment)
            if load_outputs(store, key) is None:
                profile(store.parent)
                todo.append((setting, page, key, store, variables))
    say(f"{len(todo)} runs to do, {len(pages) * len(asked) - len(todo)} there")
    with ProcessPoolExecutor(jobs) as pool:
        waiting = {
            pool.submit(
                run_notebook, root, page, key, store, 1, more=variables, go_on=True
            ): setting
            for setting, page, key, store, variables in todo
        }
        for done, future in enumerate(as_completed(waiting), start=1):
            told = future.result()
            state = f"FAILED: {told.error}" if told.error else f"{told.seconds:.0f} s"
            say(f"  [{done}/{len(todo)}] {told.page}, {waiting[future]}: {state}")


def collect(root: Path, folder: Path, pages: list[str]) -> tuple[dict[str, Seen], list[str]]:
    """``({words: what was seen}, errors)`` of all runs of today's notebooks."""
    environment, seen, errors = environment_digest(root), {}, []
    for setting in settings():
        for page in pages:
            notebook = nbformat.read(root / f"{page}.ipynb", 4)
            store = folder / slug(setting) / f"{page}.json"
            outputs = load_outputs(store, notebook_key(notebook, environment))
            if outputs is None:
                errors.append(not_run(page, setting))
                continue
            merge_outputs(notebook, outputs)
            for cell in notebook.cells:
                errors += [
                    f"{page}, {setting}: {output.ename}: {output.evalue}"
                    for output in cell.get("outputs", [])
                    if output.output_type == "error"
                ]
            for data in outputs_of(notebook):
                if CLAIM in data:
                    told = data[CLAIM]
                    seen.setdefault(told["says"], Seen(page, told["says"])).add(setting, told)
    return seen, errors


def add_earlier(
    seen: Mapping[str, Seen], errors: list[str], folder: Path, pages: list[str]
) -> list[str]:
    """Add runs of earlier code, where a claim of today with the same bounds has none.

    Gives the errors that are left: those of runs that were never made.
    """
    for setting in settings():
        for page in pages:
            store = folder / slug(setting) / f"{page}.json"
            kept = kept_claims(store)
            if store.exists():  # a page may make no claim
                errors = [text for text in errors if text != not_run(page, setting)]
            for told in kept:
                found = seen.get(told["says"])
                if found and setting not in found.held and found.bounds == told["bounds"]:
                    found.add(setting, told)
                    found.earlier += 1
    return errors


def not_run(page: str, setting: str) -> str:
    return f"{page}, {setting}: was not run"


def kept_claims(store: Path) -> list[dict]:
    """The claims of a stored run, whatever code it was made with."""
    if not store.exists():
        return []
    outputs = json.loads(store.read_text(encoding="utf8"))["outputs"]
    every = [output.get("data", {}) for cell in outputs for output in cell["outputs"]]
    return [data[CLAIM] for data in every if CLAIM in data]


def as_json(seen: Mapping[str, Seen]) -> str:
    """What `pkbook.lab.claims` quotes."""
    told = {
        says: {
            "low": found.low if math.isfinite(found.low) else None,
            "high": found.high if math.isfinite(found.high) else None,
            "runs": len(found.held),
        }
        for says, found in sorted(seen.items())
    }
    return json.dumps(told, indent=1, ensure_ascii=False) + "\n"


def as_table(seen: Mapping[str, Seen], errors: list[str]) -> str:
    """The table of margins, the thinnest first, in Markdown."""
    ran = [name for name in settings() if any(name in found.held for found in seen.values())]
    missing = [name for name in settings() if name not in ran]
    of_those = tuple(not_run("", name) for name in missing)
    errors = [text for text in errors if not text.endswith(of_those)]
    not_yet = f"Not yet run: {', '.join(missing)}. " if missing else ""
    lines = [
        "# Every claim, its bound and its margin",
        "",
        "Made by `make claims`. Each notebook ran under these settings: "
        f"{', '.join(ran)}. {not_yet}{told_of_earlier(seen)}"
        "The margin is the mean distance of the judged number to its bound, in standard "
        "deviations over the runs (by logarithms where the bound is a positive one from below); "
        'claims without a number have none. What is said of "this" or "these" is said of the '
        "book's own seeds, and its margin leaves moved ones out.",
        "",
        "| chapter | claim | bound | found | held | margin |",
        "|---|---|---|---|---|---|",
    ]
    for found in sorted(seen.values(), key=_thinnest_first):
        span = f"{found.low:.4g} to {found.high:.4g}" if math.isfinite(found.low) else ""
        held = f"{sum(found.held.values())} of {len(found.held)}"
        margin = "" if found.margin is None else f"{found.margin:.1f}"
        says = found.says.replace("|", "\\|")
        page = Path(found.page).name
        bound = words_of(found.bounds)
        lines.append(f"| {page} | {says} | {bound} | {span} | {held} | {margin} |")
    if errors:
        lines += ["", "Errors:", "", *(f"* {text}" for text in errors)]
    return "\n".join(lines) + "\n"


def told_of_earlier(seen: Mapping[str, Seen]) -> str:
    runs = sum(len(found.held) for found in seen.values())
    earlier = sum(found.earlier for found in seen.values())
    return f"Of {runs} values, {earlier} are from earlier code. " if earlier else ""


def _thinnest_first(found: Seen) -> tuple[bool, float]:
    margin = math.inf if found.margin is None else found.margin
    return all(found.held.values()), margin


def spent(folder: Path, pages: list[str]) -> str:
    """The seconds of each notebook as it is, as `order` reads them."""
    found = {}
    for page in pages:
        store = folder / slug("as it is") / f"{page}.json"
        if store.exists():
            found[page] = round(json.loads(store.read_text(encoding="utf8"))["seconds"])
    return json.dumps(dict(sorted(found.items())), indent=1) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--root", type=Path, default=ROOT, help="folder with _toc.yml")
    add("--jobs", type=int, default=2, help="notebooks run at once")
    add("--pages", nargs="*", default=None, help="such as book/domingos; default all")
    add("--table-only", action="store_true", help="run nothing; tables of what is there")
    add("--earlier", action="store_true", help="the tables take runs of earlier code, too")
    add("--settings", nargs="*", default=list(settings()), help="such as 'two threads'")
    asked = parser.parse_args()
    root = asked.root.resolve()
    folder, pages = root / "_build" / "claims", asked.pages or notebook_pages(root)
    if not asked.table_only:
        measure(root, folder, pages, asked.settings, asked.jobs)
    seen, errors = collect(root, folder, pages)
    if asked.earlier:
        errors = add_earlier(seen, errors, folder, pages)
    (root / "pkbook" / "lab" / "claims.json").write_text(as_json(seen), encoding="utf8")
    (root / "results" / "claims.md").write_text(as_table(seen, errors), encoding="utf8")
    if asked.pages is None:
        seconds = spent(folder, pages)
        (root / "tools" / SECONDS.name).write_text(seconds, encoding="utf8")
    missed = [found for found in seen.values() if not all(found.held.values())]
    thin = [f for f in seen.values() if f.margin is not None and f.margin < THIN]
    say(f"{len(seen)} claims; {len(missed)} missed in some run, {len(thin)} with a thin margin")
    say("tables: pkbook/lab/claims.json, results/claims.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
