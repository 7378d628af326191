"""The global random generators, used and left as they were."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def kept(device: torch.device) -> Iterator[list[torch.Generator]]:
    """The generators of the CPU and of ``device``; whatever is drawn from them is undone.

    As ``torch.random.fork_rng`` does, without asking every accelerator, which takes as long as
    the forward pass of a small network.
    """
    generators = [torch.default_generator]
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        generators.append(torch.cuda.default_generators[index])
    states = [g.get_state() for g in generators]
    try:
        yield generators
    finally:
        for g, state in zip(generators, states, strict=True):
            g.set_state(state)


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Random numbers from a seed of their own."""
    with kept(device) as generators:
        for g in generators:
            g.manual_seed(seed)
        yield


@contextmanager
def others_kept() -> Iterator[None]:
    """The global generators of numpy and ``random``; whatever is drawn from them is undone."""
    numbers, own = np.random.get_state(), random.getstate()  # noqa: NPY002 - the global one
    try:
        yield
    finally:
        np.random.set_state(numbers)  # noqa: NPY002
        random.setstate(own)
