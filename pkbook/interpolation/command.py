r"""Recorded runs and explanations from the command line.

    python -m pkbook info FOLDER
    python -m pkbook verify FOLDER --setup my_training:setup
    torchrun --nproc-per-node 2 -m pkbook explain RUN --setup my_training:setup \
        --queries test.safetensors --out explained --top 5

FOLDER is that of a :class:`pkbook.Trajectory` or of :func:`pkbook.explain`.
``my_training:setup`` is a function that is called without arguments and makes what the run was
recorded with: ``(model, loss, optimizer, data)``, or a dict of those and of ``scheduler``,
``clip_norm`` and ``clip_value``.  The run is opened for reading only.
"""

import argparse
import math
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from pkbook.basics.command_line import (
    joined,
    load_function,
    load_tensor,
    number_of_bytes,
    number_of_seconds,
    positive_number,
    reported,
    where,
)
from pkbook.basics.files import read_checked
from pkbook.basics.processes import Processes
from pkbook.interpolation.chunks import KIND, complaints, refuse
from pkbook.interpolation.explain import explain
from pkbook.interpolation.explanation import Explanation
from pkbook.interpolation.options import RULES
from pkbook.interpolation.trajectory import Trajectory
from pkbook.runs.storage import FolderStore, load_manifest

SETUP = ("model", "loss", "optimizer", "data", "scheduler", "clip_norm", "clip_value")
QUERIES = 3
"""Training samples whose predictions ``verify`` takes apart."""
TOLERANCE = 1e-3
"""What their sums must close to: the default of :func:`pkbook.interpolate`."""
PATIENCE = 86_400.0
"""Seconds that processes wait for one another: longer than any chunk takes."""


def info(args: argparse.Namespace) -> None:
    """Say what a folder holds, from its manifest and its step log alone."""
    folder = Path(args.folder)
    manifest = load_manifest(folder / "manifest.json")
    told = _about_explanation if manifest.get("kind") == KIND else _about_run
    title, *lines = told(folder, manifest)
    print(f"{folder}: {title[1]}")
    for name, text in [title, *lines][1:]:
        print(f"  {name:<13} {text}")


def _about_run(folder: Path, manifest: dict) -> Iterator[tuple[str, str]]:
    store, _ = FolderStore.open(folder, read_only=True)
    place = manifest["environment"]
    shapes = manifest["parameters"]
    yield "", "a recorded run"
    yield "recorded with", f"pkbook {manifest['pkbook']}, torch {place['torch']}, {place['device']}"
    yield "samples", f"{manifest['samples']} (fingerprint {manifest['data']})"
    trained = sum(math.prod(shapes[name]) for name in manifest["trained"])
    yield "parameters", f"{_count(shapes)} in {len(shapes)} tensors, {trained} of them trained"
    yield "optimizer", f"{manifest['optimizer']}{_more(manifest)}"
    yield "steps", str(len(store.steps))
    if store.steps:
        first, last = store.steps[0], store.steps[-1]
        sizes = sorted({len(record.batch) for record in store.steps})
        yield (
            "batches",
            f"{sizes[0]} to {sizes[-1]} samples" if sizes[1:] else f"{sizes[0]} samples",
        )
        yield "learning rate", _from_to(_rates(first), _rates(last))
        yield "loss", _from_to(f"{first.loss:.4g}", f"{last.loss:.4g}")
    saved = store.saved()
    yield "checkpoints", f"{len(saved)}, every {manifest['every']} steps, the last at {saved[-1]}"
    yield "on disk", _size(folder)


def _about_explanation(folder: Path, manifest: dict) -> Iterator[tuple[str, str]]:
    told = Explanation.open(folder)
    run, options, missing = manifest["run"], manifest["options"], told.missing
    number = -(-len(told) // manifest["chunk"])
    yield "", "an explanation" + (", not finished" if missing else "")
    yield "written with", f"pkbook {manifest['pkbook']}, torch {manifest['torch']}"
    yield (
        "run",
        (
            f"{run['steps']} steps of {run['optimizer']}, {run['samples']} samples, "
            f"{_count(run['parameters'])} parameters (fingerprint {run['last']})"
        ),
    )
    yield "queries", f"{len(told)} ({manifest['queries']['content']})"
    yield "outputs", f"{manifest['outputs']} ({manifest['width']} of each query)"
    yield "options", ", ".join(f"{name} {value}" for name, value in options.items())
    there = number - len(missing)
    yield "chunks", f"{there} of {number} are there, {manifest['chunk']} queries each"
    yield "on disk", _size(folder)


def _more(manifest: dict) -> str:
    names = ("scheduler", "clip_norm", "clip_value")
    return "".join(f", {name} {manifest[name]}" for name in names if manifest.get(name) is not None)


def _rates(record) -> str:
    return ", ".join(f"{float(group['lr']):.4g}" for group in record.settings)


def _from_to(first: str, last: str) -> str:
    return first if first == last else f"{first} at the first step, {last} at the last"


def _count(shapes: dict[str, list[int]]) -> int:
    return sum(math.prod(shape) for shape in shapes.values())


def _size(folder: Path) -> str:
    size = float(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()))
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.4g} GiB"


