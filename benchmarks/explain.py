"""Times recording and explaining a run, and explains the same run with other packages.

python benchmarks/explain.py [--json FILE] [--optimizers sgd,adam,...] [--peers all|none|NAME,...]
See README.md beside this file.
"""

import argparse
import shutil
import statistics
import sys
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # the repository's package, and ``benchmarks`` as a package

import torch  # noqa: E402

from benchmarks import explain_report, memory, report  # noqa: E402
from benchmarks.explain_compare import SLOW, WORKER, Options, compare  # noqa: E402
from benchmarks.explain_growth import growth  # noqa: E402
from benchmarks.explain_peers import PEERS  # noqa: E402
from benchmarks.explain_recording import recording  # noqa: E402
from benchmarks.explain_setting import OPTIMIZERS, Setting  # noqa: E402
from benchmarks.kernels import names  # noqa: E402

PARTS = ("recording", "explain", "growth", "peers")
RULES = {"one node": {"nodes": 1, "tolerance": None}, "default": {}}
OURS = ("ours", "ours-tolerance", "ours-all-outputs")
"""Without peers only the first: the others are there to be compared."""


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--json", type=Path, help="write everything to this file too")
    add("--parts", default="all", help=f"some of {','.join(PARTS)}")
    add("--optimizers", default="all", help=f"some of {','.join(OPTIMIZERS)}")
    add("--steps", type=int, default=1000, help="of the run that is explained")
    add("--tolerance-steps", type=int, default=100, help="the same, under the default tolerance")
    add("--samples", type=int, default=2000, help="training digits")
    add("--queries", type=int, default=100, help="test digits")
    add("--threads", type=int, default=2)
    add("--repeats", type=int, default=3)
    add("--block", type=int, default=200, help="steps timed at a time for recording")
    add("--growth-steps", type=int, default=50, help="of the runs where another size grows")
    add("--factor", type=float, default=1.0, help="share of the sizes of the growth")
    add("--smooth", action="store_true", help="tanh and average pooling, not ReLU and max pooling")
    add("--peers", default="all", help=f"some of {','.join(PEERS)}, or none")
    add("--peer-optimizers", default="sgd,momentum,adamw")
    add("--peer-steps", type=int, default=50, help="of the run that peers explain")
    add("--peer-every", type=int, default=10, help="steps between checkpoints of captum-tracincp")
    add("--peer-python", default=sys.executable, help="a Python with the peers")
    add("--seconds", type=float, default=3600, help="what one process may take")
    chosen = parser.parse_args(argv)
    counts = ("steps", "tolerance_steps", "growth_steps", "peer_steps", "peer_every", "block",
              "threads", "repeats")  # fmt: skip
    for name in counts:
        if getattr(chosen, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    if not 0 < chosen.factor <= 1 or chosen.seconds <= 0:
        parser.error("--factor must lie in (0, 1] and --seconds above 0")
    if shutil.which(chosen.peer_python) is None:
        parser.error(f"--peer-python: there is no {chosen.peer_python}")
    return chosen


def explain(setting: Setting, rules: dict, options: Options) -> dict:
    """A whole run in fresh processes, and the medians over them."""
    request = {"setting": asdict(setting), "rules": rules, "threads": options.threads}
    runs, row = [], {"steps": setting.steps}
    while len(runs) < options.repeats and all(run["seconds"] < 5 * SLOW for run in runs):
        runs.append(memory.measure([sys.executable, str(WORKER)], request, options.seconds))
        if "reason" in runs[-1]:
            return row | runs[-1]
    columns = {key: [run[key] for run in runs] for key in runs[0]}
    medians = {key: None if None in values else statistics.median(values)
               for key, values in columns.items()}  # fmt: skip
    return row | medians | {"runs": len(runs)}


def main(argv: list[str] | None = None) -> None:
    chosen = arguments(argv)
    parts = names(chosen.parts, PARTS, "parts")
    optimizers = names(chosen.optimizers, tuple(OPTIMIZERS), "optimizers")
    peers = names(chosen.peers, PEERS, "peers")
    theirs = names(chosen.peer_optimizers, tuple(OPTIMIZERS), "peer-optimizers")
    try:
        setting = Setting("sgd", chosen.steps, chosen.samples, chosen.queries, smooth=chosen.smooth)
        short = replace(setting, steps=chosen.peer_steps, network="peers")
    except ValueError as error:
        raise SystemExit(f"--{error}") from None
    torch.set_num_threads(chosen.threads)
    options = Options(chosen.repeats, chosen.threads, chosen.seconds, chosen.peer_python,
                      chosen.peer_every)  # fmt: skip
    machine = report.facts(chosen.threads, {"pkbook": "pkbook"})
    found = {"machine": machine, "setting": asdict(setting), "repeats": chosen.repeats}
    print(f"{report.opening(machine)}\n{title(setting)}")

    show = partial(report.show, found=found, path=chosen.json)

    if "recording" in parts:
        found["recording"] = recording(setting, optimizers, chosen.block, chosen.repeats)
        show(explain_report.recording_text(found["recording"]))
    if "explain" in parts:
        found["explain"] = {}
        for name in optimizers:
            steps = {"one node": chosen.steps, "default": chosen.tolerance_steps}
            found["explain"][name] = {
                rule: explain(replace(setting, optimizer=name, steps=steps[rule]), rules, options)
                for rule, rules in RULES.items()
            }
            show(explain_report.explain_text(name, found["explain"][name]))
    if "growth" in parts:
        wanted = tuple(name for name in optimizers if name in ("sgd", "adam"))
        found["growth"] = growth(
            setting, wanted, chosen.growth_steps, chosen.repeats, chosen.factor
        )
        show(explain_report.growth_text(found["growth"]))
    for name in theirs if "peers" in parts else ():
        here = replace(short, optimizer=name)
        row = compare(here, OURS + peers if peers else OURS[:1], options) | {"title": title(here)}
        found.setdefault("peers", {})[name] = row
        show(explain_report.peers_text(name, row))


def title(setting: Setting) -> str:
    kinds = "tanh, average pooling" if setting.smooth else "ReLU, max pooling"
    ending = ", no dropout, LogSoftmax" if setting.network == "peers" else ""
    return (f"MNIST CNN ({kinds}{ending}), {setting.samples} digits, batch {setting.batch}, "
            f"{setting.steps} steps, {setting.queries} queries")  # fmt: skip


if __name__ == "__main__":
    main()
