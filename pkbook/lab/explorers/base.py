"""An explorer: one drawing for every position of a few sliders.

The explorer draws its whole grid, and a few lines of script show one frame of it: on the static
page, in JupyterLab, and in a notebook that was saved and opened again without a kernel. In a live
notebook the first frame is shown at once, while the others are drawn. For who wants the kernel to
draw, `Explorer.widget` has live sliders with the same values, drawings and words.
"""

import html
import itertools
import math
from collections.abc import Callable, Mapping
from functools import cached_property

import ipywidgets
from IPython import get_ipython
from IPython.display import display
from matplotlib.figure import Figure

from pkbook.lab.explorers.controls import Control, Frame
from pkbook.lab.explorers.flipbook import flipbook
from pkbook.lab.plots.inline import checked_alt, close
from pkbook.lab.plots.tracing import id_names, in_scroller, trace

MOST_FRAMES = 60  # 10 to 17 kB each: some megabyte on the page


class Explorer:
    """Sliders over a drawing.

    `controls` maps names to `Control`s; `draw(**values)` returns the Figure for one choice of
    values and `alt(**values)` says in words what is to be seen on it. Both must depend on the
    values alone: every frame is drawn once and kept. As the last line of a cell, an explorer shows
    a flipbook of all its frames, with sliders that need no kernel.

    Raises TypeError if `controls` holds anything but Controls, or `draw` or `alt` cannot be
    called, ValueError if there is no control or more than 60 frames.

    >>> from pkbook import plots
    >>> def wave(cycles):
    ...     fig, ax = plots.figure()
    ...     _ = ax.plot([0, cycles], [0, 1])
    ...     return fig
    >>> explorer = Explorer(
    ...     {"cycles": Control("cycles", (1, 2, 3))},
    ...     draw=wave,
    ...     alt=lambda cycles: f"A line that rises to one after {cycles} cycles.",
    ... )
    >>> [frame.values for frame in explorer.frames()]
    [{'cycles': 1}, {'cycles': 2}, {'cycles': 3}]
    """

    def __init__(
        self,
        controls: Mapping[str, Control],
        draw: Callable[..., Figure],
        alt: Callable[..., str],
    ) -> None:
        if not controls:
            raise ValueError("controls: expected at least one; use plots.show for a still figure")
        for name, control in controls.items():
            if not isinstance(control, Control):
                raise TypeError(
                    f"controls: expected a Control for {name!r}, got {type(control).__name__}"
                )
        for name, given in (("draw", draw), ("alt", alt)):
            if not callable(given):
                raise TypeError(f"{name}: expected a function, got {type(given).__name__}")
        count = math.prod(len(control.values) for control in controls.values())
        if count > MOST_FRAMES:
            raise ValueError(
                f"controls: {count} frames are more than a page can carry ({MOST_FRAMES}); "
                "give the controls fewer values"
            )
        self.controls = dict(controls)
        self._draw, self._alt = draw, alt
        self._drawn: dict[tuple, Frame] = {}

    def frame(self, **values) -> Frame:
        """The frame for these values, one for each control; drawn at the first call only.

        Raises ValueError for an unknown control, a missing one, or a value not on its slider.
        """
        if values.keys() != self.controls.keys():
            raise ValueError(f"values: expected {list(self.controls)}, got {list(values)}")
        for name, value in values.items():
            if value not in self.controls[name].values:
                raise ValueError(
                    f"{name}: expected one of {self.controls[name].values}, got {value!r}"
                )
        key = tuple(values[name] for name in self.controls)
        if key not in self._drawn:
            self._drawn[key] = self._new_frame(values)
        return self._drawn[key]

    def _new_frame(self, values: dict) -> Frame:
        words = checked_alt(self._alt(**values))
        fig = self._draw(**values)
        if not isinstance(fig, Figure):
            raise TypeError(f"draw: expected to get a Figure back, got {type(fig).__name__}")
        drawing = trace(fig)
        close(fig)
        return Frame(values, drawing, words)

    def frames(self) -> list[Frame]:
        """All frames of the grid; the last control changes fastest."""
        grid = itertools.product(*(control.values for control in self.controls.values()))
        return [self.frame(**dict(zip(self.controls, values, strict=True))) for values in grid]

    def html(self) -> str:
        """The flipbook: all frames, native sliders and the script that turns the pages."""
        return flipbook(list(self.controls.values()), self.frames())

    @cached_property
    def sliders(self) -> dict[str, ipywidgets.SelectionSlider]:
        """The live sliders by name of control."""
        return {
            name: ipywidgets.SelectionSlider(
                options=list(zip(control.texts, control.values, strict=True)),
                value=control.initial,
                description=control.label,
                style={"description_width": "10em"},
                layout={"width": "32em", "max_width": "100%"},
            )
            for name, control in self.controls.items()
        }

    @cached_property
    def widget(self) -> ipywidgets.VBox:
        """The live explorer: the sliders and the picture that follows them."""
        picture = ipywidgets.HTML()

        def redraw(_=None) -> None:
            values = {name: slider.value for name, slider in self.sliders.items()}
            frame = self.frame(**values)
            names = id_names(frame.drawing.definitions, "live", repr(values), frame.drawing.body)
            drawn = in_scroller([frame.drawing], frame.drawing.markup(frame.alt, names))
            picture.value = f"{drawn}<p>{html.escape(frame.alt)}</p>"

        redraw()
        for slider in self.sliders.values():
            slider.observe(redraw, names="value")
        return ipywidgets.VBox([*self.sliders.values(), picture])

    def still(self) -> str:
        """The initial frame alone, with a line that says that the others are being drawn."""
        start = {name: control.initial for name, control in self.controls.items()}
        frame = self.frame(**start)
        names = id_names(frame.drawing.definitions, "still", frame.drawing.body)
        drawn = in_scroller([frame.drawing], frame.drawing.markup(frame.alt, names))
        count = math.prod(len(control.values) for control in self.controls.values())
        return (
            f"{drawn}<p>{html.escape(frame.alt)}</p><p><em>The sliders come as soon as all "
            f"{count} positions are drawn.</em></p>"
        )

    def _bundle(self, markup: str) -> dict[str, object]:
        start = {name: control.initial for name, control in self.controls.items()}
        return {"text/html": markup, "text/plain": f"Explorer: {self.frame(**start).alt}"}

    def _ipython_display_(self) -> None:
        """The flipbook; before a reader's eyes the first frame at once, and then the flipbook."""
        if not live_notebook():
            display(self._bundle(self.html()), raw=True)
            return
        shown = display(self._bundle(self.still()), raw=True, display_id=True)
        assert shown is not None  # a display with a name gives its handle
        shown.update(self._bundle(self.html()), raw=True)


def live_notebook() -> bool:
    """Whether a reader waits for the cell: JupyterLab says which cell it runs, a build does not.

    A build keeps what a cell shows first, and would keep the frame without the sliders.
    """
    shell = get_ipython()
    asked = shell.get_parent() if hasattr(shell, "get_parent") else {}
    return bool(asked and asked.get("metadata", {}).get("cellId"))
