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
    load_tensor,
    number_of_bytes,
    number_of_seconds,
    positive_number,
    reported,
)
from pkbook.basics.processes import Processes
from pkbook.interpolation.explain import explain
from pkbook.interpolation.explanation import Explanation
from pkbook.interpolation.folders import info, load_setup, verify
from pkbook.interpolation.options import DEFAULT, RULES
from pkbook.interpolation.question import KINDS
from pkbook.interpolation.result import Interpolation
from pkbook.interpolation.trajectory import Trajectory

PATIENCE = 86_400.0
"""Seconds that processes wait for one another: longer than any chunk takes."""


def info_command(args: argparse.Namespace) -> None:
    """Say what a folder holds."""
    info(Path(args.folder))


def verify_command(args: argparse.Namespace) -> None:
    """Check a folder; with a setup, replay the run."""
    verify(Path(args.folder), args.setup)


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
            kind=args.kind,
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
            by_parameter=args.by_parameter,
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
        for output, after in enumerate(one.final[0]):
            text = f"{after:.4g}, derivatives by the samples' weights"
            if isinstance(one, Interpolation):
                before, gap = one.initial[0, output], one.completeness.item()
                text = f"{before:.4g} -> {after:.4g}, gap {gap:.2g}"
            print(f"query {query}, output {output}: {text}")
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


def _add_options(add: Callable) -> None:
    """The options of :func:`pkbook.interpolate` that fit on a command line."""
    shown = "(default %(default)s)"
    add("--rule", choices=RULES, default=DEFAULT.rule, help=shown)
    add("--nodes", type=positive_number, default=DEFAULT.nodes, help=f"quadrature nodes {shown}")
    closing = f"of the change of a query; none: never split {shown}"
    add("--tolerance", type=_tolerance, default=DEFAULT.tolerance, help=closing)
    pieces = f"of a step {shown}"
    add("--most-pieces", type=positive_number, default=DEFAULT.most_pieces, help=pieces)
    split = "also the contributions by parameter tensor (--layers: its old name)"
    add("--by-parameter", "--layers", action="store_true", help=split)


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
    command("info", info_command, "Say what a folder holds.", either)
    whole = "Check every file of a folder against its checksum."
    add = command("verify", verify_command, whole, either)
    add("--setup", help=f"replay the run as well: {setup}")
    add = command("explain", explain_command, "Take predictions apart.", "folder of a run")
    add("--setup", required=True, help=setup)
    add("--queries", required=True, help="safetensors file with one tensor, or one named x")
    add("--out", required=True, help="folder for the result; one that was begun is gone on with")
    add("--outputs", default="all", help="all (default), 3, or one for each query: 3,1,4 or a file")
    what = "contributions (what happened) or influence (what would have happened) (default first)"
    add("--kind", choices=KINDS, default=KINDS[0], help=what)
    _add_options(add)
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
