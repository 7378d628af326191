"""Pictures that answer to sliders, without a kernel: computed in the page, or a flipbook."""

from pkbook.lab.explorers.adversarial_rates import adversarial_rates
from pkbook.lab.explorers.alignment import alignment
from pkbook.lab.explorers.base import Explorer
from pkbook.lab.explorers.controls import Control, Frame
from pkbook.lab.explorers.digits import digits
from pkbook.lab.explorers.dormant_unit import dormant_unit
from pkbook.lab.explorers.ellipses import ellipses
from pkbook.lab.explorers.endpoints import endpoints
from pkbook.lab.explorers.even_and_odd import even_and_odd
from pkbook.lab.explorers.image_kernels import image_kernels
from pkbook.lab.explorers.lazy_regime import lazy_regime
from pkbook.lab.explorers.lazy_to_rich import lazy_to_rich
from pkbook.lab.explorers.memory import memory
from pkbook.lab.explorers.moving_particles import moving_particles
from pkbook.lab.explorers.moving_samples import moving_samples
from pkbook.lab.explorers.noise_levels import noise_levels
from pkbook.lab.explorers.null_space import null_space
from pkbook.lab.explorers.optimizer_paths import optimizer_paths
from pkbook.lab.explorers.outside_bias import outside_bias
from pkbook.lab.explorers.paths import paths
from pkbook.lab.explorers.playground import playground
from pkbook.lab.explorers.sample_weight import sample_weight
from pkbook.lab.explorers.shifted_copies import shifted_copies
from pkbook.lab.explorers.step_average import step_average
from pkbook.lab.explorers.turned_pictures import turned_pictures
from pkbook.lab.live import Live

__all__ = [
    "Control",
    "Explorer",
    "Frame",
    "Live",
    "adversarial_rates",
    "alignment",
    "digits",
    "dormant_unit",
    "ellipses",
    "endpoints",
    "even_and_odd",
    "image_kernels",
    "lazy_regime",
    "lazy_to_rich",
    "memory",
    "moving_particles",
    "moving_samples",
    "noise_levels",
    "null_space",
    "optimizer_paths",
    "outside_bias",
    "paths",
    "playground",
    "sample_weight",
    "shifted_copies",
    "step_average",
    "turned_pictures",
]
