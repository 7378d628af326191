"""Width and output scale in the page: how far a kernel drifts, and what its forecast misses."""

from pkbook.lab.explorers.lazy_regime import draw, study, words
from pkbook.lab.live import Live

STILL = (16, 1.0)  # width and output scale of the picture for readers without scripts


def lazy_to_rich(**settings: object) -> Live:
    """The chapter *Lazy training* in the page: a network on a step beside its first forecast.

    ``settings`` are initial values of the controls: ``width``, ``scale`` and ``seed``.  It trains
    in the reader's browser; the still picture is one of :func:`lazy_regime`.
    """
    found = study(*STILL)
    return Live("lazy_training", alt=words(found), still=lambda: draw(found), settings=settings)
