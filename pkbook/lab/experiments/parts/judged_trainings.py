"""Trainings that accounts are asked about, kept when finished, and those that judge them."""

import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor
from tqdm.auto import tqdm

from pkbook.evaluation import subsets
from pkbook.lab.experiments.machinery.training import remembered

Name = TypeVar("Name", str, float)
"""Of a training among those of one seed: its optimizer or its rate."""


def left_out_rows(samples: int, trainings: int, shares: Sequence[float]) -> Tensor:
    """Which samples each training is made with, the same for all seeds: ``[L, R, N]``."""
    return torch.stack([
        subsets(samples, trainings, fraction=1 - share, seed=k) for k, share in enumerate(shares)
    ])  # fmt: skip


def for_all_seeds(
    pairs: Sequence[tuple[Name, int]],
    make: Callable[[Name, int], dict[str, Tensor]],
    settings: str,
    folder: Path | None,
    progress: bool,
) -> dict[Name, dict[str, Tensor]]:
    """``make(name, seed)`` for all pairs, the seeds of a name stacked in front.

    Finished ones are kept in ``folder`` under their name, seed and ``settings``, and taken up.
    """
    found: dict[Name, list[dict[str, Tensor]]] = {name: [] for name, _ in pairs}
    for name, seed in tqdm(pairs, disable=not progress, desc="trainings taken apart"):
        stem = f"{name}-seed{seed}-{zlib.crc32(settings.encode()):08x}"
        path = None if folder is None else folder / stem
        found[name].append(remembered(path, lambda a=(name, seed): make(*a)))
    return {
        name: {key: torch.stack([one[key] for one in each]) for key in each[0]}
        for name, each in found.items()
    }
