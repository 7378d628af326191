"""What Appendix D of the paper says of single optimizers in its Figure 10, a row for each sentence.

The bounds were fixed before anything was counted: half for "separates", zero for "negative", a
twentieth for "not monotone", E10's own bound for "near one".
"""

from pkbook.lab.experiments.machinery.results import Claim, Criterion

FOUR = ("SGD", "SGDM", "RMSprop", "Adam")

APPENDIX_D = (
    Claim(
        "D1",
        "SGDM separates the classes first",
        "App. D, Fig. 10",
        "With SGDM the kernel between a point and the other class falls fastest.",
        "optimizers",
        (Criterion("epochs until half, SGDM over the fastest of the others", None, 1.0),),
        "optimizers",
    ),
    Claim(
        "D2",
        "kernels of the other class turn negative",
        "App. D, Fig. 10",
        "The kernel between a point and the other class shrinks to zero and may turn negative.",
        "optimizers",
        tuple(Criterion(f"{name}: lowest value", None, 0.0) for name in FOUR),
        "optimizers",
    ),
    Claim(
        "D3",
        "RMSprop and Adam go down and come back",
        "App. D, Fig. 10",
        "With RMSprop and Adam the kernel of the other class is not monotone in training, more "
        "so than with SGD and SGDM.",
        "optimizers",
        tuple(
            Criterion(f"{name}: largest rise less that of SGD and SGDM", 0.05) for name in FOUR[2:]
        ),
        "optimizers",
    ),
    Claim(
        "D4",
        "kernels of the same class stay near one",
        "App. D, Fig. 10",
        "The kernel between a point and one of its class comes close to one, whatever the "
        "optimizer.",
        "optimizers",
        tuple(Criterion(f"{name}: same class at the end", 0.8) for name in FOUR),
        "optimizers",
    ),
)