def verify(args: argparse.Namespace) -> None:
    """Read every file against its checksum; with a setup, replay and take a few samples apart."""
    folder = Path(args.folder)
    manifest = load_manifest(folder / "manifest.json")
    if manifest.get("kind") == KIND:
        if args.setup:
            raise ValueError(
                f"--setup is for the folder of a run, and {str(folder)!r} holds an explanation; "
                "leave it out"
            )
        _verify_explanation(folder)
        return
    _verify_files(folder)
    if args.setup:
        with _opened(args) as run:
            _verify_replay(run)


def _verify_files(folder: Path) -> None:
    """The step log line by line, and each checkpoint."""
    damaged, steps = [], 0
    with warnings.catch_warnings(record=True) as said:  # a line that is not whole
        warnings.simplefilter("always")
        try:
            steps = len(FolderStore.open(folder, read_only=True)[0].steps)
        except ValueError as error:
            damaged.append(str(error))
    damaged += [str(warning.message) for warning in said]
    files = sorted(folder.rglob("*.safetensors"))
    damaged += complaints(read_checked, files)
    refuse(damaged)
    print(f"{folder}: {steps} steps and {len(files)} checkpoints are whole")


def _verify_explanation(folder: Path) -> None:
    told = Explanation.open(folder)
    gap = told.verify()
    print(f"{folder}: all chunks are whole, {len(told)} queries, gap at most {gap:.2g}")


def _verify_replay(run: Trajectory) -> None:
    """Replay every segment, then ask for the predictions at a few training samples."""
    gap = run.verify()
    print(f"replay: {len(run)} steps, " + ("bit for bit" if gap == 0 else f"off by {gap:.2g}"))
    picked = torch.linspace(0, len(run.x) - 1, min(QUERIES, len(run.x))).long()
    told = explain(run, run.x[picked.to(run.x.device)], tolerance=TOLERANCE)
    worst = told.completeness.max().item()
    if not worst <= TOLERANCE:
        raise ValueError(
            f"the contributions to samples {picked.tolist()} leave {worst:.2g} of the change "
            f"unexplained, more than {TOLERANCE:g}"
        )
    print(f"completeness: at most {worst:.2g} at samples {picked.tolist()}")


@contextmanager
def _opened(args: argparse.Namespace) -> Iterator[Trajectory]:
    with Trajectory.open(args.folder, **load_setup(args.setup), read_only=True) as run:
        yield run


def load_setup(spec: str) -> dict:
    """Call ``module:function``: the arguments of ``Trajectory.open``, by name."""
    make = load_function(spec, "--setup", "my_training:setup")
    try:
        made = make()
    except Exception as error:
        raise ValueError(
            f"--setup {spec} failed: {type(error).__name__}: {error} ({where(error)})"
        ) from error
    if isinstance(made, tuple | list) and len(made) == 4:
        made = dict(zip(SETUP, made, strict=False))
    if not isinstance(made, dict):
        raise TypeError(
            f"--setup {spec} must return (model, loss, optimizer, data) or a dict of them, "
            f"got {type(made).__name__}"
        )
    wrong = [f"no {name}" for name in SETUP[:4] if name not in made]
    wrong += [f"an unknown {name!r}" for name in made if name not in SETUP]
    if wrong:
        raise ValueError(
            f"--setup {spec} must return a dict of {', '.join(SETUP[:4])}, and where the run has "
            f"them {', '.join(SETUP[4:])}; it has {', '.join(wrong)}"
        )
    return made


