"""What recording and explaining cost for trainings as their authors write them.

    python benchmarks/integrations.py                # all whose libraries are installed
    python benchmarks/integrations.py gpt2 vae       # some

One thread; each training is made once to warm up, once plain and once recorded.  The queries, the
outputs that are explained and the lines for the record are those of ``tests/integrations``.
"""

import argparse
import contextlib
import functools
import importlib.util
import io
import logging
import sys
import time
import warnings
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:1] = [str(ROOT / "tests"), str(ROOT)]  # not this folder, where `integrations` is this

from integrations import recording  # noqa: E402
from integrations.test_workloads import NEEDS  # noqa: E402

HEAD = (
    "| training | steps | lines | plain, s | recorded | explained | by token | completeness "
    "| same bits |"
)
RULE = "|:--|--:|--:|--:|--:|--:|--:|--:|:-:|"
SEQUENCES = ("gpt2", "hf_trainer")
"""Those whose loss is one number of the tokens of its sequences."""


def timed(function, *arguments) -> tuple[float, object]:
    start = time.perf_counter()
    value = function(*arguments)
    return time.perf_counter() - start, value


def row(name: str) -> str:
    """One training: its seconds, and those of its record and its explanation in units of them."""
    way = recording.WAYS[name]
    recording.train(name, recording.make(name))
    plain, weights = timed(recording.train, name, recording.make(name))
    w = recording.make(name)
    recorded, (watched, run) = timed(recording.recorded, name, w)
    same = all(torch.equal(weights[part], watched[part]) for part in weights)
    same = same and run.verify() == 0
    explained, complete = timed(recording.explained, name, w, run)
    by_token = "-"
    if name in SEQUENCES:
        told = functools.partial(recording.explained, by_token=True)
        by_token = f"{timed(told, name, w, run)[0] / plain:.0f} x"
    return (
        f"| {name} | {len(run)} | {way.lines} | {plain:.2f} | {recorded / plain:.1f} x | "
        f"{explained / plain:.0f} x | {by_token} | {complete:.0e} | {'yes' if same else 'no'} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=list(NEEDS), metavar="NAME")
    names = parser.parse_args().names
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    print(HEAD, RULE, sep="\n", flush=True)
    for name in names:
        missing = [lib for lib in NEEDS[name] if importlib.util.find_spec(lib) is None]
        with contextlib.redirect_stdout(io.StringIO()):  # what the Trainers tell
            told = f"| {name} | needs {', '.join(missing)} |" if missing else row(name)
        print(told, flush=True)


if __name__ == "__main__":
    main()
