"""Times an ensemble of training runs and of their diffusion against a loop and against torchsde.

python benchmarks/ensembles.py [--json FILE] [--paths 4096] [--few 8] [--threads 2]
See README.md beside this file.
"""

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # the repository's package, and ``benchmarks`` as a package

import torch  # noqa: E402

from benchmarks import ensembles_methods as methods, report  # noqa: E402
from benchmarks.timing import Contestant, clocked, race, summary  # noqa: E402

PROCESSES = {  # ours, the loop, and further methods that run all paths at once
    "discrete": (methods.ours_discrete, methods.loop_discrete, {}),
    "diffusion": (
        methods.ours_diffusion,
        methods.loop_diffusion,
        {
            "torchsde, matrix": methods.torchsde_matrix,
            "torchsde, product": methods.torchsde_product,
        },
    ),
}


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add, default = parser.add_argument, methods.Setting()
    add("--json", type=Path, help="write everything to this file too")
    add("--paths", type=int, default=default.paths)
    add("--few", type=int, default=default.few, help="paths that the loops are timed on")
    add("--samples", type=int, default=default.samples)
    add("--batch", type=int, default=default.batch)
    add("--width", type=int, default=default.width, help="of the network 2-width-1")
    add("--steps", type=int, default=default.steps)
    add("--threads", type=int, default=2)
    add("--repeats", type=int, default=7)
    add("--seconds", type=float, default=300, help="what one method may take in all rounds")
    add("--peers", choices=("all", "none"), default="all")
    chosen = parser.parse_args(argv)
    counts = ("paths", "few", "samples", "batch", "width", "steps", "threads", "repeats")
    for name in counts:
        if getattr(chosen, name) < 1:
            parser.error(f"--{name} must be at least 1")
    if chosen.few > chosen.paths or chosen.batch > chosen.samples:
        parser.error("--few must be at most --paths, and --batch at most --samples")
    return chosen


def process(name: str, setting: methods.Setting, chosen: argparse.Namespace) -> dict:
    """Ours, the loop and the peers on one process: times, ratios to ours, checks."""
    ours, loop, peers = PROCESSES[name]
    ends = {"ours": ours(setting, setting.paths)}
    found: dict[str, dict] = {}
    for peer, make in peers.items() if chosen.peers == "all" else ():
        try:
            ends[peer] = make(setting, setting.paths)
        except ImportError as error:
            found[peer] = {"reason": str(error)}
    results: dict[str, torch.Tensor] = {}

    def keeping(key: str, run):
        return clocked(lambda: results.__setitem__(key, run()))

    few = on_one_thread(loop(setting, setting.few), chosen.threads)
    contestants = [Contestant(key, keeping(key, run)) for key, run in ends.items()]
    contestants.append(Contestant("loop", keeping("loop", few)))
    race(contestants, chosen.repeats, chosen.seconds)
    for contestant in contestants:
        found[contestant.name] = summary(contestant.times)
    share = setting.paths / setting.few
    found["loop"] |= {"timed_paths": setting.few, "extrapolated": found["loop"]["median"] * share}
    for row in found.values():
        if "median" in row:
            seconds = row.get("extrapolated", row["median"])
            row["ratio"] = seconds / found["ours"]["median"]
    same = ours(setting, setting.few)()  # the same normals as the loop's
    found["loop"]["largest_difference"] = (results["loop"] - same).abs().max().item()
    for key in peers:
        if key in results:
            found[key]["mean_difference_in_errors"] = _apart(results[key], results["ours"])
    return found


def on_one_thread(run, threads: int):
    """The loop's networks are so small that a second thread only slows it down."""

    def alone() -> torch.Tensor:
        torch.set_num_threads(1)
        try:
            return run()
        finally:
            torch.set_num_threads(threads)

    return alone


def _apart(a: torch.Tensor, b: torch.Tensor) -> float:
    """Difference of two means in units of its standard error."""
    error = (a.var() / len(a) + b.var() / len(b)).sqrt()
    return ((a.mean() - b.mean()) / error).item()


def text(name: str, rows: dict, setting: methods.Setting) -> str:
    lines = [
        f"{name}: {setting.paths} paths, {setting.steps} steps, MLP 2-{setting.width}-1, "
        f"N={setting.samples}, B={setting.batch}",
        f"  {'method':<20}{'median ms':>12}{'min':>10}{'runs':>6}{'/ours':>9}  check",
    ]
    for key in sorted(rows, key=lambda key: (key != "ours", key != "loop", key)):
        row = rows[key]
        if "reason" in row:
            lines.append(f"  {key:<20}  {row['reason']}")
            continue
        scale = 1e3 * row.get("extrapolated", row["median"]) / row["median"]
        check = ""
        if key == "loop":
            check = (
                f"largest difference {row['largest_difference']:.0e}; {row['timed_paths']} paths "
                f"timed in {1e3 * row['median']:.1f} ms, extrapolated"
            )
        elif key != "ours":
            check = f"means differ by {row['mean_difference_in_errors']:+.1f} standard errors"
        lines.append(
            f"  {key:<20}{scale * row['median']:12.1f}{scale * row['min']:10.1f}{row['runs']:6d}"
            f"{row['ratio']:9.1f}  {check}"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    chosen = arguments(argv)
    torch.set_num_threads(chosen.threads)
    sizes = ("paths", "few", "samples", "batch", "width", "steps")
    setting = methods.Setting(**{name: getattr(chosen, name) for name in sizes})
    machine = report.facts(chosen.threads, {"torchsde": "torchsde"})
    found = {"machine": machine, "setting": asdict(setting), "repeats": chosen.repeats}
    print(report.opening(machine))
    for name in PROCESSES:
        found[name] = process(name, setting, chosen)
        report.show(text(name, found[name], setting), found, chosen.json)
    print(f"\n{report.versions_text(machine)}")


if __name__ == "__main__":
    main()
