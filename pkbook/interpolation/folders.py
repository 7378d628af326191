"""What the folder of a run or of an explanation holds, and whether it is whole: to be printed."""

import math
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch

from pkbook.basics.command_line import load_function, where
from pkbook.basics.files import read_checked
from pkbook.interpolation.chunks import KIND, complaints, refuse
from pkbook.interpolation.explain import explain
from pkbook.interpolation.explanation import Explanation
from pkbook.interpolation.self_influence import own_queries
from pkbook.interpolation.trajectory import Trajectory
from pkbook.runs.storage import FolderStore, load_manifest

SETUP = ("model", "loss", "optimizer", "data", "scheduler", "clip_norm", "clip_value")
QUERIES = 3
"""Training samples whose predictions ``verify`` takes apart."""
TOLERANCE = 1e-3
"""What their sums must close to: the default of :func:`pkbook.interpolate`."""


def info(folder: Path) -> None:
    """Say what a folder holds, from its manifest and its step log alone."""
    manifest = load_manifest(folder / "manifest.json")
    about = _about_explanation if manifest.get("kind") == KIND else _about_run
    (_, title), *lines = about(folder, manifest)
    print(f"{folder}: {title}")
    for name, text in lines:
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
    every = manifest["every"]
    spaced = f'every="{every}"' if isinstance(every, str) else f"every {every} steps"
    yield "checkpoints", f"{len(saved)}, {spaced}, the last at {saved[-1]}"
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


def verify(folder: Path, setup: str | None) -> None:
    """Read every file against its checksum; with a setup, replay and take a few samples apart."""
    manifest = load_manifest(folder / "manifest.json")
    if manifest.get("kind") == KIND:
        if setup:
            raise ValueError(
                f"--setup is for the folder of a run, and {str(folder)!r} holds an explanation; "
                "leave it out"
            )
        _verify_explanation(folder)
        return
    _verify_files(folder)
    if setup:
        with Trajectory.open(folder, **load_setup(setup), read_only=True) as run:
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
    picked = torch.linspace(0, run.samples - 1, min(QUERIES, run.samples)).long()
    told = explain(run, own_queries(run, picked), tolerance=TOLERANCE)
    worst = told.completeness.max().item()
    if not worst <= TOLERANCE:
        raise ValueError(
            f"the contributions to samples {picked.tolist()} leave {worst:.2g} of the change "
            f"unexplained, more than {TOLERANCE:g}"
        )
    print(f"completeness: at most {worst:.2g} at samples {picked.tolist()}")


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
