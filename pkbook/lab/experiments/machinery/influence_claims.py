"""Rows of the results table for who is needed, which goes beyond the paper.

The bounds were fixed after first trials, which had shown the size of C20's correlations, and before
the trainings that they judge.
"""

from pkbook.lab.experiments.machinery.results import Claim, Criterion

INFLUENCE_CLAIMS = (
    Claim(
        "C20",
        "who is needed is not who pushed",
        "beyond the paper",
        "What leaving a sample out does to a prediction is told by the derivative of the whole "
        "training by its weight, and not by the sample's contribution.",
        "influence",
        (
            Criterion("correlation of influence with leaving one out", 0.9),
            Criterion("the same, influence minus contribution", 0.1),
            Criterion("leaving one out over contribution, mean sizes", None, 0.5),
            Criterion("correlation of contribution with leaving one out"),
        ),
    ),
    Claim(
        "C21",
        "a derivative forecasts small changes",
        "beyond the paper",
        "The sum of influences forecasts what leaving out one sample does, and fails for half of "
        "the data.",
        "influence",
        (
            Criterion("one sample: error of the forecast over the change", None, 0.5),
            Criterion("half of the samples: error of the forecast over the change", 0.5),
            Criterion("one sample: correlation of forecast and change"),
            Criterion("half of the samples: correlation of forecast and change"),
        ),
    ),
)
