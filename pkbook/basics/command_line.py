"""What the commands of the package share: arguments, files, the reader's functions, exit codes."""

import argparse
import importlib
import os
import socket
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from torch import Tensor


def load_tensor(path: str, argument: str) -> Tensor:
    """The only tensor of a safetensors file, or the one named ``x``."""
    try:
        with safe_open(path, framework="pt") as f:
            names = list(f.keys())
            name = names[0] if len(names) == 1 else "x"
            if name not in names:
                raise ValueError(
                    f"{argument} {path} must hold one tensor, or one that is named 'x'; "
                    f"it holds {', '.join(names) or 'none'}"
                )
            return f.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{argument} {path} cannot be read as safetensors: {error}") from error


def load_function(spec: str, argument: str, example: str) -> Callable:
    """The function that ``module:function`` names."""
    module, colon, function = spec.partition(":")
    if not (module and colon and function):
        raise ValueError(f"{argument} must be module:function, got {spec!r}; write {example}")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{argument} {spec}: {error}") from error
    if not callable(found):
        raise TypeError(f"{argument} {spec} must be a function, got {type(found).__name__}")
    return found


def place(name: str) -> torch.device:
    """The device of this rank: under torchrun the GPU with its local number."""
    device = torch.device(name)
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ValueError(f"--device {name}: torch finds no CUDA device; write --device cpu")
        index = int(os.environ.get("LOCAL_RANK", 0)) if device.index is None else device.index
        if index >= torch.cuda.device_count():
            raise ValueError(
                f"--device {name}: there is no GPU {index}, only {torch.cuda.device_count()}; "
                "start at most one process for each GPU"
            )
        torch.cuda.set_device(index)
        return torch.device("cuda", index)
    return device


@contextmanager
def joined(backend: str, timeout: float) -> Iterator[None]:
    """The process group that torchrun's variables describe, if there are any."""
    world = int(os.environ.get("WORLD_SIZE", 1))
    if world == 1:
        yield
        return
    if os.environ.get("LOCAL_WORLD_SIZE") == str(world):  # one machine: stay inside it
        for name in {n for _, n in socket.if_nameindex()} & {"lo", "lo0"}:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
            os.environ.setdefault("NCCL_SOCKET_IFNAME", name)
    dist.init_process_group(backend, timeout=timedelta(seconds=timeout))
    yield
    dist.destroy_process_group()  # not after an error: it would wait for ranks that are gone


def number_of_bytes(text: str) -> int:
    """A number of bytes, with or without K, M or G (powers of 1024)."""
    shift = {"K": 10, "M": 20, "G": 30}.get(text[-1:].upper(), 0)
    number = int(text[:-1] if shift else text) << shift
    if number < 1:
        raise ValueError
    return number


def number_of_seconds(text: str) -> float:
    """A positive number."""
    number = float(text)
    if not 0 < number < 1e7:
        raise ValueError
    return number


def positive_number(text: str) -> int:
    """A whole number of at least 1."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number


# for argparse, which says "invalid number of bytes value: 'many'"
number_of_bytes.__name__, number_of_seconds.__name__ = "number of bytes", "number of seconds"
positive_number.__name__ = "number of at least 1, as a"


def reported(name: str, work: Callable[[argparse.Namespace], int | None], args) -> int:
    """The exit code of ``work(args)``; an error is told on stderr, without a traceback."""
    try:
        return work(args) or 0
    except (Exception, KeyboardInterrupt) as error:
        rank = os.environ.get("RANK")
        who = name if rank is None else f"{name}, rank {rank}"
        print(f"{who}: {type(error).__name__}: {error}", file=sys.stderr)
        return 130 if isinstance(error, KeyboardInterrupt) else 1


def where(error: BaseException) -> str:
    """The line of code that raised an error, for errors in the reader's own code."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{os.path.basename(frames[-1].filename)}, line {frames[-1].lineno}" if frames else "?"


def leave(code: int) -> None:
    """End the process."""
    if code:  # no clean-up: it could wait for processes that are gone
        with suppress(OSError):  # nobody may be listening any more
            sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
