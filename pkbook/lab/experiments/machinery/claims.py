"""The rows of the results table: every experiment and theorem of the paper as one claim.

The bounds were fixed before the experiments were run. A criterion without bounds is reported.
"""

from collections.abc import Iterable
from typing import SupportsFloat

from pkbook.lab.experiments.machinery.appendix_d import APPENDIX_D, FOUR
from pkbook.lab.experiments.machinery.influence_claims import INFLUENCE_CLAIMS
from pkbook.lab.experiments.machinery.limit_claims import LIMIT_CLAIMS
from pkbook.lab.experiments.machinery.results import Claim, Criterion, Finding, Numbers, over_seeds
from pkbook.lab.experiments.machinery.text_claims import TEXT_CLAIMS
from pkbook.lab.experiments.machinery.title_claims import TITLE_CLAIMS

LAST = 0.9  # E9's bound for each optimizer

CLAIMS: dict[str, Claim] = {
    claim.id: claim
    for claim in (
        Claim(
            "E1",
            "neighbours under the kernel",
            "Fig. 1",
            "After training, the 100 nearest points under the normalised kernel share their "
            "anchor's label, although the nearest in the plane do not.",
            "gradient_kernels",
            (
                Criterion("same label among the nearest in the plane"),
                Criterion("same label under the kernel, before training", 0.65, 0.85),
                Criterion("same label under the kernel, after training", 0.93),
            ),
            "neighbours",
        ),
        Claim(
            "E2",
            "near in the input, far for the network",
            "Fig. 2a-d",
            "At one distance in the input, two points across a jump of the target are less alike "
            "under the kernel than two points on one plateau.",
            "gradient_kernels",
            (
                Criterion("square wave: on one plateau minus across the jump", 0.3),
                Criterion("sine: the same difference"),
            ),
            "one_dimensional",
        ),
        Claim(
            "E3",
            "classes appear in the kernel of images",
            "Fig. 2e-h",
            "Training turns a mixed kernel matrix of digits, and of photographs, into one with "
            "a block for each class.",
            "kernel_evolution",
            (
                Criterion("MNIST: within minus across classes, after over before", 3.0),
                Criterion("MNIST: within minus across classes, after"),
                Criterion("CIFAR-10: the same ratio"),
                Criterion("CIFAR-10: within minus across classes, after"),
            ),
            "image_kernels",
        ),
        Claim(
            "E4",
            "linear separability of tangent features",
            "Fig. 3",
            "A linear rule on tangent features follows a circle and an ellipse; an RBF machine on "
            "the inputs keeps up on the circle and falls behind on the ellipse.",
            "linear_separability",
            (
                Criterion("circle: accuracy, tangent features", 0.95),
                Criterion("ellipse: accuracy, tangent features", 0.95),
                Criterion("circle: tangent minus RBF accuracy", -0.02),
                Criterion("ellipse: tangent minus RBF accuracy", 0.0),
                Criterion("ellipse: area of disagreement, RBF over tangent", 1.0),
            ),
            "separability",
        ),
        Claim(
            "E5",
            "unseen classes in tangent space",
            "Fig. 4",
            "Trained on half of the digits, the tangent features of the seen classes form "
            "clusters; those of the unseen classes do not.",
            "extrapolation",
            (
                Criterion("seen classes: gain of neighbour purity by training", 0.05),
                Criterion("purity after training, seen minus unseen", 0.1),
                Criterion("unseen classes: gain of neighbour purity by training"),
            ),
            "unseen_digits",
        ),
        Claim(
            "E6",
            "printed digits",
            "Fig. 5",
            "A network trained on handwriting reads printed digits badly, and the better a "
            "class, the nearer it is to the training digits under the kernel.",
            "extrapolation",
            (
                Criterion("accuracy on handwriting minus accuracy on print", 0.2),
                Criterion("rank correlation of class kernel and class accuracy", 0.5),
            ),
            "printed_digits",
        ),
        Claim(
            "E7",
            "unseen letters",
            "Fig. 6",
            "Digits of one class are alike under the kernel; letters are like no digit.",
            "extrapolation",
            (
                Criterion("digits of one class", 0.5),
                Criterion("digits of two classes over digits of one class", None, 0.5),
                Criterion("digits and letters over digits of one class", None, 0.5),
            ),
            "printed_digits",
        ),
        Claim(
            "E8",
            "rank gap",
            "Fig. 7, 8",
            "A unit that no training input reaches stays as it was, leaves a gap between the ranks "
            "of the training and the mixture tangent matrix, and costs test loss.",
            "rank_gap",
            (
                Criterion("largest rank gap, biases inside", 0.0, 0.0),
                Criterion("smallest rank gap, one bias outside", 1.0),
                Criterion("largest gradient of the dormant unit", 0.0, 0.0),
                Criterion("test loss, outside minus inside", 0.0),
                Criterion("share of seeds with the higher test loss outside", 0.9),
            ),
            "rank_gap",
        ),
        Claim(
            "E9",
            "neighbours under four optimizers",
            "Fig. 9",
            "Whatever the optimizer, the nearest points under the kernel come to share a label.",
            "optimizers",
            tuple(Criterion(name, LAST) for name in FOUR),
            "optimizers",
        ),
        Claim(
            "E10",
            "the kernel between two points over training",
            "Fig. 10",
            "The kernel of a point with one of its class tends to one, with the other class to "
            "a small value.",
            "optimizers",
            (
                Criterion("a point with itself", 0.9999, 1.0001),
                Criterion("same class", 0.8),
                Criterion("other class", None, 0.3),
            ),
            "optimizers",
        ),
        *APPENDIX_D,
        Claim(
            "E11",
            "alignment with the labels",
            "Sec. 1, 6",
            "The centred alignment of the tangent kernel with the label kernel follows accuracy "
            "along training, whatever the architecture.",
            "alignment",
            (
                Criterion("MLP: rank correlation with accuracy", 0.5),
                Criterion("CNN: rank correlation with accuracy", 0.5),
                Criterion("transformer: rank correlation with accuracy", 0.5),
                Criterion("equal steps, other shares of random labels: rank correlation", 0.5),
                Criterion("equal steps, other numbers of images: rank correlation", 0.5),
                Criterion("for comparison: the step's rank correlation with accuracy"),
            ),
            "alignment",
        ),
        Claim(
            "E12",
            "the kernel inherits its architecture",
            "Sec. 6",
            "The kernel of a convolutional network takes an image and its shifted copy for alike, "
            "more than that of a fully connected one.",
            "inheritance",
            (
                Criterion("shift of 2 pixels, before training: CNN minus MLP", 0.1),
                Criterion("shift of 2 pixels, after training: CNN minus MLP", 0.1),
                Criterion("shift of 2 pixels, after training: CNN"),
                Criterion("shift of 2 pixels, after training: MLP"),
                Criterion("shift of 2 pixels, after training: transformer"),
            ),
            "inheritance",
        ),
        Claim(
            "T1",
            "Domingos' formula",
            "Thm 2.2",
            "A prediction is its start plus a sum over training samples.",
            "domingos",
            (
                Criterion("largest relative gap, float64", None, 1e-9),
                Criterion("largest relative gap, float32", None, 1e-4),
                Criterion("order of the plain Riemann sum", 0.9, 1.1),
            ),
            "riemann",
        ),
        Claim(
            "T2",
            "weak approximation",
            "Lemma 3.1",
            "The diffusion's expectations differ from those of SGD by a term of order one.",
            "weak_approximation",
            (
                Criterion("order, closed form, mean", 0.85, 1.15),
                Criterion("order, Monte Carlo, tanh network", 0.85, 1.15),
            ),
        ),
        Claim(
            "T3",
            "stochastic theorem, SGD",
            "Thm 3.4",
            "The remainder of the formula falls like the learning rate.",
            "stochastic_sgd",
            (Criterion("order of the remainder", 0.85),),
            "stochastic_formulas",
        ),
        Claim(
            "T4",
            "stochastic theorem, momentum",
            "Thm 3.5",
            "The remainder of the formula falls like the learning rate.",
            "momentum",
            (Criterion("order of the remainder", 0.85),),
            "stochastic_formulas",
        ),
        Claim(
            "T5",
            "stochastic theorem, RMSprop",
            "Thm 3.6",
            "The remainder of the formula falls like the learning rate.",
            "rmsprop",
            (Criterion("order of the remainder", 0.85),),
            "stochastic_formulas",
        ),
        Claim(
            "T6",
            "stochastic theorem, Adam",
            "Thm 3.7",
            "The remainder falls with the learning rate, but more slowly than in proportion.",
            "adam",
            (Criterion("order of the remainder", 0.5, 0.9),),
            "stochastic_formulas",
        ),
        Claim(
            "T12",
            "why Adam's bound is weaker",
            "after Thm 3.7",
            "It is the noise that the first moment feeds back: at fixed beta its part is of an "
            "order well below one.",
            "adam",
            (Criterion("order of what the memory's noise leaves", None, 0.75),),
        ),
        Claim(
            "T7",
            "null space",
            "Thm 3.8",
            "What is left of the residual at the end lies in the kernel's null space.",
            "null_space",
            (Criterion("share of the terminal residual in null modes", 0.95),),
            "null_space",
        ),
        Claim(
            "T8",
            "lazy training",
            "Rem. 3.9",
            "The wider the network, the less its kernel moves: like one over the width, or like "
            "one over its root where the neurons have one sign.",
            "lazy_training",
            (
                Criterion("both signs: exponent of the drift at the largest width", -1.1, -0.9),
                Criterion("one sign: exponent of the drift at the largest width", -0.6, -0.4),
                Criterion("both signs: the same over trained networks"),
                Criterion("one sign: the same over trained networks"),
            ),
            "lazy_training",
        ),
        Claim(
            "T9",
            "diffusion models correct level by level",
            "Cor. 4.1",
            "What a noise prediction owes to training comes from nearby noise levels, because of "
            "the level's embedding; without it, or with one in disorder, it does not.",
            "diffusion_models",
            (
                Criterion("near levels' share over their usual share, embedding", 1.5),
                Criterion("the same, embedding in disorder", None, 1.2),
                Criterion("the same, no embedding", None, 1.2),
                Criterion("largest relative gap of the formula", None, 1e-3),
            ),
            "noise_levels",
        ),
        Claim(
            "T10",
            "GANs correct by distributions",
            "Cor. 4.2, Rem. 4.1",
            "A generated point is its start plus kernel-weighted score differences; in a "
            "collapsing run the kernel moves all latents together.",
            "adversarial_models",
            (
                Criterion("largest relative gap of the formula, known densities", None, 1e-4),
                Criterion("coherence of updates, collapsing over healthy", 1.0),
            ),
            "mode_collapse",
        ),
        Claim(
            "T11",
            "schedules",
            "Cor. A.1",
            "With a schedule the learning rate goes inside the integral.",
            "domingos",
            (
                Criterion("largest relative gap of three schedules", None, 1e-4),
                Criterion("constant: share of the first half"),
                Criterion("step: share of the first half"),
                Criterion("cosine: share of the first half"),
            ),
            "schedules",
        ),
        *(*TITLE_CLAIMS, *TEXT_CLAIMS, *LIMIT_CLAIMS, *INFLUENCE_CLAIMS),
    )
}


def claim(id: str) -> Claim:
    """The claim of a row; ValueError for an unknown one."""
    if id not in CLAIMS:
        raise ValueError(f"id must be one of {', '.join(CLAIMS)}, got {id!r}")
    return CLAIMS[id]


def by_seed(id: str, values: Iterable[Iterable[SupportsFloat]]) -> Numbers:
    """A claim's numbers: one sequence for each of its criteria, in their order, one value a seed.

    ValueError if there are more or fewer sequences than criteria.
    """
    pairs = zip(claim(id).criteria, values, strict=True)
    return {criterion.name: over_seeds(found) for criterion, found in pairs}


def finding(id: str, settings: dict[str, Numbers], **more) -> Finding:
    """What was found on one claim; as the last line of a cell it is shown and collected.

    ``settings`` is ``{setting: {criterion: Measured}}``, the paper's own setting first. The
    results page is made of these outputs.
    """
    return Finding(claim(id), settings, **more)
