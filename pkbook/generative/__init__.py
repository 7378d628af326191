r"""Diffusion models and GANs as sums of kernel-weighted corrections.

Section 4 of arXiv 2603.13872.  Both are recorded as :class:`~pkbook.Trajectory` and taken apart
by its ``interpolate``; this package holds the models, their data, and the sums by noise level and
by latent.
"""

from pkbook.generative.adversarial import (
    AdversarialRun,
    Adversary,
    Learned,
    Optimal,
    SaturationWarning,
    coherence,
    linear,
    train_generator,
)
from pkbook.generative.denoising import (
    NoisedData,
    NoisePredictor,
    by_level,
    by_sample,
    level_map,
    locality,
    noised,
    with_level,
)
from pkbook.generative.densities import (
    AffineGenerator,
    GaussianMixture,
    MonotoneGenerator,
    log_discriminator,
    ring_of_gaussians,
)
from pkbook.generative.noise import (
    NoiseSchedule,
    linear_schedule,
    no_embedding,
    rough,
    sinusoidal,
)
from pkbook.generative.sampling import Assembly, ReversePath, assemble, reverse

__all__ = [
    "AdversarialRun",
    "Adversary",
    "AffineGenerator",
    "Assembly",
    "GaussianMixture",
    "Learned",
    "MonotoneGenerator",
    "NoisePredictor",
    "NoiseSchedule",
    "NoisedData",
    "Optimal",
    "ReversePath",
    "SaturationWarning",
    "assemble",
    "by_level",
    "by_sample",
    "coherence",
    "level_map",
    "linear",
    "linear_schedule",
    "locality",
    "log_discriminator",
    "no_embedding",
    "noised",
    "reverse",
    "ring_of_gaussians",
    "rough",
    "sinusoidal",
    "train_generator",
    "with_level",
]
