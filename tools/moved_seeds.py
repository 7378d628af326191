"""Move every seed of a session: what the same code finds with other random numbers.

Runs at the start of a kernel (from its profile) when ``PKBOOK_MOVED_SEEDS`` is a number. A seed
that code gives to torch or numpy is then another one, the same for the same seed.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy
import torch


def move(by: int) -> None:
    """Replace the ways to give a seed; each adds ``by`` to it."""
    of_torch, of_numpy, plain = torch.manual_seed, numpy.random.default_rng, torch.Generator

    class Generator(plain):
        def manual_seed(self, seed: int) -> torch.Generator:
            return super().manual_seed(seed + by)

    def default_rng(seed: object = None) -> numpy.random.Generator:
        return of_numpy(seed + by if isinstance(seed, int) else seed)

    class Moved:
        """The global generator, of whose class there can be no other; `pkbook` seeds it."""

        def __init__(self, generator: torch.Generator) -> None:
            self.generator = generator

        def manual_seed(self, seed: int) -> torch.Generator:
            return self.generator.manual_seed(seed + by)

        def __getattr__(self, name: str) -> object:
            return getattr(self.generator, name)

    import pkbook.basics.randomness as randomness

    kept = randomness.kept

    @contextmanager
    def moved(device: torch.device) -> Iterator[list[Moved]]:
        with kept(device) as generators:
            yield [Moved(generator) for generator in generators]

    randomness.kept = moved  # looked up by `seeded` when it is called
    torch.Generator = Generator
    torch.manual_seed = lambda seed: of_torch(seed + by)
    numpy.random.default_rng = default_rng


if shift := int(os.environ.get("PKBOOK_MOVED_SEEDS") or 0):
    move(shift)
