"""How good an account of training samples is: forecasts against trainings that really happened.

Scores are numbers ``[N, m]``, one for each training sample and query, however they were found: the
contributions or the influence of this package, or those of any other.
"""

from pkbook.evaluation.datamodels import linear_datamodeling_score, subsets
from pkbook.evaluation.interval import Interval
from pkbook.evaluation.mislabelled import Detection, mislabelled
from pkbook.evaluation.removal import Curve, answers, leave_one_out, removal_curve

__all__ = [
    "Curve",
    "Detection",
    "Interval",
    "answers",
    "leave_one_out",
    "linear_datamodeling_score",
    "mislabelled",
    "removal_curve",
    "subsets",
]
