"""Training under ``torch.inference_mode``."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def outside_inference() -> Iterator[None]:
    """As outside of ``torch.inference_mode``, in which no tensor could ever be trained.

    Elsewhere, it does nothing; the grad mode of the caller stays.

    >>> with torch.inference_mode(), outside_inference():
    ...     bool(torch.ones(1).is_inference())
    False
    """
    if not torch.is_inference_mode_enabled():
        yield
        return
    with torch.inference_mode(False):
        yield
