"""``python -m pkbook``: one command line, whose commands lie in the rooms of the package.

A room is imported when its command is asked for, so that ``info`` does not wait for the book's
figures.
"""

import argparse
import sys
from importlib import import_module

from pkbook.basics.command_line import leave

EXPERIMENT = "pkbook.lab.experiments.machinery.command"
KERNEL = "pkbook.kernels.command"
INTERPOLATION = "pkbook.interpolation.command"
COMMANDS = {
    "info": (INTERPOLATION, "Say what a folder holds."),
    "verify": (INTERPOLATION, "Check every file of a folder against its checksum."),
    "explain": (INTERPOLATION, "Take predictions apart."),
    "kernel": (KERNEL, "Gradient kernel of a model on two sets of inputs."),
    "experiment": (EXPERIMENT, "Run an experiment of the paper; write its figures and numbers."),
}
"""For each command the module whose ``main`` does it, and what it is for."""


def _parser() -> argparse.ArgumentParser:
    listed = "\n".join(f"  {name:<12} {text}" for name, (_, text) in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="python -m pkbook",
        usage="%(prog)s [-h] COMMAND ...",
        description="How a trained network's prediction is assembled from its training samples.",
        epilog=f"commands (python -m pkbook COMMAND --help says more):\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of those below")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    words = sys.argv[1:] if argv is None else argv
    name = _parser().parse_args(words[:1]).command  # the words after it are for the command
    module, _ = COMMANDS[name]
    several = module == INTERPOLATION  # one parser of three commands: it wants the name, too
    return import_module(module).main(words if several else words[1:])


if __name__ == "__main__":
    leave(main())
