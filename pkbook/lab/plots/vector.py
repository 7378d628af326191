"""Matplotlib's SVG backend, which here draws a figure once and measures a text once.

Matplotlib draws twice, the first time to lay the figure out, and an explorer draws dozens of
figures that share their labels. It forgets each time how wide a text is and what its formulas were
parsed to; here both are kept for as long as the settings of fonts stay. What is drawn is the same.
"""

import codecs
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache, lru_cache
from typing import Any

import matplotlib
from matplotlib.backends.backend_mixed import MixedModeRenderer
from matplotlib.backends.backend_svg import FigureCanvasSVG, RendererSVG
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextToPath
from matplotlib.typing import RcKeyType

_LAYOUTS: tuple[RcKeyType, ...] = ("figure.autolayout", "figure.constrained_layout.use")
KEPT = 4096  # texts measured
DPI = 72  # of every SVG


class _Texts(TextToPath):
    """What is known of texts under some settings of fonts."""

    def __init__(self) -> None:
        super().__init__()
        self._measured = lru_cache(KEPT)(super().get_text_width_height_descent)

    def get_text_width_height_descent(self, s: str, prop: FontProperties, ismath: Any) -> Any:
        return self._measured(s, prop.copy(), ismath)  # the one that came may change


@cache
def _texts(settings: tuple[str, ...]) -> _Texts:
    return _Texts()


def _settings() -> tuple[str, ...]:
    """All that a text's shape depends on beside the text and its font."""
    kinds = ("font.", "mathtext.", "text.")
    return tuple(repr(v) for k, v in matplotlib.rcParams.items() if k.startswith(kinds))


class _Renderer(RendererSVG):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._text2path = _texts(_settings())


class FigureCanvas(FigureCanvasSVG):
    """As ``savefig(backend=...)`` looks for it."""

    def print_svg(self, filename: Any, *, metadata: Any = None, **_: Any) -> None:
        """As matplotlib's, with the renderer above; ``filename`` is a buffer of bytes."""
        fig = self.figure
        dpi, fig.dpi = fig.dpi, DPI
        width, height = fig.get_size_inches()
        text = codecs.getwriter("utf-8")(filename)
        inner = _Renderer(width * DPI, height * DPI, text, image_dpi=dpi, metadata=metadata)
        renderer = MixedModeRenderer(fig, width, height, dpi, inner)
        fig.draw(renderer)  # pyright: ignore[reportArgumentType]  # as matplotlib's own
        renderer.finalize()


@contextmanager
def laid_out(fig: Figure) -> Iterator[None]:
    """The figure with its layout made as for SVG, and not to be made again within the block."""
    engine = fig.get_layout_engine()
    if engine is None:
        yield
        return
    canvas, dpi = fig.canvas, fig.dpi
    try:
        fig.canvas = FigureCanvas(fig)
        fig.set_dpi(DPI)
        with suppress(ValueError):  # as matplotlib does where a figure is too small
            engine.execute(fig) if fig.axes else None
    finally:
        fig.set_dpi(dpi)
        fig.canvas = canvas
    with matplotlib.rc_context(dict.fromkeys(_LAYOUTS, False)):
        fig.set_layout_engine(None)
    try:
        yield
    finally:
        fig.set_layout_engine(engine)
