"""Where a run was recorded, and whether a folder is that of the run at hand."""

import warnings
from pathlib import Path

import torch

from pkbook.runs.records import StepRecord
from pkbook.runs.steps import step_seed


def environment(device: torch.device) -> dict:
    """What the last bits of a computation depend on."""
    place = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": place,
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }


def differing(place: dict, device: torch.device) -> dict[str, tuple]:
    """What a place that steps were made in has otherwise than this one: there, and here."""
    here = environment(device) | {"processes": 1} if place else {}
    there = {"processes": 1} | place
    return {k: (there.get(k), v) for k, v in here.items() if there.get(k) != v}


def require_same_run(folder: str | Path, there: dict, here: dict) -> None:
    """Refuse the folder of another run, by what its manifest says."""
    for key, value in here.items():
        if key not in there or there[key] == value or key == "environment":
            continue
        if key != "pkbook":
            raise ValueError(
                f"folder {str(folder)!r} was recorded with another {key}: "
                f"{there[key]!r} there, {value!r} here"
            )
        warnings.warn(
            f"folder {str(folder)!r} was recorded with pkbook {there[key]}, this is {value}; "
            "what is replayed is compared with the checkpoints",
            stacklevel=3,
        )


def require_steps_in_order(folder: str | Path, steps: list[StepRecord], seed: int) -> None:
    """The seed of each step follows from its number: none is missing or moved."""
    for k, record in enumerate(steps):
        if record.seed != step_seed(seed, k):
            raise ValueError(
                f"line {k} of {Path(folder) / 'steps.jsonl'} is that of another step, or was "
                f"recorded with another seed than {seed}"
            )
