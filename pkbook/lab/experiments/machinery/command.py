"""Run experiments from the command line: ``python -m pkbook experiment E6 --preset full``.

``python -m pkbook.experiments`` is the same; the results that are kept name it, so it stays.

A module of `pkbook.experiments` takes part with ``Config`` (``quick()`` and ``full()``),
``run(config, device=, folder=, progress=)``, ``findings(result)`` giving
``{id: {setting: numbers}}`` and ``figures(result)`` giving ``{name: Figure}``; the last may stand
in the module of the same name in ``figures``.  ``table(result)``, where there is one, is kept as
``NAME.PRESET.json`` for the chapter.
"""

import argparse
import json
import sys
import time
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import torch

from pkbook.basics.files import write_whole
from pkbook.lab.experiments.machinery.claims import CLAIMS, claim
from pkbook.lab.experiments.machinery.results import PRESETS, Finding, as_text
from pkbook.lab.plots.inline import close, png


def parser() -> argparse.ArgumentParser:
    """What the command understands."""
    made = argparse.ArgumentParser(
        prog="python -m pkbook experiment",
        description="Run an experiment of the paper; write its figures and numbers.",
        epilog="Without an id: the list. An interrupted run goes on where it stopped.",
    )
    add = made.add_argument
    add("id", nargs="*", metavar="ID", help="such as E6; several may be given")
    add("--preset", choices=PRESETS, default="quick", help="quick: CPU; full: the paper's scale")
    add("--device", default="cpu", help="such as cuda; default cpu")
    add("--out", type=Path, default=Path("results"), help="folder for the output; default results")
    add("--no-progress", dest="progress", action="store_false", help="no progress bars")
    return made


def main(argv: list[str] | None = None) -> int:
    """The command; 0 for success, 2 for a request that cannot be met."""
    asked = parser().parse_args(argv)
    if not asked.id:
        print(listing())
        return 0
    try:
        modules = {_module(name): None for name in asked.id}
        device = _device(asked.device)
        for module in modules:
            run_one(module, asked.preset, device, asked.out, asked.progress)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def listing() -> str:
    """Every claim, and where it is measured."""
    lines = []
    for row in CLAIMS.values():
        where = "" if row.module else f" (only in the chapter {row.chapter})"
        lines.append(f"{row.id:<4} {row.title} [{row.paper}]{where}")
    return "\n".join(lines)


def _module(name: str) -> str:
    row = claim(name.upper())
    if row.module is None:
        raise ValueError(
            f"{row.id} is measured in its chapter alone; open book/{row.chapter}.ipynb"
        )
    return row.module


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"--device {name} cannot be used here: {reason}") from error
    return device


def run_one(
    module: str, preset: str, device: torch.device, out: Path, progress: bool
) -> list[Finding]:
    """Run one module, write ``ID.json`` and figures, print the verdicts."""
    experiment = import_module(f"pkbook.lab.experiments.{module}")
    config = getattr(experiment.Config, preset)()
    folder = out / f"{module}-{preset}"
    folder.mkdir(parents=True, exist_ok=True)
    _same_settings(folder / "config.txt", repr(config))
    start = time.perf_counter()
    result = experiment.run(config, device=device, folder=folder, progress=progress)
    seconds = round(time.perf_counter() - start, 1)
    for name, figure in _drawings(module).figures(result).items():
        (folder / f"{name}.png").write_bytes(png(figure))
        close(figure)
    if hasattr(experiment, "table"):  # more numbers than the results page has room for
        numbers = json.dumps(experiment.table(result), indent=1)
        write_whole(out / f"{module}.{preset}.json", f"{numbers}\n".encode())
    found = []
    for id, settings in experiment.findings(result).items():
        made_by = f"python -m pkbook.experiments {id} --preset {preset}"
        if device.type != "cpu":
            made_by += f" --device {device.type}"
        finding = Finding(claim(id), settings, preset, seconds, made_by)
        finding.save(out / f"{id}-{preset}.json")
        print(as_text(finding))
        found.append(finding)
    return found


def _drawings(module: str) -> ModuleType:
    """Where an experiment's figures are drawn."""
    apart = f"pkbook.lab.experiments.figures.{module}"
    return import_module(apart if find_spec(apart) else f"pkbook.lab.experiments.{module}")


def _same_settings(path: Path, config: str) -> None:
    """An interrupted run is taken up only with the settings it began with."""
    if path.exists() and path.read_text(encoding="utf8") != config:
        raise ValueError(
            f"{path.parent} holds a run with other settings; move it away or give another --out"
        )
    path.write_text(config, encoding="utf8")
