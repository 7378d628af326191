"""Drag one threshold out of the training interval, in the page: rank, kernel, what is missed."""

from pkbook.lab.experiments import rank_gap as e8
from pkbook.lab.explorers.outside_bias import CONFIG, draw, study, words
from pkbook.lab.live import Live

STILL = 1.2  # where the last threshold starts in the picture for readers without scripts


def dormant_unit(**settings: object) -> Live:
    """The chapter *Rank gap* in the page: the networks of E8's first seed, trained as one drags.

    ``settings`` are initial values of the controls: ``weight`` (of the last unit) and ``trained``
    ("biases" or "both").  It trains in the reader's browser; the still picture is that of
    :func:`outside_bias`.
    """
    begun, found = e8.start(CONFIG), study(STILL)
    told = {"teacher": begun.teacher[0].tolist(), "signs": begun.weights[0].tolist()}
    return Live("rank_gap", alt=words(found), still=lambda: draw(found), settings=told | settings)
