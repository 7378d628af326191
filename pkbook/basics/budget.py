"""How many bytes a computation may take where its caller does not say."""

import os

import torch

from pkbook.basics.checks import require_whole

LARGEST_DEFAULT = 2**30  # bytes; more does not make it faster


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device (a guess of 2 GiB where the system does not say)."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 2**31


def budget(memory: int | None, device: torch.device) -> int:
    """``memory`` in bytes, checked; where it is None, a quarter of what is free, at most 1 GiB."""
    if memory is None:
        return min(free_memory(device) // 4, LARGEST_DEFAULT)
    return require_whole(memory, "memory")
