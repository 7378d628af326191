"""How many bytes a computation may take where its caller does not say."""

import os

import torch

LARGEST_DEFAULT = 2**30  # bytes; more does not make it faster


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device (a guess of 2 GiB where the system does not say)."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 2**31
