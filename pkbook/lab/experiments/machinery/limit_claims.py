"""Rows of the results table for the paper's claims on limits: of small steps, of long training, and
of distance from the data.

The bounds were fixed before the experiments were run.
"""

from pkbook.lab.experiments.machinery.results import Claim, Criterion

LIMIT_CLAIMS = (
    Claim(
        "C8",
        "finite learning rate",
        "Sec. 1, 6",
        "The representation holds at a finite learning rate, without the limit of small steps.",
        "exact_formula",
        (
            Criterion("smallest rate: largest share of the change left out", None, 0.05),
            Criterion("large rates: largest share of the change left out", None, 0.05),
        ),
    ),
    Claim(
        "C9",
        "simple tasks are extrapolated",
        "Sec. 1",
        "In simple cases networks extrapolate perfectly; in more complex ones they do not.",
        "null_space",
        (
            Criterion("powers of x, ten times beyond the data: relative error", None, 1e-3),
            Criterion("linear network, ten times beyond the data: relative error", None, 1e-3),
            Criterion("tanh network, ten times beyond the data: relative error", 0.1),
            Criterion("linear network, a direction without data: relative error"),
        ),
    ),
    Claim(
        "C10",
        "the residual's way to the null space",
        "Thm 3.8",
        "At the end of training the mean of T r goes to zero in proportion to the learning rate.",
        "null_space",
        (Criterion("order of the mean of T r", 0.75),),
    ),
)