def explain_command(args: argparse.Namespace) -> None:
    """Take queries apart into a folder, on one process or on several."""
    with joined("gloo", args.timeout):
        processes = Processes(None, args.timeout, torch.device("cpu"))

        def prepare() -> tuple[Trajectory, Tensor, int | Tensor | None]:
            queries = load_tensor(args.queries, "--queries")
            outputs = load_outputs(args.outputs)
            return (
                Trajectory.open(args.folder, **load_setup(args.setup), read_only=True),
                queries,
                outputs,
            )

        run, queries, outputs = processes.together("opening the run", prepare)
        told = explain(
            run,
            queries,
            folder=args.out,
            outputs=outputs,
            chunk=args.chunk,
            memory=args.memory,
            timeout=args.timeout,
            progress=args.progress,
            rule=args.rule,
            nodes=args.nodes,
            tolerance=args.tolerance,
            most_pieces=args.most_pieces,
            layers=args.layers,
        )
        if processes.index == 0:
            _print_told(args, told, processes.size)


def _print_told(args: argparse.Namespace, told: Explanation, processes: int) -> None:
    manifest = told.manifest
    print(
        f"{args.out}: {len(told)} queries, {manifest['width']} output(s) of each, by "
        f"{manifest['run']['samples']} samples, in chunks of {manifest['chunk']}, by {processes} "
        "process(es)"
    )
    for query, one in enumerate(told if args.top else ()):
        gap = one.completeness.item()
        for output, (before, after) in enumerate(zip(one.initial[0], one.final[0], strict=True)):
            print(f"query {query}, output {output}: {before:.4g} -> {after:.4g}, gap {gap:.2g}")
            for sample, share in zip(*one.top(args.top, 0, output), strict=True):
                print(f"  sample {int(sample)}: {float(share):+.4g}")
    sys.stdout.flush()


def load_outputs(text: str) -> int | Tensor | None:
    """``all``, one number, one for each query with commas between them, or a file of them."""
    if text == "all":
        return None
    if text.endswith(".safetensors"):
        return load_tensor(text, "--outputs")
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise ValueError(
            f"--outputs must be all, a number, numbers with commas between them (one for each "
            f"query) or a safetensors file of them, got {text!r}"
        ) from error
    return numbers[0] if len(numbers) == 1 else torch.tensor(numbers)


def _tolerance(text: str) -> float | None:
    if text == "none":
        return None
    number = float(text)
    if not 0 < number < math.inf:
        raise ValueError
    return number


_tolerance.__name__ = "tolerance (a positive number or none), as a"  # for argparse


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pkbook", description="Recorded runs, and predictions taken apart."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    setup = "module:function, called without arguments; returns (model, loss, optimizer, data)"

    def command(name: str, work: Callable, text: str, folder: str) -> Callable:
        one = commands.add_parser(name, help=text, description=text)
        one.set_defaults(work=work)
        one.add_argument("folder", metavar="FOLDER", help=folder)
        return one.add_argument

    either = "folder of a run or of an explanation"
    command("info", info, "Say what a folder holds.", either)
    add = command("verify", verify, "Check every file of a folder against its checksum.", either)
    add("--setup", help=f"replay the run as well: {setup}")
    add = command("explain", explain_command, "Take predictions apart.", "folder of a run")
    add("--setup", required=True, help=setup)
    add("--queries", required=True, help="safetensors file with one tensor, or one named x")
    add("--out", required=True, help="folder for the result; one that was begun is gone on with")
    add("--outputs", default="all", help="all (default), 3, or one for each query: 3,1,4 or a file")
    add("--rule", choices=RULES, default="gauss")
    add("--nodes", type=positive_number, default=3, help="quadrature nodes (default 3)")
    add("--tolerance", type=_tolerance, default=1e-3, help="default 0.001; none: never bisect")
    add("--most-pieces", type=positive_number, default=64, help="of a step (default 64)")
    add("--layers", action="store_true", help="also the contributions by parameter tensor")
    few = "queries at a time (default: what memory allows)"
    add("--chunk", type=positive_number, help=few)
    add("--memory", type=number_of_bytes, help="bytes for each process, as 500M or 2G")
    add("--top", type=positive_number, metavar="K", help="print the K samples that moved most")
    add("--progress", action="store_true", help="show a bar")
    waiting = "seconds to wait for another process, longer than a chunk takes (default a day)"
    add("--timeout", type=number_of_seconds, default=PATIENCE, help=waiting)
    return parser


@contextmanager
def _short_warnings() -> Iterator[None]:
    """Warnings on stderr in one line, without the line of code."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: print(f"warning: {message}", file=sys.stderr)
        yield


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code, with a message on stderr where it is not 0."""
    args = _parser().parse_args(argv)
    with _short_warnings():
        return reported(f"pkbook {args.command}", args.work, args)
