"""The rows of the results table for what Domingos' title, and the paper after it, says of networks.

The bound of a tenth for "approximately" was fixed after a first look at one seed, trained
otherwise, and before the runs that it judges.
"""

from pkbook.lab.experiments.machinery.results import Claim, Criterion

TITLE_CLAIMS = (
    Claim(
        "C1",
        "a network is a kernel machine",
        "Sec. 1, 6",
        "A network trained by gradient descent is approximately a kernel machine with its path "
        "kernel, under mini-batch noise as well.",
        "kernel_machine",
        (
            Criterion("coefficients that know the query: share missed", None, 1e-9),
            Criterion("coefficients: spread over the queries, relative"),
            Criterion("coefficients that do not: share of the change missed", None, 0.1),
        ),
        "kernel_machine",
    ),
    Claim(
        "C2",
        "the path kernel is the network's kernel",
        "Sec. 1",
        "Inputs should be compared in the space of the path kernel: of the kernel machines through "
        "the network's values at the training inputs, that of the path is nearest to it.",
        "kernel_machine",
        (
            Criterion("share missed elsewhere, kernel of the path over that of the start", None, 1),
            Criterion("share missed elsewhere, kernel of the path over that of the end", None, 1),
            Criterion("share missed elsewhere, kernel of the path"),
        ),
        "kernel_machine",
    ),
)
