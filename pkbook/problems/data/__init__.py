"""The data of the paper's Section 5: planar sets, lines, images, printed glyphs; and a book.

Every function returns ``Samples(x, y)`` on the CPU, but ``alice``, which returns ``Passages``.
Without a ``generator`` the result is the same at every call; the global random state is never read
or changed.
"""

from pkbook.problems.data.download import cifar10_full, mnist_full
from pkbook.problems.data.glyphs import printed_faces, printed_glyphs
from pkbook.problems.data.images import cifar10, cifar10_classes, mnist
from pkbook.problems.data.lines import sine, square_wave
from pkbook.problems.data.planar import circle, ellipse, ring_and_disk
from pkbook.problems.data.samples import Samples
from pkbook.problems.data.text import Passages, alice

__all__ = [
    "Passages",
    "Samples",
    "alice",
    "cifar10",
    "cifar10_classes",
    "cifar10_full",
    "circle",
    "ellipse",
    "mnist",
    "mnist_full",
    "printed_faces",
    "printed_glyphs",
    "ring_and_disk",
    "sine",
    "square_wave",
]
