"""What a forward pass was made under, beside its samples: random numbers, autocast, loss scale."""

import base64
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass

import torch

from pkbook.basics.randomness import kept, seeded


@dataclass(frozen=True)
class Conditions:
    """Of one forward pass in a loop that is not ours; those of our own follow from the seed."""

    random: tuple[str, ...] = ()
    """States of the generators of the CPU and the device; empty where nothing was drawn."""
    autocast: str = ""
    """The type that autocast computed in, ``"bfloat16"`` say; empty without it."""
    divided_by: float = 0.0
    """What the loss of the pass was divided by before its backward pass; 0: by the passes."""
    scale: float = 1.0
    """What a ``GradScaler`` multiplied the loss with, and divided the gradients by."""
    cache: bool = True
    """Whether autocast kept its casts of weights, whose gradients then meet in its type."""

    def as_json(self) -> dict:
        return {k: v for k, v in asdict(self).items() if v != getattr(PLAIN, k)}


PLAIN = Conditions()


def states(device: torch.device) -> tuple[str, ...]:
    """The states of the generators now."""
    with kept(device) as generators:
        return tuple(base64.b64encode(g.get_state().numpy().tobytes()).decode() for g in generators)


@contextmanager
def drawn_as(random: tuple[str, ...], seed: int, device: torch.device) -> Iterator[None]:
    """Random numbers from recorded states; where there are none, from a seed of their own."""
    if not random:
        with seeded(seed, device):
            yield
        return
    with kept(device) as generators:
        for g, state in zip(generators, random, strict=True):
            g.set_state(torch.frombuffer(bytearray(base64.b64decode(state)), dtype=torch.uint8))
        yield


def autocast_now(device: torch.device) -> str:
    """The type that autocast computes in now; empty without it."""
    if not torch.is_autocast_enabled(device.type):
        return ""
    return str(torch.get_autocast_dtype(device.type)).removeprefix("torch.")


def cast_as(under: Conditions, device: torch.device):
    """A block under the autocast of a pass."""
    if not under.autocast:
        return nullcontext()
    kind = getattr(torch, under.autocast)
    return torch.autocast(device.type, kind, cache_enabled=under.cache)
