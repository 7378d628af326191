"""Train a small network in the page, drag a query, and see what each point did to the answer."""

from pkbook.lab.explorers.regression import draw, study, words
from pkbook.lab.live import Live

STILL = (0.1, 0.0)  # learning rate and momentum of the picture for readers without scripts


def playground(**settings: object) -> Live:
    """The playground; ``settings`` are initial values of its controls.

    ``data`` ("sine", "step", "bump", "outlier", "gap"), ``optimizer`` ("sgd", "momentum",
    "rmsprop", "adam", "adamw"), ``lr``, ``momentum``, ``batch``, ``width``, ``seed``.  It trains in
    the reader's browser; Python draws the still picture alone, which takes a second.
    """
    found = study(*STILL)
    return Live("playground", alt=words(found), still=lambda: draw(found), settings=settings)
