"""Times the gradient kernels against the hardware's limit and against other packages.

python benchmarks/kernels.py [--json FILE] [--cases A,B,...] [--peers all|none|NAME,...]
See README.md beside this file.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # the repository's package, and ``benchmarks`` as a package

import torch  # noqa: E402

from benchmarks import growth, report  # noqa: E402
from benchmarks.cases import CASES, build, shrink  # noqa: E402
from benchmarks.peers import PACKAGES, PEERS  # noqa: E402
from benchmarks.timing import Options, case_row  # noqa: E402

PARTS = ("cases", "memory", "weighted", "growth", "large")


def names(text: str, known: tuple[str, ...], what: str) -> tuple[str, ...]:
    """The names of a comma-separated list; "all" and "none" are understood."""
    if text in ("all", "none"):
        return known if text == "all" else ()
    chosen = tuple(text.split(","))
    for name in chosen:
        if name not in known:
            raise SystemExit(f"--{what}: expected some of {', '.join(known)}, came {name!r}")
    return chosen


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write everything to this file too")
    parser.add_argument("--cases", default="all", help=f"some of {','.join(CASES)}")
    parser.add_argument("--peers", default="all", help=f"some of {','.join(PEERS)}, or none")
    parser.add_argument("--parts", default="all", help=f"some of {','.join(PARTS)}")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=120,
                        help="what a method may take in all the rounds of a case (slower ones make "
                        "fewer), and at most in its first run")  # fmt: skip
    parser.add_argument("--factor", type=float, default=1.0, help="share of the samples")
    parser.add_argument("--jax-python", help="a Python with jax and neural-tangents")
    chosen = parser.parse_args(argv)
    if chosen.threads < 1 or chosen.repeats < 1:
        parser.error("--threads and --repeats must be at least 1")
    if not 0 < chosen.factor <= 1 or chosen.seconds <= 0:
        parser.error("--factor must lie in (0, 1] and --seconds above 0")
    return chosen


def main(argv: list[str] | None = None) -> None:
    chosen = arguments(argv)
    parts = names(chosen.parts, PARTS, "parts")
    peers = names(chosen.peers, PEERS, "peers")
    cases = names(chosen.cases, tuple(CASES), "cases")
    torch.set_num_threads(chosen.threads)
    options = Options(
        chosen.repeats, chosen.threads, peers, chosen.seconds, chosen.jax_python, "memory" in parts
    )
    found = {"machine": report.facts(chosen.threads, PACKAGES), "repeats": chosen.repeats}
    if chosen.factor != 1:
        found["factor"] = chosen.factor
    machine = found["machine"]
    print(report.opening(machine))

    show = partial(report.show, found=found, path=chosen.json)

    for name in cases if "cases" in parts else ():
        row = case_row(build(shrink(CASES[name], chosen.factor)), options, machine["versions"])
        found.setdefault("cases", {})[name] = row
        show(report.case_text(name, row))
    for part in ("weighted", "growth", "large"):
        if part in parts:
            found[part] = getattr(growth, part)(options, chosen.factor)
            show(getattr(report, f"{part}_text")(found[part]))
    show(report.versions_text(machine))


if __name__ == "__main__":
    main()
