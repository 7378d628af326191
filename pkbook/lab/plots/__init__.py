"""Figures of the book: one style, colour-blind safe, readable on light and on dark pages.

A chapter draws with `figure` and the functions below, and shows with `show(fig, alt="...")` only.
"""

from pkbook.lab.plots.drawings import (
    contribution_bars,
    decision_region,
    digit_row,
    kernel_matrix,
    neighbours,
)
from pkbook.lab.plots.house import (
    CLASS_COLOURS,
    CLASS_MARKERS,
    DIVERGING,
    MINUS,
    NEUTRAL,
    PALETTE,
    PLUS,
    SEQUENTIAL,
    figure,
    rasterise,
    style,
    symmetric_norm,
)
from pkbook.lab.plots.inline import show, svg
from pkbook.lab.plots.legible import points_outside
from pkbook.lab.plots.seeds import band, dots
from pkbook.lab.plots.spectra import eigenfunctions, mode_energy, share_curve
from pkbook.lab.plots.waterfall import waterfall
from pkbook.lab.plots.words import marked_words

__all__ = [
    "CLASS_COLOURS",
    "CLASS_MARKERS",
    "DIVERGING",
    "MINUS",
    "NEUTRAL",
    "PALETTE",
    "PLUS",
    "SEQUENTIAL",
    "band",
    "contribution_bars",
    "decision_region",
    "digit_row",
    "dots",
    "eigenfunctions",
    "figure",
    "kernel_matrix",
    "marked_words",
    "mode_energy",
    "neighbours",
    "points_outside",
    "rasterise",
    "share_curve",
    "show",
    "style",
    "svg",
    "symmetric_norm",
    "waterfall",
]
