"""Pictures that answer to sliders: live in JupyterLab, a flipbook on the page."""

from pkbook.explorers.base import Control, Explorer, Frame

__all__ = ["Control", "Explorer", "Frame"]
