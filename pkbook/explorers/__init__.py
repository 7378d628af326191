"""Pictures that answer to sliders: live in JupyterLab, a flipbook on the page."""

from pkbook.explorers.base import Explorer
from pkbook.explorers.controls import Control, Frame
from pkbook.explorers.optimizer_paths import optimizer_paths

__all__ = ["Control", "Explorer", "Frame", "optimizer_paths"]
