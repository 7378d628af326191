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
    Claim(
        "C22",
        "influence forecasts small changes",
        "beyond the paper",
        "Trained without a twentieth of the digits, the network answers as the sum of influences "
        "says, and no other account says it better.",
        "accounts",
        (
            Criterion("a twentieth left out: score of influence", 0.5),
            Criterion("a twentieth left out: influence less contributions", 0.0),
            Criterion("a twentieth left out: influence less Gauss-Newton influence", 0.0),
            Criterion("a twentieth left out: score of contributions"),
        ),
        "accounts",
    ),
    Claim(
        "C23",
        "the exact account is not the best forecast",
        "beyond the paper",
        "Contributions add up to the prediction exactly, and still other accounts forecast better "
        "what a training without half of the digits would say.",
        "accounts",
        (
            Criterion("half left out: Gauss-Newton influence less contributions", 0.0),
            Criterion("half left out: influence less contributions", 0.0),
            Criterion("half left out: score of contributions"),
            Criterion("half left out: score of influence"),
            Criterion("half left out: score of Gauss-Newton influence"),
        ),
        "accounts",
    ),
    Claim(
        "C24",
        "who is named first was needed",
        "beyond the paper",
        "Without the digits that influence names first a prediction loses more than without as "
        "many random ones of the same class.",
        "accounts",
        (
            Criterion("log-odds lost, by influence less by chance", 0.0),
            Criterion("log-odds lost, by contributions less by chance"),
            Criterion("log-odds lost, by influence"),
            Criterion("log-odds lost, by contributions"),
            Criterion("log-odds lost, by the cosine of the pictures"),
        ),
        "accounts",
    ),
    Claim(
        "C25",
        "wrong labels are found by the simple number",
        "beyond the paper",
        "Of numbers that may find wrong labels the mean loss along the training is the best, "
        "ahead of a sample's contribution to its own prediction.",
        "accounts",
        (
            Criterion("chance to rank a wrong label first: mean loss on the way", 0.9),
            Criterion("the same, less that of the own contribution", 0.0),
            Criterion("the same: own contribution"),
            Criterion("the same: loss at the end"),
        ),
        "accounts",
    ),
    Claim(
        "C26",
        "a derivative forecasts where training is calm",
        "beyond the paper",
        "Trained without a twentieth of its passages, a small language model answers as the sum "
        "of influences says if its learning rate is small, and not if it is large.",
        "accounts",
        (
            Criterion("small rate: score of influence less contributions", 0.0),
            Criterion("score of influence, small rate less large rate", 0.0),
            Criterion("small rate: score of influence"),
            Criterion("small rate: score of contributions"),
            Criterion("large rate: score of influence"),
            Criterion("small rate: score of shared words"),
        ),
        "passages",
    ),
)
