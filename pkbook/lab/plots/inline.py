"""Showing a figure, in JupyterLab and on the page alike.

Text, axes and whatever else is drawn in black take the colour of the text around the figure: dark
on a light page, light on a dark one. Backgrounds are transparent. Glyphs are outlines, so that no
font is asked for and nothing moves.
"""

import io
import sys

from IPython import get_ipython
from IPython.display import display
from matplotlib.figure import Figure

from pkbook.lab.plots import vector
from pkbook.lab.plots.house import style
from pkbook.lab.plots.tracing import id_names, in_scroller, trace

SHORTEST_ALT = 15


def show(fig: Figure, alt: str) -> None:
    """Show a figure in the notebook and on the page, then close it.

    `alt` says in words what is to be seen. The output holds the figure twice: as inline SVG
    (text/html), and as a white PNG for viewers that show no HTML. Outside IPython there is nothing
    to show it on, and the figure is closed only.

    Raises TypeError if `fig` is no Figure or `alt` no text, ValueError if `alt` says too little.
    """
    checked_alt(alt)
    checked_figure(fig)
    if get_ipython() is not None:
        with style(), vector.laid_out(fig):  # once for both
            data = {"text/html": svg(fig, alt), "image/png": png(fig), "text/plain": alt}
        display(data, raw=True)
    close(fig)


def close(fig: Figure) -> None:
    """Let go of the figure; only pyplot keeps figures alive, and only where it was imported."""
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close(fig)


def svg(fig: Figure, alt: str) -> str:
    """The figure as an inline `<svg>`: the same text for the same figure, its ids its own.

    On a phone the panels of a wide figure stand below each other; what cannot be parted scrolls
    sideways. Raises as `show` does.

    >>> from pkbook.plots import figure
    >>> fig, ax = figure()
    >>> svg(fig, "Empty axes from zero to one.")[:60]
    '<svg class="pk-figure" viewBox="0 0 324 244.8" role="img" ar'
    """
    checked_alt(alt)
    drawing = trace(checked_figure(fig), apart=True)
    names = id_names(drawing.definitions, drawing.body, alt)
    if drawing.falls_apart:
        return drawing.in_panels(alt, names)
    return in_scroller([drawing], drawing.markup(alt, names))


def png(fig: Figure) -> bytes:
    """The figure on opaque white, 100 dots an inch."""
    buffer = io.BytesIO()
    with style():
        fig.savefig(buffer, format="png", dpi=100, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def checked_alt(alt: str) -> str:
    """`alt` itself, if it is a description."""
    if not isinstance(alt, str):
        raise TypeError(f"alt: expected text, got {type(alt).__name__}")
    if len(alt.strip()) < SHORTEST_ALT:
        raise ValueError(
            f"alt: expected at least {SHORTEST_ALT} characters, got {alt!r}; "
            "say in a sentence what is to be seen in the figure"
        )
    return alt


def checked_figure(fig: Figure) -> Figure:
    """`fig` itself, if it is a Figure."""
    if not isinstance(fig, Figure):
        raise TypeError(
            f"fig: expected a matplotlib Figure, got {type(fig).__name__}; "
            "where you have axes, pass ax.figure"
        )
    return fig
