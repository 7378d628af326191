"""Pictures that answer to sliders: live in JupyterLab, a flipbook on the page."""

from pkbook.explorers.adversarial_rates import adversarial_rates
from pkbook.explorers.alignment import alignment
from pkbook.explorers.base import Explorer
from pkbook.explorers.controls import Control, Frame
from pkbook.explorers.ellipses import ellipses
from pkbook.explorers.endpoints import endpoints
from pkbook.explorers.image_kernels import image_kernels
from pkbook.explorers.lazy_regime import lazy_regime
from pkbook.explorers.noise_levels import noise_levels
from pkbook.explorers.null_space import null_space
from pkbook.explorers.optimizer_paths import optimizer_paths
from pkbook.explorers.outside_bias import outside_bias
from pkbook.explorers.shifted_copies import shifted_copies
from pkbook.explorers.step_average import step_average
from pkbook.explorers.turned_pictures import turned_pictures

__all__ = [
    "Control",
    "Explorer",
    "Frame",
    "adversarial_rates",
    "alignment",
    "ellipses",
    "endpoints",
    "image_kernels",
    "lazy_regime",
    "noise_levels",
    "null_space",
    "optimizer_paths",
    "outside_bias",
    "shifted_copies",
    "step_average",
    "turned_pictures",
]
