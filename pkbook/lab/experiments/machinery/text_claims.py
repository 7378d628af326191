"""Rows of the results table for what the paper claims in its text, without figure or theorem.

The bounds were fixed before the experiments were run.
"""

from pkbook.lab.experiments.machinery.results import Claim, Criterion

TEXT_CLAIMS = (
    Claim(
        "C3",
        "GANs oscillate",
        "Sec. 4.2",
        "Because the discriminator couples all corrections, GANs are prone to oscillation: "
        "generated points come back to modes that they had left, more than those of a "
        "diffusion model do.",
        "adversarial_models",
        (
            Criterion("GAN: share of points that come back to a mode they left", 0.5),
            Criterion("the same, GAN minus diffusion model", 0.1),
            Criterion("diffusion model: the same share"),
        ),
    ),
    Claim(
        "C4",
        "what generalises is near the memory",
        "Abstract",
        "Generalisation is governed by the alignment of test points with the features of the "
        "training samples: the nearer a test image under the kernel, the better its answer.",
        "alignment",
        (
            Criterion("right or wrong answer told by the alignment: area", 0.7),
            Criterion("rank correlation of alignment and loss", None, -0.5),
            Criterion("that area for the kernel minus that for pixels", 0.0),
            Criterion("area for the margin between the memory's classes"),
            Criterion("area for the network's own confidence"),
        ),
        "feature_memory",
    ),
    Claim(
        "C5",
        "alignment across architectures",
        "Sec. 6",
        "The centred alignment of the tangent kernel with the label kernel correlates with "
        "final accuracy across architectures.",
        "alignment",
        (
            Criterion("right labels: rank correlation over networks and seeds", 0.5),
            Criterion("the same, with other numbers of images too", 0.5),
        ),
        "alignment",
    ),
    Claim(
        "C6",
        "the kernel inherits attention",
        "Sec. 6",
        "A kernel can inherit selective attention: it changes with the tokens that the network "
        "attends to, and with no others.",
        "inheritance",
        (
            Criterion("sequences whose most attended letter moves the kernel most", 0.9),
            Criterion("kernel, another letter changed minus the attended one changed", 0.3),
            Criterion("that difference before training", -0.05, 0.05),
            Criterion("that difference for a reader that averages", -0.1, 0.1),
            Criterion("that difference for a task in which all letters count", -0.1, 0.1),
            Criterion("rank correlation of attention and change, over all letters", 0.5),
        ),
    ),
    Claim(
        "C7",
        "the kernel amplifies a collapse",
        "Rem. 4.1",
        "In a collapsing GAN the kernel amplifies what a part of the latents is told and "
        "carries it to all others, which then lose the other modes.",
        "adversarial_models",
        (
            Criterion("collapsing: coherence of the moves over the feedback's", 1.0),
            Criterion("correlation of coherence with modes, later minus earlier", None, 0.0),
            Criterion("healthy: coherence of the moves over the feedback's"),
        ),
        "mode_collapse",
    ),
)
